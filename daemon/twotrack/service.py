"""`AudioCacheService`: composes the rooms; the daemon runs it behind its sockets, a program as a library."""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any, Self

from twotrack import logs, messages, overview, recovery, rtp, settings, spool
from twotrack.calls import Call, Register, State
from twotrack.chunks import AudioChunk, AudioFormat, AudioType, ogg_opus_file
from twotrack.codecs import DEFAULT_PAYLOAD_TYPES
from twotrack.early import EarlyPacket, EarlyPackets
from twotrack.errors import RequestError, SpoolError
from twotrack.jobs import GRACE_S, Finalisations
from twotrack.messages import ErrorCode
from twotrack.pcap import SpoolPorts
from twotrack.settings import Settings
from twotrack.side import Side
from twotrack.spool import Spool, SpoolFile
from twotrack.storage import StorageType, open_storage

FLUSH_SHARE = 0.8  # of AUDIO_FLUSH_INTERVAL: the rest is for the write itself
EXPIRY_INTERVAL_S = 1.0
LOCAL_SOURCE = ("127.0.0.1", 9)  # whom a spool names as the sender of packets given by the library
log = logs.get_logger()
Watcher = Callable[[bytes], None]  # takes an event as a line


class AudioCacheService:
    """Records calls: packets in, recordings in storage out.

    Made by `create`; all methods belong to the event loop's thread.
    """

    def __init__(self, config: Settings) -> None:
        self.settings = config
        self.register = Register(config.max_connections)
        self.datagrams = dict.fromkeys(Side, 0)
        self.dropped: dict[Side, Counter[str]] = {side: Counter() for side in Side}
        self.outcomes: Counter[State] = Counter()
        self.is_draining = False
        self.drained = asyncio.Event()
        self._lock = _lock_state(config.state_path)
        open_storage(StorageType(config.storage_type), config.storage_path)  # refuses what can't be used
        self._spool = Spool(config.state_path / "spool", config.input_listen.host)
        self._ports = _spool_ports(config)
        self._early = EarlyPackets()
        self._files: dict[Call, SpoolFile] = {}
        self._finalisations = Finalisations(
            config, self.register, self._spool, self._call_changed, self._lost_by_recorder
        )
        self._watchers: set[Watcher] = set()
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}

    @classmethod
    async def create(
        cls,
        storage_type: StorageType = StorageType.LOCAL,
        storage_path: str | Path | None = None,
        *,
        config: Settings | None = None,
    ) -> Self:
        """Start a service: go on with what a former one left, flush and look for the abandoned.

        Args:
            storage_type: Kind of storage.
            storage_path: Where recordings go. The spool of a service made with a local path lies
                beside them, in `.twotrack`, so that it is not in a daemon's way.
            config: All settings instead; None: as the environment says.

        Raises:
            ConfigurationError: A setting is bad.
            SpoolError: The state directory can't be used, or another service uses it.
            StorageError: The storage directory can't be used.
        """
        service = cls(config or _library_settings(StorageType(storage_type), storage_path))
        service._recover()
        service._repeat(service.settings.flush_interval * FLUSH_SHARE, service._spool.flush)
        service._repeat(service.settings.cleanup_interval, service._close_abandoned)
        service._repeat(EXPIRY_INTERVAL_S, service._expire_early)
        return service

    async def finish(self) -> None:
        """Take no new call, flush every open one, and wait until no finalisation is left.

        Packets go on being recorded meanwhile.
        """
        self.drain()
        self._spool.flush()
        await self.saved()
        await self.drained.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Flush every call and let finalisations finish; open calls go on with the next service."""
        for timer in self._timers.values():
            timer.cancel()
        await self._finalisations.close()
        await asyncio.get_running_loop().run_in_executor(None, self._spool.close)
        self._lock.close()

    def _repeat(self, interval: float, action: Callable[[], None]) -> None:
        """Call `action` every `interval` seconds until the service is closed."""
        loop = asyncio.get_running_loop()

        def run() -> None:
            self._timers[action] = loop.call_later(interval, run)
            action()

        self._timers[action] = loop.call_later(interval, run)

    # Packets

    def receive(self, side: Side, datagram: bytes, source: tuple[str, int], arrival_ns: int) -> None:
        """Take one datagram in: check it, find its call, append it to the spool. Never raises.

        Args:
            side: The port it came to.
            datagram: The UDP payload.
            source: Its sender's numeric address and port.
            arrival_ns: Monotonic.
        """
        self.datagrams[side] += 1
        if not self.settings.cache_enabled:
            self.dropped[side]["disabled"] += 1
            return
        packet = rtp.parse(datagram)
        if isinstance(packet, rtp.Malformed):
            self.dropped[side][packet] += 1
            return
        call = self.register.routes[side].get(packet.ssrc)
        if call is not None:
            call.last_packet[side, packet.ssrc] = packet
            self._record(call, side, datagram, source, arrival_ns)
        elif self.register.is_straggler(side, packet):
            self.dropped[side]["closed"] += 1
        elif not self._early.keep(side, packet.ssrc, EarlyPacket(arrival_ns, source, datagram)):
            self.dropped[side]["unmapped"] += 1

    def _record(self, call: Call, side: Side, datagram: bytes, source: tuple[str, int], arrival_ns: int) -> None:
        if self._files[call].append(side, arrival_ns, source, datagram):
            call.received[side] += 1
            call.last_arrival[side] = arrival_ns / 1e9

    def _expire_early(self) -> None:
        for side, count in self._early.expire(time.monotonic_ns()).items():
            self.dropped[side]["unmapped"] += count
        self.register.forget_stragglers(time.monotonic())

    def cache_audio_rtp(
        self, connection_id: str, audio_type: AudioType, audio_format: AudioFormat, rtp_packet: bytes
    ) -> None:
        """Record one packet of a call, which its first packet opens.

        Args:
            connection_id: Names the call.
            audio_type: Whose audio it is.
            audio_format: What it carries; which codec that is, the packet's payload type says.
            rtp_packet: Bytes of one RTP packet; what is none is counted and dropped.

        Raises:
            RequestError: The id is invalid, or no call can be opened. A packet of a call that is
                closed, or was until 10 s ago, is counted and dropped.
        """
        side, arrival_ns = AudioType(audio_type).side, time.monotonic_ns()
        AudioFormat(audio_format)
        self.datagrams[side] += 1
        packet = rtp.parse(rtp_packet)
        if isinstance(packet, rtp.Malformed):
            self.dropped[side][packet] += 1
            return
        if self.register.has_ended_lately(connection_id, time.monotonic()):
            self.dropped[side]["closed"] += 1
            return
        call = self.register.find_unfinished(connection_id)
        if call is None:
            call = self.open(messages.Open(connection_id, None, None, None))
        if packet.ssrc not in call.ssrcs[side]:
            call.ssrcs[side].append(packet.ssrc)
        self._record(call, side, rtp_packet, LOCAL_SOURCE, arrival_ns)

    # Calls

    def open(self, request: messages.Open) -> Call:
        """Open a call, or add SSRCs to it; packets that came before join it.

        Raises:
            RequestError: `cache_disabled`, `draining`, `spool_full`, or as `Register.open`.
        """
        self._require_enabled()
        if self.register.find_unfinished(request.connection_id) is None:
            self._require_willing()
        call, added, is_new = self.register.open(
            request.connection_id,
            {Side.INPUT: request.input_ssrc, Side.OUTPUT: request.output_ssrc},
            request.metadata,
            now=time.monotonic(),
            wall_now=time.time(),
        )
        if is_new:
            self._files[call] = self._spool.create(call.connection_id, self._ports, _anchor_ns())
            self._call_changed(call)
        elif added or request.metadata:
            self._save(call)
        for side, ssrc in added:
            self._join_early(call, side, ssrc)
        return call

    def _join_early(self, call: Call, side: Side, ssrc: int) -> None:
        packets, expired = self._early.claim(side, ssrc, time.monotonic_ns())
        self.dropped[side]["unmapped"] += expired
        for packet in packets:
            self._record(call, side, packet.datagram, packet.source, packet.arrival_ns)

    def _require_enabled(self) -> None:
        if not self.settings.cache_enabled:
            raise RequestError(
                ErrorCode.CACHE_DISABLED, "nothing is recorded: set AUDIO_CACHE_ENABLED=true and restart"
            )

    def _require_willing(self) -> None:
        if self.is_draining:
            raise RequestError(ErrorCode.DRAINING, "no new call is taken: the daemon is about to exit")
        try:
            usage = shutil.disk_usage(self._spool.directory)
        except OSError as error:
            message = f"the spool {self._spool.directory} can't be used ({error.strerror}); make it and restart"
            raise RequestError(ErrorCode.SPOOL_FULL, message) from error
        if usage.used * 100 >= self.settings.spool_limit * (usage.used + usage.free):
            raise RequestError(
                ErrorCode.SPOOL_FULL,
                f"the file system of {self._spool.directory} is filled beyond {self.settings.spool_limit:g}%;"
                " make room or raise AUDIO_SPOOL_LIMIT",
            )

    def close_side(self, connection_id: str, side: Side | None) -> tuple[Call, bool]:
        """Take a side's reference away, or both; the last one finalises the call.

        Returns:
            The call, and whether this took its last reference.

        Raises:
            RequestError: `unknown_connection`, `cache_disabled`.
        """
        self._require_enabled()
        call, is_last = self.register.close(connection_id, side)
        if is_last:
            self._call_changed(call)
            self._finalisations.start(call, grace_s=GRACE_S)
        elif call.state is State.OPEN:
            self._save(call)
        return call, is_last

    def cleanup_connection(self, connection_id: str) -> None:
        """The seed's verb: call it twice, for input and for output; the second finalises the call.

        Raises:
            RequestError: `unknown_connection`.
        """
        closed = self.register.get(connection_id).closed_sides
        self.close_side(connection_id, next((side for side in Side if side not in closed), Side.OUTPUT))

    async def saved(self) -> None:
        """Wait until what `open` and `close_side` have changed survives the end of the process."""
        await self._spool.written()

    async def wait(self, call: Call) -> dict[str, Any]:
        """Wait until a closing call is stored.

        Returns:
            Its recording.

        Raises:
            RequestError: `merge_failed`, `storage_failed`, `internal`, or `unknown_connection` if
                it was discarded meanwhile.
        """
        await self._finalisations.wait(call)
        if call.error is not None:
            raise call.error
        if call.recording is None:
            raise RequestError(ErrorCode.UNKNOWN_CONNECTION, f"call {call.connection_id} was discarded")
        return call.recording

    def discard(self, connection_id: str) -> None:
        """Forget a call and delete its spool.

        Raises:
            RequestError: `unknown_connection`; `already_closed` while it is finalised.
        """
        self._require_enabled()
        call = self.register.get(connection_id)
        if call.state is State.FINALISING:
            raise RequestError(ErrorCode.ALREADY_CLOSED, f"call {connection_id} is being finalised; wait for its end")
        if call.state in (State.STORED, State.DISCARDED):
            raise RequestError(ErrorCode.UNKNOWN_CONNECTION, f"call {connection_id} is {call.state} already")
        self._spool.delete(connection_id)
        self._finalisations.end(call, State.DISCARDED)

    def retry(self, connection_id: str | None) -> int:
        """Run failed finalisations again: one, or all; returns how many.

        Raises:
            RequestError: `unknown_connection`.
        """
        self._require_enabled()
        calls = self.register.failed() if connection_id is None else [self.register.get(connection_id)]
        failed = [call for call in calls if call.state is State.FAILED]
        for call in failed:
            call.error = None
            self.register.finalise(call, time.monotonic())
            self._finalisations.start(call)
        return len(failed)

    def drain(self) -> None:
        """Take no new call; `drained` is set once no finalisation is left."""
        if not self.is_draining:
            log.info("Draining: no new call is taken")
        self.is_draining = True
        self._check_drained()

    def _check_drained(self) -> None:
        if self.is_draining and self._finalisations.is_idle:
            self.drained.set()

    def _close_abandoned(self) -> None:
        calls = self.register.abandon(time.monotonic(), self.settings.retention)
        for call in calls:
            self._call_changed(call)
            self._finalisations.start(call)
        if calls:
            self._finalisations.spawn(self._report_abandoned(calls))

    async def _report_abandoned(self, calls: list[Call]) -> None:
        await asyncio.gather(*(self._finalisations.wait(call) for call in calls))
        stored = sum(call.state is State.STORED for call in calls)
        if stored:
            log.info(f"🗑️ Cleaned up {stored} old cached connections", connections=stored)

    def _call_changed(self, call: Call) -> None:
        """Its state is new: keep it, say it."""
        log.info(f"Call {call.state}", connection_id=call.connection_id)
        if call.state in (State.STORED, State.DISCARDED):
            self._files.pop(call, None)
        else:
            self._save(call)
        if call.state in (State.STORED, State.FAILED, State.DISCARDED):
            self.outcomes[call.state] += 1
        event = messages.line(overview.event(call, time.time()))
        for watcher in list(self._watchers):
            watcher(event)
        self._check_drained()

    def _lost_by_recorder(self, call: Call) -> dict[Side, int]:
        file = self._files.get(call)
        return {side: file.refused[side] + file.unwritten[side] if file else 0 for side in Side}

    def _save(self, call: Call) -> None:
        self._spool.save_state(call.connection_id, recovery.saved(call))

    def _recover(self) -> None:
        """Go on with the calls on disk: open ones are open again, all others are finalised."""
        for connection_id, state in self._spool.saved_states():
            try:
                recovered = spool.recover(self._spool.path(connection_id))
            except SpoolError as error:
                log.error(f"A spool is left where it is: {error}", connection_id=connection_id)
                continue
            anchor_ns = _anchor_ns()
            call = recovery.restored(connection_id, state, recovered, now=time.monotonic(), anchor_ns=anchor_ns)
            self.register.restore(call)
            self._files[call] = self._spool.reopen(connection_id, recovered.ports, anchor_ns)
            log.info("Recovered a call", connection_id=connection_id, state=call.state)
            if call.state is not State.OPEN:
                self._finalisations.start(call)

    # What others see

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Tell `watcher` of every change of state from now on; returns how to stop."""
        self._watchers.add(watcher)
        return lambda: self._watchers.discard(watcher)

    def describe(self, call: Call) -> dict[str, Any]:
        """A call as `show` and `list` give it."""
        return overview.describe(call, _anchor_ns() / 1e9)

    def status(self) -> dict[str, Any]:
        """What `status` says about calls, packets, jobs, storage and disk."""
        counts = self.register.count_by_state()
        workers = self._finalisations.workers
        return {
            "connections": {str(state): counts.get(state, 0) for state in State},
            "datagrams": {str(side): count for side, count in self.datagrams.items()},
            "dropped": {str(side): self._count_dropped(side) for side in Side},
            "jobs": {
                "waiting": workers.waiting,
                "running": workers.running,
                "failed": counts.get(State.FAILED, 0),
            },
            "storage": {"type": self.settings.storage_type, "path": self.settings.storage_path},
            "spool_bytes": sum(file.written_bytes for file in self._files.values()),
            "recording": self.settings.cache_enabled,
        }

    def _count_dropped(self, side: Side) -> dict[str, int]:
        """Datagrams that were dropped, by reason; reasons that never came are left out."""
        counts = [*self.dropped[side].items(), *self._spool.dropped[side].items()]
        return {str(reason): count for reason, count in counts if count}

    def create_ogg_opus_file(self, chunks: Iterable[AudioChunk | bytes]) -> bytes:
        """Bytes of a mono Ogg Opus file of one side's packets.

        Args:
            chunks: `AudioChunk`s, or RTP packets alone: then their timestamps are all that places them.

        Raises:
            MediaError: There is no audio in them.
        """
        return ogg_opus_file(chunks, self.settings.payload_types or DEFAULT_PAYLOAD_TYPES)


def _anchor_ns() -> int:
    """What turns monotonic time into wall time, in nanoseconds."""
    return time.time_ns() - time.monotonic_ns()


def _spool_ports(config: Settings) -> SpoolPorts:
    """The ports that spools name; where they are alike or not known yet, the defaults."""
    ports = SpoolPorts(config.input_listen.port, config.output_listen.port)
    return ports if all(ports) and ports.input != ports.output else SpoolPorts(5004, 5006)


def _library_settings(storage_type: StorageType, storage_path: str | Path | None) -> Settings:
    config = replace(settings.load(), storage_type=str(storage_type))
    if storage_path is None:
        return config
    is_local = storage_type is StorageType.LOCAL
    state_path = Path(storage_path).absolute() / ".twotrack" if is_local else config.state_path
    return replace(config, storage_path=str(storage_path), state_path=state_path)


def _lock_state(state_path: Path) -> Any:
    """Hold the state directory for this process alone."""
    try:
        state_path.mkdir(parents=True, exist_ok=True)
        file = (state_path / "lock").open("w")
    except OSError as error:
        raise SpoolError(f"the state directory {state_path} can't be used: {error.strerror}") from error
    try:
        flock(file, LOCK_EX | LOCK_NB)
    except OSError:
        file.close()
        raise SpoolError(
            f"another twotrack uses the state directory {state_path}; stop it or set AUDIO_STATE_PATH"
        ) from None
    return file
