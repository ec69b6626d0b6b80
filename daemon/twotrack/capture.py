"""Capture files to the two sides of one call: read, find the RTP sources, choose input and output.

A spool names its own ports; any other capture is searched for RTP sources. pcapng is read by
python-pcapng; classic pcap, which spools are, by the pcap room.
"""

import ipaddress
import mmap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pcapng import FileScanner
from pcapng.blocks import EnhancedPacket
from pcapng.exceptions import PcapngException

from twotrack import pcap, rtp
from twotrack.codecs import Codec
from twotrack.errors import CaptureError
from twotrack.pcap import Datagram, SpoolPorts
from twotrack.rtp import RtpPacket
from twotrack.side import Side
from twotrack.track import Received

PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"
MIN_SOURCE_PACKETS = 2  # one datagram that looks like RTP is chance


class Choice(NamedTuple):
    """Which side is which, by destination port or by SSRC; None: not given."""

    input_port: int | None = None
    output_port: int | None = None
    input_ssrc: int | None = None
    output_ssrc: int | None = None

    @property
    def has_ports(self) -> bool:
        """True if a port was given."""
        return self.input_port is not None or self.output_port is not None

    @property
    def has_ssrcs(self) -> bool:
        """True if an SSRC was given."""
        return self.input_ssrc is not None or self.output_ssrc is not None

    @property
    def is_one_side_twice(self) -> bool:
        """True if both sides are given, and alike."""
        return any(pair[0] == pair[1] is not None for pair in (self[:2], self[2:]))


@dataclass(slots=True)
class CapturedCall:
    """Both sides of one call as they arrived; `dropped` counts by side and reason."""

    sides: dict[Side, list[Received]] = field(default_factory=lambda: {side: [] for side in Side})
    datagrams: dict[Side, list[bytes]] = field(default_factory=lambda: {side: [] for side in Side})
    dropped: dict[Side, Counter[str]] = field(default_factory=lambda: {side: Counter() for side in Side})

    def add(self, side: Side, datagram: Datagram) -> None:
        """Take one datagram of a side in; what is not RTP is counted."""
        packet = rtp.parse(datagram.payload)
        if isinstance(packet, rtp.Malformed):
            self.dropped[side][packet] += 1
            return
        self.sides[side].append(Received(datagram.arrival_ns, packet))
        self.datagrams[side].append(datagram.payload)


class Source(NamedTuple):
    """One RTP source: an SSRC between two addresses."""

    ssrc: int
    source: bytes
    source_port: int
    destination: bytes
    destination_port: int

    def __str__(self) -> str:
        source, destination = (ipaddress.ip_address(raw) for raw in (self.source, self.destination))
        hosts = f"from {source} port {self.source_port} to {destination} port {self.destination_port}"
        return f"SSRC 0x{self.ssrc:08x} {hosts}"


def read_spool(path: Path) -> CapturedCall:
    """Both sides of a spool.

    Raises:
        CaptureError: It is not a spool's file.
    """
    return read_call([path], Choice(), {})


def read_call(paths: Sequence[Path], choice: Choice, payload_types: Mapping[int, Codec]) -> CapturedCall:
    """Both sides of the call in one or several captures, joined by time.

    Args:
        paths: pcap or pcapng files.
        choice: Ports or SSRCs; neither: the spool's own ports, else the one or two RTP sources.
        payload_types: What counts as audio when sources are searched for.

    Raises:
        CaptureError: A file can't be read, or no one or two sources are found.
    """
    datagrams, ports = _read_files(paths)
    classify = _classifier(datagrams, ports, choice, payload_types)
    call = CapturedCall()
    for datagram in datagrams:
        side = classify(datagram)
        if side is not None:
            call.add(side, datagram)
    if choice.has_ports or choice.has_ssrcs:
        _require_packets(call)
    return call


def _require_packets(call: CapturedCall) -> None:
    if not any(call.sides.values()):
        raise CaptureError("the capture holds no RTP of the given ports or SSRCs; check them with Wireshark")


def _read_files(paths: Sequence[Path]) -> tuple[list[Datagram], SpoolPorts | None]:
    datagrams: list[Datagram] = []
    ports: list[SpoolPorts | None] = []
    for path in paths:
        try:
            found, spool_ports = _read_file(path)
        except OSError as error:
            raise CaptureError(f"{path} can't be read: {error.strerror or error}") from error
        except CaptureError as error:
            raise CaptureError(f"{path} can't be read: {error}") from error
        datagrams += found
        ports.append(spool_ports)
    datagrams.sort(key=lambda datagram: datagram.arrival_ns)
    return datagrams, ports[0] if len(set(ports)) == 1 else None


def _read_file(path: Path) -> tuple[list[Datagram], SpoolPorts | None]:
    with path.open("rb") as file:
        if file.read(4) == PCAPNG_MAGIC:
            file.seek(0)
            return _decode_all(_read_pcapng(file)), None
        if file.seek(0, 2) == 0:
            raise CaptureError("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _decode_all(pcap.read_records(data)), pcap.spool_ports(data)


def _read_pcapng(file: object) -> Iterator[pcap.Record]:
    """Frames of a pcapng file; one that is cut off ends where the damage begins."""
    is_read = False
    try:
        for block in FileScanner(file):
            if isinstance(block, EnhancedPacket):
                is_read = True
                arrival_ns = round(block.timestamp * 1_000_000_000)
                yield pcap.Record(arrival_ns, block.interface.link_type, block.packet_data)
    except (PcapngException, ValueError, KeyError, IndexError) as error:
        if not is_read:
            raise CaptureError("it is a damaged pcapng file") from error


def _decode_all(records: Iterable[pcap.Record]) -> list[Datagram]:
    decoded = (pcap.decode(record) for record in records)
    return [datagram for datagram in decoded if datagram is not None]


def _classifier(
    datagrams: Sequence[Datagram],
    ports: SpoolPorts | None,
    choice: Choice,
    payload_types: Mapping[int, Codec],
) -> Callable[[Datagram], Side | None]:
    """How to tell a datagram's side."""
    if choice.has_ssrcs:
        return _by_ssrc({choice.input_ssrc: Side.INPUT, choice.output_ssrc: Side.OUTPUT})
    if choice.has_ports:
        return _by_port({choice.input_port: Side.INPUT, choice.output_port: Side.OUTPUT})
    if ports is not None:
        return _by_port({ports.input: Side.INPUT, ports.output: Side.OUTPUT})
    sources = find_sources(datagrams, payload_types)
    if not sources:
        raise CaptureError("the capture holds no RTP audio; name its --input-port or --input-ssrc")
    if len(sources) > 2:
        listed = "; ".join(str(source) for source in sources)
        raise CaptureError(
            f"the capture holds {len(sources)} RTP sources, name two with --input-ssrc and --output-ssrc"
            f" or --input-port and --output-port: {listed}"
        )
    return _by_source(dict(zip(sources, Side, strict=False)))


def _by_ssrc(sides: Mapping[int | None, Side]) -> Callable[[Datagram], Side | None]:
    def classify(datagram: Datagram) -> Side | None:
        packet = rtp.parse(datagram.payload)
        return sides.get(packet.ssrc) if isinstance(packet, RtpPacket) else None

    return classify


def _by_port(sides: Mapping[int | None, Side]) -> Callable[[Datagram], Side | None]:
    return lambda datagram: sides.get(datagram.destination_port)


def _by_source(sides: Mapping[Source, Side]) -> Callable[[Datagram], Side | None]:
    def classify(datagram: Datagram) -> Side | None:
        packet = rtp.parse(datagram.payload)
        return sides.get(_source(datagram, packet)) if isinstance(packet, RtpPacket) else None

    return classify


def _source(datagram: Datagram, packet: RtpPacket) -> Source:
    return Source(packet.ssrc, *datagram[1:5])


def find_sources(datagrams: Sequence[Datagram], payload_types: Mapping[int, Codec]) -> list[Source]:
    """The RTP audio sources of a capture, in the order of their first packets."""
    counts: Counter[Source] = Counter()
    for datagram in datagrams:
        packet = rtp.parse(datagram.payload)
        if isinstance(packet, RtpPacket) and packet.payload_type in payload_types:
            counts[_source(datagram, packet)] += 1
    return [source for source, count in counts.items() if count >= MIN_SOURCE_PACKETS]
