"""Where each packet of one side lies: arrivals and RTP timestamps to positions, in 48 kHz samples.

The heart of the product, and pure arithmetic. The ideas, in the order of the functions below:

* The *delay* of a packet is its arrival minus its media time. Jitter and stalls only ever add to it.
* A *run* is a stretch of a source that keeps one relation between media time and real time, but for
  the drift of its clock. A delay that rises and comes back is a stall of the network: the run goes
  on. A delay that rises and stays is a sender that paused without advancing its timestamp, and a
  timestamp that jumps lowers the delay for good: a new run.
* The *envelope* of a run is the greatest curve below its delays that a clock can have caused: no
  steeper than `MAX_DRIFT`, and convex, since drift hardly changes. The true delay is such a curve
  too, so the envelope lies between it and the delays, and touches it where packets were not held
  up. A packet's position is its media time plus the envelope.
* A *burst* is audio that comes faster than real time. On the input side, captured far away in real
  time, the least delayed packets still tell the truth. On the output side, where audio is made as
  it is sent, sound begins when its first packet arrived.
* Runs never overlap: each begins at the later of its own place and the end of the one before.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import linear_regression
from typing import NamedTuple

from twotrack.opus import SAMPLE_RATE
from twotrack.side import Side
from twotrack.sources import Observation, Packet, split

MILLISECOND = SAMPLE_RATE // 1000
MAX_DRIFT = 300e-6  # how much a sender's clock may be fast or slow
LOOKAHEAD_SAMPLES = 12_000 * MILLISECOND  # a delay that has not come back by then has stayed
PAUSE_SAMPLES = ((2_000, 8), (500, 20), (0, 80))  # seen for so many ms, a rise of so many ms is a pause
BURST_SAMPLES = 80 * MILLISECOND  # an output whose delay falls by more is a burst, whatever its jitter
STRAGGLERS = ((200, 150), (600, 40), (1_000, 20))  # a run up to so many ms long and late is the one before's jitter
RECENT_PACKETS = 50  # that tell the delay before a packet
FLOOR_SHARE = 0.1  # of a fall: so near its end it has reached its floor
JITTER_MARGIN = 1.25  # the first packet may well be the latest of all
JITTER_MARGIN_SAMPLES = 5 * MILLISECOND
FLAT_SAMPLES = 12_000 * MILLISECOND  # 300 ppm of it are 3.6 ms
DRIFT_WINDOW_SAMPLES = 5_000 * MILLISECOND
DRIFT_WINDOWS = 6  # half a minute: jitter of a millisecond looks like some 30 ppm there
MAX_SHOWN_DRIFT_PPM = 1_000


class Placed(NamedTuple):
    """One packet's place.

    Args:
        observation: Which one it is, counted from 0.
        position: In 48 kHz samples, on the arrivals' clock.
        missing: Sequence numbers missing between the packet before it and this one.
    """

    observation: int
    position: int
    missing: int


@dataclass(frozen=True, slots=True)
class Placement:
    """All packets of one side in their places.

    Args:
        packets: In the order of their positions; duplicates are left out.
        run_starts: The position of each run's first packet.
        drift_ppm: How much faster than ours the sender's clock ran in the longest run; 0 where that
            is too short to tell.
    """

    packets: list[Placed]
    run_starts: list[int]
    drift_ppm: float


Run = list[Packet]


def place(observations: Sequence[Observation], side: Side) -> Placement:
    """Find the position of every packet of one side.

    Args:
        observations: In the order of their arrival.
        side: Decides what a burst means.
    """
    placed: list[Placed] = []
    run_starts: list[int] = []
    longest: Run = []
    end: int | None = None
    for stretch in split(observations):
        for run in split_runs(stretch, side):
            positions = place_run(run, side)
            push = 0 if end is None else max(0, end - positions[0])
            run_starts.append(positions[0] + push)
            placed += _placed(run, positions, push)
            end = max(position + push + packet.duration for position, packet in zip(positions, run, strict=True))
            longest = max(longest, run, key=len)
    return Placement(placed, run_starts, drift_ppm(longest))


def _placed(run: Run, positions: list[int], push: int) -> Iterator[Placed]:
    before = run[0].sequence - 1
    for packet, position in zip(run, positions, strict=True):
        yield Placed(packet.observation, position + push, packet.sequence - before - 1)
        before = packet.sequence


def split_runs(stretch: list[Packet], side: Side) -> list[Run]:
    """Part a stretch where the relation between media time and real time changes for good.

    The last packets before a pause may be so late that they seem to lie behind it: a few that are
    late by no more than jitter belong to the run before them.
    """
    runs: list[Run] = []
    for run in _split_at_changes(stretch, side):
        if runs and _is_straggler(run, runs[-1]):
            runs[-1] += run
        else:
            runs.append(run)
    return runs


def _is_straggler(run: Run, before: Run) -> bool:
    """True if a short run is the late end of the one before it."""
    lateness = min(packet.delay for packet in run) - _recent_floor(before, len(before) - 1)
    length = run[-1].media_time - run[0].media_time
    could_be_jitter = any(
        length < longest * MILLISECOND and 0 < lateness < latest * MILLISECOND for longest, latest in STRAGGLERS
    )
    return could_be_jitter and not _skipped(before, len(before) - 1, run[0])


def _split_at_changes(stretch: list[Packet], side: Side) -> Iterator[Run]:
    start, floor = 0, float(stretch[0].delay)
    for i, future in enumerate(_futures(stretch)):
        packet, first = stretch[i], stretch[start]
        if i > start:
            floor += (packet.media_time - stretch[i - 1].media_time) * MAX_DRIFT
            drifted = (packet.media_time - first.media_time) * MAX_DRIFT
            is_burst = side is Side.OUTPUT and first.delay - floor > BURST_SAMPLES + drifted
            baseline = first.delay if is_burst else floor
            if _is_pause(packet, future, baseline, side, is_burst=is_burst) or _is_jump(stretch, i, future, floor):
                yield stretch[start:i]
                start, floor = i, float(packet.delay)
        floor = min(floor, packet.delay)
    yield stretch[start:]


class _Future(NamedTuple):
    """What becomes of the delay from a packet on: its least, and how long was looked, in samples."""

    delay: int
    window: int


def _futures(stretch: list[Packet]) -> list[_Future]:
    """For each packet, the least delay among it and those within the look-ahead after it.

    The look-ahead ends before the next jump of the timestamp: what follows has another relation.
    """
    futures: list[_Future] = []
    window: deque[Packet] = deque()  # delays rise from its left to its right; times fall
    end = stretch[-1].media_time + stretch[-1].duration
    for i in range(len(stretch) - 1, -1, -1):
        packet = stretch[i]
        while window and window[-1].delay >= packet.delay:
            window.pop()
        window.append(packet)
        while window[0].media_time > packet.media_time + LOOKAHEAD_SAMPLES:
            window.popleft()
        seen = max(0, min(end - packet.media_time, LOOKAHEAD_SAMPLES))
        futures.append(_Future(window[0].delay, seen))
        if i and _skipped(stretch, i - 1, packet):
            window.clear()
            end = stretch[i - 1].media_time + stretch[i - 1].duration
    futures.reverse()
    return futures


def _skipped(packets: list[Packet], last: int, after: Packet) -> bool:
    """True if the timestamp jumps ahead of both the packets in between and the time that passed.

    Args:
        packets: What came before.
        last: Where in them the packet right before it is.
        after: The first one after the jump, if it is one.
    """
    before = packets[last]
    steps = after.sequence - before.sequence
    advance = after.media_time - before.media_time
    least_skip = PAUSE_SAMPLES[0][1] * MILLISECOND
    if advance - steps * before.duration <= least_skip:
        return False
    return _recent_floor(packets, last) - after.delay > least_skip


def _recent_floor(packets: list[Packet], last: int) -> int:
    """The least delay of the packets up to `last`."""
    return min(packet.delay for packet in packets[max(0, last - RECENT_PACKETS) : last + 1])


def _is_pause(packet: Packet, future: _Future, baseline: float, side: Side, *, is_burst: bool) -> bool:
    """True if the delay has left its baseline for good."""
    threshold = _threshold(future.window)
    if packet.delay <= baseline + threshold:
        return False
    if is_burst:  # it arrived later than it would have been played: the burst before is over
        return True
    if future.delay > baseline + threshold:
        return True
    # What falls through the old baseline does not come back to it: a burst that began late.
    return side is Side.OUTPUT and future.delay < baseline - BURST_SAMPLES


def _is_jump(stretch: list[Packet], i: int, future: _Future, floor: float) -> bool:
    """True if the timestamp jumped at packet `i`, and the delay is lower from there on."""
    return _skipped(stretch, i - 1, stretch[i]) and future.delay < floor - _threshold(future.window)


def _threshold(window: int) -> int:
    """How much a delay must have changed, if it was seen for `window` samples."""
    return next(change for seen, change in PAUSE_SAMPLES if window >= seen * MILLISECOND) * MILLISECOND


def place_run(run: Run, side: Side) -> list[int]:
    """The positions of a run's packets, never falling."""
    floor = envelope(run)
    offsets = floor if side is Side.INPUT else _output_offsets(run, floor)
    positions: list[int] = []
    for packet, offset in zip(run, offsets, strict=True):
        position = packet.media_time + round(offset)
        positions.append(max(position, positions[-1]) if positions else position)
    return positions


def envelope(run: Run) -> list[float]:
    """The curve below a run's delays that a sender's clock of constant drift can have caused.

    Over a few seconds jitter looks like drift and drift is nothing yet: the least delay is all. Else
    first the greatest curve no steeper than `MAX_DRIFT`, then its lower convex hull: a straight
    line, as constant drift is one, lies below the hull wherever it lies below the delays.
    """
    if run[-1].media_time - run[0].media_time < FLAT_SAMPLES:
        return [float(min(packet.delay for packet in run))] * len(run)
    curve = [float(packet.delay) for packet in run]
    for i in range(1, len(run)):
        curve[i] = min(curve[i], curve[i - 1] + (run[i].media_time - run[i - 1].media_time) * MAX_DRIFT)
    for i in range(len(run) - 2, -1, -1):
        curve[i] = min(curve[i], curve[i + 1] + (run[i + 1].media_time - run[i].media_time) * MAX_DRIFT)
    return _lower_hull([packet.media_time for packet in run], curve)


def _lower_hull(times: list[int], curve: list[float]) -> list[float]:
    """The greatest convex curve below `curve`, at the same times; times never fall."""
    corners: list[int] = []
    for i in range(len(times)):
        while len(corners) > 1 and _is_above(times, curve, corners[-2], corners[-1], i):
            corners.pop()
        corners.append(i)
    hull: list[float] = [curve[corners[0]]]
    for left, right in pairwise(corners):
        span = times[right] - times[left]
        slope = (curve[right] - curve[left]) / span if span else 0.0
        hull += [curve[left] + slope * (times[i] - times[left]) for i in range(left + 1, right + 1)]
    return hull


def _is_above(times: list[int], curve: list[float], left: int, middle: int, right: int) -> bool:
    """True if the middle point lies on or above the line between the outer ones."""
    rise = (curve[right] - curve[left]) * (times[middle] - times[left])
    return (curve[middle] - curve[left]) * (times[right] - times[left]) >= rise


def _output_offsets(run: Run, floor: list[float]) -> list[float]:
    """An output's envelope, lifted to its first packet's arrival if it begins with a burst.

    A first packet that is later than the envelope was held up, or it leads a burst. Jitter goes on:
    among the packets that follow once the floor is reached, some are as late. A burst ends there,
    and nothing in it overtakes its first packet.
    """
    fall = run[0].delay - floor[0]
    reached = next(
        i for i, packet in enumerate(run) if packet.delay - floor[i] <= FLOOR_SHARE * fall or i == len(run) - 1
    )
    jitter = max(packet.delay - low for packet, low in zip(run[reached:], floor[reached:], strict=True))
    is_overtaken = any(packet.arrival < run[0].arrival for packet in run[1:])
    if is_overtaken or fall <= JITTER_MARGIN * jitter + JITTER_MARGIN_SAMPLES:
        return floor
    lead = float(run[0].delay)
    if run[-1].media_time - run[reached].media_time < DRIFT_WINDOW_SAMPLES:  # drift is nothing yet
        return [lead] * len(run)
    settled = envelope(run[reached:])
    return [lead] * reached + [lead + low - settled[0] for low in settled]


def drift_ppm(run: Run) -> float:
    """The slope of a run's lower envelope, by least squares over the least delay of each window.

    Returns:
        Parts per million; positive for a sender whose clock is fast. 0 for a run of fewer than
        `DRIFT_WINDOWS` windows, and for a slope that no clock has: a burst faster than real time.
    """
    least: dict[int, Packet] = {}
    for packet in run:
        window = packet.media_time // DRIFT_WINDOW_SAMPLES
        if window not in least or packet.delay < least[window].delay:
            least[window] = packet
    if len(least) < DRIFT_WINDOWS:
        return 0.0
    slope, _ = linear_regression([p.media_time for p in least.values()], [p.delay for p in least.values()])
    return -slope * 1e6 if abs(slope) * 1e6 <= MAX_SHOWN_DRIFT_PPM else 0.0
