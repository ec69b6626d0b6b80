"""One datagram to one RTP packet, or a named reason to drop it; serial arithmetic.

dpkt reads the fixed header and the CSRC list. What it leaves alone is checked here: the version,
RTCP on the same port, a cut CSRC list, the header extension and the padding.

Source: RFC 3550 sections 5.1, 5.3.1 and A.1; RFC 5761 section 4; RFC 8285 section 4.
"""

from enum import StrEnum
from typing import NamedTuple

from dpkt.rtp import RTP

VERSION = 2
FIXED_HEADER_BYTES = 12
EXTENSION_HEADER_BYTES = 4
RTCP_PACKET_TYPES = range(192, 224)  # second byte; RFC 5761 section 4
SEQUENCE_BITS = 16
TIMESTAMP_BITS = 32


class Malformed(StrEnum):
    """Why a datagram is not an RTP packet; the names are the metrics' `reason` labels."""

    TOO_SHORT = "too_short"
    BAD_VERSION = "bad_version"
    RTCP = "rtcp"
    TRUNCATED_CSRC = "truncated_csrc"
    TRUNCATED_EXTENSION = "truncated_extension"
    BAD_PADDING = "bad_padding"


class RtpPacket(NamedTuple):
    """The parts of an RTP packet that recording needs; `payload` is without extension and padding."""

    ssrc: int
    sequence_number: int
    timestamp: int
    payload_type: int
    marker: bool
    payload: bytes


def parse(datagram: bytes) -> RtpPacket | Malformed:
    """Read one datagram; never raises.

    Args:
        datagram: A UDP payload.

    Returns:
        The packet, or the reason why it is none. A packet that holds nothing but padding is legal
        and has an empty payload.
    """
    length = len(datagram)
    if length and datagram[0] >> 6 != VERSION:
        return Malformed.BAD_VERSION
    if length > 1 and datagram[1] in RTCP_PACKET_TYPES:
        return Malformed.RTCP
    if length < FIXED_HEADER_BYTES:
        return Malformed.TOO_SHORT
    packet = RTP(datagram)
    flags = datagram[0]
    payload = packet.data
    if flags & 0x0F and len(packet.csrc) < 4 * (flags & 0x0F):
        return Malformed.TRUNCATED_CSRC
    if flags & 0x10:
        start = _extension_bytes(payload)
        if start > len(payload):
            return Malformed.TRUNCATED_EXTENSION
        payload = payload[start:]
    if flags & 0x20:
        padding = payload[-1] if payload else 0
        if not 0 < padding <= len(payload):
            return Malformed.BAD_PADDING
        payload = payload[:-padding]
    second = datagram[1]
    return RtpPacket(packet.ssrc, packet.seq, packet.ts, second & 0x7F, second > 0x7F, payload)


def _extension_bytes(payload: bytes) -> int:
    """Length of the header extension that `payload` begins with, its own header included."""
    if len(payload) < EXTENSION_HEADER_BYTES:
        return EXTENSION_HEADER_BYTES
    return EXTENSION_HEADER_BYTES + 4 * int.from_bytes(payload[2:4], "big")


def extend(value: int, reference: int, bits: int) -> int:
    """Unwrap a counter: the integer nearest to `reference` that equals `value` modulo 2**bits.

    Args:
        value: The counter as it stands in the packet.
        reference: An extended (unwrapped) value near it.
        bits: 16 for sequence numbers, 32 for timestamps.

    Source: RFC 1982 (serial number arithmetic).
    """
    half = 1 << (bits - 1)
    return reference + ((value - reference + half) & ((1 << bits) - 1)) - half


def make(
    ssrc: int, sequence_number: int, timestamp: int, payload_type: int, payload: bytes, *, marker: bool = False
) -> bytes:
    """Bytes of an RTP packet; counters are taken modulo their sizes."""
    packet = RTP(
        seq=sequence_number % (1 << SEQUENCE_BITS), ts=timestamp % (1 << TIMESTAMP_BITS), ssrc=ssrc, data=payload
    )
    packet.pt = payload_type
    packet.m = int(marker)
    return bytes(packet)
