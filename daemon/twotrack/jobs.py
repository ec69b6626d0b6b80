"""Finalisations as jobs: from a call's last `close` to its last word.

In this version a job lives as long as the process; a call that is not stored is finalised again
after a restart, because its spool is still there.
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Coroutine
from typing import Any

from twotrack import logs
from twotrack.calls import Call, Register, State
from twotrack.codecs import DEFAULT_PAYLOAD_TYPES
from twotrack.errors import RequestError, SpoolError
from twotrack.finalise import Job
from twotrack.messages import ErrorCode
from twotrack.recording import Notify
from twotrack.settings import Settings
from twotrack.side import Side
from twotrack.spool import Spool
from twotrack.workers import Workers

GRACE_S = 0.1  # what may still lie in the receive buffer when a call closes
log = logs.get_logger()


class Finalisations:
    """Runs the finalisations of one service.

    Args:
        settings: How recordings are made and stored.
        register: Knows the calls' states.
        spool: Holds their packets.
        on_change: Called after each change of a call's state.
        lost: Says how many packets of each side of a call never reached the spool.
    """

    def __init__(
        self,
        settings: Settings,
        register: Register,
        spool: Spool,
        on_change: Callable[[Call], None],
        lost: Callable[[Call], dict[Side, int]],
    ) -> None:
        self.workers = Workers()
        self._settings = settings
        self._register = register
        self._spool = spool
        self._on_change = on_change
        self._lost = lost
        self._work = settings.state_path / "work"
        shutil.rmtree(self._work, ignore_errors=True)  # what a former process left
        try:
            self._work.mkdir(exist_ok=True)
        except OSError as error:
            raise SpoolError(f"the working directory {self._work} can't be made: {error.strerror}") from error
        self._ended: dict[Call, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_idle(self) -> bool:
        """True if no call waits for its last word."""
        return not self._ended

    def start(self, call: Call, *, grace_s: float = 0.0) -> None:
        """Finalise a call, after a grace for its last datagrams."""
        self._ended[call] = asyncio.get_running_loop().create_future()
        self.spawn(self._run(call, grace_s))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that `close` waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait(self, call: Call) -> None:
        """Wait for a call's last word; at once if it has been said."""
        ended = self._ended.get(call)
        if ended is not None:
            await asyncio.shield(ended)

    def end(self, call: Call, state: State) -> None:
        """Say a call's last word."""
        self._register.end(call, state, time.monotonic())
        ended = self._ended.pop(call, None)
        self._on_change(call)
        if ended is not None:
            ended.set_result(None)

    async def close(self) -> None:
        """Wait until all is finalised, then end the workers."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.workers.close()

    async def _run(self, call: Call, grace_s: float) -> None:
        if grace_s:
            await asyncio.sleep(grace_s)
        if call.state is State.DISCARDED:
            return
        try:
            self._register.finalise(call, time.monotonic())
            self._on_change(call)
            self._spool.flush()
            await self._spool.written()
            call.recording = await self.workers.run(self._job(call), _logged(call))
        except RequestError as error:
            self._fail(call, error)
        except Exception as error:
            message = f"finalising failed unexpectedly, {type(error).__name__}: {error}; retry the call"
            self._fail(call, RequestError(ErrorCode.INTERNAL, message))
        else:
            self._spool.delete(call.connection_id)
            await self._spool.written()
            self.end(call, State.STORED)

    def _fail(self, call: Call, error: RequestError) -> None:
        call.error = error
        where = "Failed to store the recording" if error.code == ErrorCode.STORAGE_FAILED else "Finalisation failed"
        log.error(f"❌ {where}: {error.message}", connection_id=call.connection_id, code=error.code)
        self.end(call, State.FAILED)

    def _job(self, call: Call) -> Job:
        settings = self._settings
        payload_types = settings.payload_types or DEFAULT_PAYLOAD_TYPES
        return Job(
            connection_id=call.connection_id,
            spool=str(self._spool.path(call.connection_id)),
            work=str(self._work),
            started_at=call.started_at,
            abandoned=call.is_abandoned,
            metadata=call.metadata,
            engine=settings.merge_engine,
            ffmpeg_timeout=settings.ffmpeg_timeout,
            tail_padding=settings.tail_padding,
            payload_types={key: str(codec) for key, codec in payload_types.items()},
            keep_channels=settings.keep_channels,
            storage_type=settings.storage_type,
            storage_path=settings.storage_path,
            lost_by_recorder={str(side): count for side, count in self._lost(call).items()},
        )


def _logged(call: Call) -> Notify:
    def notify(level: str, event: str, fields: dict[str, Any]) -> None:
        getattr(log, level)(event, connection_id=call.connection_id, **fields)

    return notify
