"""Placement against the truth: synthetic calls whose every packet has a known time."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import sync

MOST_MS = 10


@pytest.mark.parametrize(
    ("name", "side"), [(name, side) for name, (_, _, sides) in sync.SCENARIOS.items() for side in sides]
)
def test_sounds_lie_where_they_were_spoken(name, side) -> None:
    """Whatever senders and networks do, no packet lies further than 10 ms from where it was spoken."""
    turns, trouble, _ = sync.SCENARIOS[name]
    assert sync.worst_ms(turns, trouble, side, seed=1) <= MOST_MS


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_calls_drawn_at_random_lie_where_they_were_spoken(first) -> None:
    """Combinations of troubles, drawn at random, keep to the same 10 ms."""
    worst = {seed: sync.worst_ms(*sync.draw(seed), seed) for seed in range(first, first + 20)}
    assert {seed: error for seed, error in worst.items() if error > MOST_MS} == {}
