"""TriageService: the only place that orders the steps of a request. Knows nothing of HTTP.

decode -> quality -> prepare -> network -> decide -> (explain) runs as one job on a worker thread; the audit event is durable before
the answer is returned; metrics follow and cannot fail a request.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
import structlog
from numpy.typing import NDArray

from app import drift, explain, preprocessing
from app.bundle.manifest import Manifest, OperatingPoint
from app.decision import decide
from app.domain import ActivationMap, Geometry, Judgement, Notice, Principal, Radiograph
from app.errors import ConflictError, ImageError, InternalError, RefusedError, RequestError, UnavailableError
from app.imaging.decode import ImageLimits, decode
from app.imaging.quality import quality_notices, refuse_blank
from app.inference.scheduler import Admission, Scheduler
from app.live import LiveBundle, LiveBundles
from app.metrics import Metrics
from app.records import AuditEvent, EventId, PredictionRecord, PredictionWindow, Records
from app.settings import Settings

log = structlog.get_logger("cxr.service")
Buffer = bytes | bytearray | memoryview
Method = Literal["gradcam", "gradcam++"]


@dataclass(frozen=True)
class PredictOptions:
    """operating_point: a name of the serving bundle, None = its default; explain: add the map of the decided class."""

    operating_point: str | None = None
    explain: bool = False


@dataclass(frozen=True)
class ExplainOptions:
    """What to explain and how to draw it.

    target: a class, None = the decided one, then the next most probable up to top_k; alpha: weight of the heat, 0..1;
    output: rendered picture, or the numbers only; full_size: draw at the film's own size.
    """

    operating_point: str | None = None
    target: str | None = None
    method: Method = "gradcam"
    alpha: float = 0.35
    top_k: int = 1
    full_size: bool = False
    output: Literal["png", "jpeg", "json"] = "png"


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
class Contour:
    """Outline of the region where a map reaches `level`, in pixels of the original film: closed polygons of (x, y)."""

    level: float
    polygons: tuple[tuple[tuple[int, int], ...], ...]


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
class _Drawn:
    judgement: Judgement
    contours: tuple[Contour, ...] = ()
    captions: tuple[str, ...] = ()
    picture: bytes | None = None


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


class _Refusal(Exception):  # noqa: N818 - carries a refusal from the worker to the loop, with the hash of what was refused
    def __init__(self, error: ImageError | RefusedError, sha256: str) -> None:
        self.error = error
        self.sha256 = sha256


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
        self._limits = ImageLimits(min_px=settings.image_min_px, max_px=settings.image_max_px)
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

    async def _answer(self, data: Buffer, question: _Question, admission: Admission) -> tuple[_Drawn, Answer]:
        """Judge on a worker; record what is decided, refused or broken before the client hears of it."""
        key_id = question.principal.key_id
        facts: dict[str, Any] = {"request_id": question.request_id, "route": question.kind, "bytes": len(data)}
        try:
            ask = _settled(question, self.live)
            drawn = await self._scheduler.run(lambda: self._judge(data, ask), admission)
        except _Refusal as refusal:
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

    def _judge(self, data: Buffer, ask: _Ask) -> _Drawn:
        """Everything between the bytes and the decision; runs on a worker thread."""
        clock, live = _Clock(), ask.live
        try:
            radiograph = decode(data, self._limits)
            clock.lap("decode")
            prepared = preprocessing.prepare(radiograph, live.manifest.input)
            refuse_blank(prepared.statistics)
        except (ImageError, RefusedError) as error:
            raise _Refusal(error, hashlib.sha256(data).hexdigest()) from error
        clock.lap("preprocess")
        output = live.engine.run(prepared.tensor)
        clock.lap("network")
        notices = quality_notices(prepared.statistics, live.manifest.quality)
        decision = decide(output.logits, live.manifest, ask.point, quality_doubt=bool(notices))
        if radiograph.format != "dicom":
            notices = (*notices, _intended_use(live.manifest))
        judgement = Judgement(
            radiograph=radiograph,
            geometry=prepared.geometry,
            statistics=prepared.statistics,
            decision=decision,
            notices=notices,
            engine=live.engine.info,
            feature_projection=drift.project(live.bundle.reference["projection"], explain.pooled(output.features)),
        )
        clock.lap("decide")
        if ask.question.wanted is None:
            return _Drawn(replace(judgement, timing_ms=clock.laps))
        drawn = _explain(judgement, output.features, live, ask.question.wanted, self._settings.overlay_max_px)
        clock.lap("explain")
        return replace(drawn, judgement=replace(drawn.judgement, timing_ms=clock.laps))

    async def _recorded(self, judgement: Judgement, ask: _Ask) -> Answer:
        """Make the answer durable. A prediction has its own row; an explanation's decision stands in its event."""
        record = prediction_record(judgement, ask.live, ask.question.principal, ask.question.request_id)
        begun = time.perf_counter()
        if ask.question.kind == "predict":
            event = AuditEvent(
                ask.question.kind, ask.question.principal.key_id, {"request_id": ask.question.request_id}
            )
            event_id = await self._records.record(event, prediction=record)
        else:
            payload = {**record.as_payload(), "explained": [_map_facts(m) for m in judgement.maps]}
            event_id = await self._records.record(AuditEvent(ask.question.kind, ask.question.principal.key_id, payload))
        timing = {**judgement.timing_ms, "audit": (time.perf_counter() - begun) * 1e3}
        judgement = replace(judgement, timing_ms=timing)
        try:
            self._metrics.observe_judgement(judgement, ask.live.ref, ask.live.bundle.reference)
        except Exception:  # metrics cannot fail a request
            log.exception("metrics_failed")
        return Answer(
            ask.question.request_id, ask.live.bundle.digest, ask.live.manifest, ask.point, judgement, event_id
        )


class _Clock:
    """Laps in milliseconds."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = (now - self._last) * 1e3
        self._last = now


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


def _intended_use(manifest: Manifest) -> Notice:
    return Notice(
        "intended_use_unverified",
        f"The file does not say who was imaged and how. This model is meant only for: {manifest.intended_use.population}.",
    )


def _explain(
    judgement: Judgement, features: NDArray[np.float32], live: LiveBundle, wanted: ExplainOptions, max_px: int
) -> _Drawn:
    """Maps, contours and, where asked for, the picture."""
    maps = tuple(
        explain.activation_map(
            features, live.head, target=target, logit_index=index, negated=negated, method=wanted.method
        )
        for target in _targets(judgement, wanted)
        for index, negated in [explain.logit_of(live.manifest.task, live.manifest.classes, target)]
    )
    judgement = replace(judgement, maps=maps)
    contours = tuple(_contour(m, judgement.geometry) for m in maps)
    captions = tuple(explain.caption(m, judgement.decision) for m in maps)
    if wanted.output == "json":
        return _Drawn(judgement, contours, captions)
    picture = _picture(judgement, live.manifest, wanted, None if wanted.full_size else max_px)
    return _Drawn(judgement, contours, captions, picture)


def _picture(judgement: Judgement, manifest: Manifest, wanted: ExplainOptions, max_px: int | None) -> bytes:
    """The overlays side by side, one per map; each film's longest side at most `max_px`."""
    film = preprocessing.to_eight_bit(judgement.radiograph.pixels, manifest.input.sixteen_bit)
    heats = [preprocessing.to_original(m.values, judgement.geometry, max_px=_HEAT_PX) for m in judgement.maps]
    panels = len(heats)
    height, width = film.shape
    if max_px is not None:
        max_px = round(max(height, panels * width) * min(1.0, max_px / max(height, width)))
    output: Literal["png", "jpeg"] = "jpeg" if wanted.output == "jpeg" else "png"
    return explain.overlay_bytes(np.tile(film, (1, panels)), np.hstack(heats), wanted.alpha, output, max_px=max_px)


def _targets(judgement: Judgement, wanted: ExplainOptions) -> list[str]:
    names = [c.name for c in judgement.decision.classes]
    first = wanted.target or (judgement.decision.label if judgement.decision.label in names else names[0])
    return [first, *[n for n in names if n != first]][: wanted.top_k]


CONTOUR_LEVEL = 0.5
_HEAT_PX = 512  # the heat is smooth: drawn at this size, then enlarged with the picture
_CONTOUR_PX = 256  # maps are up-sampled to this before their outline is taken; the outline is then scaled to the film


def _contour(heat: ActivationMap, geometry: Geometry) -> Contour:
    placed = preprocessing.to_original(heat.values, geometry, max_px=_CONTOUR_PX)
    scale_y = geometry.original_height / placed.shape[0]
    scale_x = geometry.original_width / placed.shape[1]
    polygons = tuple(
        tuple((round(x * scale_x), round(y * scale_y)) for x, y in polygon)
        for polygon in explain.contours(placed, CONTOUR_LEVEL)
    )
    return Contour(CONTOUR_LEVEL, polygons)


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


__all__ = [
    "Answer",
    "Contour",
    "ExplainOptions",
    "Explanation",
    "PredictOptions",
    "Radiograph",
    "Readiness",
    "TriageService",
]
