"""Listening to a recording: what lies on each channel, and when."""

import json
import subprocess
from array import array
from pathlib import Path

RATE = 48_000
WINDOW = RATE // 1000  # 1 ms


def decode(path: Path) -> list[array]:
    """Each channel's samples at 48 kHz, decoded by FFmpeg's libopus."""
    channels = probe(path)["streams"][0]["channels"]
    command = ["ffmpeg", "-v", "error", "-c:a", "libopus", "-i", path, "-f", "s16le", "-ar", str(RATE), "-"]
    samples = array("h", subprocess.run(command, check=True, capture_output=True).stdout)
    return [samples[channel::channels] for channel in range(channels)]


def probe(path: Path) -> dict:
    """What ffprobe says of a file."""
    command = ["ffprobe", "-v", "error", "-show_streams", "-show_format", "-of", "json", path]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def duration_s(path: Path) -> float:
    """How long a file plays."""
    return float(probe(path)["format"]["duration"])


def envelope(samples: array) -> list[int]:
    """The peak of each millisecond."""
    return [max(map(abs, samples[i : i + WINDOW])) for i in range(0, len(samples) - WINDOW + 1, WINDOW)]


def bursts(samples: array, threshold: int = 3_000, quiet_ms: int = 100) -> list[tuple[float, float]]:
    """Begin and end, in seconds, of each sound that is set off by quiet."""
    found: list[list[int]] = []
    for millisecond, peak in enumerate(envelope(samples)):
        if peak < threshold:
            continue
        if found and millisecond - found[-1][1] <= quiet_ms:
            found[-1][1] = millisecond
        else:
            found.append([millisecond, millisecond])
    return [(begin / 1000, (end + 1) / 1000) for begin, end in found]


def peak_between(samples: array, begin_s: float, end_s: float) -> int:
    """The loudest sample of a stretch."""
    return max(map(abs, samples[int(begin_s * RATE) : int(end_s * RATE)]))
