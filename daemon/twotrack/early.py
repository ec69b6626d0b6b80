"""Packets that arrive before their `open`: kept for a while, within a bound, then given up. Pure."""

from itertools import takewhile
from typing import NamedTuple

from twotrack.side import Side

KEPT_NS = 10_000_000_000
LIMIT_BYTES = 16 * 1024 * 1024
OVERHEAD_BYTES = 200  # of the objects around a payload, so that tiny packets can't fill the memory


class EarlyPacket(NamedTuple):
    """A datagram of an unmapped SSRC; `arrival_ns` is monotonic."""

    arrival_ns: int
    source: tuple[str, int]
    datagram: bytes


class EarlyPackets:
    """The packets of SSRCs that no call has claimed yet.

    Args:
        limit_bytes: How much may be kept; more is refused.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._kept: dict[tuple[Side, int], list[EarlyPacket]] = {}

    def keep(self, side: Side, ssrc: int, packet: EarlyPacket) -> bool:
        """Keep a packet; False if there is no room for it."""
        size = len(packet.datagram) + OVERHEAD_BYTES
        if self._bytes + size > self._limit_bytes:
            return False
        self._bytes += size
        self._kept.setdefault((side, ssrc), []).append(packet)
        return True

    def claim(self, side: Side, ssrc: int, now_ns: int) -> tuple[list[EarlyPacket], int]:
        """Take out what was kept for an SSRC.

        Returns:
            The packets that are young enough, and how many were too old.
        """
        packets = self._kept.pop((side, ssrc), [])
        self._bytes -= _size(packets)
        young = [packet for packet in packets if now_ns - packet.arrival_ns <= KEPT_NS]
        return young, len(packets) - len(young)

    def expire(self, now_ns: int) -> dict[Side, int]:
        """Give up what is too old; returns how many packets of each side."""
        expired = dict.fromkeys(Side, 0)
        for side, ssrc in self._old_keys(now_ns):
            young, old = self.claim(side, ssrc, now_ns)
            expired[side] += old
            if young:
                self._kept[side, ssrc] = young
                self._bytes += _size(young)
        return expired

    def _old_keys(self, now_ns: int) -> list[tuple[Side, int]]:
        """SSRCs that begin with a packet that is too old.

        They stand in the order of their first packets, but for those that `expire` has put back: so
        the search may stop at the first young one, and a flood of SSRCs costs no more than it must.
        """
        is_old = takewhile(lambda item: now_ns - item[1][0].arrival_ns > KEPT_NS, self._kept.items())
        return [key for key, _ in is_old]


def _size(packets: list[EarlyPacket]) -> int:
    return sum(len(packet.datagram) + OVERHEAD_BYTES for packet in packets)
