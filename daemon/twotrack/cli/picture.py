"""A recording as a person looks at it: a table of its two channels, and their loudness over time."""

import math
import sys
from array import array
from pathlib import Path
from typing import Any

import click

from twotrack import oggopus
from twotrack.cli.output import print_members, print_table
from twotrack.opus import SAMPLE_RATE, Decoder, Pcm

PICTURE_RATE = 8_000  # plenty for loudness
BARS = " ▁▂▃▄▅▆▇█"
QUIETEST_DBFS = -60.0
CHANNELS = (("left", "caller", "input"), ("right", "AI", "output"))


def decode_stereo(path: Path) -> tuple[Pcm, Pcm]:
    """Both channels of a recording as 16-bit samples at 8 kHz."""
    head, packets, total = oggopus.read_audio(path.read_bytes())
    decoder = Decoder(PICTURE_RATE, 2)
    samples = array("h")
    for packet in packets:
        samples += decoder.decode(packet)
    scale = SAMPLE_RATE // PICTURE_RATE
    start, end = head.pre_skip // scale, (head.pre_skip + total) // scale
    return samples[2 * start : 2 * end : 2], samples[2 * start + 1 : 2 * end : 2]


def loudness(samples: Pcm, columns: int) -> list[float]:
    """RMS level of each of `columns` equal stretches, in dBFS; silence is -120."""
    levels = []
    for column in range(columns):
        stretch = samples[len(samples) * column // columns : len(samples) * (column + 1) // columns]
        power = sum(sample * sample for sample in stretch) / len(stretch) if stretch else 0
        levels.append(10 * math.log10(power / 32_768**2) if power else -120.0)
    return levels


def bars(levels: list[float]) -> str:
    """A line of blocks, the higher the louder; blank below -60 dBFS."""
    steps = len(BARS) - 1
    return "".join(BARS[max(0, min(steps, math.ceil((level / -QUIETEST_DBFS + 1) * steps)))] for level in levels)


def print_recording(report: dict[str, Any], path: Path | None) -> None:
    """Print where a recording is, how long, and what lies on each channel."""
    file = report["file"]
    print_members(
        [
            ("file", path or (file and file["url"])),
            ("started", report["started_at"]),
            ("conversation", f"{report['duration_s']:.2f} s"),
            ("file length", f"{report['file_duration_s']:.2f} s, {file['bytes'] if file else 0} bytes"),
            *(("warning", warning) for warning in report["warnings"]),
        ]
    )
    click.echo()
    columns = ("channel", "voice", "codec", "packets", "lost", "audio", "begins at", "jitter")
    print_table(columns, [(channel, who, *_side_cells(report[side])) for channel, who, side in CHANNELS])
    if path is not None and sys.stdout.isatty():
        _print_loudness(path, report["file_duration_s"])


def _side_cells(side: dict[str, Any]) -> tuple[Any, ...]:
    begins = None if side["first_arrival_s"] is None else f"{side['first_arrival_s']:.2f} s"
    audio, jitter = f"{side['speech_s']:.2f} s", f"{side['jitter_ms']:.1f} ms"
    return side["codec"], side["received"], side["lost"], audio, begins, jitter


def _print_loudness(path: Path, length_s: float) -> None:
    columns = max(20, min(100, click.get_current_context().terminal_width or 100) - 20)
    samples = decode_stereo(path)
    click.echo()
    for (channel, who, _), one in zip(CHANNELS, samples, strict=True):
        name = f"{channel:<5} ({who})"
        click.echo(f"{name:<15} {bars(loudness(one, columns))}")
    end = f"{length_s:.1f} s"
    click.echo(" " * 16 + "0 s" + end.rjust(columns - 3))
