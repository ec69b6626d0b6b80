"""A client of the control socket: a request out, its reply back."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from twotrack.errors import DaemonUnreachableError, RequestError


class Client:
    """One connection to a daemon.

    Args:
        path: Its control socket.
        timeout_s: How long a reply may take; None: for ever.

    Raises:
        DaemonUnreachableError: Nobody listens there.
    """

    def __init__(self, path: Path, timeout_s: float | None = None) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))  # waits where many come at once
            self._socket.settimeout(timeout_s)
        except OSError as error:
            self._socket.close()
            reason = "the path is too long" if error.errno is None else (error.strerror or "").lower()
            raise DaemonUnreachableError(
                f"no daemon answers on {path} ({reason}); start it with: twotrack serve"
            ) from error
        self._replies = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._replies.close()
        self._socket.close()

    def request(self, op: str, **members: Any) -> dict[str, Any]:
        """Send a request; members that are None are left out.

        Returns:
            The reply's members.

        Raises:
            RequestError: The daemon said no.
            DaemonUnreachableError: It went away.
        """
        present = {name: value for name, value in members.items() if value is not None}
        try:
            self._socket.sendall(json.dumps({"op": op, **present}).encode() + b"\n")
            reply = self._read()
        except OSError as error:
            raise DaemonUnreachableError(f"the daemon on {self._path} does not answer: {error}") from error
        if reply.pop("ok", None) is True:
            return reply
        refusal = reply.get("error")
        if not isinstance(refusal, dict) or not {"code", "message"} <= set(refusal):
            raise self._not_a_daemon()
        raise RequestError(str(refusal["code"]), str(refusal["message"]))

    def watch(self) -> Iterator[dict[str, Any]]:
        """Every change of state from now on; raises DaemonUnreachableError when the daemon ends."""
        self.request("watch")
        while True:
            try:
                yield self._read()
            except OSError as error:
                raise DaemonUnreachableError(f"the daemon on {self._path} hung up: {error}") from error

    def _read(self) -> dict[str, Any]:
        line = self._replies.readline()
        if not line:
            raise DaemonUnreachableError(f"the daemon on {self._path} hung up; look at its log")
        try:
            reply = json.loads(line)
        except ValueError:
            raise self._not_a_daemon() from None
        if not isinstance(reply, dict):
            raise self._not_a_daemon()
        return reply

    def _not_a_daemon(self) -> DaemonUnreachableError:
        return DaemonUnreachableError(f"what answers on {self._path} is no twotrack daemon; name its control socket")
