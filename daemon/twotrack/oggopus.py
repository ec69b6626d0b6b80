"""Ogg Opus: identification and comment headers, pre-skip, granule positions, the mono file.

Source: RFC 7845 sections 3 to 5.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from twotrack import ogg
from twotrack.errors import OggError
from twotrack.opus import SAMPLE_RATE

PRE_SKIP = 312  # libopus' lookahead at 48 kHz (6.5 ms): the sender's encoder delayed its audio by it
PAGE_SAMPLES = SAMPLE_RATE  # a page a second: the longest delay that RFC 7845 section 6 recommends
_HEAD = struct.Struct("<8sBBHIhB")
Packet = tuple[bytes, int]  # an Opus packet and its duration in 48 kHz samples


@dataclass(frozen=True, slots=True)
class OpusHead:
    """The identification header; `input_sample_rate` in Hz, `output_gain` in 1/256 dB."""

    channels: int
    pre_skip: int
    input_sample_rate: int
    output_gain: int
    mapping_family: int


def head_bytes(channels: int) -> bytes:
    """OpusHead of mapping family 0 (RFC 7845 section 5.1)."""
    return _HEAD.pack(b"OpusHead", 1, channels, PRE_SKIP, SAMPLE_RATE, 0, 0)


def uncoupled_head_bytes() -> bytes:
    """OpusHead of mapping family 1 for two mono streams: left, right (RFC 7845 section 5.1.1)."""
    streams, coupled = 2, 0
    return _HEAD.pack(b"OpusHead", 1, 2, PRE_SKIP, SAMPLE_RATE, 0, 1) + bytes((streams, coupled, 0, 1))


def parse_head(packet: bytes) -> OpusHead:
    """Read an OpusHead.

    Raises:
        OggError: It is none.
    """
    if len(packet) < _HEAD.size or not packet.startswith(b"OpusHead"):
        raise OggError("the first packet is not an OpusHead: this is not an Ogg Opus file")
    _, version, channels, pre_skip, rate, gain, family = _HEAD.unpack_from(packet)
    if version >> 4:
        raise OggError(f"version {version} of Ogg Opus is not known")
    return OpusHead(channels, pre_skip, rate, gain, family)


def tags_bytes(vendor: str, comments: Iterable[tuple[str, str]]) -> bytes:
    """OpusTags (RFC 7845 section 5.2): the vendor and NAME=value comments, in UTF-8."""
    lines = [f"{name}={value}".encode() for name, value in comments]
    packet = b"OpusTags" + _string(vendor.encode()) + struct.pack("<I", len(lines))
    return packet + b"".join(_string(line) for line in lines)


def _string(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


def mono_file(packets: Iterable[Packet], total_samples: int, *, serial: int, tags: bytes) -> Iterator[bytes]:
    """A mono Ogg Opus file of exactly `total_samples` at 48 kHz.

    Args:
        packets: Gapless Opus packets with their durations; together at least `total_samples` and
            the pre-skip. The end is trimmed by the last granule position (RFC 7845 section 4.5).
        total_samples: What a player plays.
        serial: The stream's serial number.
        tags: The OpusTags packet.

    Yields:
        Ogg pages.
    """
    return _file(head_bytes(1), packets, total_samples, serial, tags)


def stereo_file(packets: Iterable[Packet], total_samples: int, *, serial: int, tags: bytes) -> Iterator[bytes]:
    """A file of two uncoupled mono streams, left and right; each packet holds one of either.

    Arguments and pages are as for `mono_file`.
    """
    return _file(uncoupled_head_bytes(), packets, total_samples, serial, tags)


def _file(head: bytes, packets: Iterable[Packet], total_samples: int, serial: int, tags: bytes) -> Iterator[bytes]:
    groups = _audio_groups(packets, PRE_SKIP + total_samples)
    return ogg.write_pages(_with_headers(head, tags, groups), serial)


def _with_headers(
    head: bytes, tags: bytes, groups: Iterator[list[tuple[bytes, int]]]
) -> Iterator[list[tuple[bytes, int]]]:
    """Each header on pages of its own, before the audio (RFC 7845 section 3)."""
    yield [(head, 0)]
    yield [(tags, 0)]
    yield from groups


def _audio_groups(packets: Iterable[Packet], end: int) -> Iterator[list[tuple[bytes, int]]]:
    """Audio packets with granule positions, a second to a group; nothing lies beyond `end`."""
    group: list[tuple[bytes, int]] = []
    position = group_start = 0
    for packet, samples in packets:
        if position >= end:
            break
        if position + samples - group_start > PAGE_SAMPLES and group:
            yield group
            group, group_start = [], position
        position += samples
        group.append((packet, min(position, end)))
    if position < end:
        raise ValueError(f"the packets hold {position} samples of the {end} that the file needs")
    yield group


def read_audio(data: bytes) -> tuple[OpusHead, list[bytes], int]:
    """Read an Ogg Opus file back.

    Returns:
        Its header, its audio packets, and how many samples a player plays at 48 kHz.

    Raises:
        OggError: It is not an Ogg Opus file.
    """
    packets = list(ogg.read_packets(data))
    if len(packets) < 2 or not packets[1][0].startswith(b"OpusTags"):
        raise OggError("the second packet is not an OpusTags: this is not an Ogg Opus file")
    head = parse_head(packets[0][0])
    granule_position = packets[-1][1] or 0
    return head, [packet for packet, _ in packets[2:]], max(0, granule_position - head.pre_skip)
