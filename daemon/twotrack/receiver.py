"""The UDP ports: sockets with room for bursts, and the datagram protocol that stamps what arrives."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic_ns

from twotrack.errors import TwotrackError
from twotrack.keys import Address, Network
from twotrack.side import Side

SO_RCVBUFFORCE = 33  # asm-generic/socket.h; the socket module does not name it
RECEIVE_BUFFER_BYTES = 8 * 1024 * 1024
MAX_REMEMBERED_SOURCES = 10_000
Receive = Callable[[Side, bytes, tuple[str, int], int], None]
Drop = Callable[[Side, str], None]


class MediaProtocol(asyncio.DatagramProtocol):
    """Stamps each datagram of one port and hands it on.

    Args:
        side: Whose port it is.
        receive: Takes (side, datagram, source, monotonic arrival in nanoseconds).
        drop: Takes (side, reason) of what is refused here.
        allowed_sources: Who may send; None: everybody.
    """

    def __init__(self, side: Side, receive: Receive, drop: Drop, allowed_sources: Sequence[Network] | None) -> None:
        self._side = side
        self._receive = receive
        self._drop = drop
        self._allowed_sources = allowed_sources
        self._decisions: dict[str, bool] = {}

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """One datagram."""
        arrival_ns = monotonic_ns()
        if self._allowed_sources is not None and not self._is_allowed(addr[0]):
            self._drop(self._side, "source_not_allowed")
            return
        self._receive(self._side, data, addr[:2], arrival_ns)

    def _is_allowed(self, host: str) -> bool:
        decision = self._decisions.get(host)
        if decision is None:
            if len(self._decisions) >= MAX_REMEMBERED_SOURCES:
                self._decisions.clear()
            decision = self._decisions[host] = self._decide(host)
        return decision

    def _decide(self, host: str) -> bool:
        address = ipaddress.ip_address(host.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self._allowed_sources or ())


def bind(address: Address, side: Side) -> socket.socket:
    """A bound UDP socket that asks for a large receive buffer.

    Raises:
        TwotrackError: The address can't be bound.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    media = socket.socket(family, socket.SOCK_DGRAM)
    media.setblocking(False)
    _ask_for_buffer(media)
    try:
        media.bind(address)
    except OSError as error:
        media.close()
        raise TwotrackError(
            f"the {side} port {address} can't be bound ({(error.strerror or '').lower()});"
            f" stop what uses it or set AUDIO_{side.upper()}_LISTEN"
        ) from error
    return media


def _ask_for_buffer(media: socket.socket) -> None:
    """Ask for the receive buffer; with CAP_NET_ADMIN the system's limit does not count."""
    media.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    with suppress(PermissionError):
        media.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)


def granted_buffer_bytes(media: socket.socket) -> int:
    """The receive buffer that the kernel granted; it counts double for its own bookkeeping."""
    return media.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2


def bound_address(media: socket.socket) -> Address:
    """Where a socket is bound."""
    host, port = media.getsockname()[:2]
    return Address(host, port)
