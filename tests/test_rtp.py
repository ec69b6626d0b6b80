"""Tests of rtp: one datagram to one packet or a named reason; serial arithmetic."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from packets import rtp_packet
from twotrack import rtp
from twotrack.codecs import DEFAULT_PAYLOAD_TYPES
from twotrack.rtp import Malformed, RtpPacket, extend, parse

GOLDEN = bytes.fromhex(
    "b1ef"  # version 2, padding, extension, 1 CSRC; marker, payload type 111
    "ffff"  # sequence number 65535
    "fffffc40"  # timestamp 4294966336
    "0001e240"  # SSRC 123456
    "deadbeef"  # the CSRC
    "bede0001"  # extension of RFC 8285, one word
    "10aa0000"  # element 1 of one byte, padded
    "f8fffe"  # the payload
    "000003"  # padding of 3 bytes
)

words = st.integers(0, 0xFFFF_FFFF)
packets = st.fixed_dictionaries(
    {
        "sequence_number": st.integers(0, 0xFFFF),
        "timestamp": words,
        "payload": st.binary(max_size=200),
        "ssrc": words,
        "payload_type": st.integers(0, 127).filter(lambda number: not 64 <= number < 96),
        "marker": st.booleans(),
        "csrcs": st.lists(words, max_size=15),
        "extension": st.none()
        | st.tuples(
            st.integers(0, 0xFFFF), st.integers(0, 8).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n))
        ),
        "padding": st.integers(0, 255),
    }
)


def test_golden_packet_with_csrc_extension_and_padding():
    """The payload is found between CSRC list and extension before it and padding after it."""
    assert parse(GOLDEN) == RtpPacket(123_456, 65_535, 0xFFFF_FC40, 111, True, b"\xf8\xff\xfe")


def test_make_writes_golden_bytes():
    """A packet is written with a bare fixed header, counters taken modulo their sizes."""
    packet = rtp.make(123_456, 65_536 + 7, (1 << 32) + 960, 111, b"\xf8\xff\xfe", marker=True)
    assert packet == bytes.fromhex("80ef0007000003c00001e240f8fffe")


@given(st.binary(max_size=100))
@example(b"")
@example(b"\x80")
@example(b"\x80\x6f")
@example(bytes(12))
def test_never_raises(datagram):
    """Any datagram is either a packet or a named reason."""
    assert isinstance(parse(datagram), RtpPacket | Malformed)


@given(st.binary(min_size=1, max_size=100), st.integers(0, 63))
def test_version_2_never_raises(datagram, flags):
    """Any datagram of version 2, whatever its flags, is either a packet or a named reason."""
    assert isinstance(parse(bytes((0x80 | flags,)) + datagram), RtpPacket | Malformed)


@given(packets)
def test_reads_what_was_packed(fields):
    """Every part of a packet packed by hand is read back."""
    packet = parse(rtp_packet(**fields))
    assert packet == RtpPacket(
        fields["ssrc"],
        fields["sequence_number"],
        fields["timestamp"],
        fields["payload_type"],
        fields["marker"],
        fields["payload"],
    )


@given(packets, st.data())
def test_cut_header_is_no_packet(fields, data):
    """A packet cut within its header, CSRC list or extension is never taken for audio."""
    fields |= {"padding": 0, "payload": b""}
    datagram = rtp_packet(**fields)
    end = data.draw(st.integers(0, len(datagram) - 1))
    assert isinstance(parse(datagram[:end]), Malformed)


@given(packets)
def test_make_and_parse_agree(fields):
    """A packet that was made is parsed to the same parts."""
    fields = {name: fields[name] for name in ("ssrc", "sequence_number", "timestamp", "payload_type", "payload")}
    assert parse(rtp.make(**fields, marker=True)) == RtpPacket(**fields, marker=True)


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", Malformed.TOO_SHORT),
        (b"\x80", Malformed.TOO_SHORT),
        (rtp_packet(payload=b"")[:11], Malformed.TOO_SHORT),
        (bytes(40), Malformed.BAD_VERSION),
        (b"\x40" + rtp_packet()[1:], Malformed.BAD_VERSION),
        (b"\xc0" + rtp_packet()[1:], Malformed.BAD_VERSION),
        (b"\x80\xc8" + bytes(26), Malformed.RTCP),
        (b"\x81\xc9" + bytes(30), Malformed.RTCP),
        (b"\x80\xc8", Malformed.RTCP),
        (b"\x82" + rtp_packet(payload=bytes(7))[1:], Malformed.TRUNCATED_CSRC),
        (b"\x90" + rtp_packet(payload=bytes(3))[1:], Malformed.TRUNCATED_EXTENSION),
        (b"\x90" + rtp_packet(payload=b"\xbe\xde\0\2" + bytes(7))[1:], Malformed.TRUNCATED_EXTENSION),
        (b"\xa0" + rtp_packet(payload=b"")[1:], Malformed.BAD_PADDING),
        (b"\xa0" + rtp_packet(payload=b"\1\2\0")[1:], Malformed.BAD_PADDING),
        (b"\xa0" + rtp_packet(payload=b"\1\2\4")[1:], Malformed.BAD_PADDING),
    ],
)
def test_names_the_reason(datagram, reason):
    """What is wrong with a datagram has a name of its own."""
    assert parse(datagram) is reason


@pytest.mark.parametrize("packet_type", [192, 200, 201, 205, 206, 223])
def test_rtcp_is_told_apart(packet_type):
    """Every second byte from 192 to 223 is RTCP on the same port."""
    assert parse(bytes((0x80, packet_type)) + bytes(26)) is Malformed.RTCP


@pytest.mark.parametrize("second", [191, 224])
def test_neighbours_of_rtcp_are_rtp(second):
    """The second bytes next to RTCP's are RTP with a marker."""
    packet = parse(bytes((0x80, second)) + bytes(10) + b"x")
    assert isinstance(packet, RtpPacket)
    assert packet.marker
    assert packet.payload_type == second - 128


def test_padding_alone_is_legal():
    """A packet of nothing but padding has an empty payload."""
    packet = parse(rtp_packet(payload=b"", padding=200))
    assert isinstance(packet, RtpPacket)
    assert packet.payload == b""


def test_captured_malformed_datagrams_never_raise(captures: Path):
    """None of the datagrams that once crashed other parsers raises."""
    files = sorted((captures / "malformed" / "rtp").iterdir())
    assert files
    for file in files:
        assert isinstance(parse(file.read_bytes()), RtpPacket | Malformed)


def test_captured_rtcp_is_never_audio(captures: Path):
    """No captured RTCP datagram, broken or not, becomes a packet that carries audio."""
    files = sorted((captures / "malformed" / "rtcp").glob("*.rtcp"))
    assert files
    packets = [packet for file in files if isinstance(packet := parse(file.read_bytes()), RtpPacket)]
    assert not [packet for packet in packets if packet.payload_type in DEFAULT_PAYLOAD_TYPES]


@pytest.mark.parametrize(
    ("value", "reference", "bits", "extended"),
    [
        (0, 65_535, 16, 65_536),
        (65_535, 65_536, 16, 65_535),
        (5, 65_535 + 3 * 65_536, 16, 5 + 4 * 65_536),
        (65_535, 0, 16, -1),
        (100, 0xFFFF_FFFF, 32, (1 << 32) + 100),
        (0xFFFF_FFFF, 1 << 32, 32, 0xFFFF_FFFF),
        (7, 7, 16, 7),
    ],
)
def test_extend_examples(value, reference, bits, extended):
    """A wrapped counter goes on counting, forwards and backwards."""
    assert extend(value, reference, bits) == extended


@given(st.integers(-(1 << 40), 1 << 40), st.sampled_from([16, 32]), st.data())
def test_extend_finds_what_is_near(reference, bits, data):
    """Any number less than half the counter's range away is found again from its low bits."""
    half = 1 << (bits - 1)
    near = reference + data.draw(st.integers(-half, half - 1))
    assert extend(near % (1 << bits), reference, bits) == near
