"""One side of a call: its packets laid on the timeline, its gaps filled, its numbers counted.

Two steps, since both sides share one zero: `lay` finds out where everything lies, `fill` makes of
it a gapless sequence of Opus packets from the call's zero to the file's end.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from twotrack import g711, opus
from twotrack.codecs import DEFAULT_PAYLOAD_TYPES, NARROWBAND_RATE, Codec
from twotrack.errors import OpusPacketError
from twotrack.oggopus import PRE_SKIP, Packet
from twotrack.opus import GRID_SAMPLES, SAMPLE_RATE
from twotrack.rtp import SEQUENCE_BITS, RtpPacket, extend
from twotrack.side import Side
from twotrack.sources import RESTART_PACKETS, Observation
from twotrack.timeline import Placed, place

CONCEALED_SAMPLES = SAMPLE_RATE // 10  # a longer loss becomes silence: concealment fades out by then
EVENT_BYTES = 4
LAST_EVENT = 16  # digits, letters and flash (RFC 4733 section 3.2)
G711_FRAME = 160  # 20 ms at 8 kHz
G711_LOOKAHEAD = PRE_SKIP * NARROWBAND_RATE // SAMPLE_RATE
GAP_SAMPLES = 480  # 10 ms: what is shorter is a slip
LEAST_SLIP_SAMPLES = 120  # 2.5 ms: a slip, of drift or rounding, that is not worth a cut
MORE_SLIP_SAMPLES = 96  # 2 ms: with so much more, a slip can't wait any longer for a quiet place
MOST_SLIP_SAMPLES = LEAST_SLIP_SAMPLES + MORE_SLIP_SAMPLES


class Received(NamedTuple):
    """One RTP packet of this side; `arrival_ns` in nanoseconds from any zero."""

    arrival_ns: int
    packet: RtpPacket


@dataclass(slots=True)
class Statistics:
    """One side in numbers; samples at 48 kHz.

    Args:
        received: Packets that arrived, whatever they carry.
        expected: Numbers between the lowest and highest sequence number of each source.
        lost: Expected numbers that never came.
        duplicate: Packets whose number had come already.
        reordered: Packets that came after a higher number.
        not_audio: Packets of telephone events, comfort noise and padding.
        malformed: Packets whose payload is not what their type says.
        audio_samples: Audio that arrived.
        concealed_samples: Lost audio left to the decoder's concealment.
        silence_samples: Silence put in between the side's first and last audio.
        dropped_samples: Audio left out, to follow a clock that is slow or where packets overlap.
        jitter_ms: Interarrival jitter at the end (RFC 3550 appendix A.8).
        drift_ppm: How much faster the sender's clock runs than ours.
        reanchored: How often the side was placed anew after its first run.
    """

    ssrcs: list[int] = field(default_factory=list)
    codecs: Counter[Codec] = field(default_factory=Counter)
    received: int = 0
    expected: int = 0
    lost: int = 0
    duplicate: int = 0
    reordered: int = 0
    not_audio: int = 0
    malformed: int = 0
    audio_samples: int = 0
    concealed_samples: int = 0
    silence_samples: int = 0
    dropped_samples: int = 0
    jitter_ms: float = 0.0
    drift_ppm: float = 0.0
    reanchored: int = 0


class _Audio(NamedTuple):
    """A packet that carries audio, and its duration in samples."""

    codec: Codec
    payload: bytes
    samples: int


class _Piece(NamedTuple):
    """Audio at its position on the arrivals' clock, in samples."""

    position: int
    audio: _Audio
    is_after_loss: bool


@dataclass(frozen=True, slots=True)
class Laid:
    """A side whose packets have their positions, before both sides' zero is known.

    Args:
        pieces: Audio in the order of its positions.
        statistics: Complete but for what filling the gaps adds.
    """

    pieces: list[_Piece]
    statistics: Statistics

    @property
    def start(self) -> int | None:
        """Where the first audio begins, or None without any."""
        return self.pieces[0].position if self.pieces else None

    @property
    def end(self) -> int | None:
        """Where the last audio ends, or None without any."""
        return max(piece.position + piece.audio.samples for piece in self.pieces) if self.pieces else None


@dataclass(frozen=True, slots=True)
class Track:
    """One side as a gapless sequence of Opus packets that begins at the call's zero."""

    packets: list[Packet]
    statistics: Statistics


def lay(received: Sequence[Received], side: Side, payload_types: Mapping[int, Codec] = DEFAULT_PAYLOAD_TYPES) -> Laid:
    """Find out what each packet is and where it lies.

    Args:
        received: This side's packets in the order of their arrival.
        side: Input or output.
        payload_types: What each payload type carries; others are not audio.
    """
    statistics = _count(received)
    payload_types = _without_events(received, payload_types)
    audio: list[_Audio] = []
    observations: list[Observation] = []
    for arrival_ns, packet in received:
        try:
            content = _read_audio(packet, payload_types)
        except OpusPacketError:
            statistics.malformed += 1
            continue
        if content is None:
            statistics.not_audio += 1
            continue
        audio.append(content)
        observations.append(_observe(arrival_ns, packet, content))
    placement = place(observations, side)
    present = _numbers_without_audio(received, payload_types)
    statistics.drift_ppm = placement.drift_ppm
    statistics.reanchored = max(0, len(placement.run_starts) - 1)
    pieces = [
        _Piece(placed.position, audio[placed.observation], _is_lost(observations[placed.observation], placed, present))
        for placed in placement.packets
    ]
    for piece in pieces:
        statistics.codecs[piece.audio.codec] += 1
        statistics.audio_samples += piece.audio.samples
    statistics.jitter_ms = _jitter_ms(observations)
    return Laid(pieces, statistics)


def _without_events(received: Sequence[Received], payload_types: Mapping[int, Codec]) -> dict[int, Codec]:
    """Leave out the types that carry telephone events.

    An event's payload has 4 bytes (RFC 4733 section 2.3), and nobody's speech is always as long: a
    type of such packets alone is events if there is audio of another type, or if they look the part.
    """
    seen = {packet.payload_type for _, packet in received} & set(payload_types)
    spoken = {packet.payload_type for _, packet in received if len(packet.payload) != EVENT_BYTES}
    events = {number for number in seen - spoken if seen & spoken or _are_events(number, received)}
    return {number: codec for number, codec in payload_types.items() if number not in events}


def _are_events(payload_type: int, received: Sequence[Received]) -> bool:
    """True if packets of 4 bytes are events: a digit, the reserved bit 0, one timestamp for several."""
    packets = [packet for _, packet in received if packet.payload_type == payload_type]
    are_digits = all(packet.payload[0] <= LAST_EVENT and not packet.payload[1] & 0x40 for packet in packets)
    return are_digits and len({packet.timestamp for packet in packets}) < len(packets)


def _read_audio(packet: RtpPacket, payload_types: Mapping[int, Codec]) -> _Audio | None:
    """The audio of a packet, None if it carries none; raises OpusPacketError."""
    codec = payload_types.get(packet.payload_type)
    if codec is None or not packet.payload:
        return None
    if codec is Codec.OPUS:
        return _Audio(codec, packet.payload, opus.packet_samples(packet.payload))
    return _Audio(codec, packet.payload, len(packet.payload) * SAMPLE_RATE // NARROWBAND_RATE)


def _observe(arrival_ns: int, packet: RtpPacket, audio: _Audio) -> Observation:
    arrival = (arrival_ns * SAMPLE_RATE + 500_000_000) // 1_000_000_000
    clock_rate = audio.codec.clock_rate
    return Observation(arrival, packet.ssrc, packet.sequence_number, packet.timestamp, audio.samples, clock_rate)


def _numbers_without_audio(received: Sequence[Received], payload_types: Mapping[int, Codec]) -> set[tuple[int, int]]:
    """(SSRC, sequence number) of what came and is no audio: events, noise, padding."""
    return {
        (packet.ssrc, packet.sequence_number)
        for _, packet in received
        if packet.payload_type not in payload_types or not packet.payload
    }


def _is_lost(observation: Observation, placed: Placed, present: set[tuple[int, int]]) -> bool:
    """True if audio is missing before a packet, and not only numbers that carried none."""
    numbers = range(observation.sequence_number - placed.missing, observation.sequence_number)
    return any((observation.ssrc, number & 0xFFFF) not in present for number in numbers)


class _Numbering:
    """The sequence numbers of one source, counted as RFC 3550 appendix A.1 and A.3 do."""

    def __init__(self, first: int) -> None:
        self.lowest = self.highest = first
        self.seen = {first}


def _count(received: Sequence[Received]) -> Statistics:
    """Loss, duplicates and order over every packet: events and noise share the sequence numbers."""
    statistics = Statistics(received=len(received))
    sources: list[_Numbering] = []
    current: dict[int, _Numbering] = {}
    for _, packet in received:
        source = current.get(packet.ssrc)
        if source is not None:
            number = extend(packet.sequence_number, source.highest, SEQUENCE_BITS)
        if source is None or abs(number - source.highest) > RESTART_PACKETS:
            current[packet.ssrc] = _Numbering(packet.sequence_number)
            sources.append(current[packet.ssrc])
            continue
        if number in source.seen:
            statistics.duplicate += 1
            continue
        statistics.reordered += number < source.highest
        source.seen.add(number)
        source.lowest, source.highest = min(source.lowest, number), max(source.highest, number)
    statistics.ssrcs = list(current)
    statistics.expected = sum(source.highest - source.lowest + 1 for source in sources)
    statistics.lost = statistics.expected - sum(len(source.seen) for source in sources)
    return statistics


def _jitter_ms(observations: Sequence[Observation]) -> float:
    """Interarrival jitter in milliseconds (RFC 3550 appendix A.8), over all of the side's sources."""
    jitter, before = 0.0, None
    for observation in observations:
        if before is not None and before.ssrc == observation.ssrc:
            media = extend(observation.timestamp, before.timestamp, 32) - before.timestamp
            transit = observation.arrival - before.arrival - media * SAMPLE_RATE // observation.clock_rate
            if abs(transit) < SAMPLE_RATE:  # a restart or a pause is not jitter
                jitter += (abs(transit) - jitter) / 16
        before = observation
    return jitter * 1000 / SAMPLE_RATE


def fill(laid: Laid, zero: int, total_samples: int, grid_samples: int = GRID_SAMPLES) -> Track:
    """Make a side gapless.

    Args:
        laid: From `lay`.
        zero: Where the file begins, on the arrivals' clock, in samples.
        total_samples: What the file is to play.
        grid_samples: Where audio may begin after a gap: at multiples of this. Two tracks that share
            a frame's grid have common boundaries.

    Returns:
        Packets of at least `total_samples` and the pre-skip, a whole number of grid steps. Each piece
        lies within half a grid step and a slip of its position, unless the one before reaches over it.
    """
    filling = _Filling(_copy(laid.statistics), _quiet_limit(laid.pieces), grid_samples)
    for piece in laid.pieces:
        filling.put(piece.position - zero, piece)
    filling.finish(total_samples + PRE_SKIP)
    return Track(filling.packets, filling.statistics)


def _copy(statistics: Statistics) -> Statistics:
    """Filling counts too, and a side may be filled more than once."""
    return replace(statistics)


def _density(audio: _Audio) -> float:
    """Bytes a sample: low where it is quiet, for codecs of variable rate."""
    return len(audio.payload) / audio.samples


def _quiet_limit(pieces: Sequence[_Piece]) -> float:
    """The density that a fifth of a side's packets do not exceed; below all where all are alike."""
    densities = sorted(_density(piece.audio) for piece in pieces)
    if not densities or densities[len(densities) // 5] == densities[-1]:
        return -1.0
    return densities[len(densities) // 5]


class _Filling:
    """A track while it grows."""

    def __init__(self, statistics: Statistics, quiet_limit: float, grid_samples: int) -> None:
        self.packets: list[Packet] = []
        self.statistics = statistics
        self._quiet_limit = quiet_limit
        self._grid_samples = grid_samples
        self._least_slip = max(LEAST_SLIP_SAMPLES, grid_samples // 2)
        self._most_slip = self._least_slip + MORE_SLIP_SAMPLES
        self._cursor = 0  # where the next packet will lie
        self._pcm = array("h")  # G.711 that waits for a whole frame
        self._encoder: opus.Encoder | None = None

    @property
    def _end(self) -> int:
        """Where the audio that was put ends."""
        return self._cursor + len(self._pcm) * SAMPLE_RATE // NARROWBAND_RATE

    def put(self, position: int, piece: _Piece) -> None:
        """Put audio at its position; a small slip waits for a quiet place."""
        slip = position - self._end
        is_due = abs(slip) > self._most_slip or (
            abs(slip) > self._least_slip and _density(piece.audio) <= self._quiet_limit
        )
        if slip > 0 and (is_due or piece.is_after_loss or not self.packets):
            self._close_gap(position, piece)
        elif slip < 0 and is_due:
            self.statistics.dropped_samples += piece.audio.samples
            return
        self._add(piece.audio)

    def _close_gap(self, position: int, piece: _Piece) -> None:
        """Fill from the end to the grid point nearest to `position`."""
        is_first = not self.packets
        if position - self._end >= GAP_SAMPLES:
            self._drain_encoder()
        self._flush_pcm()
        gap = self._on_grid(position) - self._cursor
        if gap <= 0:
            return
        if piece.is_after_loss and not is_first and gap <= CONCEALED_SAMPLES:
            self._extend(opus.concealment(self.packets[-1][0], gap))
            self.statistics.concealed_samples += gap
            return
        self._extend(opus.silence(gap))
        if not is_first:
            self.statistics.silence_samples += gap

    def _add(self, audio: _Audio) -> None:
        if audio.codec is Codec.OPUS:
            self._flush_pcm()
            self._extend([(audio.payload, audio.samples)])
            return
        self._pcm += _DECODE[audio.codec](audio.payload)
        whole = len(self._pcm) // G711_FRAME * G711_FRAME
        self._encode(self._pcm[:whole])
        self._pcm = self._pcm[whole:]

    def _flush_pcm(self) -> None:
        """Encode what waits, filled up to the grid."""
        self._encode(self._pcm)
        self._pcm = array("h")

    def _drain_encoder(self) -> None:
        """Get what the encoder has looked ahead by out of it, before a gap."""
        if self._encoder is not None:
            self._pcm += array("h", bytes(2 * G711_LOOKAHEAD))
            step = self._grid_samples * NARROWBAND_RATE // SAMPLE_RATE
            self._pcm += array("h", bytes(2 * (-len(self._pcm) % step)))  # frames like those before it
            self._flush_pcm()
            self._encoder = None

    def _encode(self, pcm: opus.Pcm) -> None:
        if pcm:
            self._encoder = self._encoder or opus.Encoder(NARROWBAND_RATE)
            self._extend(self._encoder.encode(pcm))

    def _on_grid(self, position: int) -> int:
        return (position + self._grid_samples // 2) // self._grid_samples * self._grid_samples

    def finish(self, end: int) -> None:
        """Fill up to `end` with silence."""
        self._drain_encoder()
        self._flush_pcm()
        rest = end + -end % self._grid_samples - self._cursor
        if rest > 0:
            self._extend(opus.silence(rest))

    def _extend(self, packets: list[Packet]) -> None:
        self.packets += packets
        self._cursor += sum(samples for _, samples in packets)


_DECODE: Mapping[Codec, Callable[[bytes], opus.Pcm]] = {
    Codec.PCMU: g711.decode_pcmu,
    Codec.PCMA: g711.decode_pcma,
}
