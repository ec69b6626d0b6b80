"""The seed's FFmpeg command, ended when it makes no progress.

Source: https://ffmpeg.org/ffmpeg.html (-progress, -nostdin), ffmpeg-filters (pan, join).
"""

import os
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import IO

from twotrack.errors import MergeError
from twotrack.processes import end_with_parent

FILTER_GRAPH = (
    "[0:a]aresample=48000,pan=mono|c0=c0[left]; "
    "[1:a]aresample=48000,pan=mono|c0=c0[right]; "
    "[left][right]join=inputs=2:channel_layout=stereo[aout]"
)
Progress = Callable[[float], None]
Comments = Sequence[tuple[str, str]]


def command(left: Path, right: Path, output: Path, comments: Comments = ()) -> list[str]:
    """The command line; inputs are decoded by libopus, which conceals what is lost."""
    metadata = [word for name, value in comments for word in ("-metadata", f"{name}={value}")]
    return [
        *("ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "error", "-progress", "pipe:1", "-y"),
        *("-c:a", "libopus", "-i", str(left), "-c:a", "libopus", "-i", str(right)),
        *("-filter_complex", FILTER_GRAPH, "-map", "[aout]", "-c:a", "libopus"),
        *("-map_metadata", "-1", *metadata),
        *("-fflags", "+bitexact", "-flags:a", "+bitexact", "-f", "ogg", str(output)),
    ]


def merge(
    left: Path, right: Path, output: Path, *, comments: Comments = (), timeout_s: float, on_progress: Progress
) -> None:
    """Merge two mono files into one stereo file.

    Args:
        left: Ogg Opus file of the left channel.
        right: Of the right channel, as long.
        output: What is written.
        comments: Names and values for the file's tags.
        timeout_s: How long FFmpeg may make no progress.
        on_progress: Told how many seconds are done.

    Raises:
        MergeError: FFmpeg is missing, failed, or made no progress for `timeout_s`.
    """
    try:
        process = subprocess.Popen(
            command(left, right, output, comments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,  # so that whatever it started ends with it
            preexec_fn=end_with_parent,
        )
    except FileNotFoundError:
        raise MergeError("FFmpeg was not found: install it with: apt-get install ffmpeg") from None
    except OSError as error:
        raise MergeError(f"FFmpeg could not be started: {error.strerror}") from error
    try:
        complaint = _follow(process, timeout_s, on_progress)
    finally:
        _end(process)
    if process.returncode != 0:
        raise MergeError(_outcome(process.returncode) + (f": {complaint}" if complaint else ""))


def _outcome(return_code: int) -> str:
    return f"exit status {return_code}" if return_code > 0 else f"signal {-return_code}"


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill what still runs of its process group, and take its exit status."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _follow(process: "subprocess.Popen[bytes]", timeout_s: float, on_progress: Progress) -> str:
    """Read FFmpeg's progress until it ends; returns the last line of what it complained of."""
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    complaints: list[bytes] = []
    threads = [
        threading.Thread(target=_pump, args=(process.stdout, lines.put), daemon=True),
        threading.Thread(target=_pump, args=(process.stderr, complaints.append), daemon=True),
    ]
    for thread in threads:
        thread.start()
    _watch(lines, timeout_s, on_progress)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise _no_progress(timeout_s) from None
    for thread in threads:
        thread.join(timeout_s)  # what FFmpeg started may still hold its pipes
    texts = [line.decode(errors="replace").strip() for line in complaints if line]
    return texts[-1] if texts else ""


def _no_progress(timeout_s: float) -> MergeError:
    return MergeError(f"no progress for {timeout_s:g} s, so FFmpeg was ended")


def _pump(stream: IO[bytes], take: Callable[[bytes | None], None]) -> None:
    with stream:
        for line in stream:
            take(line)
    take(None)


def _watch(lines: "queue.SimpleQueue[bytes | None]", timeout_s: float, on_progress: Progress) -> None:
    """Return when FFmpeg has closed its output; raise when its position stands still too long."""
    position, deadline = -1, monotonic() + timeout_s
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - monotonic()))
        except queue.Empty:
            raise _no_progress(timeout_s) from None
        if line is None:
            return
        name, _, value = line.partition(b"=")
        if name != b"out_time_us":
            continue
        with suppress(ValueError):  # "N/A" before the first packet
            reached = int(value)
            if reached > position:
                position, deadline = reached, monotonic() + timeout_s
                on_progress(reached / 1e6)
