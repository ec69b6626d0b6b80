"""What is kept of a call beside its packets, so that it goes on after a restart; pure."""

from typing import Any

from twotrack.calls import Call, State
from twotrack.side import Side
from twotrack.spool import Recovered


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
    state = {"state": State.CLOSING, "abandoned": True} if state is None else state
    is_open = state.get("state") == State.OPEN
    return Call(
        connection_id=connection_id,
        started_at=state.get("started_at", now + anchor_ns / 1e9),
        opened_at=now,
        metadata=state.get("metadata", {}),
        state=State.OPEN if is_open else State.CLOSING,
        is_abandoned=bool(state.get("abandoned")),
        ssrcs={side: list(state.get("ssrcs", {}).get(side, [])) for side in Side},
        closed_sides={Side(side) for side in state.get("closed_sides", [])} if is_open else set(Side),
        received=recovered.received,
        last_arrival={side: (arrival_ns - anchor_ns) / 1e9 for side, arrival_ns in recovered.last_arrival_ns.items()},
    )
