"""The tests' own ear."""

from array import array

from sound import RATE, bursts


def test_hears_sounds_where_they_are() -> None:
    """A sound is heard from its first to its last millisecond, and quiet parts sounds."""
    samples = array("h", [0] * RATE)
    for begin in (0.2, 0.6):
        for index in range(int(begin * RATE), int((begin + 0.05) * RATE)):
            samples[index] = 10_000
    assert bursts(samples) == [(0.2, 0.25), (0.6, 0.65)]
