"""How far a sound lies from where it was spoken: synthetic calls whose every packet has a known time.

    python benchmarks/sync.py            a table of scenarios and their worst errors
    python benchmarks/sync.py --random N the worst of N calls drawn at random

A call is a list of turns; what senders and networks do to it is named by `Trouble`. The error of a
packet is its position minus the time at which its first sample was spoken. A constant common to all
of a side's packets would be no error, as it only moves the file's zero; it is counted all the same.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from twotrack.side import Side
from twotrack.sources import Observation
from twotrack.timeline import place

SAMPLE_RATE = 48_000
MILLISECOND = SAMPLE_RATE // 1000


class Turn(NamedTuple):
    """A stretch of speech: when it begins and how long it lasts, in seconds."""

    begin: float
    length: float


@dataclass(frozen=True)
class Trouble:
    """What a sender and its network do.

    Args:
        frame_ms: What a packet lasts.
        drift_ppm: How much the sender's clock is fast.
        jitter_ms: Mean of the delay that the network adds (gamma, shape 2).
        loss: Share of packets that never come.
        duplicate: Share of packets that come twice.
        stall: When the network stands still, and for how long, in seconds.
        burst: How many times faster than real time a turn is sent; 1: in real time.
        ignores_pauses: The timestamp stands still between turns.
        jump: The timestamp is set anew in the middle.
        change_ssrc: The source is another one from a third of the call on.
        wrap: Counters wrap early in the call.
    """

    frame_ms: float = 20
    drift_ppm: float = 0
    jitter_ms: float = 0
    loss: float = 0
    duplicate: float = 0
    stall: tuple[float, float] | None = None
    burst: float = 1
    ignores_pauses: bool = False
    jump: bool = False
    change_ssrc: bool = False
    wrap: bool = False


class Sent(NamedTuple):
    """A packet as it arrives, and where its first sample was spoken, in samples."""

    observation: Observation
    spoken: float


def call(turns: Sequence[Turn], trouble: Trouble, seed: int) -> list[Sent]:
    """One side of a call, in the order of its arrivals."""
    chance = random.Random(seed)
    duration = round(trouble.frame_ms * MILLISECOND)
    sequence = 65_500 if trouble.wrap else chance.randrange(65_536)
    timestamp = 2**32 - SAMPLE_RATE if trouble.wrap else chance.randrange(2**32)
    ssrc, count, played = 1, 0, 0.0
    total = sum(int(turn.length * SAMPLE_RATE / duration) for turn in turns)
    sent: list[Sent] = []
    for turn in turns:
        begin = turn.begin * SAMPLE_RATE
        spoken_begin = max(begin, played) if trouble.burst > 1 else begin
        if not trouble.ignores_pauses:
            timestamp += round((spoken_begin - played) * (1 + trouble.drift_ppm * 1e-6))
        for number in range(int(turn.length * SAMPLE_RATE / duration)):
            count += 1
            if trouble.jump and count == total // 2:
                timestamp += 1_000_000_007
            if trouble.change_ssrc and count == total // 3:
                ssrc, sequence, timestamp = 2, chance.randrange(65_536), chance.randrange(2**32)
            spoken = spoken_begin + number * duration * (1 - trouble.drift_ppm * 1e-6)
            departure = begin + number * duration / trouble.burst if trouble.burst > 1 else spoken
            arrival = _arrive(departure, trouble, chance)
            observation = Observation(round(arrival), ssrc, sequence % 65_536, timestamp % 2**32, duration)
            if chance.random() >= trouble.loss:
                sent.append(Sent(observation, spoken))
                if chance.random() < trouble.duplicate:
                    late = observation._replace(arrival=observation.arrival + 3 * duration)
                    sent.append(Sent(late, spoken))
            sequence += 1
            timestamp += duration
        frames = int(turn.length * SAMPLE_RATE / duration)
        played = spoken_begin + frames * duration * (1 - trouble.drift_ppm * 1e-6)
    return sorted(sent, key=lambda packet: packet.observation.arrival)


def _arrive(departure: float, trouble: Trouble, chance: random.Random) -> float:
    jitter = chance.gammavariate(2, trouble.jitter_ms / 2) * MILLISECOND if trouble.jitter_ms else 0.0
    arrival = departure + jitter
    if trouble.stall is not None:
        begin, length = (moment * SAMPLE_RATE for moment in trouble.stall)
        if begin <= arrival < begin + length:
            return begin + length + chance.random() * MILLISECOND
    return arrival


def errors_ms(sent: Sequence[Sent], side: Side) -> list[float]:
    """Each placed packet's error in milliseconds."""
    placement = place([packet.observation for packet in sent], side)
    return [(placed.position - sent[placed.observation].spoken) / MILLISECOND for placed in placement.packets]


ONE_TURN = (Turn(0, 30),)
TALK = (Turn(0, 4), Turn(7, 3), Turn(15.5, 5), Turn(25, 2.5))
LONG = (Turn(0, 480),)
HOUR = (Turn(0, 3600),)

SCENARIOS: dict[str, tuple[Sequence[Turn], Trouble, Sequence[Side]]] = {
    "steady": (ONE_TURN, Trouble(), tuple(Side)),
    "counters wrap": (ONE_TURN, Trouble(wrap=True), tuple(Side)),
    "jitter of 30 ms": (ONE_TURN, Trouble(jitter_ms=30), tuple(Side)),
    "5 % loss, duplicates": (ONE_TURN, Trouble(jitter_ms=5, loss=0.05, duplicate=0.02), tuple(Side)),
    "stall of 3 s": (ONE_TURN, Trouble(jitter_ms=5, stall=(10, 3)), tuple(Side)),
    "stall of 2 s at the start": (ONE_TURN, Trouble(jitter_ms=5, stall=(0, 2)), (Side.INPUT,)),
    "pauses in the timestamps": (TALK, Trouble(jitter_ms=5), tuple(Side)),
    "pauses not in the timestamps": (TALK, Trouble(jitter_ms=5, ignores_pauses=True), tuple(Side)),
    "timestamp jump": (ONE_TURN, Trouble(jitter_ms=5, jump=True), tuple(Side)),
    "another SSRC": (ONE_TURN, Trouble(jitter_ms=5, change_ssrc=True), tuple(Side)),
    "packets of 2.5 ms": (ONE_TURN, Trouble(jitter_ms=5, frame_ms=2.5), tuple(Side)),
    "packets of 60 ms": (ONE_TURN, Trouble(jitter_ms=5, frame_ms=60), tuple(Side)),
    "packets of 120 ms": (ONE_TURN, Trouble(jitter_ms=5, frame_ms=120), tuple(Side)),
    "answers 4 times faster": (TALK, Trouble(burst=4, ignores_pauses=True), (Side.OUTPUT,)),
    "answers 20 times faster": (TALK, Trouble(burst=20, ignores_pauses=True), (Side.OUTPUT,)),
    "8 min at +250 ppm, jitter, stall": (LONG, Trouble(drift_ppm=250, jitter_ms=15, stall=(200, 3)), tuple(Side)),
    "8 min at -120 ppm, jitter, loss": (LONG, Trouble(drift_ppm=-120, jitter_ms=15, loss=0.05), tuple(Side)),
    "an hour at +300 ppm": (HOUR, Trouble(drift_ppm=300, jitter_ms=5), tuple(Side)),
}


def draw(seed: int) -> tuple[Sequence[Turn], Trouble, Side]:
    """A call drawn at random; the same seed draws the same."""
    chance = random.Random(seed)
    side = chance.choice([*Side])
    turns, at = [], 0.0
    for _ in range(chance.randint(1, 5)):
        turns.append(Turn(at, chance.uniform(2, 8)))
        at += turns[-1].length + chance.uniform(0.3, 6)
    is_burst = side is Side.OUTPUT and chance.random() < 0.3
    trouble = Trouble(
        frame_ms=chance.choice([10, 20, 20, 20, 40, 60]),
        drift_ppm=0 if is_burst else chance.uniform(-300, 300),
        jitter_ms=0 if is_burst else chance.choice([0, 2, 10, 20]),
        loss=0 if is_burst else chance.choice([0, 0, 0.05]),  # a lost first packet moves a burst
        duplicate=chance.choice([0, 0.02]),
        burst=chance.choice([4, 10]) if is_burst else 1,
        ignores_pauses=is_burst or chance.random() < 0.5,
        wrap=chance.random() < 0.3,
    )
    return turns, trouble, side


def worst_ms(turns: Sequence[Turn], trouble: Trouble, side: Side, seed: int) -> float:
    """The greatest error of a call's packets, either way."""
    return max(map(abs, errors_ms(call(turns, trouble, seed), side)))


def main() -> None:
    """Print the table, or the worst of many."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", type=int, metavar="N", help="the worst of N calls drawn at random")
    arguments = parser.parse_args()
    if arguments.random:
        worst = sorted(((worst_ms(*draw(seed), seed), seed) for seed in range(arguments.random)), reverse=True)
        for error, seed in worst[:10]:
            print(f"{error:8.2f} ms  seed {seed}  {draw(seed)}")
        return
    print(f"{'scenario':<34}{'side':<8}{'worst error, ms':>16}")
    for name, (turns, trouble, sides) in SCENARIOS.items():
        for side in sides:
            print(f"{name:<34}{side:<8}{worst_ms(turns, trouble, side, seed=1):>16.2f}")


if __name__ == "__main__":
    main()
