"""What is said of a recording: the JSON report of INTERFACE section 5; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from twotrack import __version__
from twotrack.opus import SAMPLE_RATE
from twotrack.side import Side
from twotrack.track import Statistics

SOFTWARE = f"twotrack {__version__}"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a recording holds, before it has a name; samples at 48 kHz.

    Args:
        engine: What made it.
        started_at: Wall time of the file's zero, in seconds since 1970.
        conversation_samples: From the first packet to the end of the last audio.
        file_samples: That and the tail padding.
        statistics: Of each side.
        starts: Where each side's first audio lies, from the file's zero; None without any.
        warnings: What is worth a look.
    """

    engine: str
    started_at: float
    conversation_samples: int
    file_samples: int
    statistics: Mapping[Side, Statistics]
    starts: Mapping[Side, int | None]
    warnings: list[str]


def report(
    contents: Contents,
    connection_id: str,
    *,
    abandoned: bool = False,
    metadata: Mapping[str, str] | None = None,
    file: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The whole report; `file` is None for a call without audio."""
    return {
        "connection_id": connection_id,
        "engine": contents.engine,
        "started_at": iso_time(contents.started_at),
        "duration_s": _seconds(contents.conversation_samples),
        "file_duration_s": _seconds(contents.file_samples),
        "abandoned": abandoned,
        "metadata": dict(metadata or {}),
        "file": file,
        **{str(side): _side(contents.statistics[side], contents.starts[side]) for side in Side},
        "warnings": contents.warnings,
        "software": SOFTWARE,
    }


def _seconds(samples: int) -> float:
    return round(samples / SAMPLE_RATE, 4)


def _side(statistics: Statistics, first: int | None) -> dict[str, Any]:
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


def format_duration(seconds: float) -> str:
    """Whole seconds as the seed prints them: 2m30s, 1h0m5s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
