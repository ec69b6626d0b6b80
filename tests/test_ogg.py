"""Tests of ogg: lacing, pages and checksums, written and read back."""

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from twotrack import ogg
from twotrack.errors import OggError

BOUNDARY_SIZES = [0, 1, 254, 255, 256, 509, 510, 511, 65_024, 65_025, 65_026, 130_050]
GOLDEN_PAGE = bytes.fromhex(
    "4f676753"  # OggS
    "00"  # version
    "06"  # first and last page
    "c003000000000000"  # granule position 960
    "78563412"  # serial 0x12345678
    "00000000"  # page 0
    "feeb53a8"  # checksum
    "03"  # segments
    "02ff00"  # a packet of 2 bytes, one of 255
    "6162"
) + bytes(255)

sizes = st.one_of(st.sampled_from(BOUNDARY_SIZES), st.integers(0, 1000))
groups_of_sizes = st.lists(st.lists(sizes, min_size=1, max_size=5), min_size=1, max_size=4)


def _crc(page):
    """The checksum of RFC 3533, bit by bit."""
    register = 0
    for byte in page:
        register ^= byte << 24
        for _ in range(8):
            register = (register << 1 ^ 0x04C11DB7 if register & 0x80000000 else register << 1) & 0xFFFFFFFF
    return register


def _groups(groups):
    """Packets of given sizes, all different, with rising granule positions."""
    number, result = 0, []
    for group in groups:
        packets = []
        for size in group:
            packets.append((bytes((number % 251 + 1,)) * size, number * 960))
            number += 1
        result.append(packets)
    return result


def _pages(groups):
    return list(ogg.write_pages(_groups(groups), 7))


def _header(page):
    return struct.unpack_from("<4sBBqIIIB", page)


def test_golden_page():
    """One page has the bytes that RFC 3533 asks for."""
    pages = list(ogg.write_pages([[(b"ab", 480), (bytes(255), 960)]], 0x12345678))
    assert pages == [GOLDEN_PAGE]


@given(st.binary(max_size=300))
def test_checksum_is_that_of_the_standard(page):
    """The checksum is the polynomial division of RFC 3533, bit by bit."""
    assert ogg.checksum(page) == _crc(page)


@given(groups_of_sizes)
@example([[65_025]])
@example([[255] * 5, [510]])
@example([[0]])
@example([[130_050, 1, 65_025]])
@example([[100] * 600])
def test_packets_come_back(groups):
    """Packets of every size are read back byte for byte and in order."""
    packets = [packet for group in _groups(groups) for packet, _ in group]
    assert [packet for packet, _ in ogg.read_packets(b"".join(_pages(groups)))] == packets


@given(groups_of_sizes)
def test_granule_position_is_that_of_the_last_packet_to_end(groups):
    """A page's granule position is that of the last packet that ends on it, else −1."""
    positions = [position for group in _groups(groups) for _, position in group]
    ended = 0
    for page in _pages(groups):
        lacing = page[27 : 27 + page[26]]
        ends = sum(value < 255 for value in lacing)
        ended += ends
        assert _header(page)[3] == (positions[ended - 1] if ends else -1)


@given(groups_of_sizes)
def test_flags_tell_first_last_and_continued_pages(groups):
    """Only the first page is marked first, only the last one last; continued ones follow a cut packet."""
    pages, is_cut = _pages(groups), False
    for number, page in enumerate(pages):
        flags = _header(page)[2]
        assert bool(flags & 1) == is_cut
        assert bool(flags & 2) == (number == 0)
        assert bool(flags & 4) == (number == len(pages) - 1)
        is_cut = page[26 + page[26]] == 255


@given(groups_of_sizes)
def test_pages_are_numbered_and_of_one_stream(groups):
    """Pages count from 0 and carry the serial number."""
    headers = [_header(page) for page in _pages(groups)]
    assert [header[5] for header in headers] == list(range(len(headers)))
    assert {header[4] for header in headers} == {7}


@given(groups_of_sizes)
def test_a_group_begins_on_a_page_of_its_own(groups):
    """The first packet of each group is the first on its page."""
    first_bytes = [group[0][0] for group in _groups(groups)]
    starts = [page[27 + page[26] :] for page in _pages(groups) if not _header(page)[2] & 1]
    for packet in first_bytes:
        assert any(body.startswith(packet[:254]) for body in starts)


@pytest.mark.parametrize("size", BOUNDARY_SIZES)
def test_lacing_at_the_boundaries(size):
    """A packet's lacing ends below 255, with a 0 after a multiple of 255."""
    pages = _pages([[size]])
    lacing = b"".join(page[27 : 27 + page[26]] for page in pages)
    assert sum(lacing) == size
    assert list(lacing) == [255] * (size // 255) + [size % 255]
    assert len(pages) == -(-len(lacing) // 255)


def test_no_packets_make_no_pages():
    """A stream without packets has no pages, and no bytes hold no packets."""
    assert list(ogg.write_pages([], 1)) == []
    assert list(ogg.read_packets(b"")) == []


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: GOLDEN_PAGE + tail))
def test_reading_raises_only_what_it_says(data):
    """Arbitrary bytes are packets or an OggError."""
    try:
        packets = list(ogg.read_packets(data))
    except OggError:
        return
    assert sum(len(packet) for packet, _ in packets) <= len(data)


@given(st.integers(0, len(GOLDEN_PAGE) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed(index, difference):
    """A page with any one byte changed is refused."""
    damaged = bytearray(GOLDEN_PAGE)
    damaged[index] ^= difference
    with pytest.raises(OggError):
        list(ogg.read_packets(bytes(damaged)))


@given(st.integers(1, len(GOLDEN_PAGE) - 1))
def test_a_cut_page_is_noticed(end):
    """A page cut anywhere is refused."""
    with pytest.raises(OggError):
        list(ogg.read_packets(GOLDEN_PAGE[:end]))


def test_a_missing_page_is_noticed():
    """A page that is not the next one is refused."""
    pages = _pages([[10], [20], [30]])
    with pytest.raises(OggError, match="page 1 is missing"):
        list(ogg.read_packets(pages[0] + pages[2]))


def test_an_unfinished_packet_is_noticed():
    """A file that ends within a packet is refused."""
    pages = _pages([[65_025 + 10]])
    with pytest.raises(OggError, match="within a packet"):
        list(ogg.read_packets(pages[0]))
