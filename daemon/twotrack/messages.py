"""The control language: a typed value for each request, and how replies are worded.

Shared by the daemon and its clients. A line is one JSON object in UTF-8.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from twotrack.errors import RequestError
from twotrack.side import Side

MAX_LINE_BYTES = 64 * 1024
MAX_METADATA_BYTES = 16 * 1024
MAX_SSRC = 0xFFFF_FFFF
CONNECTION_ID = re.compile(r"[A-Za-z0-9_=@:+~-][A-Za-z0-9._=@:+~-]{0,199}")
SSRC_TEXT = re.compile(r"0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10}")


class ErrorCode(StrEnum):
    """Why a request is refused."""

    BAD_REQUEST = "bad_request"
    UNKNOWN_OP = "unknown_op"
    INVALID_CONNECTION_ID = "invalid_connection_id"
    UNKNOWN_CONNECTION = "unknown_connection"
    SSRC_IN_USE = "ssrc_in_use"
    ALREADY_CLOSED = "already_closed"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    SPOOL_FULL = "spool_full"
    CACHE_DISABLED = "cache_disabled"
    DRAINING = "draining"
    FORBIDDEN = "forbidden"
    MERGE_FAILED = "merge_failed"
    STORAGE_FAILED = "storage_failed"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Open:
    """Open a call, or add SSRCs to it."""

    connection_id: str
    input_ssrc: int | None
    output_ssrc: int | None
    metadata: dict[str, str] | None


@dataclass(frozen=True, slots=True)
class Close:
    """Take one side's reference away, or both."""

    connection_id: str
    side: Side | None
    wait: bool


@dataclass(frozen=True, slots=True)
class Status:
    """Ask how the daemon is."""


@dataclass(frozen=True, slots=True)
class List:
    """Ask for the calls, of one state or of all."""

    state: str | None


@dataclass(frozen=True, slots=True)
class Show:
    """Ask for one call."""

    connection_id: str


@dataclass(frozen=True, slots=True)
class Discard:
    """Forget a call."""

    connection_id: str


@dataclass(frozen=True, slots=True)
class Watch:
    """Ask for every change of state from now on."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Run failed finalisations again: one, or all."""

    connection_id: str | None


@dataclass(frozen=True, slots=True)
class Drain:
    """Take no new call, finish what runs, exit."""


Request = Open | Close | Status | List | Show | Discard | Watch | Retry | Drain


def bad_request(message: str) -> RequestError:
    """A refusal of what the client sent."""
    return RequestError(ErrorCode.BAD_REQUEST, message)


def parse_line(line: bytes) -> dict[str, Any]:
    """The JSON object on a line.

    Raises:
        RequestError: `bad_request`.
    """
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
    except UnicodeDecodeError:
        raise bad_request("a request is UTF-8 text") from None
    except (ValueError, RecursionError):
        raise bad_request("a request is one JSON object on one line") from None
    if not isinstance(value, dict):
        raise bad_request("a request is one JSON object on one line")
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")  # json.loads would take NaN and Infinity


def parse_request(members: Mapping[str, Any]) -> Request:
    """Read a request's members.

    Raises:
        RequestError: `bad_request`, `unknown_op`, `invalid_connection_id`.
    """
    op = members.get("op")
    if not isinstance(op, str):
        raise bad_request('a request has a member "op", such as "status"')
    if op not in _PARSERS:
        raise RequestError(ErrorCode.UNKNOWN_OP, f"op is one of {', '.join(_PARSERS)}")
    unknown = set(members) - MEMBERS[op] - {"op", "tag"}
    if unknown:
        known = ", ".join(sorted(MEMBERS[op])) or "no members"
        raise bad_request(f"{op} has no member {json.dumps(min(unknown))}; it takes {known}")
    return _PARSERS[op](members)


def _parse_open(members: Mapping[str, Any]) -> Open:
    ssrcs = (_ssrc(members, "input_ssrc"), _ssrc(members, "output_ssrc"))
    return Open(_connection_id(members), *ssrcs, _metadata(members))


def _parse_close(members: Mapping[str, Any]) -> Close:
    side = members.get("side")
    if side is not None and side not in [*Side]:
        raise bad_request('side is "input" or "output"; leave it out to close both')
    wait = False if members.get("wait") is None else members["wait"]
    if not isinstance(wait, bool):
        raise bad_request("wait is true or false")
    return Close(_connection_id(members), None if side is None else Side(side), wait)


def _parse_list(members: Mapping[str, Any]) -> List:
    state = members.get("state")
    if state is not None and not isinstance(state, str):
        raise bad_request('state is a state\'s name, such as "open"')
    return List(state)


def _parse_retry(members: Mapping[str, Any]) -> Retry:
    return Retry(None if members.get("connection_id") is None else _connection_id(members))


_PARSERS: Mapping[str, Callable[[Mapping[str, Any]], Request]] = {
    "open": _parse_open,
    "close": _parse_close,
    "status": lambda _: Status(),
    "list": _parse_list,
    "show": lambda members: Show(_connection_id(members)),
    "discard": lambda members: Discard(_connection_id(members)),
    "watch": lambda _: Watch(),
    "retry": _parse_retry,
    "drain": lambda _: Drain(),
}


MEMBERS: Mapping[str, frozenset[str]] = {
    "open": frozenset(("connection_id", "input_ssrc", "output_ssrc", "metadata")),
    "close": frozenset(("connection_id", "side", "wait")),
    "status": frozenset(),
    "list": frozenset(("state",)),
    "show": frozenset(("connection_id",)),
    "discard": frozenset(("connection_id",)),
    "watch": frozenset(),
    "retry": frozenset(("connection_id",)),
    "drain": frozenset(),
}


def _connection_id(members: Mapping[str, Any]) -> str:
    value = members.get("connection_id")
    if not isinstance(value, str):
        raise bad_request("connection_id is a string")
    return check_connection_id(value)


def check_connection_id(connection_id: str) -> str:
    """The id itself, if a file may be named after it.

    Raises:
        RequestError: `invalid_connection_id`.
    """
    if not CONNECTION_ID.fullmatch(connection_id):
        raise RequestError(
            ErrorCode.INVALID_CONNECTION_ID,
            "connection_id is 1 to 200 characters of A-Z a-z 0-9 . _ = @ : + ~ - and does not begin with a dot",
        )
    return connection_id


def _ssrc(members: Mapping[str, Any], name: str) -> int | None:
    value = members.get(name)
    if value is None:
        return None
    try:
        return parse_ssrc(value)
    except ValueError:
        raise bad_request(f'{name} is an integer from 0 to {MAX_SSRC}, or a string such as "0x0001e240"') from None


def parse_ssrc(value: object) -> int:
    """An SSRC given as an integer, or as decimal or 0x text.

    Raises:
        ValueError: It is neither, or has more than 32 bits.
    """
    if isinstance(value, str):
        if not SSRC_TEXT.fullmatch(value):
            raise ValueError("not an SSRC")
        value = int(value, 16 if value.lower().startswith("0x") else 10)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_SSRC:
        raise ValueError("not an SSRC")
    return value


def _metadata(members: Mapping[str, Any]) -> dict[str, str] | None:
    value = members.get("metadata")
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise bad_request("metadata is an object whose members are strings")
    return check_metadata(value)


def check_metadata(metadata: dict[str, str]) -> dict[str, str]:
    """The metadata itself, if it is small enough.

    Raises:
        RequestError: `bad_request`.
    """
    try:
        size = len(json.dumps(metadata, ensure_ascii=False).encode())
    except UnicodeEncodeError:
        raise bad_request("metadata is Unicode text without lone surrogates") from None
    if size > MAX_METADATA_BYTES:
        raise bad_request(f"metadata holds at most {MAX_METADATA_BYTES} bytes")
    return metadata


def success(members: Mapping[str, Any]) -> dict[str, Any]:
    """A reply that says yes."""
    return {"ok": True, **members}


def failure(error: RequestError) -> dict[str, Any]:
    """A reply that says no, and what to do."""
    return {"ok": False, "error": {"code": error.code, "message": error.message}}


def line(reply: Mapping[str, Any]) -> bytes:
    """A reply or an event as it goes over the socket."""
    return json.dumps(reply).encode() + b"\n"
