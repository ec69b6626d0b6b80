"""The processes that finalise: a few workers at lower priority, one job each at a time.

A worker is `python -m twotrack.finalise`: jobs in, answers out, a line each. One that dies costs
its own job only, and is replaced when the next job comes.
"""

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from typing import Any

from twotrack.errors import RequestError
from twotrack.finalise import Job
from twotrack.messages import ErrorCode
from twotrack.recording import Notify

_BROKEN = (OSError, EOFError, ValueError, RuntimeError)  # uvloop says RuntimeError of a closed pipe
ANSWER_LIMIT_BYTES = 16 * 1024 * 1024


class Workers:
    """Runs jobs, at most `count` at once.

    Args:
        count: How many processes; None: one fewer than there are cores, at least one.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = count or max(1, (os.cpu_count() or 1) - 1)
        self.waiting = 0
        self.running = 0
        self._free = asyncio.Semaphore(self.count)
        self._idle: list[asyncio.subprocess.Process] = []

    async def run(self, job: Job, notify: Notify) -> dict[str, Any]:
        """Finalise one call.

        Args:
            job: What to do.
            notify: Told of each step while it runs.

        Returns:
            The recording's report.

        Raises:
            RequestError: `merge_failed`, `storage_failed` or `internal`.
        """
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            return await self._run(job, notify)
        finally:
            self.running -= 1
            self._free.release()

    async def _run(self, job: Job, notify: Notify) -> dict[str, Any]:
        worker = self._take_idle()
        if worker is not None:
            with suppress(*_BROKEN):  # it may have ended while it was idle: then a new one does the job
                return await self._give(worker, job, notify)
        try:
            return await self._give(await _start(), job, notify)
        except _BROKEN as error:
            raise RequestError(
                ErrorCode.INTERNAL, f"the finalising process ended before its job ({error}); retry the call"
            ) from error

    def _take_idle(self) -> asyncio.subprocess.Process | None:
        """A worker that still runs."""
        while self._idle:
            worker = self._idle.pop()
            if worker.returncode is None:
                return worker
        return None

    async def _give(self, worker: asyncio.subprocess.Process, job: Job, notify: Notify) -> dict[str, Any]:
        try:
            answer = await _converse(worker, job, notify)
        except (*_BROKEN, asyncio.CancelledError):
            await _kill(worker)
            raise
        self._idle.append(worker)
        if "recording" in answer:
            recording: dict[str, Any] = answer["recording"]
            return recording
        raise RequestError(answer["error"]["code"], answer["error"]["message"])

    async def close(self) -> None:
        """End the idle workers."""
        workers, self._idle = self._idle, []
        for worker in workers:
            if worker.stdin is not None:
                worker.stdin.close()
        for worker in workers:
            await worker.wait()


async def _start() -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "twotrack.finalise"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=ANSWER_LIMIT_BYTES,
            start_new_session=True,  # a terminal's Ctrl-C is for the daemon, which lets jobs finish
        )
    except OSError as error:
        raise RequestError(ErrorCode.INTERNAL, f"no finalising process could be started: {error.strerror}") from error


async def _converse(worker: asyncio.subprocess.Process, job: Job, notify: Notify) -> dict[str, Any]:
    """Give a worker its job, pass its events on, return its last answer."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(job.to_json().encode() + b"\n")
    await worker.stdin.drain()
    while line := await worker.stdout.readline():
        answer: dict[str, Any] = json.loads(line)
        if "event" not in answer:
            return answer
        notify(answer["level"], answer["event"], answer["fields"])
    raise EOFError(f"status {await worker.wait()}")


async def _kill(worker: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    await worker.wait()
