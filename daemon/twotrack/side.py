"""The two directions of a call."""

from enum import StrEnum


class Side(StrEnum):
    """One direction of a call; the input becomes the left channel, the output the right one."""

    INPUT = "input"
    OUTPUT = "output"
