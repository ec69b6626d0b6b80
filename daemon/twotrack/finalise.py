"""One call from spool to stored recording, as one function; run as a module, a worker process.

`render` is the part that `twotrack render` shares: two sides in, one file and its report out. The
worker reads a job a line from its standard input and answers in lines on its standard output, so it
ends by itself when the daemon is gone.
"""

import hashlib
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twotrack import __version__, capture, oggopus
from twotrack.capture import CapturedCall
from twotrack.codecs import DEFAULT_PAYLOAD_TYPES, Codec
from twotrack.errors import CaptureError, MergeError, NameTakenError, StorageError, TwotrackError
from twotrack.merge import Engine, ffmpeg
from twotrack.opus import SAMPLE_RATE
from twotrack.side import Side
from twotrack.storage import Storage, StorageType, open_storage
from twotrack.track import Laid, Statistics, Track, fill, lay

SOFTWARE = f"twotrack {__version__}"
NICENESS = 10  # finalising gives way to receiving
OGG_SERIALS = {Side.INPUT: 1, Side.OUTPUT: 2}  # fixed: the same call gives the same bytes
CHANNELS = {Side.INPUT: "left", Side.OUTPUT: "right"}
Notify = Callable[[str, str, dict[str, Any]], None]  # a log level or "progress", an event, its fields


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How a recording is made; durations in seconds."""

    engine: Engine = Engine.FFMPEG
    ffmpeg_timeout: float = 30.0
    tail_padding: float = 2.0
    payload_types: Mapping[int, Codec] | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker must know to finalise one call; plain values, so that it travels as JSON.

    Args:
        connection_id: Names the recording.
        spool: Path of the call's pcap.
        work: Directory for the files in between; made anew, deleted at the end.
        started_at: Wall time of its opening in seconds since 1970, for a call without a packet.
        abandoned: Nobody closed it.
        metadata: As given with `open`.
        options: How to render it.
        keep_channels: Also store left and right.
        storage_type: Kind of storage.
        storage_path: Its directory or bucket.
    """

    connection_id: str
    spool: str
    work: str
    started_at: float
    abandoned: bool
    metadata: dict[str, str]
    engine: str
    ffmpeg_timeout: float
    tail_padding: float
    payload_types: dict[int, str]
    keep_channels: bool
    storage_type: str
    storage_path: str

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """Read it back."""
        members = json.loads(text)
        members["payload_types"] = {int(key): value for key, value in members["payload_types"].items()}
        return cls(**members)

    @property
    def options(self) -> RenderOptions:
        """How to render it."""
        payload_types = {key: Codec(value) for key, value in self.payload_types.items()}
        return RenderOptions(Engine(self.engine), self.ffmpeg_timeout, self.tail_padding, payload_types)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A recording before it is stored.

    Args:
        merged: The stereo file, or None for a call without any audio.
        channels: The left and right file.
        report: INTERFACE section 5, `file` still missing.
        started_at: Wall time of the file's zero, in seconds since 1970, or None without a packet.
    """

    merged: Path | None
    channels: dict[Side, Path]
    report: dict[str, Any]
    started_at: float | None


def render(call: CapturedCall, work: Path, connection_id: str, options: RenderOptions, notify: Notify) -> Rendered:
    """Make the left, right and stereo file of a call.

    Args:
        call: Both sides as they arrived.
        work: An existing directory for the files.
        connection_id: For warnings and comments.
        options: How.
        notify: Told of each step: a log level, an event's text and its fields; and of the level
            "progress", with `done_s` and `total_s`, while FFmpeg works.

    Raises:
        MergeError: FFmpeg is missing, failed or hung.
    """
    payload_types = options.payload_types or DEFAULT_PAYLOAD_TYPES
    laid = {side: lay(call.sides[side], side, payload_types) for side in Side}
    zero, end = _bounds(laid)
    total = end - zero + round(options.tail_padding * SAMPLE_RATE) if end > zero else 0
    _say_durations(laid, (end - zero) / SAMPLE_RATE, total / SAMPLE_RATE, notify)
    warnings = _warn(laid, call, connection_id, options, notify)
    tracks = {side: fill(laid[side], zero, total) for side in Side}
    channels = {side: _write_channel(side, tracks[side], total, work) for side in Side} if total else {}
    report = _report(tracks, laid, zero, end, total, warnings)
    started_at = _started_at(call, zero if total else None)
    merged = _merge(channels, work, options, total / SAMPLE_RATE, notify) if total else None
    return Rendered(merged, channels, report, started_at)


def _bounds(laid: Mapping[Side, Laid]) -> tuple[int, int]:
    """The call's zero and end on the arrivals' clock, in samples."""
    starts = [side.start for side in laid.values() if side.start is not None]
    ends = [side.end for side in laid.values() if side.end is not None]
    return (min(starts), max(ends)) if starts else (0, 0)


def _say_durations(laid: Mapping[Side, Laid], conversation_s: float, total_s: float, notify: Notify) -> None:
    received = {side: laid[side].statistics.received for side in Side}
    notify(
        "info",
        f"📊 Audio chunks: WhatsApp={received[Side.INPUT]}, OpenAI={received[Side.OUTPUT]}, "
        f"duration={format_duration(conversation_s)}",
        {},
    )
    notify("info", f"🕐 Total conversation duration: {format_duration(total_s)}", {})


def format_duration(seconds: float) -> str:
    """Whole seconds as the seed prints them: 2m30s, 1h0m5s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _warn(
    laid: Mapping[Side, Laid], call: CapturedCall, connection_id: str, options: RenderOptions, notify: Notify
) -> list[str]:
    warnings = []
    for side in Side:
        if not laid[side].pieces:
            warning = f"⚠️ WARNING: Channel data is empty for {connection_id}"
            notify("warning", warning, {"side": str(side)})
            warnings.append(warning)
        if laid[side].statistics.malformed:
            warnings.append(f"{laid[side].statistics.malformed} malformed audio packets on the {side} side are lost")
        if call.dropped[side]:
            warnings.append(f"{call.dropped[side].total()} datagrams on the {side} side are not RTP")
    if options.engine is Engine.LOSSLESS:
        warnings.append("this version has no lossless engine yet; merged with ffmpeg instead")
    return list(dict.fromkeys(warnings))


def _write_channel(side: Side, track: Track, total: int, work: Path) -> Path:
    tags = oggopus.tags_bytes(SOFTWARE, [("TITLE", f"{side} side")])
    path = work / f"{CHANNELS[side]}.opus"
    with path.open("wb") as file:
        file.writelines(oggopus.mono_file(track.packets, total, serial=OGG_SERIALS[side], tags=tags))
    return path


def _merge(channels: Mapping[Side, Path], work: Path, options: RenderOptions, total_s: float, notify: Notify) -> Path:
    output = work / "merged.opus"

    def on_progress(done_s: float) -> None:
        notify("progress", "FFmpeg", {"done_s": done_s, "total_s": total_s})

    try:
        ffmpeg.merge(
            channels[Side.INPUT],
            channels[Side.OUTPUT],
            output,
            timeout_s=options.ffmpeg_timeout,
            on_progress=on_progress,
        )
    except MergeError as error:
        notify("error", f"❌ FFmpeg merge failed: {error}", {})
        raise
    notify("info", "✅ FFmpeg merge completed successfully", {})
    return output


def _started_at(call: CapturedCall, zero: int | None) -> float | None:
    """Wall time of the zero; without audio, of the first packet."""
    if zero is not None:
        return zero / SAMPLE_RATE
    arrivals = [received[0].arrival_ns for received in call.sides.values() if received]
    return min(arrivals) / 1e9 if arrivals else None


def _report(
    tracks: Mapping[Side, Track],
    laid: Mapping[Side, Laid],
    zero: int,
    end: int,
    total: int,
    warnings: list[str],
) -> dict[str, Any]:
    sides = {
        str(side): _side_report(tracks[side].statistics, None if (start := laid[side].start) is None else start - zero)
        for side in Side
    }
    return {
        "duration_s": _seconds(end - zero),
        "file_duration_s": _seconds(total),
        **sides,
        "warnings": warnings,
    }


def _seconds(samples: int) -> float:
    return round(samples / SAMPLE_RATE, 4)


def _side_report(statistics: Statistics, first: int | None) -> dict[str, Any]:
    return {
        "ssrcs": [f"0x{ssrc:08x}" for ssrc in statistics.ssrcs],
        "codec": str(statistics.codecs.most_common(1)[0][0]) if statistics.codecs else None,
        "received": statistics.received,
        "expected": statistics.expected,
        "lost": statistics.lost,
        "duplicate": statistics.duplicate,
        "reordered": statistics.reordered,
        "not_audio": statistics.not_audio,
        "malformed": statistics.malformed,
        "first_arrival_s": None if first is None else _seconds(first),
        "speech_s": _seconds(statistics.audio_samples),
        "concealed_ms": round(statistics.concealed_samples * 1000 / SAMPLE_RATE, 1),
        "silence_ms": round(statistics.silence_samples * 1000 / SAMPLE_RATE, 1),
        "dropped_ms": round(statistics.dropped_samples * 1000 / SAMPLE_RATE, 1),
        "jitter_ms": round(statistics.jitter_ms, 1),
        "drift_ppm": round(statistics.drift_ppm),
        "reanchored": statistics.reanchored,
    }


def iso_time(seconds: float) -> str:
    """Wall time as 2026-01-01T12:00:00.000Z."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def complete_report(
    rendered: Rendered,
    connection_id: str,
    *,
    engine: str,
    fallback_started_at: float,
    abandoned: bool,
    metadata: Mapping[str, str],
    file: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The whole report of INTERFACE section 5."""
    started_at = fallback_started_at if rendered.started_at is None else rendered.started_at
    body = dict(rendered.report)
    return {
        "connection_id": connection_id,
        "engine": engine,
        "started_at": iso_time(started_at),
        "duration_s": body.pop("duration_s"),
        "file_duration_s": body.pop("file_duration_s"),
        "abandoned": abandoned,
        "metadata": dict(metadata),
        "file": file,
        **body,
        "software": SOFTWARE,
    }


def describe_file(path: Path, name: str, url: str) -> dict[str, Any]:
    """The `file` member of a report."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": name, "url": url, "bytes": path.stat().st_size, "sha256": digest}


def finalise(job: Job, notify: Notify) -> dict[str, Any]:
    """Render a call's spool and store the recording; repeating it stores nothing twice.

    Args:
        job: What to do.
        notify: As for `render`.

    Returns:
        The recording's report, as stored.

    Raises:
        MergeError: The spool can't be read, or FFmpeg is missing, failed or hung.
        StorageError: It could not be stored.
    """
    work = Path(job.work)
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True)
        call = capture.read_spool(Path(job.spool))
        rendered = render(call, work, job.connection_id, job.options, notify)
        return _store(rendered, job, open_storage(StorageType(job.storage_type), job.storage_path))
    except CaptureError as error:
        raise MergeError(str(error)) from error
    except OSError as error:
        raise MergeError(f"the working directory {work} can't be used: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def names(connection_id: str) -> Iterator[str]:
    """Base names in the order in which they are tried: the id itself, then with ~2, ~3 and so on."""
    yield f"conversation_{connection_id}"
    number = 2
    while True:
        yield f"conversation_{connection_id}~{number}"
        number += 1


def _store(rendered: Rendered, job: Job, storage: Storage) -> dict[str, Any]:
    """Store under the first name that is free or holds these very bytes; the report goes last."""
    for base in names(job.connection_id):
        try:
            return _store_as(base, rendered, job, storage)
        except NameTakenError:
            continue
    raise StorageError("no name is free")  # unreachable: names are endless


def _store_as(base: str, rendered: Rendered, job: Job, storage: Storage) -> dict[str, Any]:
    file, report_name = None, f"{base}.json"
    if rendered.merged is not None:
        name = f"{base}_merged.opus"
        file = describe_file(rendered.merged, name, storage.url(name))
    report = complete_report(
        rendered,
        job.connection_id,
        engine=Engine.FFMPEG,
        fallback_started_at=job.started_at,
        abandoned=job.abandoned,
        metadata=job.metadata,
        file=file,
    )
    content = json.dumps(report, ensure_ascii=False, indent=2).encode() + b"\n"
    if storage.holds_other(report_name, content):
        raise NameTakenError(f"{report_name} is another call's")
    if rendered.merged is not None:
        storage.put(f"{base}_merged.opus", rendered.merged)
    if job.keep_channels:
        for side, path in rendered.channels.items():
            storage.put(f"{base}_{CHANNELS[side]}.opus", path)
    storage.put(report_name, content)
    return report


def main() -> None:
    """Finalise the jobs that come in on standard input, until it ends."""
    os.nice(NICENESS)
    output = sys.stdout
    sys.stdout = sys.stderr  # nothing else may write between the answers

    def answer(**members: Any) -> None:
        output.write(json.dumps(members) + "\n")
        output.flush()

    def notify(level: str, event: str, fields: dict[str, Any]) -> None:
        if level != "progress":
            answer(level=level, event=event, fields=fields)

    for line in sys.stdin:
        try:
            answer(recording=finalise(Job.from_json(line), notify))
        except StorageError as error:
            answer(error={"code": "storage_failed", "message": str(error)})
        except TwotrackError as error:
            answer(error={"code": "merge_failed", "message": str(error)})
        except Exception as error:
            answer(
                error={"code": "internal", "message": f"{type(error).__name__}: {error}"}, trace=traceback.format_exc()
            )


if __name__ == "__main__":
    main()
