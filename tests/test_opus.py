"""Tests of opus: frames and durations as libopus sees them; silence, concealment, encoder and decoder."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from packets import (
    decode,
    encode,
    libopus,
    libopus_frame_sizes,
    libopus_samples,
    opus_speech,
    opus_tone,
    rms,
    speech,
    tone,
)
from twotrack import opus
from twotrack.errors import OpusPacketError

FRAME_DURATIONS = [120, 240, 480, 960]  # what libopus' VoIP encoder is given below
TOCS = range(256)


@st.composite
def many_frames(draw):
    """Packets of code 3, mostly malformed, with the fields that a parser stumbles over."""
    toc = draw(st.integers(0, 63)) << 2 | 3
    count = draw(st.integers(0, 63)) | draw(st.sampled_from([0, 0x40, 0x80, 0xC0]))
    padding = draw(st.binary(max_size=3) | st.just(b"\xff\xff") | st.integers(0, 9).map(lambda n: bytes((n,))))
    lengths = draw(st.lists(st.sampled_from([0, 1, 2, 251, 252, 253, 255]), max_size=4))
    return bytes((toc, count)) + padding + bytes(lengths) + bytes(draw(st.integers(0, 1600)))


any_packet = st.binary(max_size=80) | many_frames()


def _frame_sizes(packet):
    try:
        return [len(frame) for frame in opus.split_frames(packet)]
    except OpusPacketError:
        return None


def _samples(packet):
    try:
        return opus.packet_samples(packet)
    except OpusPacketError:
        return None


@settings(max_examples=1000)
@given(any_packet)
@example(b"")
@example(b"\x0b\xc1\xff\xff\x01")
@example(b"\x03\x41\xff")
@example(b"\xfb\x30" + bytes(48))
@example(b"\xfb\x31" + bytes(49))
@example(b"\xe3\x30" + bytes(48))
@example(b"\xe3\x31" + bytes(49))
def test_frames_are_those_of_libopus(packet):
    """A packet is valid exactly if libopus says so, and then has the frames that libopus finds."""
    assert _frame_sizes(packet) == libopus_frame_sizes(packet)


@settings(max_examples=500)
@given(any_packet)
def test_duration_is_that_of_libopus(packet):
    """The duration of a valid packet is the one that libopus gives."""
    expected = libopus_samples(packet) if libopus_frame_sizes(packet) is not None else None
    assert _samples(packet) == expected


@pytest.mark.parametrize("toc", TOCS)
def test_frame_duration_of_every_toc(toc):
    """Every TOC byte stands for the frame duration that libopus reads from it."""
    assert opus.frame_samples(toc) == libopus.opus_packet_get_samples_per_frame(bytes((toc,)), opus.SAMPLE_RATE)


@pytest.mark.parametrize("last", [1274, 1275, 1276, 1300])
@pytest.mark.parametrize("code", [0, 1, 2])
def test_frame_size_limit(code, last):
    """A frame of more than 1275 bytes is refused, whatever the packet's code."""
    body = {0: b"", 1: bytes(last), 2: bytes((1, 0))}[code] + bytes(last)
    packet = bytes((0xF8 | code,)) + body
    assert (_frame_sizes(packet) is not None) == (last <= 1275)


@given(st.lists(st.binary(max_size=1275), min_size=1, max_size=6))
def test_vbr_frames_are_split_in_their_bytes(frames):
    """Frames that were joined to a code 3 VBR packet by hand come apart byte for byte."""
    lengths = b"".join(_length(len(frame)) for frame in frames[:-1])
    packet = bytes((0xFB, 0x80 | len(frames))) + lengths + b"".join(frames)
    assert opus.split_frames(packet) == frames


def _length(size):
    return bytes((size,)) if size < 252 else bytes((252 + (size & 3), (size - 252 - (size & 3)) // 4))


def test_padding_is_no_frame():
    """Padding of a code 3 packet, over 254 bytes too, belongs to no frame."""
    packet = b"\xfb\x42\xff\x03" + b"ab" + b"cd" + bytes(257)
    assert opus.split_frames(packet) == [b"ab", b"cd"]


@given(st.integers(0, 400).map(lambda count: 120 * count))
def test_silence_lasts_exactly(samples):
    """Silence fills every multiple of 2.5 ms exactly, in packets that say their durations."""
    packets = opus.silence(samples)
    assert sum(duration for _, duration in packets) == samples
    assert all(libopus_samples(packet) == duration for packet, duration in packets)


def test_silence_is_silent():
    """Silence decodes to zero but for the last of 16 bits, in every frame duration."""
    assert max(map(abs, decode([packet for packet, _ in opus.silence(960 * 20 + 480 + 240 + 120)]))) <= 1


@pytest.mark.parametrize("application", ["voip", "audio"])
def test_audio_after_silence_is_heard_at_once(application):
    """The first sound after encoded silence is as loud as it is to a decoder that begins with it."""
    sound = encode(tone(440, 960 * 10), application=application)
    silence = [packet for packet, _ in opus.silence(960 * 25)]
    after = decode([*silence, *sound])[960 * 25 :]
    alone = decode(sound)
    for start in range(0, 4800, 480):
        assert rms(after[start : start + 480]) == pytest.approx(rms(alone[start : start + 480]), rel=0.05, abs=5)


@pytest.mark.parametrize("samples", [1, 119, 121])
def test_silence_off_the_grid_is_refused(samples):
    """Silence that the shortest frame can't fill is a mistake of the caller."""
    with pytest.raises(ValueError, match="120"):
        opus.silence(samples)


@given(st.sampled_from(TOCS), st.integers(0, 40).map(lambda count: 120 * count))
def test_concealment_lasts_exactly(toc, samples):
    """Concealment fills its gap exactly: TOC bytes of the packet before, then silence."""
    packets = opus.concealment(bytes((toc, 1)), samples)
    assert sum(duration for _, duration in packets) == samples
    assert all(libopus_samples(packet) == duration for packet, duration in packets)
    whole = samples // opus.frame_samples(toc)
    assert [packet for packet, _ in packets[:whole]] == [bytes((toc & 0xFC,))] * whole
    assert packets[whole:] == opus.silence(samples % opus.frame_samples(toc))


def test_concealment_conceals():
    """A decoder goes on with a steady tone over a concealed packet."""
    before = opus_tone(400, 20)
    concealed = [packet for packet, _ in opus.concealment(before[-1], 960)]
    pcm = decode(before + concealed)
    assert rms(pcm[-960:]) > rms(pcm[-1920:-960]) / 2


@pytest.mark.parametrize("duration", FRAME_DURATIONS)
def test_packets_of_libopus_are_read(duration):
    """What libopus encodes is one frame of the duration that it was given."""
    for packet in encode(speech(4800), duration, application="audio"):
        assert opus.packet_samples(packet) == duration
        assert opus.split_frames(packet) == [packet[1:]]


@given(st.integers(0, 2000))
def test_encoder_fills_the_last_grid_step(count):
    """Encoded G.711 audio of any length lasts as long as its samples, up to the next 2.5 ms."""
    packets = opus.Encoder(8000).encode(tone(400, count, 8000))
    samples = sum(duration for _, duration in packets)
    assert samples == -(-count // 20) * 120
    assert all(libopus_samples(packet) == duration for packet, duration in packets)


def test_encoder_keeps_the_sound():
    """A tone at 8 kHz comes back from the encoder as loud as it was."""
    packets = [packet for packet, _ in opus.Encoder(8000).encode(tone(400, 8000, 8000))]
    assert rms(decode(packets)[9600:]) == pytest.approx(rms(tone(400, 8000)), rel=0.2)


def test_decoder_decodes_as_libopus():
    """The decoder gives libopus' samples, packet for packet."""
    decoder, packets = opus.Decoder(48_000, 1), opus_speech(50)
    pcm = [sample for packet in packets for sample in decoder.decode(packet)]
    assert pcm == list(decode(packets))


def test_decoder_interleaves_stereo():
    """A mono packet decoded in stereo gives the same sample to both channels."""
    packet = opus_speech(1)[0]
    pcm = opus.Decoder(48_000, 2).decode(packet)
    assert pcm[::2] == pcm[1::2] == opus.Decoder(48_000, 1).decode(packet)


@pytest.mark.parametrize("rate", [8000, 12_000, 16_000, 24_000])
def test_decoder_at_other_rates(rate):
    """A packet of 20 ms has 20 ms of samples at each of Opus' rates."""
    assert len(opus.Decoder(rate, 1).decode(opus_speech(1)[0])) == rate // 50


@pytest.mark.parametrize("packet", [b"\xfb\x00", b"\xfb", b"\xf9\x01"])
def test_decoder_refuses_a_malformed_packet(packet):
    """What libopus refuses is a malformed packet, not a crash."""
    with pytest.raises(OpusPacketError, match="refused"):
        opus.Decoder(48_000, 1).decode(packet)


@given(any_packet)
def test_decoder_raises_only_what_it_says(packet):
    """Arbitrary bytes are decoded or refused as a malformed packet."""
    try:
        pcm = opus.Decoder(48_000, 1).decode(packet)
    except OpusPacketError:
        return
    assert len(pcm) <= opus.MAX_PACKET_SAMPLES
