"""What is kept of a call beside its packets, so that it goes on after a restart; pure."""

from dataclasses import dataclass, field
from typing import Any, Self

from twotrack import messages
from twotrack.calls import Call, State
from twotrack.side import Side
from twotrack.spool import Recovered

LATEST_TIME_S = 1e11  # seconds since 1970, the year 5138


def saved(call: Call) -> dict[str, Any]:
    """A call as the JSON beside its spool."""
    return {
        "connection_id": call.connection_id,
        "state": call.state,
        "started_at": call.started_at,
        "abandoned": call.is_abandoned,
        "metadata": call.metadata,
        "ssrcs": call.ssrcs,
        "closed_sides": sorted(call.closed_sides),
    }


def restored(
    connection_id: str, state: dict[str, Any] | None, recovered: Recovered, *, now: float, anchor_ns: int
) -> Call:
    """A call as it was saved.

    Args:
        connection_id: Names it.
        state: What was saved; None if that is damaged: the call is closed as abandoned then, since
            nothing says which SSRCs are its own.
        recovered: What its spool holds.
        now: Monotonic, in seconds.
        anchor_ns: Wall time since 1970 minus monotonic time.
    """
    saved_state = _Saved.read(state)
    return Call(
        connection_id=connection_id,
        started_at=now + anchor_ns / 1e9 if saved_state.started_at is None else saved_state.started_at,
        opened_at=now,
        metadata=saved_state.metadata,
        state=State.OPEN if saved_state.is_open else State.CLOSING,
        is_abandoned=saved_state.is_abandoned,
        ssrcs=saved_state.ssrcs,
        closed_sides=saved_state.closed_sides if saved_state.is_open else set(Side),
        received=recovered.received,
        last_arrival={side: (arrival_ns - anchor_ns) / 1e9 for side, arrival_ns in recovered.last_arrival_ns.items()},
    )


@dataclass(frozen=True, slots=True)
class _Saved:
    """What was saved of a call; by default what is thought of one whose file is damaged."""

    is_open: bool = False
    is_abandoned: bool = True
    started_at: float | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    ssrcs: dict[Side, list[int]] = field(default_factory=lambda: {side: [] for side in Side})
    closed_sides: set[Side] = field(default_factory=set)

    @classmethod
    def read(cls, state: dict[str, Any] | None) -> Self:
        """Read it, whatever it holds."""
        if state is None:
            return cls()
        try:
            started_at = float(state["started_at"])
            if not 0 <= started_at < LATEST_TIME_S:
                raise ValueError("no time of a call")
            return cls(
                is_open=state["state"] == State.OPEN,
                is_abandoned=bool(state["abandoned"]),
                started_at=started_at,
                metadata={str(name): str(value) for name, value in state["metadata"].items()},
                ssrcs={side: [messages.parse_ssrc(ssrc) for ssrc in state["ssrcs"][side]] for side in Side},
                closed_sides={Side(side) for side in state["closed_sides"]},
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return cls()
