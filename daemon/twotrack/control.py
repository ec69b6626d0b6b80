"""The control socket: lines in, lines out, over a UNIX stream socket.

Requests are carried out as they come. Replies keep the order of the requests, so that a client
without tags knows which is which; only a `close` with `wait` and a tag is overtaken.
"""

import asyncio
import os
import socket
from collections import deque
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
MAX_UNREAD_BYTES = 1024 * 1024  # a watcher that leaves more unread is hung up on
MAX_WAITING_REPLIES = 1_000  # of one connection, behind one that is waited for
MAX_WAITS = 10_000  # of one connection: each is a call that is being finalised
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
        self._replies: deque[Reply | bytes | asyncio.Task[Reply]] = deque()  # that wait for one before them
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stop_watching: Callable[[], None] | None = None
        self._is_unread = False
        self._has_ended = False
        self._is_refused = False

    def connection_made(self, transport: Any) -> None:
        """A client came."""
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        """It hung up; what it asked for goes on."""
        if self._stop_watching is not None:
            self._stop_watching()
        self._replies.clear()
        for task in list(self._tasks):
            task.cancel()

    def pause_writing(self) -> None:
        """It does not read its replies: carry out no more requests of it."""
        self._is_unread = True

    def resume_writing(self) -> None:
        """It reads again."""
        self._is_unread = False
        self._proceed()

    def eof_received(self) -> bool:
        """It has sent its last request, its end of line or not; its replies still go out."""
        self._has_ended = True
        if self._received and not self._received.endswith(b"\n"):
            self._received += b"\n"
        self._proceed()
        return not self._transport.is_closing()

    def data_received(self, data: bytes) -> None:
        """Some bytes of requests."""
        if not self._is_refused:
            self._received += data
            self._proceed()

    @property
    def _is_held(self) -> bool:
        """True while it has to read replies, or to wait for them, before it is answered again."""
        is_waiting = len(self._replies) >= MAX_WAITING_REPLIES or len(self._tasks) >= MAX_WAITS
        return self._is_unread or is_waiting

    def _proceed(self) -> None:
        """Carry out the requests that are here, as far as their replies find room."""
        while not (self._is_held or self._is_refused or self._transport.is_closing()):
            end = self._received.find(b"\n")
            if (len(self._received) if end < 0 else end) > messages.MAX_LINE_BYTES:
                self._refuse_long_line()
            elif end >= 0:
                line = bytes(self._received[:end])
                del self._received[: end + 1]
                self._answer(line)
            else:
                break
        self._close_when_done()
        if self._transport.is_closing() or self._has_ended:
            return
        if self._is_held or self._is_refused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _close_when_done(self) -> None:
        """Hang up on a client that was refused, or that sends no more, once it has its replies."""
        has_more = bool(self._received) or self._stop_watching is not None  # a watcher stays
        is_over = self._is_refused or (self._has_ended and not has_more)
        if is_over and not (self._tasks or self._replies):
            self._transport.close()

    def _refuse_long_line(self) -> None:
        self._is_refused = True
        self._received.clear()
        refusal = bad_request(f"a line holds at most {messages.MAX_LINE_BYTES} bytes")
        self._reply(messages.failure(refusal), {}, may_be_overtaken=False)

    def _answer(self, line: bytes) -> None:
        tag: Reply = {}
        may_be_overtaken = False
        try:
            members = messages.parse_line(line)
            tag = {"tag": members["tag"]} if "tag" in members else {}
            request = messages.parse_request(members)
            may_be_overtaken = bool(tag) and isinstance(request, messages.Close) and request.wait
            result = self._carry_out(request)
        except RequestError as error:
            result = messages.failure(error)
        except Exception as error:
            result = self._internal(error)
        self._reply(result, tag, may_be_overtaken=may_be_overtaken)

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

    def _reply(self, result: Reply | Awaitable[Reply], tag: Reply, *, may_be_overtaken: bool) -> None:
        """Send a reply in its turn, or when it is there if it may be overtaken."""
        if isinstance(result, dict):
            self._send_in_turn(result | tag)
        elif may_be_overtaken:
            self._spawn(self._send_outcome(result, tag))
        else:
            self._replies.append(self._spawn(self._outcome(result, tag)))

    def _send_in_turn(self, reply: Reply | bytes) -> None:
        if self._replies:
            self._replies.append(reply)
        else:
            self._send(reply)

    def _send_waiting(self) -> None:
        """Send the replies whose turn has come."""
        while self._replies:
            reply = self._replies[0]
            if isinstance(reply, asyncio.Task):
                if not reply.done():
                    return
                reply = reply.result()
            self._replies.popleft()
            self._send(reply)

    async def _send_outcome(self, result: Awaitable[Reply], tag: Reply) -> None:
        self._send(await self._outcome(result, tag))

    async def _outcome(self, result: Awaitable[Reply], tag: Reply) -> Reply:
        """The reply to a request that waits."""
        try:
            return messages.success(await result) | tag
        except RequestError as error:
            return messages.failure(error) | tag
        except Exception as error:
            return self._internal(error) | tag

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end_task)
        return task

    def _end_task(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not self._transport.is_closing():
            self._send_waiting()
            self._proceed()

    def _send_event(self, line: bytes) -> None:
        """Send an event, behind the replies that came before it."""
        self._send_in_turn(line)
        if self._transport.get_write_buffer_size() > MAX_UNREAD_BYTES or len(self._replies) > MAX_WAITS:
            log.warning("A watcher that does not read was hung up on")
            self._transport.abort()

    def _send(self, reply: Reply | bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(reply if isinstance(reply, bytes) else messages.line(reply))


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
