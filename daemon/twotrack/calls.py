"""The register: who is calling, which SSRC is whose, what is left to close.

Pure: every verb takes `now` (monotonic seconds) or an arrival, and returns what it did; sockets,
files and events are the service's.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from twotrack import messages
from twotrack.errors import RequestError
from twotrack.messages import ErrorCode
from twotrack.rtp import SEQUENCE_BITS, TIMESTAMP_BITS, RtpPacket, extend
from twotrack.side import Side

STRAGGLER_PACKETS = 1_000  # that a sender may go on for after its call has ended
STRAGGLER_S = 10.0
STRAGGLER_TIMESTAMP = 30 * 48_000  # how far their timestamps go on, at the fastest clock
REORDERED_PACKETS = 16  # that may come after the one that was the last
REMEMBERED_CALLS = 2_000  # ended calls that `list` and `show` still know


class State(StrEnum):
    """What becomes of a call."""

    OPEN = "open"
    CLOSING = "closing"
    FINALISING = "finalising"
    STORED = "stored"
    FAILED = "failed"
    DISCARDED = "discarded"


class _Retired(NamedTuple):
    """The last sequence number and timestamp of an SSRC that was freed, and when, monotonic."""

    sequence_number: int
    timestamp: int
    at: float


@dataclass(slots=True, eq=False)
class Call:
    """One connection. `started_at` is wall time in seconds since 1970, all else monotonic."""

    connection_id: str
    started_at: float
    opened_at: float
    metadata: dict[str, str]
    state: State = State.OPEN
    is_abandoned: bool = False
    ssrcs: dict[Side, list[int]] = field(default_factory=lambda: {side: [] for side in Side})
    closed_sides: set[Side] = field(default_factory=set)
    received: Counter[Side] = field(default_factory=Counter)
    last_arrival: dict[Side, float] = field(default_factory=dict)
    recording: dict[str, Any] | None = None
    error: RequestError | None = None
    ended_at: float | None = None
    last_packet: dict[tuple[Side, int], RtpPacket] = field(default_factory=dict)

    @property
    def references(self) -> int:
        """Sides that are not closed yet: 2 to 0."""
        return len(Side) - len(self.closed_sides)

    @property
    def last_sign_of_life(self) -> float:
        """When it was opened, or when its last packet came."""
        return max([self.opened_at, *self.last_arrival.values()])


class Register:
    """All calls of a daemon.

    Args:
        max_connections: How many may be open at once.
    """

    def __init__(self, max_connections: int) -> None:
        self._max_connections = max_connections
        self._live: dict[str, Call] = {}
        self._failed: dict[str, Call] = {}
        self._ended: OrderedDict[str, Call] = OrderedDict()
        self.routes: dict[Side, dict[int, Call]] = {side: {} for side in Side}
        self._retired: dict[tuple[Side, int], _Retired] = {}

    def __iter__(self) -> Iterator[Call]:
        yield from self._live.values()
        yield from self._failed.values()
        yield from self._ended.values()

    def live(self) -> list[Call]:
        """Calls that are open, closing or finalising."""
        return list(self._live.values())

    def failed(self) -> list[Call]:
        """Calls that wait for a retry."""
        return list(self._failed.values())

    def get(self, connection_id: str) -> Call:
        """The unfinished call of this id, else the last ended one that is remembered.

        Raises:
            RequestError: `unknown_connection`.
        """
        call = self.find_unfinished(connection_id) or self._ended.get(connection_id)
        if call is None:
            raise RequestError(ErrorCode.UNKNOWN_CONNECTION, f"no call {connection_id} is known here; open it first")
        return call

    def find_unfinished(self, connection_id: str) -> Call | None:
        """The call of this id if it is not stored yet."""
        return self._live.get(connection_id) or self._failed.get(connection_id)

    def open(
        self,
        connection_id: str,
        ssrcs: Mapping[Side, int | None],
        metadata: dict[str, str] | None,
        *,
        now: float,
        wall_now: float,
    ) -> tuple[Call, list[tuple[Side, int]], bool]:
        """Open a call, or add SSRCs to an open one.

        Returns:
            The call, the (side, SSRC) pairs that are new, and whether the call is.

        Raises:
            RequestError: `invalid_connection_id`, `already_closed`, `ssrc_in_use`,
                `too_many_connections`.
        """
        messages.check_connection_id(connection_id)
        call = self.find_unfinished(connection_id)
        if call is not None and call.state is not State.OPEN:
            remedy = "retry or discard it" if call.state is State.FAILED else "open it again once it is stored"
            raise RequestError(ErrorCode.ALREADY_CLOSED, f"call {connection_id} is {call.state}; {remedy}")
        wanted = [(side, ssrc) for side, ssrc in ssrcs.items() if ssrc is not None]
        self._require_free(wanted, call)
        is_new = call is None
        if call is None:
            self._require_room()
            call = Call(connection_id, wall_now, now, metadata or {})
            self._live[connection_id] = call
        elif metadata:
            call.metadata = messages.check_metadata(call.metadata | metadata)
        added = [(side, ssrc) for side, ssrc in wanted if self.routes[side].get(ssrc) is not call]
        for side, ssrc in added:
            self.map(call, side, ssrc)
        return call, added, is_new

    def _require_free(self, wanted: list[tuple[Side, int]], call: Call | None) -> None:
        for side, ssrc in wanted:
            owner = self.routes[side].get(ssrc)
            if owner is not None and owner is not call and owner.state is State.OPEN:
                raise RequestError(
                    ErrorCode.SSRC_IN_USE,
                    f"SSRC 0x{ssrc:08x} on the {side} port belongs to call {owner.connection_id}; close that first",
                )

    def _require_room(self) -> None:
        if sum(call.state is State.OPEN for call in self.live()) >= self._max_connections:
            raise RequestError(
                ErrorCode.TOO_MANY_CONNECTIONS,
                f"{self._max_connections} calls are open; close some or raise AUDIO_MAX_CONNECTIONS",
            )

    def map(self, call: Call, side: Side, ssrc: int) -> None:
        """Let an SSRC on a port be this call's."""
        self._retired.pop((side, ssrc), None)
        self.routes[side][ssrc] = call
        call.ssrcs[side].append(ssrc)

    def restore(self, call: Call) -> None:
        """Take a call in that was open or closing before a restart; only an open one has its SSRCs."""
        self._live[call.connection_id] = call
        if call.state is not State.OPEN:
            return
        for side in Side:
            for ssrc in call.ssrcs[side]:
                self.routes[side][ssrc] = call

    def close(self, connection_id: str, side: Side | None) -> tuple[Call, bool]:
        """Take a side's reference away, or both; again changes nothing.

        Returns:
            The call, and whether this took its last reference.

        Raises:
            RequestError: `unknown_connection`.
        """
        call = self.get(connection_id)
        before = call.references
        if call.state is State.OPEN:
            call.closed_sides.update(Side if side is None else (side,))
        is_last = before > 0 and call.references == 0
        if is_last:
            call.state = State.CLOSING
        return call, is_last

    def abandon(self, now: float, retention: float) -> list[Call]:
        """Close the open calls that gave no sign of life for longer than `retention` seconds."""
        abandoned = [
            call for call in self.live() if call.state is State.OPEN and now - call.last_sign_of_life > retention
        ]
        for call in abandoned:
            call.state = State.CLOSING
            call.is_abandoned = True
            call.closed_sides.update(Side)
        return abandoned

    def finalise(self, call: Call, now: float) -> None:
        """The grace is over, or a failed call is tried again: its SSRCs are free for other calls."""
        call.state = State.FINALISING
        self._failed.pop(call.connection_id, None)
        self._live[call.connection_id] = call
        self._unmap(call, now)

    def end(self, call: Call, state: State, now: float) -> None:
        """It is stored, failed or discarded. A failed call is kept until it is retried or discarded."""
        call.state = state
        call.ended_at = now
        self._unmap(call, now)
        self._live.pop(call.connection_id, None)
        self._failed.pop(call.connection_id, None)
        if state is State.FAILED:
            self._failed[call.connection_id] = call
            return
        self._ended[call.connection_id] = call
        self._ended.move_to_end(call.connection_id)
        while len(self._ended) > REMEMBERED_CALLS:
            self._ended.popitem(last=False)

    def _unmap(self, call: Call, now: float) -> None:
        for side in Side:
            for ssrc in call.ssrcs[side]:
                if self.routes[side].get(ssrc) is not call:
                    continue
                del self.routes[side][ssrc]
                last = call.last_packet.get((side, ssrc))
                if last is not None:
                    self._retired[side, ssrc] = _Retired(last.sequence_number, last.timestamp, now)

    def is_straggler(self, side: Side, packet: RtpPacket) -> bool:
        """True if a packet of an unmapped SSRC goes on where a call that has ended left off.

        The first packet that does not begins another call, and so do all that follow it.
        """
        retired = self._retired.get((side, packet.ssrc))
        if retired is None:
            return False
        steps = extend(packet.sequence_number, retired.sequence_number, SEQUENCE_BITS) - retired.sequence_number
        advance = extend(packet.timestamp, retired.timestamp, TIMESTAMP_BITS) - retired.timestamp
        if -REORDERED_PACKETS < steps < STRAGGLER_PACKETS and abs(advance) < STRAGGLER_TIMESTAMP:
            return True
        del self._retired[side, packet.ssrc]
        return False

    def has_ended_lately(self, connection_id: str, now: float) -> bool:
        """True if the call of this id is closed, or was until a while ago, so that packets of it may still come."""
        call = self.find_unfinished(connection_id)
        if call is not None:
            return call.state is not State.OPEN
        ended = self._ended.get(connection_id)
        return ended is not None and ended.ended_at is not None and now - ended.ended_at <= STRAGGLER_S

    def forget_stragglers(self, now: float) -> None:
        """Let SSRCs that were freed a while ago be any call's."""
        for key in [key for key, retired in self._retired.items() if now - retired.at > STRAGGLER_S]:
            del self._retired[key]

    def count_by_state(self) -> dict[State, int]:
        """How many calls are in each state, those in none left out."""
        return dict(Counter(call.state for call in self))
