"""The control socket: lines in, lines out, over a UNIX stream socket.

Requests are carried out as they come. Replies keep the order of the requests, so that a client
without tags knows which is which; only a reply with a tag that has to wait is overtaken.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from twotrack import logs, messages
from twotrack.calls import State
from twotrack.errors import RequestError, TwotrackError
from twotrack.messages import ErrorCode, bad_request
from twotrack.service import AudioCacheService

SOCKET_MODE = 0o660
BACKLOG = 1024  # clients that may wait to be let in
MAX_UNREAD_BYTES = 16 * 1024 * 1024  # a watcher that reads no more is hung up on
log = logs.get_logger()
Reply = dict[str, Any]


class Commands:
    """What the requests do.

    Args:
        service: Does it.
        status: The members of `status` that the sockets know.
    """

    def __init__(self, service: AudioCacheService, status: Callable[[], Reply]) -> None:
        self.service = service
        self._status = status

    def run(self, request: messages.Request) -> Reply | Awaitable[Reply]:
        """Carry a request out, all but `watch`.

        Returns:
            The reply's members, or what to wait for.

        Raises:
            RequestError: It is refused.
        """
        match request:
            case messages.Open():
                return self._open(request)
            case messages.Close():
                return self._close(request)
            case messages.Status():
                return self._status() | self.service.status()
            case messages.List():
                return self._list(request)
            case messages.Show():
                return self._show(request)
            case messages.Discard():
                self.service.discard(request.connection_id)
                return self._once_saved({})
            case messages.Retry():
                return {"jobs": self.service.retry(request.connection_id)}
            case messages.Drain():
                self.service.drain()
                return {}
        raise bad_request("watch is answered by its connection")

    def _open(self, request: messages.Open) -> Awaitable[Reply]:
        call = self.service.open(request)
        addresses = self._status()
        return self._once_saved(
            {
                "connection_id": call.connection_id,
                "state": call.state,
                "input_address": addresses["input_address"],
                "output_address": addresses["output_address"],
            }
        )

    async def _once_saved(self, reply: Reply) -> Reply:
        """A yes that a crash can't take back."""
        await self.service.saved()
        return reply

    def _close(self, request: messages.Close) -> Awaitable[Reply]:
        call, is_last = self.service.close_side(request.connection_id, request.side)
        if request.wait and (is_last or call.state in (State.STORED, State.FAILED)):
            return self._wait(call)
        return self._once_saved({"references": call.references, "state": call.state})

    async def _wait(self, call: Any) -> Reply:
        recording = await self.service.wait(call)
        return {"references": call.references, "state": call.state, "recording": recording}

    def _list(self, request: messages.List) -> Reply:
        if request.state is not None and request.state not in [*State]:
            raise bad_request(f"state is one of {', '.join(State)}")
        calls = [call for call in self.service.register if request.state in (None, call.state)]
        return {"connections": [self.service.describe(call) for call in calls]}

    def _show(self, request: messages.Show) -> Reply:
        call = self.service.register.get(request.connection_id)
        recording = {} if call.recording is None else {"recording": call.recording}
        return self.service.describe(call) | recording


class ControlConnection(asyncio.Protocol):
    """One client."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._received = bytearray()
        self._transport: Any = None
        self._order: asyncio.Task[Any] | None = None  # what the next reply has to wait for
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stop_watching: Callable[[], None] | None = None

    def connection_made(self, transport: Any) -> None:
        """A client came."""
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        """It hung up; what it asked for goes on."""
        if self._stop_watching is not None:
            self._stop_watching()

    def pause_writing(self) -> None:
        """It does not read its replies: take no more requests of it."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        self._transport.resume_reading()

    def eof_received(self) -> bool:
        """It has sent its last request; its replies still go out."""
        if self._tasks and self._stop_watching is None:
            replies = asyncio.gather(*self._tasks, return_exceptions=True)
            replies.add_done_callback(lambda _: self._transport.close())
        return bool(self._tasks) or self._stop_watching is not None

    def data_received(self, data: bytes) -> None:
        """Some bytes of requests."""
        self._received += data
        *lines, rest = self._received.split(b"\n")
        self._received = rest
        for line in lines:
            if self._is_too_long(line):
                return
            self._answer(bytes(line))
        self._is_too_long(rest)

    def _is_too_long(self, line: bytearray) -> bool:
        """Hang up on a line beyond the limit."""
        if self._transport.is_closing():
            return True
        if len(line) <= messages.MAX_LINE_BYTES:
            return False
        self._received.clear()
        self._send(messages.failure(bad_request(f"a line holds at most {messages.MAX_LINE_BYTES} bytes")))
        self._transport.close()
        return True

    def _answer(self, line: bytes) -> None:
        tag: Reply = {}
        try:
            members = messages.parse_line(line)
            tag = {"tag": members["tag"]} if "tag" in members else {}
            result = self._carry_out(messages.parse_request(members))
        except RequestError as error:
            result = messages.failure(error)
        except Exception as error:
            result = self._internal(error)
        self._reply(result, tag)

    def _carry_out(self, request: messages.Request) -> Reply | Awaitable[Reply]:
        if not isinstance(request, messages.Watch):
            result = self._commands.run(request)
            return messages.success(result) if isinstance(result, dict) else result
        if self._stop_watching is None:
            self._stop_watching = self._commands.service.watch(self._send_event)
        return messages.success({})

    def _internal(self, error: Exception) -> Reply:
        message = f"{type(error).__name__}: {error}; report this with the daemon's log"
        log.error(f"A request failed unexpectedly: {message}")
        return messages.failure(RequestError(ErrorCode.INTERNAL, message))

    def _reply(self, result: Reply | Awaitable[Reply], tag: Reply) -> None:
        """Send a reply in its turn; a wait with a tag has none, it is told by its tag."""
        if isinstance(result, dict):
            if self._order is None:
                self._send(result | tag)
            else:
                self._order = self._spawn(self._send_after(self._order, result | tag))
            return
        outcome = self._spawn(_outcome(result, tag))
        if tag:
            outcome.add_done_callback(lambda done: self._send(done.result()))
        else:
            self._order = self._spawn(self._send_after(self._order, outcome))

    async def _send_after(self, before: "asyncio.Task[Any] | None", reply: "Reply | asyncio.Task[Reply]") -> None:
        if before is not None:
            await before
        self._send(reply if isinstance(reply, dict) else await reply)
        if self._order is asyncio.current_task():
            self._order = None

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _send_event(self, event: Reply) -> None:
        self._send(event)
        if self._transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            log.warning("A watcher that does not read was hung up on")
            self._transport.abort()

    def _send(self, reply: Reply) -> None:
        if not self._transport.is_closing():
            self._transport.write(messages.line(reply))


async def _outcome(result: Awaitable[Reply], tag: Reply) -> Reply:
    """The reply to a request that waits."""
    try:
        return messages.success(await result) | tag
    except RequestError as error:
        return messages.failure(error) | tag


def bind(path: Path) -> socket.socket:
    """A UNIX socket at `path`, mode 0660; one that a dead daemon left is replaced.

    Raises:
        TwotrackError: A daemon listens there, or the path can't be used.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        umask = os.umask(0o777 & ~SOCKET_MODE)
        try:
            listener.bind(str(path))
        finally:
            os.umask(umask)
    except OSError as error:
        listener.close()
        reason = "the path is too long" if error.errno is None else (error.strerror or "").lower()
        raise TwotrackError(f"the control socket {path} can't be made ({reason}); set AUDIO_CONTROL_SOCKET") from error
    listener.setblocking(False)
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise TwotrackError(f"a twotrack listens on the control socket {path}; stop it or set AUDIO_CONTROL_SOCKET")


def remove(path: Path) -> None:
    """Remove the socket at the end."""
    with suppress(FileNotFoundError):
        path.unlink()
