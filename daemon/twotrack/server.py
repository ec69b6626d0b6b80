"""The daemon: the service behind its two ports, its control socket and its HTTP port, until told to stop."""

import asyncio
import resource
import signal
import socket
import time
from contextlib import AsyncExitStack, suppress

import uvloop

from twotrack import __version__, control, http, logs, receiver, systemd
from twotrack.control import Commands, ControlConnection
from twotrack.keys import Address
from twotrack.receiver import MediaProtocol
from twotrack.service import AudioCacheService
from twotrack.settings import Settings
from twotrack.side import Side

log = logs.get_logger()


def run(settings: Settings) -> None:
    """Serve until SIGTERM, SIGINT or `drain`.

    Raises:
        TwotrackError: A port, a socket or a directory can't be used.
    """
    _raise_file_limit()
    uvloop.run(serve(settings))


async def serve(settings: Settings) -> None:
    """As `run`, in a loop that runs already."""
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        media = {side: _bind(stack, side, settings) for side in Side}
        listener = control.bind(settings.control_socket)
        stack.callback(control.remove, settings.control_socket)
        service = await stack.enter_async_context(await AudioCacheService.create(config=settings))
        http_address = await _serve_http(stack, service, settings.http_listen)
        addresses = {side: str(receiver.bound_address(media[side])) for side in Side}

        def status() -> dict[str, object]:
            return {
                "version": __version__,
                "uptime_s": round(time.monotonic() - started, 3),
                "input_address": addresses[Side.INPUT],
                "output_address": addresses[Side.OUTPUT],
                "http_address": None if http_address is None else str(http_address),
            }

        for side in Side:
            await _listen(stack, media[side], side, service)
        await _control(stack, listener, Commands(service, status))
        stop = _stop_on_signals()
        log.info("Ready", **status(), control_socket=str(settings.control_socket))
        systemd.notify("READY=1")
        await _first(stop, service.drained)
        systemd.notify("STOPPING=1")
        log.info("Stopping: calls are flushed, running finalisations finish")
        await service.finish()
    log.info("Stopped")


def _bind(stack: AsyncExitStack, side: Side, settings: Settings) -> socket.socket:
    address = settings.input_listen if side is Side.INPUT else settings.output_listen
    media = stack.enter_context(receiver.bind(address, side))
    granted = receiver.granted_buffer_bytes(media)
    if granted < receiver.RECEIVE_BUFFER_BYTES:
        log.warning(
            f"The kernel grants the {side} port a receive buffer of {granted // 1024} KiB instead of 8 MiB;"
            " raise net.core.rmem_max",
            side=str(side),
        )
    return media


async def _listen(stack: AsyncExitStack, media: socket.socket, side: Side, service: AudioCacheService) -> None:
    def drop(side: Side, reason: str) -> None:
        service.datagrams[side] += 1
        service.dropped[side][reason] += 1

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: MediaProtocol(side, service.receive, drop, service.settings.allowed_sources), sock=media
    )
    stack.callback(transport.close)


async def _control(stack: AsyncExitStack, listener: socket.socket, commands: Commands) -> None:
    server = await asyncio.get_running_loop().create_unix_server(
        lambda: ControlConnection(commands), sock=listener, backlog=control.BACKLOG
    )
    stack.callback(server.close)


async def _serve_http(stack: AsyncExitStack, service: AudioCacheService, address: Address | None) -> Address | None:
    if address is None:
        return None
    runner, bound = await http.start(service, address)
    stack.push_async_callback(runner.cleanup)
    return bound


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _first(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def _raise_file_limit() -> None:
    """Allow as many open files as the system grants this process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
