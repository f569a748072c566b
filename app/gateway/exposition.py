"""The gateway's state for Prometheus, asked at every scrape. Label values are names of the configuration and words of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app.gateway.values import Status


class Exposition:
    """Renders what `status` says.

    Args:
        status: asked once a scrape, on the thread that renders.
        connections: open connections of the DICOM port.
    """

    def __init__(self, status: Callable[[], Status], connections: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, GCCollector):
            collector(registry=self._registry)
        self._registry.register(_Queues(status, connections))

    def render(self) -> tuple[bytes, str]:
        """The text exposition format and its content type. Raises UnavailableError where the store is away."""
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4


class _Queues(Collector):
    def __init__(self, status: Callable[[], Status], connections: Callable[[], int]) -> None:
        self._status = status
        self._connections = connections

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask the store."""
        return ()

    def collect(self) -> Iterable[Metric]:
        status = self._status()
        yield _gauge("films", "Films by state.", "state", {str(k): float(v) for k, v in status.films.items()})
        yield _gauge(
            "films_refused", "Films that the service refused, by error code.", "code", _floats(status.refusals)
        )
        yield GaugeMetricFamily(
            "cxr_gateway_oldest_film_seconds", "Age of the oldest film without a judgement.", value=status.oldest_s
        )
        yield GaugeMetricFamily(
            "cxr_gateway_judging_fails",
            "1 while the last judgement failed.",
            value=float(status.judge_code is not None),
        )
        yield GaugeMetricFamily(
            "cxr_gateway_spool_bytes", "Bytes of sealed films and results on disk.", value=status.used_bytes
        )
        yield GaugeMetricFamily(
            "cxr_gateway_dicom_connections", "Open connections of the DICOM port.", value=self._connections()
        )
        deliveries = GaugeMetricFamily(
            "cxr_gateway_deliveries", "Result messages by destination and state.", labels=["destination", "state"]
        )
        for name, queue in status.queues.items():
            for state in ("pending", "delivered", "dead"):
                deliveries.add_metric([name, state], float(getattr(queue, state)))
        yield deliveries
        queues = status.queues.items()
        yield _gauge(
            "oldest_delivery_seconds",
            "Age of the oldest message that waits.",
            "destination",
            {name: queue.oldest_s for name, queue in queues},
        )
        yield _gauge(
            "delivery_fails",
            "1 while the last try of a destination failed.",
            "destination",
            {name: float(queue.code is not None) for name, queue in queues},
        )


def _gauge(name: str, text: str, label: str, values: dict[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"cxr_gateway_{name}", text, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


def _floats(values: object) -> dict[str, float]:
    return {str(k): float(v) for k, v in dict(values).items()}  # type: ignore[call-overload]
