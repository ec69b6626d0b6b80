"""One side's packets told apart by source, unwrapped, and in their own order; pure.

A *source* is one SSRC between restarts of its sequence or jumps of its timestamp. A packet belongs
to the source that it can be a continuation of: its sequence number is near, and its media time has
advanced no further than the packets between can hold or than time has passed. So a packet with a
wild timestamp is a source of its own, and moves no other.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from twotrack.opus import MAX_PACKET_SAMPLES, SAMPLE_RATE
from twotrack.rtp import SEQUENCE_BITS, TIMESTAMP_BITS, extend

RESTART_PACKETS = 1_000  # a sequence number further away than this is a restart, not a late packet
JUMP_SAMPLES = SAMPLE_RATE // 2  # a timestamp this far out of its place was set anew
INTERLUDE_SAMPLES = SAMPLE_RATE // 5  # a source silent this long while another speaks has yielded
REMEMBERED_SOURCES = 4  # of one SSRC: late packets find theirs behind a restart


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


class Packet(NamedTuple):
    """A packet within its source.

    Args:
        observation: Which one it is, counted from 0.
        arrival: As observed.
        sequence: Extended sequence number.
        media_time: Extended timestamp, in 48 kHz samples.
        duration: In 48 kHz samples.
    """

    observation: int
    arrival: int
    sequence: int
    media_time: int
    duration: int

    @property
    def delay(self) -> int:
        """Arrival minus media time: what the network, and the clocks' zeros, make of it."""
        return self.arrival - self.media_time


def split(observations: Sequence[Observation]) -> list[list[Packet]]:
    """Part the packets of one side into stretches, each of one source, in sequence order.

    A source that yields to another and comes back makes a stretch for each time it speaks.
    Duplicates are left out.

    Args:
        observations: In the order of their arrival.

    Returns:
        Stretches in the order of their first arrivals.
    """
    known: dict[int, list[_Source]] = {}
    sources: list[_Source] = []
    for index, observation in enumerate(observations):
        of_ssrc = known.setdefault(observation.ssrc, [])
        source = next((source for source in of_ssrc if source.add(index, observation)), None)
        if source is None:
            source = _Source(index, observation)
            sources.append(source)
            of_ssrc.insert(0, source)
            del of_ssrc[REMEMBERED_SOURCES:]
    stretches = [stretch for source in sources for stretch in _split_interludes(source, observations)]
    return sorted(stretches, key=lambda stretch: min(packet.arrival for packet in stretch))


class _Source:
    """One source while its packets are read in the order of their arrival."""

    def __init__(self, index: int, first: Observation) -> None:
        self.packets: dict[int, Packet] = {}
        self._ssrc = first.ssrc
        self._timestamp = first.timestamp
        self._first_arrival = first.arrival
        self._latest = self._unwrap(index, first, first.sequence_number)
        self.packets[first.sequence_number] = self._latest

    def add(self, index: int, observation: Observation) -> bool:
        """Take a packet in if it can be a continuation; a duplicate is taken and left out."""
        sequence = extend(observation.sequence_number, self._latest.sequence, SEQUENCE_BITS)
        packet = self._unwrap(index, observation, sequence)
        if not self._can_hold(packet):
            return False
        self.packets.setdefault(sequence, packet)
        if sequence > self._latest.sequence:
            self._latest = packet
            self._timestamp = extend(observation.timestamp, self._timestamp, TIMESTAMP_BITS)
        return True

    def _unwrap(self, index: int, observation: Observation, sequence: int) -> Packet:
        timestamp = extend(observation.timestamp, self._timestamp, TIMESTAMP_BITS)
        media_time = timestamp * SAMPLE_RATE // observation.clock_rate
        return Packet(index, observation.arrival, sequence, media_time, observation.duration)

    def _can_hold(self, packet: Packet) -> bool:
        latest = self._latest
        steps = packet.sequence - latest.sequence
        if abs(steps) > RESTART_PACKETS:
            return False
        if steps == 0:
            return packet.media_time == latest.media_time
        earlier, later = (latest, packet) if steps > 0 else (packet, latest)
        advance = later.media_time - earlier.media_time
        elapsed = packet.arrival - (latest.arrival if steps > 0 else self._first_arrival)
        held = abs(steps) * max(MAX_PACKET_SAMPLES, earlier.duration)
        return 0 <= advance <= max(held, elapsed) + JUMP_SAMPLES


def _split_interludes(source: _Source, observations: Sequence[Observation]) -> Iterator[list[Packet]]:
    """Part a source where it is silent for a while and another one is heard."""
    packets = [source.packets[sequence] for sequence in sorted(source.packets)]
    start = 0
    for i in range(1, len(packets)):
        before, after = packets[i - 1], packets[i]
        if after.arrival - before.arrival > INTERLUDE_SAMPLES and _is_other_between(before, after, observations):
            yield packets[start:i]
            start = i
    yield packets[start:]


def _is_other_between(before: Packet, after: Packet, observations: Sequence[Observation]) -> bool:
    ssrc = observations[before.observation].ssrc
    between = range(before.observation + 1, after.observation)
    return any(observations[index].ssrc != ssrc for index in between)
