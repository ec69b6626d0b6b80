"""Two sides of a call to one stereo file and what is said of it: all of finalising but its storage.

What `twotrack render` and the daemon's finalisation share.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from twotrack import oggopus
from twotrack.capture import CapturedCall
from twotrack.codecs import DEFAULT_PAYLOAD_TYPES, Codec
from twotrack.errors import MergeError
from twotrack.merge import Engine, ffmpeg, lossless
from twotrack.opus import FRAME_SAMPLES, GRID_SAMPLES, SAMPLE_RATE
from twotrack.report import SOFTWARE, Contents, format_duration, iso_time
from twotrack.side import Side
from twotrack.track import Laid, Track, fill, lay

OGG_SERIALS = {Side.INPUT: 1, Side.OUTPUT: 2}  # fixed: the same call gives the same bytes
MERGED_SERIAL = 3
MAX_CONVERSATION_SAMPLES = 48 * 3600 * SAMPLE_RATE
CHANNELS = {Side.INPUT: "left", Side.OUTPUT: "right"}
Notify = Callable[[str, str, dict[str, Any]], None]  # a log level or "progress", an event, its fields


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How a recording is made; durations in seconds."""

    engine: Engine = Engine.FFMPEG
    ffmpeg_timeout: float = 30.0
    tail_padding: float = 2.0
    payload_types: Mapping[int, Codec] | None = None
    keep_channels: bool = False


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording before it is stored.

    Args:
        merged: The stereo file, or None for a call without any audio.
        channels: The left and right file, where they are kept.
        contents: What it holds.
    """

    merged: Path | None
    channels: dict[Side, Path]
    contents: Contents


class _Span(NamedTuple):
    """The call's zero on the arrivals' clock, its length and the file's; in samples."""

    zero: int
    conversation: int
    file: int


class _Merged(NamedTuple):
    """A stereo file, what made it, and the tracks that went into it."""

    path: Path
    engine: Engine
    tracks: Mapping[Side, Track]


def render(
    call: CapturedCall,
    work: Path,
    connection_id: str,
    options: RenderOptions,
    notify: Notify,
    opened_at: float = 0.0,
) -> Recording:
    """Make the stereo file of a call.

    Args:
        call: Both sides as they arrived.
        work: An existing directory for the files.
        connection_id: For warnings and comments.
        options: How.
        notify: Told of each step: a log level, an event's text and its fields; and of the level
            "progress", with `done_s` and `total_s`, while FFmpeg works.
        opened_at: Wall time in seconds since 1970, for a call without a packet.

    Raises:
        MergeError: FFmpeg is missing, failed or hung, and the lossless engine can't stand in.
    """
    payload_types = options.payload_types or DEFAULT_PAYLOAD_TYPES
    laid = {side: lay(call.sides[side], side, payload_types) for side in Side}
    span = _span(laid, options.tail_padding)
    if span.conversation > MAX_CONVERSATION_SAMPLES:
        days = span.conversation / SAMPLE_RATE / 86_400
        raise MergeError(f"the packets lie {days:.1f} days apart, which is no call; are they of several calls?")
    started_at = _started_at(call, span, opened_at)
    _say_durations(laid, span, notify)
    warnings = _warn(laid, call, connection_id, notify)
    merged, channels = None, {}
    if span.file:
        rendering = _Rendering(laid, span, work, _comments(connection_id, started_at), options, notify)
        merged = rendering.merge(warnings)
        channels = rendering.write_channels() if options.keep_channels else {}
    contents = Contents(
        engine=merged.engine if merged else options.engine,
        started_at=started_at,
        conversation_samples=span.conversation,
        file_samples=span.file,
        statistics={side: (merged.tracks if merged else laid)[side].statistics for side in Side},
        starts={side: None if (start := laid[side].start) is None else start - span.zero for side in Side},
        warnings=list(dict.fromkeys(warnings)),
    )
    return Recording(merged.path if merged else None, channels, contents)


def _span(laid: Mapping[Side, Laid], tail_padding: float) -> _Span:
    starts = [side.start for side in laid.values() if side.start is not None]
    ends = [side.end for side in laid.values() if side.end is not None]
    if not starts:
        return _Span(0, 0, 0)
    zero, conversation = min(starts), max(ends) - min(starts)
    return _Span(zero, conversation, conversation + round(tail_padding * SAMPLE_RATE))


def _started_at(call: CapturedCall, span: _Span, opened_at: float) -> float:
    """Wall time of the zero; without audio of the first packet, without any of the opening."""
    if span.file:
        return span.zero / SAMPLE_RATE
    arrivals = [received[0].arrival_ns for received in call.sides.values() if received]
    return min(arrivals) / 1e9 if arrivals else opened_at


def _comments(connection_id: str, started_at: float) -> list[tuple[str, str]]:
    """What the file says of itself."""
    return [
        ("TITLE", connection_id),
        ("DATE", iso_time(started_at)),
        ("DESCRIPTION", "left: caller (input), right: AI (output)"),
    ]


def _say_durations(laid: Mapping[Side, Laid], span: _Span, notify: Notify) -> None:
    received = {side: laid[side].statistics.received for side in Side}
    duration = format_duration(span.conversation / SAMPLE_RATE)
    counts = f"WhatsApp={received[Side.INPUT]}, OpenAI={received[Side.OUTPUT]}"
    notify("info", f"📊 Audio chunks: {counts}, duration={duration}", {})
    notify("info", f"🕐 Total conversation duration: {format_duration(span.file / SAMPLE_RATE)}", {})


def _warn(laid: Mapping[Side, Laid], call: CapturedCall, connection_id: str, notify: Notify) -> list[str]:
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
    return warnings


@dataclass(frozen=True, slots=True)
class _Rendering:
    """One call on its way to a file."""

    laid: Mapping[Side, Laid]
    span: _Span
    work: Path
    comments: list[tuple[str, str]]
    options: RenderOptions
    notify: Notify

    def merge(self, warnings: list[str]) -> _Merged:
        """The stereo file by the engine of choice, else by the other, said in `warnings`."""
        if self.options.engine is Engine.FFMPEG:
            return self._merge_by_ffmpeg_if_it_can(warnings)
        try:
            return self._merge_lossless()
        except MergeError as error:
            warnings.append(f"{error}; merged with ffmpeg instead")
            return self._merge_by_ffmpeg()

    def _merge_by_ffmpeg_if_it_can(self, warnings: list[str]) -> _Merged:
        try:
            return self._merge_by_ffmpeg()
        except MergeError as failure:
            try:
                merged = self._merge_lossless()
            except MergeError:
                raise failure from None
            warnings.append(f"FFmpeg merge failed: {failure}; merged by the lossless engine instead")
            return merged

    def _merge_by_ffmpeg(self) -> _Merged:
        tracks = self._fill(GRID_SAMPLES)
        paths = {side: self._write_channel(side, tracks[side]) for side in Side}
        output = self.work / "merged.opus"
        try:
            ffmpeg.merge(
                paths[Side.INPUT],
                paths[Side.OUTPUT],
                output,
                comments=self.comments,
                timeout_s=self.options.ffmpeg_timeout,
                on_progress=self._say_progress,
            )
        except MergeError as error:
            outcome, _, complaint = str(error).partition(": ")
            self.notify("error", f"❌ FFmpeg merge failed: {outcome}", {"complaint": complaint})
            raise
        self.notify("info", "✅ FFmpeg merge completed successfully", {})
        return _Merged(output, Engine.FFMPEG, tracks)

    def _merge_lossless(self) -> _Merged:
        tracks = self._fill(FRAME_SAMPLES)
        packets = lossless.interleave(tracks[Side.INPUT].packets, tracks[Side.OUTPUT].packets)
        tags = oggopus.tags_bytes(SOFTWARE, self.comments)
        output = self.work / "merged.opus"
        with output.open("wb") as file:
            file.writelines(oggopus.stereo_file(packets, self.span.file, serial=MERGED_SERIAL, tags=tags))
        return _Merged(output, Engine.LOSSLESS, tracks)

    def write_channels(self) -> dict[Side, Path]:
        """The left and the right file."""
        tracks = self._fill(GRID_SAMPLES)
        return {side: self._write_channel(side, tracks[side]) for side in Side}

    def _fill(self, grid_samples: int) -> dict[Side, Track]:
        return {side: fill(self.laid[side], self.span.zero, self.span.file, grid_samples) for side in Side}

    def _write_channel(self, side: Side, track: Track) -> Path:
        path = self.work / f"{CHANNELS[side]}.opus"
        tags = oggopus.tags_bytes(SOFTWARE, self.comments)
        with path.open("wb") as file:
            file.writelines(oggopus.mono_file(track.packets, self.span.file, serial=OGG_SERIALS[side], tags=tags))
        return path

    def _say_progress(self, done_s: float) -> None:
        self.notify("progress", "FFmpeg", {"done_s": done_s, "total_s": self.span.file / SAMPLE_RATE})
