"""Where each packet of one side lies: arrivals and RTP timestamps to positions, in 48 kHz samples.

The heart of the product, and pure arithmetic. The ideas, in the order of the functions below:

* A *source* is one SSRC between restarts of its sequence or jumps of its timestamp. Within it,
  sequence numbers and timestamps are unwrapped and late packets find their place.
* The *delay* of a packet is its arrival minus its RTP time. Jitter and stalls only ever add to it.
* A *run* is a stretch of a source that keeps one relation between RTP time and real time. A delay
  that rises and comes back is a stall of the network: the run goes on. A delay that rises and stays
  is a sender that paused without advancing its timestamp: a new run.
* The *anchor* of a run is where its first packet lies: on the lower envelope of the delay. On the
  output side, where audio is made as it is sent, a burst faster than real time begins when its
  first packet arrived.
* Runs never overlap: each begins at the later of its anchor and the end of the one before.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import linear_regression
from typing import NamedTuple

from twotrack.opus import SAMPLE_RATE
from twotrack.rtp import SEQUENCE_BITS, TIMESTAMP_BITS, extend
from twotrack.side import Side

MILLISECOND = SAMPLE_RATE // 1000
RESTART_PACKETS = 1_000  # a sequence number further away than this is a restart, not a late packet
JUMP_SAMPLES = 500 * MILLISECOND  # a timestamp this far ahead of its arrival was set anew
LOOKAHEAD_SAMPLES = 4_000 * MILLISECOND  # a delay that has not come back by then has stayed
PAUSE_SAMPLES = 20 * MILLISECOND  # the least delay of a look-ahead rises by less through jitter
SURE_SAMPLES = 500 * MILLISECOND  # a look-ahead cut shorter by the source's end is not trusted so far
UNSURE_PAUSE_SAMPLES = 80 * MILLISECOND  # then only this much counts as a pause
DRIFT_WINDOW_SAMPLES = 5_000 * MILLISECOND
DRIFT_WINDOWS = 6  # half a minute: jitter of a millisecond looks like some 30 ppm there
MAX_DRIFT_PPM = 1_000
BURST_SAMPLES = 80 * MILLISECOND  # a delay that falls by more is a burst faster than real time


class Observation(NamedTuple):
    """What is known of one audio packet.

    Args:
        arrival: When it arrived, in 48 kHz samples from any zero.
        ssrc: Whose it is.
        sequence_number: As in the packet, 16 bits.
        timestamp: As in the packet, 32 bits, in units of `clock_rate`.
        duration: Of its audio, in 48 kHz samples.
        clock_rate: Of its timestamp, in Hz.
    """

    arrival: int
    ssrc: int
    sequence_number: int
    timestamp: int
    duration: int
    clock_rate: int = SAMPLE_RATE


class Placed(NamedTuple):
    """One packet's place.

    Args:
        observation: Which one it is, counted from 0.
        position: In 48 kHz samples, on the arrivals' clock.
        is_after_loss: Packets are missing between the one before and this one.
    """

    observation: int
    position: int
    is_after_loss: bool


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


class _Unwrapped(NamedTuple):
    """A packet within its source: extended sequence number, media time and delay in samples."""

    observation: int
    sequence: int
    media_time: int
    delay: int
    duration: int


def place(observations: Sequence[Observation], side: Side) -> Placement:
    """Find the position of every packet of one side.

    Args:
        observations: In the order of their arrival.
        side: Decides what a burst means.
    """
    packets: list[Placed] = []
    run_starts: list[int] = []
    longest: list[_Unwrapped] = []
    end: int | None = None
    for source in split_sources(observations):
        for run in split_runs(source, side):
            first = run[0]
            start = first.media_time + anchor_delay(run, side)
            if end is not None and start < end:
                start = end
            run_starts.append(start)
            packets += _place_run(run, start)
            longest = max(longest, run, key=len)
            end = max(start + packet.media_time - first.media_time + packet.duration for packet in run)
    return Placement(packets, run_starts, drift_ppm(longest))


def split_sources(observations: Sequence[Observation]) -> Iterator[list[_Unwrapped]]:
    """Part the packets by SSRC, restart and timestamp jump; unwrap and sort each part.

    Sources come in the order in which their first packets arrived.
    """
    sources: list[dict[int, _Unwrapped]] = []
    current: dict[int, _Source] = {}
    for index, observation in enumerate(observations):
        source = current.get(observation.ssrc)
        if source is None or source.is_restarted_by(observation):
            source = current[observation.ssrc] = _Source(observation)
            sources.append(source.packets)
        source.add(index, observation)
    for packets in sources:
        yield [packets[sequence] for sequence in sorted(packets)]


class _Source:
    """One source while its packets are read in the order of their arrival."""

    def __init__(self, first: Observation) -> None:
        self.packets: dict[int, _Unwrapped] = {}
        self._sequence = first.sequence_number
        self._timestamp = first.timestamp
        self._latest: _Unwrapped | None = None

    def is_restarted_by(self, observation: Observation) -> bool:
        """True if this packet can't be a continuation: sequence or timestamp were set anew."""
        sequence = extend(observation.sequence_number, self._sequence, SEQUENCE_BITS)
        if abs(sequence - self._sequence) > RESTART_PACKETS:
            return True
        latest = self._latest
        if latest is None:
            return False
        media_time = self._media_time(observation)
        if sequence > latest.sequence:
            is_backward = media_time < latest.media_time
            advance = observation.arrival - media_time - latest.delay
            skipped = media_time - latest.media_time - (sequence - latest.sequence) * latest.duration
            return is_backward or (advance < -JUMP_SAMPLES and skipped > JUMP_SAMPLES)
        return media_time > latest.media_time

    def add(self, index: int, observation: Observation) -> None:
        """Take a packet in; a duplicate of one already here is left out."""
        sequence = extend(observation.sequence_number, self._sequence, SEQUENCE_BITS)
        if sequence in self.packets:
            return
        media_time = self._media_time(observation)
        delay = observation.arrival - media_time
        packet = _Unwrapped(index, sequence, media_time, delay, observation.duration)
        self.packets[sequence] = packet
        if self._latest is None or sequence > self._latest.sequence:
            self._latest = packet
            self._sequence = sequence
            self._timestamp = extend(observation.timestamp, self._timestamp, TIMESTAMP_BITS)

    def _media_time(self, observation: Observation) -> int:
        timestamp = extend(observation.timestamp, self._timestamp, TIMESTAMP_BITS)
        return timestamp * SAMPLE_RATE // observation.clock_rate


def split_runs(source: list[_Unwrapped], side: Side) -> Iterator[list[_Unwrapped]]:
    """Part a source where its sender paused without advancing its timestamp."""
    start, baseline = 0, source[0].delay
    for i, settled in enumerate(_settled_delays(source)):
        packet, first = source[i], source[start]
        if i > start and packet.delay > baseline + PAUSE_SAMPLES and _has_paused(settled, baseline, side):
            yield source[start:i]
            start, baseline = i, packet.delay
        elif packet.delay < baseline and (side is Side.INPUT or first.delay - packet.delay < BURST_SAMPLES):
            baseline = packet.delay
    yield source[start:]


class _Settled(NamedTuple):
    """What becomes of the delay after a packet: the least that follows, and how long was looked."""

    delay: int
    window: int


def _has_paused(settled: _Settled, baseline: int, side: Side) -> bool:
    """True if the delay has left the baseline for good: a pause, or a burst that began late."""
    threshold = PAUSE_SAMPLES if settled.window >= SURE_SAMPLES else UNSURE_PAUSE_SAMPLES
    if settled.delay > baseline + threshold:
        return True
    return side is Side.OUTPUT and settled.delay < baseline - BURST_SAMPLES


def _settled_delays(source: list[_Unwrapped]) -> list[_Settled]:
    """For each packet, the least delay among it and those within the look-ahead after it."""
    settled: list[_Settled] = []
    end = source[-1].media_time + source[-1].duration
    window: deque[_Unwrapped] = deque()  # delays rise from its left to its right; times fall
    for packet in reversed(source):
        while window and window[-1].delay >= packet.delay:
            window.pop()
        window.append(packet)
        while window[0].media_time > packet.media_time + LOOKAHEAD_SAMPLES:
            window.popleft()
        settled.append(_Settled(window[0].delay, min(end - packet.media_time, LOOKAHEAD_SAMPLES)))
    settled.reverse()
    return settled


def anchor_delay(run: list[_Unwrapped], side: Side) -> int:
    """The delay that places a run: its lower envelope, or its first packet's if it is a burst."""
    first, least = run[0].delay, min(packet.delay for packet in run)
    if side is Side.OUTPUT and first - least > BURST_SAMPLES:
        return first
    return least


def _place_run(run: list[_Unwrapped], start: int) -> Iterator[Placed]:
    before = run[0]
    for packet in run:
        is_after_loss = packet.sequence > before.sequence + 1
        yield Placed(packet.observation, start + packet.media_time - run[0].media_time, is_after_loss)
        before = packet


def drift_ppm(run: list[_Unwrapped]) -> float:
    """The slope of a run's lower envelope, by least squares over the least delay of each window.

    Returns:
        Parts per million; positive for a sender whose clock is fast. 0 for a run of fewer than
        `DRIFT_WINDOWS` windows, and for a slope that no clock has: a burst faster than real time.
    """
    least: dict[int, _Unwrapped] = {}
    for packet in run:
        window = packet.media_time // DRIFT_WINDOW_SAMPLES
        if window not in least or packet.delay < least[window].delay:
            least[window] = packet
    if len(least) < DRIFT_WINDOWS:
        return 0.0
    slope, _ = linear_regression([p.media_time for p in least.values()], [p.delay for p in least.values()])
    return -slope * 1e6 if abs(slope) * 1e6 <= MAX_DRIFT_PPM else 0.0
