"""Every Prometheus object of the service, on a registry that is passed in.

Label values are bounded: route templates and words of fixed tables from us, names from the manifest of a verified bundle; anything
else is counted as `other`. Nothing of a request's content is ever a label.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.bundle.manifest import Manifest
from app.domain import STATISTICS, EngineInfo, InputStatistics, Judgement, Lane, LaneState
from app.errors import ERROR_TABLE

STAGES = frozenset({"decode", "preprocess", "gate", "network", "passes", "decide", "explain", "objects", "audit"})
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})

_REQUEST_S = (0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_STAGE_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
_COMMIT_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_GROUP = (1, 2, 4, 8, 16, 32, 64, 128)
_CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class Metrics:
    """What the service tells Prometheus; small typed methods, one per thing that happens.

    Args:
        registry: where everything is registered, the process, platform and GC collectors included; never the library's global one.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self._make_http()
        self._make_answers()
        self._make_state()

    def _make_http(self) -> None:
        r = self._registry
        self._requests = Counter(
            "cxr_http_requests_total",
            "Requests answered, by route template and status class.",
            ["method", "route", "status_class"],
            registry=r,
        )
        self._latency = Histogram(
            "cxr_http_request_duration_seconds",
            "Time from the request's headers to the end of its answer.",
            ["route"],
            buckets=_REQUEST_S,
            registry=r,
        )
        self._in_flight = Gauge("cxr_http_requests_in_flight", "Requests begun and not yet answered.", registry=r)
        self._body_bytes = Counter(
            "cxr_http_request_body_bytes_total", "Body bytes taken from clients.", ["route"], registry=r
        )
        self._problems = Counter(
            "cxr_http_problems_total", "Problem answers, by error code.", ["route", "code"], registry=r
        )
        self._held_bytes = Gauge(
            "cxr_upload_in_flight_bytes", "Body bytes held or reserved by all requests.", registry=r
        )

    def _make_answers(self) -> None:
        r = self._registry
        self._refusals = Counter(
            "cxr_images_refused_total", "Images that were not judged, by error code.", ["code"], registry=r
        )
        self._predictions = Counter(
            "cxr_predictions_total",
            "Recorded answers, by bundle, decided label and operating point.",
            ["bundle", "label", "operating_point"],
            registry=r,
        )
        self._repeats = Counter(
            "cxr_repeated_requests_total",
            "Films that were answered before, by their Idempotency-Key; not counted as predictions again.",
            registry=r,
        )
        self._positives = Counter(
            "cxr_positive_classes_total", "Classes at or above their threshold.", ["bundle", "label"], registry=r
        )
        self._confidence = Histogram(
            "cxr_prediction_confidence_ratio",
            "Confidence of the answer, 0 to 1 (none for multilabel bundles).",
            ["bundle"],
            buckets=_CONFIDENCE,
            registry=r,
        )
        self._reviews = Counter(
            "cxr_review_reasons_total",
            "Reasons why a human must look, one per answer and reason.",
            ["reason"],
            registry=r,
        )
        self._warnings = Counter("cxr_warnings_total", "Warnings sent with answers, by code.", ["code"], registry=r)
        self._stages = Histogram(
            "cxr_stage_duration_seconds", "Time per step of a judgement.", ["stage"], buckets=_STAGE_S, registry=r
        )
        self._drift = Counter(
            "cxr_drift_inputs_total",
            "Judged films, by input statistic and bin of the bundle's reference.",
            ["statistic", "bin"],
            registry=r,
        )
        self._reference = Gauge(
            "cxr_drift_reference_ratio",
            "Share of the reference films of the serving bundle in each bin.",
            ["statistic", "bin"],
            registry=r,
        )

    def _make_state(self) -> None:
        r = self._registry
        self._places = Gauge(
            "cxr_queue_places", "Images of a lane that can be admitted at one time.", ["lane"], registry=r
        )
        self._commit = Histogram(
            "cxr_audit_commit_duration_seconds",
            "Time of one durable commit of audit events.",
            buckets=_COMMIT_S,
            registry=r,
        )
        self._group = Histogram("cxr_audit_commit_events", "Audit events in one commit.", buckets=_GROUP, registry=r)
        self._audit_failures = Counter("cxr_audit_failures_total", "Commits of audit events that failed.", registry=r)
        self._audit_healthy = Gauge("cxr_audit_healthy", "1 while the audit store takes events.", registry=r)
        self._ready = Gauge("cxr_ready", "1 while the service can judge images.", registry=r)
        self._bundle = Gauge(
            "cxr_bundle_info",
            "The serving bundle and its engine; the value is always 1.",
            ["name", "version", "digest", "engine", "engine_version", "precision"],
            registry=r,
        )
        self._service = Gauge(
            "cxr_service_info", "Version of the service; the value is always 1.", ["version"], registry=r
        )

    # requests

    def request_begun(self) -> None:
        self._in_flight.inc()

    def observe_request(
        self, *, method: str, route: str, status: int, seconds: float, body_bytes: int, code: str | None
    ) -> None:
        """One answered request. route: a template of the policy table or `other`; code: of a problem answer, else None."""
        self._in_flight.dec()
        known = method if method in METHODS else "other"
        self._requests.labels(known, route, f"{status // 100}xx").inc()
        self._latency.labels(route).observe(seconds)
        if body_bytes:
            self._body_bytes.labels(route).inc(body_bytes)
        if code is not None:
            self._problems.labels(route, _known(code)).inc()

    def set_upload_bytes(self, held: int) -> None:
        self._held_bytes.set(held)

    # answers

    def observe_refusal(self, code: str) -> None:
        """One image that was not judged."""
        self._refusals.labels(_known(code)).inc()

    def observe_repeat(self) -> None:
        """One film that was answered before."""
        self._repeats.inc()

    def observe_judgement(self, judgement: Judgement, ref: object, reference: Mapping[str, NDArray[Any]]) -> None:
        """One recorded answer.

        Args:
            ref: the bundle, `str(ref)` is "name/version".
            reference: `edges_<statistic>` float64 [bins - 1] of the bundle that answered.
        """
        decision, bundle = judgement.decision, str(ref)
        self._predictions.labels(bundle, decision.label, decision.operating_point).inc()
        for label in decision.positive:
            self._positives.labels(bundle, label).inc()
        if decision.confidence is not None:
            self._confidence.labels(bundle).observe(decision.confidence)
        for reason in decision.review_reasons:
            self._reviews.labels(str(reason)).inc()
        for notice in judgement.notices:
            self._warnings.labels(notice.code).inc()
        for stage, milliseconds in judgement.timing_ms.items():
            self._stages.labels(stage if stage in STAGES else "other").observe(milliseconds / 1e3)
        for statistic, value in _statistics(judgement.statistics, decision.confidence):
            edges = reference.get(f"edges_{statistic}")
            if edges is not None:
                self._drift.labels(statistic, str(bin_of(value, edges))).inc()

    # state

    def serve_bundle(
        self, manifest: Manifest, digest: str, engine: EngineInfo, reference: Mapping[str, NDArray[Any]]
    ) -> None:
        """From now on this bundle answers. Replaces what was said of the one before it.

        Drift counters start anew: a bin means something else in another reference.
        """
        self._bundle.clear()
        self._bundle.labels(manifest.name, manifest.version, digest, engine.name, engine.version, engine.precision).set(
            1
        )
        self._drift.clear()
        self._reference.clear()
        for statistic in STATISTICS:
            shares = np.asarray(reference.get(f"proportions_{statistic}", ()), dtype=np.float64)
            for i, share in enumerate(
                () if np.isnan(shares).any() else shares
            ):  # NaN: the bundle has no such statistic
                self._reference.labels(statistic, str(i)).set(float(share))
                self._drift.labels(statistic, str(i)).inc(0)

    def watch(
        self,
        *,
        ready: Callable[[], bool] | None = None,
        lanes: Callable[[], Iterable[LaneState]] | None = None,
        audit_healthy: Callable[[], bool] | None = None,
        decoder_restarts: Callable[[], int] | None = None,
    ) -> None:
        """Ask these at every scrape; each must be quick and must not block."""
        for gauge, ask in ((self._ready, ready), (self._audit_healthy, audit_healthy)):
            if ask is not None:
                gauge.set_function(ask)
        if lanes is not None:
            self._registry.register(_Lanes(lanes))
        if decoder_restarts is not None:
            self._registry.register(_DecoderRestarts(decoder_restarts))

    def set_limits(self, *, places: Mapping[Lane, int], version: str) -> None:
        """What does not change while the process lives. places: most images of each lane that can be admitted at one time."""
        for lane, most in places.items():
            self._places.labels(lane).set(most)
        self._service.labels(version).set(1)

    def observe_audit_commit(self, events: int, seconds: float) -> None:
        """One durable commit of audit events; called from the writer's thread."""
        self._commit.observe(seconds)
        self._group.observe(events)

    def observe_audit_failure(self) -> None:
        self._audit_failures.inc()

    def render(self) -> tuple[bytes, str]:
        """The text exposition format and its content type."""
        return generate_latest(_WithoutCreated(self._registry)), CONTENT_TYPE_PLAIN_0_0_4


class _DecoderRestarts(Collector):
    """A count that is kept elsewhere."""

    def __init__(self, ask: Callable[[], int]) -> None:
        self._ask = ask

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(
            "cxr_dicom_decoder_restarts",
            "Decoder processes that were replaced: crashed, too slow, or out of memory.",
            value=self._ask(),
        )


class _Lanes(Collector):
    """The queue, as it is at the scrape."""

    def __init__(self, ask: Callable[[], Iterable[LaneState]]) -> None:
        self._ask = ask

    def collect(self) -> Iterable[Metric]:
        images = GaugeMetricFamily(
            "cxr_queue_images", "Jobs waiting for a worker, or on one.", labels=["lane", "state"]
        )
        oldest = GaugeMetricFamily(
            "cxr_queue_oldest_seconds", "Time the first job that waits has waited; 0 without one.", labels=["lane"]
        )
        begun = CounterMetricFamily("cxr_queue_begun", "Jobs that a worker began.", labels=["lane"])
        waited = CounterMetricFamily(
            "cxr_queue_waited_seconds", "Time that begun jobs had waited, altogether.", labels=["lane"]
        )
        refused = CounterMetricFamily(
            "cxr_queue_refused",
            "Requests refused at the door (full, share of the key, expected wait), and jobs given up in the queue (late).",
            labels=["lane", "reason"],
        )
        for state in self._ask():
            images.add_metric([state.lane, "queued"], state.queued)
            images.add_metric([state.lane, "running"], state.running)
            oldest.add_metric([state.lane], state.oldest_s)
            begun.add_metric([state.lane], state.begun)
            waited.add_metric([state.lane], state.waited_s)
            for reason, count in state.refused.items():
                refused.add_metric([state.lane, reason], count)
        return (images, oldest, begun, waited, refused)


class _WithoutCreated(Collector):
    """Leaves out the `_created` series, which the library can switch off only for the whole process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric


def bin_of(value: float, edges: NDArray[Any]) -> int:
    """Index of the bin of a value; bin i holds edges[i - 1] <= value < edges[i], the outer bins are open."""
    return bisect_right(edges, value)  # numpy's gives the interpreter's lock away, and the event loop would wait for it


def _statistics(statistics: InputStatistics, confidence: float | None) -> Iterable[tuple[str, float]]:
    for name in STATISTICS:
        value = confidence if name == "confidence" else getattr(statistics, name)
        if value is not None:
            yield name, float(value)


def _known(code: str) -> str:
    return code if code in ERROR_TABLE else "other"
