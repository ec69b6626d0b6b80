"""Tests of pcap: spools as dpkt reads them, and frames of every link type read back."""

import io
import ipaddress
import struct

import dpkt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from twotrack import pcap
from twotrack.errors import CaptureError
from twotrack.pcap import Datagram, Record, SpoolPorts

PORTS = SpoolPorts(5004, 5006)
SECOND = 1_000_000_000
ARRIVAL_NS = 1_767_268_800 * SECOND + 123_456_789
GOLDEN_SPOOL = bytes.fromhex(
    "4d3cb2a1 0200 0400 00000000 8e138c13 00000400 65000000"  # nanoseconds, ports 5006 and 5004, raw IP
    "c0615669 15cd5b07 1f000000 1f000000"  # arrival, 31 bytes captured of 31
    "45 00 001f 0000 4000 40 11 3ccc 7f000001 7f000001"  # IPv4, UDP, 127.0.0.1 to itself
    "9c40 138c 000b 0000"  # port 40000 to 5004, 11 bytes, no checksum
    "f8fffe"
)
LINK_TYPES = [0, 1, 12, 14, 101, 108, 113, 228, 229, 276]

addresses = st.ip_addresses().map(str)
ports = st.integers(1, 65_535)
arrivals = st.integers(0, (1 << 32) * SECOND - 1)


def _ip4(payload, protocol=17, fragment=0, options=b""):
    head = struct.pack(
        ">BBHHHBBH4s4s",
        0x45 + len(options) // 4,
        0,
        20 + len(options) + len(payload),
        1,
        fragment,
        64,
        protocol,
        0,
        bytes((10, 0, 0, 1)),
        bytes((10, 0, 0, 2)),
    )
    return head + options + payload


def _ip6(payload, next_header=17):
    source, destination = (ipaddress.ip_address(text).packed for text in ("2001:db8::1", "2001:db8::2"))
    return struct.pack(">IHBB16s16s", 6 << 28, len(payload), next_header, 64, source, destination) + payload


def _udp(payload, length=None):
    return struct.pack(">HHHH", 4000, 5004, 8 + len(payload) if length is None else length, 0) + payload


def _decode(frame, link_type=101):
    return pcap.decode(Record(7, link_type, frame))


def _spool(records, ports=PORTS, source=("127.0.0.1", 40_000)):
    """A spool of (arrival, payload) pairs, all to the input port."""
    header = pcap.frame_header(source, ("127.0.0.1", ports.input))
    body = b"".join(pcap.record(arrival_ns, header(len(payload)), payload) for arrival_ns, payload in records)
    return pcap.spool_header(ports) + body


def test_golden_spool():
    """A spool of one packet has the bytes of the pcap, IPv4 and UDP standards."""
    assert _spool([(ARRIVAL_NS, b"\xf8\xff\xfe")]) == GOLDEN_SPOOL


@given(st.lists(st.tuples(arrivals, st.binary(max_size=60)), max_size=5), ports)
def test_dpkt_reads_a_spool(records, source_port):
    """An independent reader finds stamps to the nanosecond, valid headers and the payloads."""
    reader = dpkt.pcap.Reader(io.BytesIO(_spool(records, source=("127.0.0.1", source_port))))
    assert reader.datalink() == 101
    for (stamp, frame), (arrival_ns, payload) in zip(reader, records, strict=True):
        assert round(stamp * SECOND) == arrival_ns
        packet = dpkt.ip.IP(frame)
        assert (packet.p, packet.len, packet.data.ulen) == (17, len(frame), 8 + len(payload))
        assert (packet.data.sport, packet.data.dport, packet.data.data) == (source_port, 5004, payload)


@given(st.ip_addresses(v=4).map(str), st.ip_addresses(v=4).map(str), ports, st.integers(0, 65_507))
def test_ipv4_header_checksum_is_valid(source, destination, port, length):
    """The one's complement sum of an IPv4 header's words is all ones."""
    header = pcap.frame_header((source, port), (destination, 5004))(length)
    total = sum(struct.unpack(">10H", header[:20]))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF


@given(addresses, addresses, ports, ports, arrivals, st.binary(max_size=300))
def test_records_round_trip(source, destination, source_port, destination_port, arrival_ns, payload):
    """A packet between any two addresses is read back as it was written."""
    headers = pcap.frame_header((source, source_port), (destination, destination_port))(len(payload))
    data = pcap.spool_header(PORTS) + pcap.record(arrival_ns, headers, payload)
    (record,) = pcap.read_records(data)
    datagram = pcap.decode(record)
    assert datagram[0] == arrival_ns
    assert _same(datagram.source, source)
    assert _same(datagram.destination, destination)
    assert (datagram.source_port, datagram.destination_port) == (source_port, destination_port)
    assert datagram.payload == payload


def _same(packed, text):
    """True if an address, perhaps IPv4 within IPv6, is the one in the text."""
    address = ipaddress.ip_address(packed)
    return (getattr(address, "ipv4_mapped", None) or address) == _plain(text)


def _plain(text):
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def test_ipv6_scope_is_left_out():
    """A link-local sender's zone, as in fe80::1%eth0, does not reach the file."""
    headers = pcap.frame_header(("fe80::1%eth0", 4000), ("::1", 5004))(0)
    assert headers[8:24] == ipaddress.ip_address("fe80::1").packed


@given(ports, ports)
def test_spool_names_its_ports(input_port, output_port):
    """Both ports are read back from the spool's file header."""
    wanted = SpoolPorts(input_port, output_port)
    assert pcap.spool_ports(pcap.spool_header(wanted)) == wanted


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GOLDEN_SPOOL[:23],
        struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 1),
        struct.pack("<IHHIIII", 0xA1B23C4D, 2, 4, 0, 0, 65_535, 101),
        struct.pack("<IHHIIII", 0xA1B23C4D, 2, 4, 0, 7, 65_535, 1),
    ],
)
def test_another_capture_names_no_ports(data):
    """What was not written as a spool has no ports of its own."""
    assert pcap.spool_ports(data) is None


@given(st.lists(st.tuples(arrivals, st.binary(max_size=60)), min_size=1, max_size=4), st.data())
def test_a_torn_tail_is_left_out(records, data):
    """A spool cut anywhere reads up to its last whole record, and is cut there."""
    whole = _spool(records)
    end = data.draw(st.integers(24, len(whole)))
    read = list(pcap.read_records(whole[:end]))
    assert [pcap.decode(record).payload for record in read] == [payload for _, payload in records][: len(read)]
    kept = pcap.whole_records_end(whole[:end])
    assert kept == len(_spool(records[: len(read)]))
    assert end - kept < 16 + 28 + 60


@given(st.binary(max_size=200))
def test_kept_are_the_records_that_are_read(tail):
    """After damage, what is kept of a spool is what its reader reads, so that it can be appended to."""
    data = GOLDEN_SPOOL + tail
    assert pcap.whole_records_end(data) == 24 + sum(16 + len(record.frame) for record in pcap.read_records(data))


def test_a_record_too_long_to_be_read_is_not_kept():
    """Damage that looks like a record longer than the snap length is cut off, as its reader stops there."""
    tail = struct.pack("<IIII", 0, 0, pcap.SNAP_LENGTH + 1, pcap.SNAP_LENGTH + 1) + bytes(pcap.SNAP_LENGTH + 1)
    assert pcap.whole_records_end(GOLDEN_SPOOL + tail) == len(GOLDEN_SPOOL)


def test_nothing_is_kept_of_less_than_a_header():
    """A spool whose file header is torn holds nothing."""
    assert pcap.whole_records_end(GOLDEN_SPOOL[:23]) == 0
    assert pcap.whole_records_end(GOLDEN_SPOOL[:24]) == 24


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "scale"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
def test_both_byte_orders_and_resolutions_are_read(order, magic, scale):
    """Stamps come in nanoseconds from files of either byte order and resolution."""
    head = struct.pack(order + "IHHIIII", magic, 2, 4, 0, 0, 65_535, 0xF000_0001)
    data = head + struct.pack(order + "IIII", 100, 250, 3, 90) + b"abc"
    assert list(pcap.read_records(data)) == [Record(100 * SECOND + 250 * scale, 1, b"abc")]


@given(st.binary(max_size=120) | st.binary(max_size=100).map(lambda tail: GOLDEN_SPOOL[:24] + tail))
def test_reading_raises_only_what_it_says(data):
    """Arbitrary bytes are records or a CaptureError."""
    try:
        records = list(pcap.read_records(data))
    except CaptureError:
        return
    assert sum(len(record.frame) for record in records) <= len(data)


@given(st.sampled_from(LINK_TYPES), st.binary(max_size=120))
@example(1, bytes(12) + b"\x81\x00" * 30)
@example(101, b"\x45")
@example(101, b"\x60" + bytes(47))
def test_decoding_never_raises(link_type, frame):
    """Any frame of a known link type is a datagram or nothing."""
    assert isinstance(_decode(frame, link_type), Datagram | None)


@given(st.binary(max_size=60), st.booleans())
def test_ip_after_random_link_bytes(tail, is_six):
    """A valid IP header before arbitrary bytes is a datagram or nothing."""
    assert isinstance(_decode((_ip6 if is_six else _ip4)(tail)), Datagram | None)


@pytest.mark.parametrize("network", [_ip4, _ip6])
@pytest.mark.parametrize(
    ("link_type", "before"),
    [
        (0, lambda _: bytes(4)),
        (108, lambda _: bytes(4)),
        (12, lambda _: b""),
        (14, lambda _: b""),
        (101, lambda _: b""),
        (1, lambda ethertype: bytes(12) + ethertype),
        (1, lambda ethertype: bytes(12) + b"\x81\x00\x00\x07" + ethertype),
        (1, lambda ethertype: bytes(12) + b"\x88\xa8\x00\x07\x81\x00\x00\x08" + ethertype),
        (113, lambda ethertype: bytes(14) + ethertype),
        (276, lambda ethertype: ethertype + bytes(18)),
    ],
)
def test_every_link_type_is_read(network, link_type, before):
    """UDP is found behind every link layer that is promised, IPv4 and IPv6."""
    ethertype = b"\x08\x00" if network is _ip4 else b"\x86\xdd"
    datagram = _decode(before(ethertype) + network(_udp(b"abc")), link_type)
    assert (datagram.source_port, datagram.destination_port, datagram.payload) == (4000, 5004, b"abc")
    assert datagram.arrival_ns == 7


def test_link_types_of_one_ip_version_are_read():
    """The link types of bare IPv4 and bare IPv6 are read."""
    assert _decode(_ip4(_udp(b"abc")), 228).payload == b"abc"
    assert _decode(_ip6(_udp(b"abc")), 229).payload == b"abc"


def test_options_and_trailing_bytes_are_no_payload():
    """IPv4 options before UDP and Ethernet's padding after it are left out."""
    assert _decode(_ip4(_udp(b"abc"), options=bytes(8)) + bytes(18)).payload == b"abc"


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        _ip4(_udp(b"abc"), protocol=6),
        _ip6(_udp(b"abc"), next_header=6),
        _ip4(_udp(b"abc"), fragment=0x2000),
        _ip4(_udp(b"abc"), fragment=0x0001),
        _ip4(_udp(b"abc"))[:-1],
        _ip4(_udp(b"abc", length=7)),
        _ip6(_udp(b"abc", length=12)),
        b"\x44" + _ip4(_udp(b"abc"))[1:],
        b"\x55" + _ip4(_udp(b"abc"))[1:],
    ],
)
def test_other_frames_are_no_datagrams(frame):
    """TCP, fragments, cut frames and bad lengths are no datagrams."""
    assert _decode(frame) is None


def test_dont_fragment_is_no_fragment():
    """The flag that forbids fragments does not make a packet one."""
    assert _decode(_ip4(_udp(b"abc"), fragment=0x4000)).payload == b"abc"


def test_arp_is_no_datagram():
    """An Ethernet frame of another protocol is no datagram, even if its bytes look like IP."""
    assert _decode(bytes(12) + b"\x08\x06" + _ip4(_udp(b"abc")), 1) is None


def test_unknown_link_type_is_refused():
    """A capture of an unknown link layer is refused with its number."""
    with pytest.raises(CaptureError, match="127"):
        _decode(b"abc", 127)
