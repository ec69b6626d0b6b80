"""Each open call's packets on disk: append, flush, recover, delete.

Packets are encoded where they arrive and written by one thread, so that a slow disk never delays
the receiver. What waits for the disk is bounded; past the bound packets are dropped and counted.

A call is two files: `{connection_id}.pcap`, which Wireshark opens, and `{connection_id}.json`, what
the daemon must know to go on with the call after a restart.
"""

import asyncio
import json
import os
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from twotrack import logs, pcap
from twotrack.errors import CaptureError, SpoolError
from twotrack.pcap import SpoolPorts
from twotrack.side import Side

QUEUE_LIMIT_BYTES = 128 * 1024 * 1024  # some 10 s of 1,000 calls while the disk stands still
MAX_FLOWS = 64  # sources whose headers one call keeps ready
FILE_MODE = 0o640
log = logs.get_logger()
Address = tuple[str, int]


class SpoolDrop(StrEnum):
    """Why a packet did not reach the spool; the metrics' `reason` labels."""

    QUEUE_FULL = "queue_full"
    WRITE_FAILED = "write_failed"


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a spool on disk holds: packets and last arrival (nanoseconds since 1970) by side."""

    ports: SpoolPorts
    received: Counter[Side]
    last_arrival_ns: dict[Side, int]


class SpoolFile:
    """One call's packets on their way to disk; made by `Spool.create`."""

    def __init__(self, spool: "Spool", path: Path, ports: SpoolPorts, anchor_ns: int) -> None:
        self.path = path
        self.ports = ports
        self.written_bytes = 0
        self.refused = dict.fromkeys(Side, 0)  # packets, counted by the receiver's thread alone
        self.unwritten = dict.fromkeys(Side, 0)  # packets, counted by the writer's thread alone
        self._spool = spool
        self._anchor_ns = anchor_ns
        self._pending = bytearray()
        self._pending_packets = dict.fromkeys(Side, 0)
        self._flows: dict[tuple[Side, Address], Callable[[int], bytes]] = {}

    def append(self, side: Side, arrival_ns: int, source: Address, datagram: bytes) -> bool:
        """Add one packet.

        Args:
            side: Where it came in.
            arrival_ns: Monotonic.
            source: Its sender's numeric address and port.
            datagram: The UDP payload.

        Returns:
            False if too much waits for the disk, and the packet was dropped.
        """
        if self._spool.waiting_bytes > self._spool.queue_limit_bytes:
            self.refused[side] += 1
            self._spool.dropped[side][SpoolDrop.QUEUE_FULL] += 1
            return False
        header = self._flows.get((side, source)) or self._add_flow(side, source)
        record = pcap.record(self._anchor_ns + arrival_ns, header(len(datagram)), datagram)
        if not self._pending:
            self._spool.mark_dirty(self)
        self._pending += record
        self._pending_packets[side] += 1
        self._spool.accepted_bytes += len(record)
        return True

    def _add_flow(self, side: Side, source: Address) -> Callable[[int], bytes]:
        if len(self._flows) >= MAX_FLOWS:
            self._flows.clear()
        port = self.ports.input if side is Side.INPUT else self.ports.output
        header = pcap.frame_header(source, (self._spool.host, port))
        self._flows[side, source] = header
        return header

    def take_pending(self) -> tuple[bytearray, dict[Side, int]]:
        """Hand over what is to be written, and how many packets of each side it holds."""
        content, packets = self._pending, self._pending_packets
        self._pending = bytearray()
        self._pending_packets = dict.fromkeys(Side, 0)
        return content, packets

    def write(self, content: bytearray, packets: dict[Side, int]) -> None:
        """Append to the file (writer's thread); what can't be written whole is cut off and counted.

        A file that is still empty, because it is new or its first write failed, gets its header.
        """
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, FILE_MODE)
            try:
                self._write_whole(descriptor, content)
            finally:
                os.close(descriptor)
        except OSError as error:
            for side, count in packets.items():
                self.unwritten[side] += count
                self._spool.dropped[side][SpoolDrop.WRITE_FAILED] += count
            self._spool.say_fault(error.strerror or str(error))
        else:
            self._spool.say_fault(None)

    def _write_whole(self, descriptor: int, content: bytearray) -> None:
        before = os.fstat(descriptor).st_size
        try:
            if not before:
                _write_all(descriptor, pcap.spool_header(self.ports))
            _write_all(descriptor, content)
        except OSError:
            os.ftruncate(descriptor, before)
            raise
        self.written_bytes = os.fstat(descriptor).st_size


def _write_all(descriptor: int, content: bytes | bytearray) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


class Spool:
    """The spools of all open calls, in one directory.

    Args:
        directory: Where they lie; made if it is missing.
        host: Numeric address written as the packets' destination.
        queue_limit_bytes: How much may wait for the disk.

    Raises:
        SpoolError: The directory can't be made or written.
    """

    def __init__(self, directory: Path, host: str, queue_limit_bytes: int = QUEUE_LIMIT_BYTES) -> None:
        self.directory = directory
        self.host = host
        self.queue_limit_bytes = queue_limit_bytes
        self.accepted_bytes = 0  # counted by the receiver's thread alone
        self.handled_bytes = 0  # counted by the writer's thread alone
        self.dropped = {side: dict.fromkeys(SpoolDrop, 0) for side in Side}
        self._fault: str | None = None
        self._dirty: list[SpoolFile] = []
        self._tasks: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SpoolError(f"the spool {directory} can't be made: {error.strerror}") from error
        if not os.access(directory, os.W_OK | os.X_OK):
            raise SpoolError(f"the spool {directory} can't be written: give this user the right to it")
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._thread.start()

    @property
    def waiting_bytes(self) -> int:
        """What is not on disk yet."""
        return self.accepted_bytes - self.handled_bytes

    def path(self, connection_id: str) -> Path:
        """Where a call's packets lie."""
        return self.directory / f"{connection_id}.pcap"

    def create(self, connection_id: str, ports: SpoolPorts, anchor_ns: int) -> SpoolFile:
        """Begin a new call's spool; `anchor_ns` is wall time (since 1970) minus monotonic time."""
        file = self.reopen(connection_id, ports, anchor_ns)
        self._hand_over(file)  # so that the file is there before its first packet
        return file

    def reopen(self, connection_id: str, ports: SpoolPorts, anchor_ns: int) -> SpoolFile:
        """Go on with a spool that may be on disk already."""
        file = SpoolFile(self, self.path(connection_id), ports, anchor_ns)
        with suppress(FileNotFoundError):
            file.written_bytes = file.path.stat().st_size
        return file

    def mark_dirty(self, file: SpoolFile) -> None:
        """Note that a file has something to be written at the next flush."""
        self._dirty.append(file)

    def flush(self) -> None:
        """Hand all that waits to the writer."""
        dirty, self._dirty = self._dirty, []
        for file in dirty:
            self._hand_over(file)

    def _hand_over(self, file: SpoolFile) -> None:
        self._tasks.put(partial(self._write, file, *file.take_pending()))

    async def written(self) -> None:
        """Wait until all that was handed to the writer so far is on disk."""
        loop = asyncio.get_running_loop()
        written = loop.create_future()
        self._tasks.put(lambda: loop.call_soon_threadsafe(_resolve, written))
        await written

    def _write(self, file: SpoolFile, content: bytearray, packets: dict[Side, int]) -> None:
        file.write(content, packets)
        self.handled_bytes += len(content)

    def say_fault(self, fault: str | None) -> None:
        """Log that the disk takes nothing any more, or that it does again; once each."""
        if fault is not None and self._fault is None:
            log.error(f"The spool can't be written, what arrives is lost: {fault.lower()}", path=str(self.directory))
        elif fault is None and self._fault is not None:
            log.info("The spool can be written again", path=str(self.directory))
        self._fault = fault

    def save_state(self, connection_id: str, state: dict[str, Any]) -> None:
        """Replace what is known of a call beside its packets."""
        self._tasks.put(lambda: self._replace_state(connection_id, state))

    def _replace_state(self, connection_id: str, state: dict[str, Any]) -> None:
        path = self.directory / f"{connection_id}.json"
        temporary = path.with_name(f".{path.name}.new")
        with suppress(OSError):
            temporary.write_text(json.dumps(state))
            temporary.replace(path)

    def delete(self, connection_id: str) -> None:
        """Delete a call's files once all that was handed over before is written."""
        self.flush()
        self._tasks.put(lambda: self._delete(connection_id))

    def _delete(self, connection_id: str) -> None:
        for suffix in ("pcap", "json"):
            with suppress(OSError):
                (self.directory / f"{connection_id}.{suffix}").unlink(missing_ok=True)

    def close(self) -> None:
        """Write everything that waits, then end the writer."""
        self.flush()
        self._tasks.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()

    def saved_states(self) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """The calls on disk: connection id and what was saved of it, None where that is damaged."""
        for path in sorted(self.directory.glob("*.pcap")):
            yield path.stem, _read_state(path.with_suffix(".json"))


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.cancelled():
        future.set_result(None)


def _read_state(path: Path) -> dict[str, Any] | None:
    try:
        state = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return state if isinstance(state, dict) else None


def recover(path: Path) -> Recovered:
    """Cut a torn tail off a spool and count what it holds.

    Raises:
        SpoolError: It can't be read, or is no spool.
    """
    try:
        data = path.read_bytes()
        ports = pcap.spool_ports(data)
        if ports is None:
            raise SpoolError(f"{path} is not a spool of this daemon")
        end = pcap.whole_records_end(data)
        if end < len(data):
            os.truncate(path, end)
        return _count(data[:end], ports)
    except (OSError, CaptureError) as error:
        raise SpoolError(f"the spool {path} can't be read: {error}") from error


def _count(data: bytes, ports: SpoolPorts) -> Recovered:
    received: Counter[Side] = Counter()
    last_arrival_ns: dict[Side, int] = {}
    sides = {ports.output: Side.OUTPUT, ports.input: Side.INPUT}
    for record in pcap.read_records(data):
        datagram = pcap.decode(record)
        side = sides.get(datagram.destination_port) if datagram else None
        if side is not None:
            received[side] += 1
            last_arrival_ns[side] = record.arrival_ns
    return Recovered(ports, received, last_arrival_ns)
