"""TriageService: the only place that orders the steps of a request. Knows nothing of HTTP.

A film is judged as one job on a worker thread (`judging`); the audit event is durable before the answer is returned; metrics follow
and cannot fail a request.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import structlog

from app import drift
from app.bundle.manifest import Manifest, OperatingPoint
from app.domain import ActivationMap, Judgement, Principal
from app.errors import ConflictError, InternalError, RequestError, UnavailableError
from app.imaging.decode import ImageLimits
from app.inference.scheduler import Admission, Scheduler
from app.judging import Buffer, Contour, Drawn, ExplainOptions, Limits, Refusal, judge
from app.live import LiveBundle, LiveBundles
from app.metrics import Metrics
from app.records import AuditEvent, EventId, PredictionRecord, PredictionWindow, Records
from app.settings import Settings

log = structlog.get_logger("cxr.service")


@dataclass(frozen=True)
class PredictOptions:
    """operating_point: a name of the serving bundle, None = its default; explain: add the map of the decided class."""

    operating_point: str | None = None
    explain: bool = False


@dataclass(frozen=True)
class Answer:
    """A recorded answer to one film."""

    request_id: str
    digest: str
    manifest: Manifest
    point: OperatingPoint
    judgement: Judgement
    event: EventId


@dataclass(frozen=True)
class Explanation:
    """A recorded explanation: one entry of `contours` and `captions` per map; picture None for JSON."""

    answer: Answer
    contours: tuple[Contour, ...]
    captions: tuple[str, ...]
    picture: bytes | None


@dataclass(frozen=True)
class Readiness:
    ready: bool
    reason: str | None = None


@dataclass(frozen=True)
class _Question:
    """What a caller wants to know about one film."""

    kind: Literal["predict", "gradcam"]
    principal: Principal
    request_id: str
    operating_point: str | None
    wanted: ExplainOptions | None


@dataclass(frozen=True)
class _Ask:
    """A question with the bundle and the operating point that will answer it, whatever is activated meanwhile."""

    question: _Question
    live: LiveBundle
    point: OperatingPoint


class TriageService:
    """Judges films with the live bundle, records every answer, and says whether it can.

    Args:
        settings: limits of this process.
        records: the open audit store.
        scheduler: worker threads and their bounded queue.
        bundles: the live bundle and its activation.
        metrics: observed after the answer is recorded; their failure is logged, never raised.
    """

    def __init__(
        self, *, settings: Settings, records: Records, scheduler: Scheduler, bundles: LiveBundles, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._records = records
        self._scheduler = scheduler
        self._bundles = bundles
        self._metrics = metrics
        image = ImageLimits(min_px=settings.image_min_px, max_px=settings.image_max_px)
        self._limits = Limits(image, settings.overlay_max_px)
        self._draining = False

    # readiness and admission

    def readiness(self) -> Readiness:
        """Memory only: no thread, no database."""
        if self._draining:
            return Readiness(False, "shutting down")
        if self._bundles.current is None:
            return Readiness(False, "no verified bundle is loaded")
        if not self._records.healthy:
            return Readiness(False, "the audit store is not writable")
        return Readiness(True)

    def admit(self, n: int = 1) -> Admission:
        """Reserve places for n films before a body is read.

        Raises:
            UnavailableError: `not_ready`, or `overloaded` when the queue is full.
        """
        readiness = self.readiness()
        if not readiness.ready:
            raise UnavailableError("not_ready", retry_after_s=5, reason=readiness.reason or "")
        return self._scheduler.admit(n)

    def begin_drain(self) -> None:
        """From now on not ready; requests in flight go on."""
        self._draining = True

    @property
    def live(self) -> LiveBundle:
        current = self._bundles.current
        if current is None:
            raise UnavailableError("not_ready", retry_after_s=5, reason="no verified bundle is loaded")
        return current

    # the two clinical questions

    async def predict(
        self, data: Buffer, principal: Principal, request_id: str, options: PredictOptions, admission: Admission
    ) -> Answer:
        """Judge one film and record the answer.

        Raises:
            RequestError, ImageError, RefusedError: the request's or the film's fault; a refused film is recorded.
            UnavailableError: overloaded, not ready, or the audit store is away (then no answer is given).
        """
        wanted = ExplainOptions(output="json") if options.explain else None
        question = _Question("predict", principal, request_id, options.operating_point, wanted)
        return (await self._answer(data, question, admission))[1]

    async def explain(
        self, data: Buffer, principal: Principal, request_id: str, options: ExplainOptions, admission: Admission
    ) -> Explanation:
        """Judge one film and explain the judgement. Raises as `predict`, and ConflictError where nothing can be explained."""
        question = _Question("gradcam", principal, request_id, options.operating_point, options)
        drawn, answer = await self._answer(data, question, admission)
        return Explanation(answer, drawn.contours, drawn.captions, drawn.picture)

    async def drift(self, window_hours: float | None, principal: Principal, request_id: str) -> drift.DriftReport:
        """Compare the predictions of the last hours with the reference in the live bundle. The look itself is recorded."""
        live = self.live
        until = datetime.now(UTC)
        since = until - timedelta(hours=window_hours or self._settings.drift_window_hours)
        window = await self._records.window(since, until, digest=live.bundle.digest)
        report = drift.drift_report(
            live.bundle.reference,
            _drift_window(window),
            live.manifest.classes,
            minimum=self._settings.drift_min_predictions,
        )
        facts = {"request_id": request_id, "judged": window.n, "level": report.level}
        await self._records.record(AuditEvent("drift_report", principal.key_id, facts))
        return report

    # steps

    async def _answer(self, data: Buffer, question: _Question, admission: Admission) -> tuple[Drawn, Answer]:
        """Judge on a worker; record what is decided, refused or broken before the client hears of it."""
        key_id = question.principal.key_id
        facts: dict[str, Any] = {"request_id": question.request_id, "route": question.kind, "bytes": len(data)}
        try:
            ask = _settled(question, self.live)
            drawn = await self._scheduler.run(
                lambda: judge(data, ask.live, ask.point, question.wanted, self._limits), admission
            )
        except Refusal as refusal:
            error = refusal.error
            self._metrics.observe_refusal(error.code)
            facts |= {"code": error.code, "image_sha256": refusal.sha256}
            await self._records.record(AuditEvent("refused", key_id, facts))
            raise error from None
        except (RequestError, ConflictError) as error:
            await self._records.record(AuditEvent("refused", key_id, {**facts, "code": error.code}))
            raise
        except UnavailableError as error:
            if error.code == "overloaded":
                self._records.count("overloaded", key_id)
            raise
        except Exception as error:
            log.exception("request_failed", route=question.kind)
            await self._records.record(AuditEvent("internal_error", key_id, facts))
            raise InternalError from error
        return drawn, await self._recorded(drawn.judgement, ask)

    async def _recorded(self, judgement: Judgement, ask: _Ask) -> Answer:
        """Make the answer durable. A prediction has its own row; an explanation's decision stands in its event."""
        kind, key_id, request_id = ask.question.kind, ask.question.principal.key_id, ask.question.request_id
        record = prediction_record(judgement, ask.live, ask.question.principal, request_id)
        begun = time.perf_counter()
        if kind == "predict":
            event = await self._records.record(AuditEvent(kind, key_id, {"request_id": request_id}), prediction=record)
        else:
            payload = {**record.as_payload(), "explained": [_map_facts(m) for m in judgement.maps]}
            event = await self._records.record(AuditEvent(kind, key_id, payload))
        timing = {**judgement.timing_ms, "audit": (time.perf_counter() - begun) * 1e3}
        judgement = replace(judgement, timing_ms=timing)
        try:
            self._metrics.observe_judgement(judgement, ask.live.ref, ask.live.bundle.reference)
        except Exception:  # metrics cannot fail a request
            log.exception("metrics_failed")
        return Answer(request_id, ask.live.bundle.digest, ask.live.manifest, ask.point, judgement, event)


def _settled(question: _Question, live: LiveBundle) -> _Ask:
    """Raises: RequestError for an operating point or target that the bundle has not; ConflictError where there are no heat maps."""
    wanted, manifest = question.wanted, live.manifest
    point = _operating_point(manifest, question.operating_point)
    if wanted is not None:
        if wanted.target is not None and wanted.target not in manifest.classes:
            raise RequestError("unknown_target", known=", ".join(manifest.classes))
        if not live.head.available:
            raise ConflictError("explanation_unavailable", what="heat maps")
    return _Ask(question, live, point)


def _operating_point(manifest: Manifest, name: str | None) -> OperatingPoint:
    point = manifest.operating_point(name)
    if point is None:
        raise RequestError("unknown_operating_point", known=", ".join(p.name for p in manifest.operating_points))
    return point


def _drift_window(window: PredictionWindow) -> drift.DriftWindow:
    """The rows of a window as the statistics want them."""
    return drift.DriftWindow(
        since=window.since,
        until=window.until,
        n=window.n,
        statistics=window.statistics,
        labels=window.labels,
        projections=window.projections,
    )


def _map_facts(heat: ActivationMap) -> Mapping[str, Any]:
    return {"target": heat.target, "method": heat.method, "no_positive_evidence": heat.no_positive_evidence}


def prediction_record(
    judgement: Judgement, live: LiveBundle, principal: Principal, request_id: str
) -> PredictionRecord:
    """The row of one answer: what was seen (numbers only), what was decided, by which bundle and engine, for which key."""
    decision, film = judgement.decision, judgement.radiograph
    return PredictionRecord(
        request_id=request_id,
        key_id=principal.key_id,
        bundle_name=live.manifest.name,
        bundle_version=live.manifest.version,
        bundle_digest=live.bundle.digest,
        engine=f"{judgement.engine.name} {judgement.engine.version}",
        precision=judgement.engine.precision,
        image_sha256=film.sha256,
        image_format=film.format,
        statistics=judgement.statistics,
        task=decision.task,
        label=decision.label,
        positive=decision.positive,
        confidence=decision.confidence,
        probabilities={c.name: c.probability for c in decision.classes},
        margins={c.name: c.margin for c in decision.classes},
        operating_point=decision.operating_point,
        review_reasons=tuple(str(r) for r in decision.review_reasons),
        warnings=tuple(n.code for n in judgement.notices),
        projection=tuple(float(x) for x in judgement.feature_projection),
        latency_ms=sum(judgement.timing_ms.values()),
    )
