"""Metrics and health over HTTP: `/metrics`, `/healthz`, `/readyz`.

Metrics are read off the service when they are asked for; nothing counts twice.
"""

from collections.abc import Callable, Iterator
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from twotrack.calls import State
from twotrack.errors import TwotrackError
from twotrack.keys import Address
from twotrack.service import AudioCacheService

Reply = dict[str, Any]


class ServiceCollector(Collector):
    """The metrics of a service, as they are now."""

    def __init__(self, service: AudioCacheService) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        status = self._service.status()
        datagrams = CounterMetricFamily("twotrack_datagrams", "Datagrams that arrived.", labels=["side"])
        dropped = CounterMetricFamily(
            "twotrack_datagrams_dropped", "Datagrams that were not recorded.", labels=["side", "reason"]
        )
        for side, count in status["datagrams"].items():
            datagrams.add_metric([side], count)
            for reason, drops in status["dropped"][side].items():
                dropped.add_metric([side, reason], drops)
        connections = GaugeMetricFamily("twotrack_connections", "Calls by state.", labels=["state"])
        for state, count in status["connections"].items():
            connections.add_metric([state], count)
        yield from (datagrams, dropped, connections, self._recordings())
        yield GaugeMetricFamily("twotrack_spool_bytes", "Bytes in the spool.", value=status["spool_bytes"])

    def _recordings(self) -> Metric:
        recordings = CounterMetricFamily("twotrack_recordings", "Calls that ended.", labels=["outcome"])
        for state in (State.STORED, State.FAILED, State.DISCARDED):
            recordings.add_metric([state], self._service.outcomes[state])
        return recordings


async def start(service: AudioCacheService, address: Address) -> tuple[web.AppRunner, Address]:
    """Serve at `address`.

    Returns:
        What to clean up in the end, and where it listens.

    Raises:
        TwotrackError: The address can't be bound.
    """
    registry = CollectorRegistry()
    registry.register(ServiceCollector(service))
    application = web.Application()
    application.add_routes(
        [
            web.get("/metrics", lambda _: _metrics(registry)),
            web.get("/healthz", lambda _: _health(lambda: None)),
            web.get("/readyz", lambda _: _health(lambda: "draining" if service.is_draining else None)),
        ]
    )
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, address.host, address.port).start()
    except OSError as error:
        await runner.cleanup()
        raise TwotrackError(
            f"the HTTP address {address} can't be bound; stop what uses it or set AUDIO_HTTP_LISTEN"
        ) from error
    host, port = runner.addresses[0][:2]
    return runner, Address(host, port)


async def _metrics(registry: CollectorRegistry) -> web.Response:
    return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _health(find_fault: Callable[[], str | None]) -> web.Response:
    fault = find_fault()
    return web.Response(text=f"{fault or 'ok'}\n", status=503 if fault else 200)
