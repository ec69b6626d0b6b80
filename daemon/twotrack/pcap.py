"""The pcap file format and the headers around a UDP payload, both ways; pure bytes.

Written: what a spool is made of, classic pcap with nanosecond stamps and raw IP frames. Read: every
classic pcap, and UDP over Ethernet (with VLAN tags), Linux cooked (both versions), BSD loopback and
raw IP, IPv4 and IPv6.

Source: draft-ietf-opsawg-pcap; RFC 791 section 3.1; RFC 8200 section 3; RFC 768; tcpdump.org's list
of link-layer header types.
"""

import ipaddress
import mmap
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from twotrack.errors import CaptureError

MICROSECOND_MAGIC = 0xA1B2C3D4
NANOSECOND_MAGIC = 0xA1B23C4D
SNAP_LENGTH = 262_144
LINK_NULL, LINK_ETHERNET, LINK_RAW, LINK_LOOP, LINK_SLL = 0, 1, 101, 108, 113
LINK_IPV4, LINK_IPV6, LINK_SLL2 = 228, 229, 276
LINK_RAW_BSD = (12, 14)  # what some systems write for raw IP
FILE_HEADER = struct.Struct("<IHHIIII")
RECORD_HEADER = struct.Struct("<IIII")
_UDP = 17
_ETHERTYPES = {0x0800: 4, 0x86DD: 6}
_VLAN_ETHERTYPES = (0x8100, 0x88A8)
_UDP_HEADER = struct.Struct(">HHHH")
_IPV4_HEADER = struct.Struct(">BBHHHBBH4s4s")
_IPV6_HEADER = struct.Struct(">IHBB16s16s")

Buffer = bytes | mmap.mmap


class Record(NamedTuple):
    """One captured frame; `arrival_ns` since 1970 in nanoseconds."""

    arrival_ns: int
    link_type: int
    frame: bytes


class Datagram(NamedTuple):
    """One UDP payload, when it arrived and between whom; addresses in network byte order."""

    arrival_ns: int
    source: bytes
    source_port: int
    destination: bytes
    destination_port: int
    payload: bytes


class SpoolPorts(NamedTuple):
    """Which UDP destination port is which side in a spool's file."""

    input: int
    output: int


def spool_header(ports: SpoolPorts) -> bytes:
    """The file header of a spool.

    Its second reserved field, which readers must ignore, holds both ports, so that the file alone
    says which side is which.
    """
    reserved = ports.input << 16 | ports.output
    return FILE_HEADER.pack(NANOSECOND_MAGIC, 2, 4, 0, reserved, SNAP_LENGTH, LINK_RAW)


def spool_ports(data: Buffer) -> SpoolPorts | None:
    """The ports that a spool's file header names, or None if this is another's capture."""
    if len(data) < FILE_HEADER.size:
        return None
    magic, _, _, _, reserved, _, link_type = FILE_HEADER.unpack_from(data)
    if (magic, link_type) != (NANOSECOND_MAGIC, LINK_RAW) or not reserved:
        return None
    return SpoolPorts(reserved >> 16, reserved & 0xFFFF)


def frame_header(source: tuple[str, int], destination: tuple[str, int]) -> Callable[[int], bytes]:
    """Prepare the IP and UDP headers of one flow.

    Args:
        source: Numeric address and port; one IPv6 address makes both IPv6.
        destination: Likewise.

    Returns:
        A function from a payload's length to the headers before it. The UDP checksum is 0: not set.
    """
    addresses = [ipaddress.ip_address(host.partition("%")[0]) for host, _ in (source, destination)]
    ports = struct.pack(">HH", source[1], destination[1])
    if all(address.version == 4 for address in addresses):
        return _ipv4_header(addresses[0].packed, addresses[1].packed, ports)
    packed = [_ipv6_bytes(address) for address in addresses]
    return _ipv6_header(packed[0], packed[1], ports)


def _ipv6_bytes(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed


def _ipv4_header(source: bytes, destination: bytes, ports: bytes) -> Callable[[int], bytes]:
    bare = _IPV4_HEADER.pack(0x45, 0, 0, 0, 0x4000, 64, _UDP, 0, source, destination)
    words = sum(struct.unpack(">10H", bare))
    addresses = source + destination
    pack = struct.Struct(">BBHIBBH8s4sHH").pack

    def header(length: int) -> bytes:
        total = words + length + 28
        total = (total & 0xFFFF) + (total >> 16)
        checksum = ~(total + (total >> 16)) & 0xFFFF
        return pack(0x45, 0, length + 28, 0x4000, 64, _UDP, checksum, addresses, ports, length + 8, 0)

    return header


def _ipv6_header(source: bytes, destination: bytes, ports: bytes) -> Callable[[int], bytes]:
    pack = struct.Struct(">IHBB16s16s4sHH").pack

    def header(length: int) -> bytes:
        return pack(6 << 28, length + 8, _UDP, 64, source, destination, ports, length + 8, 0)

    return header


def record(arrival_ns: int, headers: bytes, payload: bytes) -> bytes:
    """One record of a spool."""
    seconds, nanoseconds = divmod(arrival_ns, 1_000_000_000)
    length = len(headers) + len(payload)
    return RECORD_HEADER.pack(seconds, nanoseconds, length, length) + headers + payload


def read_records(data: Buffer) -> Iterator[Record]:
    """The frames of a classic pcap file, either byte order; a torn last record is left out.

    Raises:
        CaptureError: It is not a pcap file.
    """
    order, nanosecond_scale, link_type = _read_file_header(data)
    unpack = struct.Struct(order + "IIII").unpack_from
    start, size = FILE_HEADER.size, len(data)
    while start + RECORD_HEADER.size <= size:
        seconds, fraction, captured, _ = unpack(data, start)
        start += RECORD_HEADER.size
        if captured > SNAP_LENGTH or start + captured > size:
            return
        arrival_ns = seconds * 1_000_000_000 + fraction * nanosecond_scale
        yield Record(arrival_ns, link_type, data[start : start + captured])
        start += captured


def whole_records_end(data: Buffer) -> int:
    """How many bytes of a spool's file are whole records; the rest is a torn tail."""
    start, size = FILE_HEADER.size, len(data)
    if size < start:
        return 0
    while start + RECORD_HEADER.size <= size:
        captured = RECORD_HEADER.unpack_from(data, start)[2]
        end = start + RECORD_HEADER.size + captured
        if captured > SNAP_LENGTH or end > size:
            break
        start = end
    return start


def _read_file_header(data: Buffer) -> tuple[str, int, int]:
    """Byte order, nanoseconds in a stamp's fraction, and link type."""
    if len(data) < FILE_HEADER.size:
        raise CaptureError("it is too short for a capture file")
    for order in "<>":
        magic, _, _, _, _, _, link_type = struct.unpack_from(order + "IHHIIII", data)
        if magic in (MICROSECOND_MAGIC, NANOSECOND_MAGIC):
            return order, 1 if magic == NANOSECOND_MAGIC else 1000, link_type & 0x0FFFFFFF
    raise CaptureError("it is neither a pcap nor a pcapng file")


def decode(frame: Record) -> Datagram | None:
    """The UDP datagram in a frame, or None for anything else, fragments and cut frames included."""
    find = _NETWORK_LAYER.get(frame.link_type)
    if find is None:
        raise CaptureError(f"its link type {frame.link_type} is not Ethernet, Linux cooked or raw IP")
    packet = find(frame.frame)
    if not packet:
        return None
    return (_decode_ipv4 if packet[0] >> 4 == 4 else _decode_ipv6)(frame.arrival_ns, packet)


def _decode_ipv4(arrival_ns: int, packet: bytes) -> Datagram | None:
    header = (packet[0] & 0x0F) * 4
    if len(packet) < header + 8 or header < 20 or packet[9] != _UDP:
        return None
    if int.from_bytes(packet[6:8], "big") & 0x3FFF:  # a fragment
        return None
    return _decode_udp(arrival_ns, packet[12:16], packet[16:20], packet, header)


def _decode_ipv6(arrival_ns: int, packet: bytes) -> Datagram | None:
    if len(packet) < 48 or packet[0] >> 4 != 6 or packet[6] != _UDP:
        return None
    return _decode_udp(arrival_ns, packet[8:24], packet[24:40], packet, 40)


def _decode_udp(arrival_ns: int, source: bytes, destination: bytes, packet: bytes, start: int) -> Datagram | None:
    source_port, destination_port, length, _ = _UDP_HEADER.unpack_from(packet, start)
    if length < 8 or start + length > len(packet):
        return None
    payload = packet[start + 8 : start + length]
    return Datagram(arrival_ns, source, source_port, destination, destination_port, payload)


def _ethernet(frame: bytes) -> bytes:
    start = 12
    while int.from_bytes(frame[start : start + 2], "big") in _VLAN_ETHERTYPES:
        start += 4
    return _if_ip(frame[start : start + 2], frame[start + 2 :])


def _if_ip(ethertype: bytes, packet: bytes) -> bytes:
    return packet if int.from_bytes(ethertype, "big") in _ETHERTYPES else b""


_NETWORK_LAYER: Mapping[int, Callable[[bytes], bytes]] = {
    LINK_NULL: lambda frame: frame[4:],
    LINK_LOOP: lambda frame: frame[4:],
    LINK_ETHERNET: _ethernet,
    LINK_RAW: bytes,
    **dict.fromkeys(LINK_RAW_BSD, bytes),
    LINK_IPV4: bytes,
    LINK_IPV6: bytes,
    LINK_SLL: lambda frame: _if_ip(frame[14:16], frame[16:]),
    LINK_SLL2: lambda frame: _if_ip(frame[0:2], frame[20:]),
}
