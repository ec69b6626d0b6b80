"""Ogg pages: packets laced into pages and read back, with their checksums.

Source: RFC 3533 sections 5 and 6.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fastcrc import crc32

from twotrack.errors import OggError

CAPTURE_PATTERN = b"OggS"
MAX_SEGMENTS = 255
NO_GRANULE_POSITION = -1  # no packet ends on this page
_HEADER = struct.Struct("<4sBBqIIIB")
_CONTINUED, _FIRST, _LAST = 1, 2, 4


class _Content(NamedTuple):
    """What a page carries; `is_continued`: it begins within a packet."""

    is_continued: bool
    lacing: list[int]
    body: bytes
    granule_position: int


def checksum(page: bytes) -> int:
    """CRC of a page whose checksum field is zero (RFC 3533 section 6, field 7).

    The polynomial, start value and bit order are those of POSIX cksum without its final complement.
    """
    return crc32.cksum(page) ^ 0xFFFFFFFF


def write_pages(groups: Iterable[list[tuple[bytes, int]]], serial: int) -> Iterator[bytes]:
    """Lay packets into pages.

    Args:
        groups: Lists of (packet, granule position after it). A new group begins on a new page; a
            group longer than a page goes on over several.
        serial: The logical stream's serial number.

    Yields:
        Whole pages; the first is marked as the stream's beginning, the last as its end.
    """
    pending: _Content | None = None
    number, continued = 0, False
    for group in groups:
        for lacing, body, granule_position, is_cut in _fill(group):
            if pending is not None:
                yield _page(pending, serial, number, is_last=False)
                number += 1
            pending, continued = _Content(continued, lacing, body, granule_position), is_cut
    if pending is not None:
        yield _page(pending, serial, number, is_last=True)


def _fill(group: list[tuple[bytes, int]]) -> Iterator[tuple[list[int], bytes, int, bool]]:
    """Lacing values, body, granule position of each page of a group, and if it cuts a packet."""
    lacing: list[int] = []
    body = bytearray()
    granule_position = NO_GRANULE_POSITION
    for packet, position in group:
        start = 0
        for value in _lacing_values(len(packet)):
            if len(lacing) == MAX_SEGMENTS:
                yield lacing, bytes(body), granule_position, start > 0
                lacing, granule_position = [], NO_GRANULE_POSITION
                body.clear()
            lacing.append(value)
            body += packet[start : start + value]
            start += value
        granule_position = position
    if lacing:
        yield lacing, bytes(body), granule_position, False


def _lacing_values(length: int) -> list[int]:
    """255 for each full segment, then the rest, which is 0 for a multiple of 255."""
    return [255] * (length // 255) + [length % 255]


def _page(content: _Content, serial: int, number: int, *, is_last: bool) -> bytes:
    flags = (_CONTINUED * content.is_continued) | (_FIRST * (number == 0)) | (_LAST * is_last)
    granule_position, segments = content.granule_position, len(content.lacing)
    header = _HEADER.pack(CAPTURE_PATTERN, 0, flags, granule_position, serial, number, 0, segments)
    page = header + bytes(content.lacing) + content.body
    return page[:22] + checksum(page).to_bytes(4, "little") + page[26:]


def read_packets(data: bytes) -> Iterator[tuple[bytes, int | None]]:
    """Packets of a file with one logical stream, in order.

    Yields:
        (packet, the page's granule position for the last packet that ends on a page, else None).

    Raises:
        OggError: Not an Ogg file, a bad checksum, a missing page, or a cut packet.
    """
    packet, number, start = bytearray(), 0, 0
    while start < len(data):
        lacing, body, granule_position, start = _read_page(data, start, number)
        number += 1
        ends = [index for index, value in enumerate(lacing) if value < 255]
        offset = 0
        for index, value in enumerate(lacing):
            packet += body[offset : offset + value]
            offset += value
            if value < 255:
                yield bytes(packet), granule_position if index == ends[-1] else None
                packet.clear()
    if packet:
        raise OggError("the Ogg file ends within a packet")


def _read_page(data: bytes, start: int, number: int) -> tuple[bytes, bytes, int, int]:
    """Lacing values, body and granule position of the page at `start`, and where it ends."""
    header = data[start : start + _HEADER.size]
    if len(header) < _HEADER.size or not header.startswith(CAPTURE_PATTERN):
        raise OggError(f"no Ogg page at byte {start}")
    _, _, _, granule_position, _, sequence, crc, count = _HEADER.unpack(header)
    body_start = start + _HEADER.size + count
    lacing = data[start + _HEADER.size : body_start]
    end = body_start + sum(lacing)
    if len(data) < end or len(lacing) < count:
        raise OggError(f"the Ogg page at byte {start} is cut")
    page = data[start : start + 22] + bytes(4) + data[start + 26 : end]
    if checksum(page) != crc:
        raise OggError(f"the Ogg page at byte {start} has a wrong checksum")
    if sequence != number:
        raise OggError(f"Ogg page {number} is missing before byte {start}")
    return lacing, data[body_start:end], granule_position, end
