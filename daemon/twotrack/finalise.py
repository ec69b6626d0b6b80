"""One call from spool to stored recording, as one function; run as a module, a worker process.

The worker reads a job a line from its standard input and answers in lines on its standard output, so it
ends by itself when the daemon is gone.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from twotrack import capture
from twotrack.codecs import Codec
from twotrack.errors import CaptureError, MergeError, NameTakenError, StorageError, TwotrackError
from twotrack.merge import Engine
from twotrack.processes import end_with_parent
from twotrack.recording import CHANNELS, Notify, Recording, RenderOptions, render
from twotrack.report import report
from twotrack.storage import Storage, StorageType, open_storage

NICENESS = 10  # finalising gives way to receiving


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker must know to finalise one call; plain values, so that it travels as JSON.

    Args:
        connection_id: Names the recording.
        spool: Path of the call's pcap.
        work: Where a directory for the files in between is made, and deleted at the end.
        started_at: Wall time of its opening in seconds since 1970, for a call without a packet.
        abandoned: Nobody closed it.
        metadata: As given with `open`.
        options: How to render it.
        keep_channels: Also store left and right.
        storage_type: Kind of storage.
        storage_path: Its directory or bucket.
        lost_by_recorder: Packets of each side that arrived and never reached the spool.
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
    lost_by_recorder: dict[str, int] = field(default_factory=dict)

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
        return RenderOptions(
            Engine(self.engine), self.ffmpeg_timeout, self.tail_padding, payload_types, self.keep_channels
        )


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
    try:
        work = Path(tempfile.mkdtemp(dir=job.work))  # of its own: an attempt that was cut off may still run
    except OSError as error:
        raise MergeError(f"the working directory {job.work} can't be used: {error.strerror}") from error
    try:
        call = capture.read_spool(Path(job.spool))
        recording = render(call, work, job.connection_id, job.options, notify, opened_at=job.started_at)
        recording.contents.warnings.extend(_losses(job))
        return _store(recording, job, open_storage(StorageType(job.storage_type), job.storage_path))
    except CaptureError as error:
        raise MergeError(str(error)) from error
    except OSError as error:
        raise MergeError(f"the working directory {work} can't be used: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _losses(job: Job) -> list[str]:
    """What the recorder itself lost, which is not the network's fault."""
    return [
        f"{count} packets of the {side} side arrived and were lost: the spool could not be written"
        for side, count in job.lost_by_recorder.items()
        if count
    ]


def names(connection_id: str) -> Iterator[str]:
    """Base names in the order in which they are tried: the id itself, then with ~2, ~3 and so on."""
    yield f"conversation_{connection_id}"
    number = 2
    while True:
        yield f"conversation_{connection_id}~{number}"
        number += 1


def _store(recording: Recording, job: Job, storage: Storage) -> dict[str, Any]:
    """Store under the first name that is free or holds these very bytes; the report goes last."""
    for base in names(job.connection_id):
        try:
            return _store_as(base, recording, job, storage)
        except NameTakenError:
            continue
    raise StorageError("no name is free")  # unreachable: names are endless


def _store_as(base: str, recording: Recording, job: Job, storage: Storage) -> dict[str, Any]:
    file, report_name, merged_name = None, f"{base}.json", f"{base}_merged.opus"
    if recording.merged is not None:
        file = describe_file(recording.merged, merged_name, storage.url(merged_name))
    complete = report(recording.contents, job.connection_id, abandoned=job.abandoned, metadata=job.metadata, file=file)
    content = json.dumps(complete, ensure_ascii=False, indent=2).encode() + b"\n"
    if storage.holds_other(report_name, content):
        raise NameTakenError(f"{report_name} is another call's")
    if recording.merged is not None:
        storage.put(merged_name, recording.merged)
    for side, path in recording.channels.items():
        storage.put(f"{base}_{CHANNELS[side]}.opus", path)
    storage.put(report_name, content)
    return complete


def main() -> None:
    """Finalise the jobs that come in on standard input, until it ends."""
    end_with_parent()
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
