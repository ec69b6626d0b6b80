"""Tests of track: what is audio, how gaps are filled, and one side in numbers."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packets import FRAME_SAMPLES, decode, encode, libopus_samples, opus_speech, rms, speech, tone
from twotrack import opus
from twotrack.codecs import DEFAULT_PAYLOAD_TYPES, Codec
from twotrack.oggopus import PRE_SKIP
from twotrack.opus import GRID_SAMPLES
from twotrack.rtp import RtpPacket
from twotrack.side import Side
from twotrack.track import MOST_SLIP_SAMPLES, Received, fill, lay

SPEECH = opus_speech(120)
FRAME_NS = 20_000_000
SILENT_FRAME = bytes.fromhex("0807c6b30ec6")
EVENT = bytes.fromhex("05 0a 00a0")


def _received(number, payload=None, *, ssrc=1, payload_type=111, arrival_ns=None, timestamp=None):
    """Packet `number` of a steady stream, arriving in real time."""
    return Received(
        number * FRAME_NS if arrival_ns is None else arrival_ns,
        RtpPacket(
            ssrc,
            number & 0xFFFF,
            (number * FRAME_SAMPLES if timestamp is None else timestamp) & 0xFFFF_FFFF,
            payload_type,
            False,
            SPEECH[number % 120] if payload is None else payload,
        ),
    )


def _stream(numbers):
    return [_received(number) for number in numbers]


def _statistics(received):
    return lay(received, Side.INPUT).statistics


def _track(received, total=None, side=Side.INPUT):
    """A side alone from its first sound to its last, or to `total` samples."""
    laid = lay(received, side)
    start = laid.start or 0
    return fill(laid, start, (laid.end or 0) - start if total is None else total)


def _payloads(track):
    return [packet for packet, _ in track.packets]


def _positions(track):
    """Where each packet lies, and its bytes."""
    position, positions = 0, {}
    for packet, samples in track.packets:
        positions[position] = packet
        position += samples
    return positions


def test_a_gapless_stream_is_itself():
    """Without gaps the track is the packets as they came, then silence over the pre-skip."""
    track = _track(_stream(range(100)))
    assert track.packets[:100] == [(packet, FRAME_SAMPLES) for packet in SPEECH[:100]]
    assert track.packets[100:] == opus.silence(360)


def test_tracks_share_a_zero():
    """A side that begins later than the call's zero has silence before its first packet."""
    laid = lay([_received(number) for number in range(10, 20)], Side.OUTPUT)
    track = fill(laid, 10 * FRAME_SAMPLES - 48_000, 96_000)
    assert _positions(track)[48_000] == SPEECH[10]
    assert set(_payloads(track)[:50]) == {SILENT_FRAME}
    assert track.statistics.silence_samples == 0


@pytest.mark.parametrize("lost", [1, 2, 3, 4, 5])
def test_a_short_loss_is_left_to_concealment(lost):
    """Up to 100 ms of lost audio become packets of the TOC byte of the packet before."""
    track = _track(_stream([*range(10), *range(10 + lost, 20)]))
    assert track.packets[10 : 10 + lost] == [(SPEECH[9][:1], FRAME_SAMPLES)] * lost
    assert track.packets[10 + lost][0] == SPEECH[10 + lost]
    assert (track.statistics.concealed_samples, track.statistics.silence_samples) == (lost * FRAME_SAMPLES, 0)


@pytest.mark.parametrize("lost", [6, 50])
def test_a_long_loss_is_silence(lost):
    """More than 100 ms of lost audio become encoded silence."""
    track = _track(_stream([*range(10), *range(10 + lost, 20 + lost)]))
    assert track.packets[10 : 10 + lost] == [(SILENT_FRAME, FRAME_SAMPLES)] * lost
    assert (track.statistics.concealed_samples, track.statistics.silence_samples) == (0, lost * FRAME_SAMPLES)


def test_concealment_keeps_the_previous_configuration():
    """Lost 10 ms CELT packets after a 20 ms hybrid one are concealed in 20 ms hybrid packets."""
    celt = encode(speech(4800), 480, application="audio")[0]
    received = [_received(0), _received(3, celt)]
    assert _payloads(_track(received))[1:3] == [SPEECH[0][:1]] * 2
    received = [_received(0, celt), _received(3)]
    assert _payloads(_track(received))[1:6] == [bytes((celt[0] & 0xFC,))] * 5


def test_dtx_is_silence():
    """A timestamp gap without a sequence gap is silence, even if it is short."""
    after = [_received(n, timestamp=(n + 3) * FRAME_SAMPLES, arrival_ns=(n + 3) * FRAME_NS) for n in range(10, 20)]
    track = _track(_stream(range(10)) + after)
    assert track.packets[10:13] == [(SILENT_FRAME, FRAME_SAMPLES)] * 3
    assert (track.statistics.concealed_samples, track.statistics.lost) == (0, 0)


def test_a_pause_is_silence():
    """A pause without timestamp advance is silence up to the next packet's arrival, and counted."""
    after = [_received(number, arrival_ns=(number + 50) * FRAME_NS) for number in range(50, 100)]
    track = _track(_stream(range(50)) + after)
    assert track.packets[50:100] == [(SILENT_FRAME, FRAME_SAMPLES)] * 50
    assert (track.statistics.reanchored, track.statistics.silence_samples) == (1, 48_000)


@settings(max_examples=50)
@given(st.sets(st.integers(0, 119), min_size=1), st.integers(0, 400))
def test_whatever_is_lost_each_packet_keeps_its_place(kept, tail):
    """Each packet that arrived lies where it was sent, and the track lasts exactly as long as asked."""
    numbers = sorted(kept)
    total = (numbers[-1] - numbers[0] + 1) * FRAME_SAMPLES + 120 * tail
    track = _track(_stream(numbers), total)
    positions = _positions(track)
    assert all(positions[(n - numbers[0]) * FRAME_SAMPLES] == SPEECH[n] for n in numbers)
    assert sum(samples for _, samples in track.packets) == total + PRE_SKIP + -(total + PRE_SKIP) % 120
    assert all(libopus_samples(packet) == samples for packet, samples in track.packets)
    numbers = track.statistics
    assert numbers.audio_samples == len(kept) * FRAME_SAMPLES
    assert numbers.lost * FRAME_SAMPLES == numbers.concealed_samples + numbers.silence_samples


@pytest.mark.parametrize("offset_ns", [1_250_000, 2_500_000, 5_500_000, 7_000_000, 13_333_333])
def test_a_side_begins_near_its_place(offset_ns):
    """Audio that begins shortly after the zero, between two points of the grid, lies within the slip allowed."""
    received = [_received(n, arrival_ns=n * FRAME_NS + offset_ns) for n in range(10)]
    positions = _positions(fill(lay(received, Side.INPUT), 0, 48_000))
    (position,) = (position for position, packet in positions.items() if packet == SPEECH[0])
    assert abs(position - offset_ns * 48_000 / 1e9) <= MOST_SLIP_SAMPLES + GRID_SAMPLES // 2


def test_a_side_without_packets_is_silent():
    """A side that never spoke has neither start nor end, and a silent track."""
    laid = lay([], Side.OUTPUT)
    assert (laid.start, laid.end) == (None, None)
    track = fill(laid, 0, 9600)
    assert max(map(abs, decode(_payloads(track)))) <= 1
    assert sum(samples for _, samples in track.packets) == 9960


def test_numbers_of_a_clean_stream():
    """A stream without trouble has nothing but received and expected packets."""
    numbers = _statistics(_stream(range(65_500, 65_600)))
    assert (numbers.received, numbers.expected) == (100, 100)
    assert (numbers.lost, numbers.duplicate, numbers.reordered, numbers.malformed, numbers.not_audio) == (0,) * 5
    assert (numbers.ssrcs, numbers.codecs, numbers.audio_samples) == ([1], {Codec.OPUS: 100}, 96_000)
    assert (numbers.jitter_ms, numbers.reanchored) == (0, 0)


def test_numbers_of_a_troubled_stream():
    """Lost, duplicate and reordered packets are each counted, across the sequence number's wrap."""
    order = [65_530, 65_531, 65_531, 65_533, 65_532, 65_537, 65_536, 65_530, 65_540]
    numbers = _statistics([_received(n, arrival_ns=i * FRAME_NS) for i, n in enumerate(order)])
    assert (numbers.received, numbers.expected, numbers.lost) == (9, 11, 4)
    assert (numbers.duplicate, numbers.reordered) == (2, 2)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=100), st.integers(0, 65_535))
def test_numbers_always_add_up(offsets, first):
    """Received are those that came once and the duplicates; expected is that span with its lost ones."""
    numbers = _statistics([_received(first + n, arrival_ns=i * FRAME_NS) for i, n in enumerate(offsets)])
    assert numbers.received - numbers.duplicate == len(set(offsets))
    assert numbers.expected == max(offsets) - min(offsets) + 1
    assert numbers.lost == numbers.expected - len(set(offsets))
    highest = [max(offsets[: i + 1]) for i in range(len(offsets))]
    first_seen = [i for i, n in enumerate(offsets) if n not in offsets[:i]]
    assert numbers.reordered == sum(offsets[i] < highest[i] for i in first_seen)


def test_a_restart_is_no_loss():
    """A sender that begins anew far away is counted apart, and nothing between is expected."""
    again = [_received(30_000 + n, arrival_ns=(50 + n) * FRAME_NS) for n in range(50)]
    numbers = _statistics(_stream(range(50)) + again)
    assert (numbers.received, numbers.expected, numbers.lost) == (100, 100, 0)


def test_a_changed_ssrc_is_no_loss():
    """Every SSRC is counted apart, and all are named in the order in which they came."""
    after = [_received(7000 + n, ssrc=9, arrival_ns=(50 + n) * FRAME_NS) for n in range(50)]
    numbers = _statistics(_stream(range(50)) + after)
    assert (numbers.ssrcs, numbers.expected, numbers.lost, numbers.reanchored) == ([1, 9], 100, 0, 1)


def test_jitter_is_that_of_the_standard():
    """Jitter is the running estimate of RFC 3550 section 6.4.1."""
    delays_ms, jitter = [0, 5, 1, 8, 3, 3, 12, 0] * 10, 0.0
    for before, after in pairwise(delays_ms):
        jitter += (abs(after - before) - jitter) / 16
    received = [_received(n, arrival_ns=n * FRAME_NS + delay * 1_000_000) for n, delay in enumerate(delays_ms)]
    assert _statistics(received).jitter_ms == pytest.approx(jitter, abs=0.01)


def test_duplicates_are_played_once():
    """A duplicate is left out, whatever its payload."""
    stream = _stream(range(20))
    assert _track([*stream[:10], _received(9, SPEECH[0]), *stream[10:]]).packets == _track(stream).packets


def _event_stream():
    """A call in which packets 10 to 14 are a telephone event that shares SSRC and sequence numbers."""
    events = [_received(n, EVENT, payload_type=101, timestamp=10 * FRAME_SAMPLES) for n in range(10, 15)]
    return [*_stream(range(10)), *events, *_stream(range(15, 30))]


def test_telephone_events_are_no_audio():
    """Payloads of 4 bytes on another dynamic type are counted, but never audio and never lost."""
    numbers = _statistics(_event_stream())
    assert (numbers.received, numbers.expected, numbers.lost) == (30, 30, 0)
    assert (numbers.not_audio, numbers.malformed, numbers.audio_samples) == (5, 0, 25 * FRAME_SAMPLES)


def test_numbers_taken_by_telephone_events_are_no_loss():
    """The gap that a telephone event leaves in the audio is silence, since nothing was lost there."""
    track = _track(_event_stream())
    assert track.packets[10:15] == [(SILENT_FRAME, FRAME_SAMPLES)] * 5
    assert track.statistics.concealed_samples == 0


def test_comfort_noise_and_padding_are_no_audio():
    """Comfort noise, unknown types and empty payloads are counted as received, and no audio."""
    others = [_received(10, b"\x20", payload_type=13), _received(11, b"video", payload_type=34), _received(12, b"")]
    numbers = _statistics(_stream(range(10)) + others)
    assert (numbers.received, numbers.not_audio, numbers.malformed) == (13, 3, 0)


def test_short_packets_alone_are_audio():
    """A side whose only type always has 4 bytes is audio, since there is no other to be it."""
    assert _statistics([_received(n, b"\xf8\xff\xfe\x00") for n in range(10)]).audio_samples == 9600


def test_malformed_opus_is_counted():
    """Packets that are not Opus are counted, not played, and their place is concealed."""
    stream = _stream(range(20))
    stream[10] = _received(10, b"\xfb\x00")
    track = _track(stream)
    assert (track.statistics.malformed, track.statistics.lost) == (1, 0)
    assert track.packets[10] == (SPEECH[9][:1], FRAME_SAMPLES)
    assert track.packets[11][0] == SPEECH[11]


@pytest.mark.parametrize(("payload_type", "codec"), [(0, Codec.PCMU), (8, Codec.PCMA)])
def test_g711_becomes_opus(payload_type, codec):
    """G.711 audio is encoded to Opus, as long and as loud as it was."""
    payload = bytes(_encode_g711(sample, codec) for sample in tone(400, 160, 8000))
    received = [_received(n, payload, payload_type=payload_type, timestamp=n * 160) for n in range(50)]
    track = _track(received)
    assert track.statistics.codecs == {codec: 50}
    assert track.statistics.audio_samples == 48_000
    assert rms(decode(_payloads(track))[9600:38_400]) == pytest.approx(rms(tone(400, 8000)), rel=0.2)


def _encode_g711(sample, codec):
    """The code whose sample is nearest, by search."""
    from twotrack.g711 import decode_pcma, decode_pcmu

    table = (decode_pcmu if codec is Codec.PCMU else decode_pcma)(bytes(range(256)))
    return min(range(256), key=lambda code: abs(table[code] - sample))


@pytest.mark.parametrize("size", [80, 160, 170, 240, 333])
def test_g711_packets_of_any_size_keep_time(size):
    """G.711 packets that are no multiple of 2.5 ms do not push later ones away from where they were sent."""
    received = [
        _received(n, b"\xff" * size, payload_type=0, timestamp=n * size, arrival_ns=n * size * 125_000)
        for n in range(100)
    ]
    laid = lay(received, Side.INPUT)
    assert laid.end - laid.start == 100 * size * 6
    packets = fill(laid, laid.start, 0).packets
    assert sum(samples for _, samples in packets) <= max(100 * size * 6, PRE_SKIP) + 480


def test_payload_types_can_be_named():
    """A map of payload types decides what is audio, and in which codec."""
    received = [_received(n, b"\xff" * 160, payload_type=97, timestamp=n * 160) for n in range(10)]
    assert lay(received, Side.INPUT, {97: Codec.PCMU}).statistics.codecs == {Codec.PCMU: 10}
    assert lay(received, Side.INPUT, {111: Codec.OPUS}).statistics.not_audio == 10


def test_durations_may_change():
    """Packets of 20 and of 60 ms in one call lie end to end."""
    long = encode(speech(28_800), 2880)
    after = [
        _received(50 + i, packet, timestamp=48_000 + i * 2880, arrival_ns=(50 + 3 * i) * FRAME_NS)
        for i, packet in enumerate(long)
    ]
    track = _track(_stream(range(50)) + after)
    assert _payloads(track)[:60] == SPEECH[:50] + long
    assert track.statistics.silence_samples == track.statistics.concealed_samples == 0


any_received = st.builds(
    _received,
    st.integers(0, 100) | st.integers(0, 65_535),
    st.binary(max_size=6) | st.sampled_from(SPEECH[:3]),
    ssrc=st.integers(1, 2),
    payload_type=st.sampled_from([0, 8, 13, 34, 101, 111]),
    arrival_ns=st.integers(0, 5 * 10**9),
    timestamp=st.none() | st.integers(0, 5_000_000),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(any_received, max_size=30), st.sampled_from(Side))
def test_anything_becomes_a_track(received, side):
    """Whatever arrives becomes a gapless track of valid packets, as long as asked or as its audio."""
    received.sort(key=lambda one: one.arrival_ns)
    laid = lay(received, side, DEFAULT_PAYLOAD_TYPES)
    track = fill(laid, laid.start or 0, 48_000)
    assert all(libopus_samples(packet) == samples for packet, samples in track.packets)
    assert sum(samples for _, samples in track.packets) >= 48_000 + PRE_SKIP
    numbers = laid.statistics
    audio = sum(numbers.codecs.values())
    assert audio + numbers.malformed + numbers.not_audio <= numbers.received
    assert numbers.lost == numbers.expected - (numbers.received - numbers.duplicate)


def test_g711_before_a_gap_leaves_nothing_behind_it():
    """The end of a talkspurt is not heard at the beginning of the next one."""
    loud, quiet = encode_g711(tone(400, 8_000, 8_000)), b"\xd5" * 8_000  # PCMA
    received = [
        _received(n, part[i : i + 160], payload_type=8, timestamp=at + i, arrival_ns=(at + i) * 125_000)
        for first, (part, at) in ((0, (loud, 0)), (50, (quiet, 24_000)))
        for n, i in zip(range(first, first + 50), range(0, 8_000, 160), strict=True)
    ]
    laid = lay(received, Side.INPUT)
    pcm = decode([packet for packet, _ in fill(laid, laid.start, 4 * 48_000).packets])[PRE_SKIP:]
    assert rms(pcm[24_000:47_000]) > 3_000
    assert max(map(abs, pcm[int(1.1 * 48_000) :])) < 100


def encode_g711(pcm):
    """PCMA bytes of PCM, each the code whose sample is nearest."""
    return bytes(_encode_g711(sample, Codec.PCMA) for sample in pcm)


def test_telephone_events_alone_are_no_audio():
    """A side of telephone events and nothing else has no audio."""
    received = [
        _received(n, bytes((5, 10, 0, 16 * (n % 10))), payload_type=101, timestamp=1000 * (n // 10)) for n in range(40)
    ]
    numbers = _statistics(received)
    assert (numbers.not_audio, numbers.audio_samples, numbers.malformed) == (40, 0, 0)
