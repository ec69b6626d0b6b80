"""Two tracks to one stereo file: one module an engine, all with the same signature."""

from enum import StrEnum


class Engine(StrEnum):
    """How two tracks become one file."""

    FFMPEG = "ffmpeg"
    LOSSLESS = "lossless"
