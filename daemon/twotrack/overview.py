"""How a service and its calls look from outside: what `status`, `show`, `list` and `watch` say."""

from typing import Any

from twotrack.calls import Call, State
from twotrack.errors import RequestError
from twotrack.report import iso_time
from twotrack.side import Side


def describe(call: Call, wall_minus_monotonic: float) -> dict[str, Any]:
    """A call as `show` and `list` give it."""
    row: dict[str, Any] = {
        "connection_id": call.connection_id,
        "state": call.state,
        "references": call.references,
        "started_at": iso_time(call.started_at),
        "abandoned": call.is_abandoned,
        "metadata": call.metadata,
    }
    for side in Side:
        last = call.last_arrival.get(side)
        row[side] = {
            "ssrcs": [f"0x{ssrc:08x}" for ssrc in call.ssrcs[side]],
            "received": call.received[side],
            "last_arrival": None if last is None else iso_time(last + wall_minus_monotonic),
        }
    return row | _error(call.error)


def event(call: Call, wall_now: float) -> dict[str, Any]:
    """A change of a call's state as `watch` gives it."""
    line = {"connection_id": call.connection_id, "state": call.state, "at": iso_time(wall_now)}
    if call.state is State.STORED:
        return line | {"recording": call.recording}
    return line | (_error(call.error) if call.state is State.FAILED else {})


def _error(error: RequestError | None) -> dict[str, Any]:
    return {} if error is None else {"error": {"code": error.code, "message": error.message}}
