"""TriageService: the only place that orders the steps of a request. Knows nothing of HTTP.

A film is judged as one job on a worker thread (`judging`), its result objects are made there too (`reporting`); the audit event is
durable before the answer is returned; metrics follow and cannot fail a request.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal

import structlog

from app import drift
from app.bundle.manifest import Manifest, OperatingPoint
from app.domain import ActivationMap, Judgement, Lane, Principal
from app.errors import ConflictError, InternalError, RequestError, UnavailableError
from app.imaging.decode import ImageLimits
from app.imaging.dicom.frame import FrameDecoder
from app.inference.scheduler import Admission, Scheduler, WithdrawnError
from app.judging import Begun, Buffer, Contour, Drawn, ExplainOptions, Limits, Refusal, begin
from app.live import LiveBundle, LiveBundles
from app.metrics import Metrics
from app.records import AuditEvent, EventId, KeyUse, PredictionRecord, PredictionWindow, Records, Repeated
from app.reporting import Objects, drawing_for, with_objects
from app.results import ResultKind
from app.settings import Settings

log = structlog.get_logger("cxr.service")


@dataclass(frozen=True)
class IdempotencyKey:
    """text: the client's; asked: everything beside the film that decides the answer (route, options, form of the answer)."""

    text: str = field(repr=False)
    asked: str

    def fingerprint(self, sha256: str) -> str:
        """Hex digest of the whole request. sha256: of the film."""
        return hashlib.sha256(f"{sha256} {self.asked}".encode()).hexdigest()


@dataclass(frozen=True)
class Asker:
    """Who asks, and by which name the request goes; key: the client may send it again and expects one answer."""

    principal: Principal
    request_id: str
    key: IdempotencyKey | None = None


@dataclass(frozen=True)
class PredictOptions:
    """operating_point: a name of the serving bundle, None = its default; tta: decide on the mean over several views of the film;
    explain: add the map of the decided class; objects: result objects to be made of the answer."""

    operating_point: str | None = None
    tta: bool = False
    explain: bool = False
    objects: tuple[ResultKind, ...] = ()


@dataclass(frozen=True)
class Answer:
    """A recorded answer to one film. replayed: the first answer's request id stands here, and `event` only names that answer."""

    request_id: str
    digest: str
    manifest: Manifest
    point: OperatingPoint
    judgement: Judgement
    event: EventId
    objects: Objects = field(default_factory=dict, repr=False)
    replayed: bool = False


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

    kind: Literal["predict", "report", "gradcam"]
    asker: Asker
    operating_point: str | None
    wanted: ExplainOptions | None
    objects: tuple[ResultKind, ...] = ()
    tta: bool = False


@dataclass(frozen=True)
class _Ask:
    """A question with the bundle and the operating point that will answer it, whatever is activated meanwhile."""

    question: _Question
    live: LiveBundle
    point: OperatingPoint
    wanted: ExplainOptions | None

    @property
    def use(self) -> KeyUse | None:
        asker = self.question.asker
        if asker.key is None:
            return None
        return KeyUse(asker.principal.key_id, asker.key.text, self.live.bundle.digest)


@dataclass(frozen=True)
class _Made:
    """What a worker made of a film, under which request id and when."""

    drawn: Drawn
    objects: Objects
    request_id: str
    judged_at: datetime


class TriageService:
    """Judges films with the live bundle, records every answer, and says whether it can.

    Args:
        settings: limits of this process.
        records: the open audit store.
        scheduler: worker threads and their bounded queue.
        bundles: the live bundle and its activation.
        metrics: observed after the answer is recorded; their failure is logged, never raised.
        decoder: of compressed DICOM pixel data.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        records: Records,
        scheduler: Scheduler,
        bundles: LiveBundles,
        metrics: Metrics,
        decoder: FrameDecoder | None = None,
    ) -> None:
        self._settings = settings
        self._records = records
        self._scheduler = scheduler
        self._bundles = bundles
        self._metrics = metrics
        image = ImageLimits(
            min_px=settings.image_min_px,
            max_px=settings.image_max_px,
            dicom_max_px=settings.dicom_max_px,
            dicom_max_bytes=settings.dicom_max_bytes,
            max_bytes=settings.upload_max_bytes,
        )
        self._limits = Limits(image, settings.overlay_max_px, decoder)
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

    def check(
        self, n: int = 1, *, lane: Lane = "routine", owner: str = "", begin_within_s: float | None = None
    ) -> None:
        """Raise what `admit` would raise at this moment, and take nothing: a refusal before anything was spent on the request."""
        self._check_ready()
        self._scheduler.check(n, lane=lane, owner=owner, begin_within_s=begin_within_s)

    def admit(
        self, n: int = 1, *, lane: Lane = "routine", owner: str = "", begin_within_s: float | None = None
    ) -> Admission:
        """Reserve places for n films before a body is read; the arguments are those of `Scheduler.admit`.

        Raises:
            UnavailableError: `not_ready`, or `overloaded` when the queue is full or too slow for the request.
        """
        self._check_ready()
        return self._scheduler.admit(n, lane=lane, owner=owner, begin_within_s=begin_within_s)

    def places_of(self, lane: Lane) -> int:
        """Most films of a lane that can be admitted at one time."""
        return self._scheduler.places_of(lane)

    def _check_ready(self) -> None:
        readiness = self.readiness()
        if not readiness.ready:
            raise UnavailableError("not_ready", retry_after_s=5, reason=readiness.reason or "")

    def begin_drain(self) -> None:
        """From now on not ready; requests in flight go on."""
        self._draining = True

    @property
    def live(self) -> LiveBundle:
        current = self._bundles.current
        if current is None:
            raise UnavailableError("not_ready", retry_after_s=5, reason="no verified bundle is loaded")
        return current

    # the clinical questions

    async def predict(self, data: Buffer, asker: Asker, options: PredictOptions, admission: Admission) -> Answer:
        """Judge one film and record the answer.

        Raises:
            RequestError, ImageError, RefusedError: the request's or the film's fault; a refused film is recorded.
            UnavailableError: overloaded, not ready, or the audit store is away (then no answer is given).
        """
        wanted = ExplainOptions(output="json") if options.explain and not options.objects else None
        question = _Question("predict", asker, options.operating_point, wanted, options.objects, options.tta)
        return (await self._answer(data, question, admission))[1]

    async def report(self, data: Buffer, asker: Asker, options: PredictOptions, admission: Admission) -> Answer:
        """As `predict`, for a caller who wants the result objects and not the numbers."""
        question = _Question("report", asker, options.operating_point, None, options.objects)
        return (await self._answer(data, question, admission))[1]

    async def explain(
        self,
        data: Buffer,
        asker: Asker,
        options: ExplainOptions,
        admission: Admission,
        objects: tuple[ResultKind, ...] = (),
    ) -> Explanation:
        """Judge one film and explain the judgement. Raises as `predict`, and ConflictError where nothing can be explained."""
        question = _Question("gradcam", asker, options.operating_point, options, objects)
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
        asker = question.asker
        key_id = asker.principal.key_id
        facts: dict[str, Any] = {"request_id": asker.request_id, "route": question.kind, "bytes": len(data)}
        try:
            ask = _settled(question, self.live)
            first = None if ask.use is None else await self._records.first_use(ask.use)
            made = await self._judged(data, ask, first, admission)
            begun = time.perf_counter()
            event, repeated = await self._record(made, ask)
            audit_ms = (time.perf_counter() - begun) * 1e3
            if repeated is not None and first is None:  # another request with this key was recorded meanwhile
                drawn = made.drawn
                made = await self._scheduler.run(lambda: _stamped(drawn, ask, repeated), admission)
        except Refusal as refusal:
            error = refusal.error
            self._metrics.observe_refusal(error.code)
            facts |= {"code": error.code, "image_sha256": refusal.sha256}
            await self._records.record(AuditEvent("refused", key_id, facts))
            raise error from None
        except (RequestError, ConflictError) as error:
            await self._records.record(AuditEvent("refused", key_id, {**facts, "code": error.code}))
            raise
        except WithdrawnError:
            await self._records.record(AuditEvent("refused", key_id, {**facts, "code": "client_gone"}))
            raise
        except UnavailableError as error:
            if error.code == "overloaded":
                self._records.count("overloaded", key_id)
            raise
        except Exception as error:
            log.exception("request_failed", route=question.kind)
            await self._records.record(AuditEvent("internal_error", key_id, facts))
            raise InternalError from error
        answer = _recorded(made, ask, event, audit_ms, replayed=repeated is not None)
        self._observe(answer, ask.live)
        return made.drawn, answer

    async def _judged(self, data: Buffer, ask: _Ask, first: Repeated | None, admission: Admission) -> _Made:
        """One job; where the network must see the film again, one more for each pass, in the bulk lane, and one to finish. So another
        film waits for one pass at most, and the request's deadline holds for every pass."""
        made = await self._scheduler.run(lambda: _made(data, ask, first, self._limits), admission)
        if isinstance(made, _Made):
            return made
        begun = made
        lane: Lane = "stat" if admission.lane == "stat" else "bulk"  # an emergency does not wait for the day's work
        passed = [
            await self._scheduler.run(partial(begun.run, index), admission, lane=lane) for index in range(begun.passes)
        ]
        return await self._scheduler.run(lambda: _stamped(begun.finish(passed), ask, first), admission)

    async def _record(self, made: _Made, ask: _Ask) -> tuple[EventId, Repeated | None]:
        """Make the answer durable. A prediction has its own row; an explanation's decision stands in its event."""
        judgement, asker, kind = made.drawn.judgement, ask.question.asker, ask.question.kind
        row = PredictionRecord.of(
            judgement, ask.live.manifest, ask.live.bundle.digest, asker.principal, asker.request_id
        )
        facts: dict[str, Any] = {"objects": list(made.objects)} if made.objects else {}
        if judgement.decision.prediction_set is not None:
            facts["prediction_set"] = list(judgement.decision.prediction_set)
        if judgement.views:
            facts["views"] = list(judgement.views)
        if kind == "gradcam" or (made.objects and judgement.maps):
            facts["explained"] = [_map_facts(m) for m in judgement.maps]
        prediction = None if kind == "gradcam" else row
        facts |= row.as_payload() if prediction is None else {}
        event = AuditEvent(kind, asker.principal.key_id, {"request_id": asker.request_id, **facts})
        source = judgement.radiograph.source
        if asker.key is None or ask.use is None:
            return await self._records.record(event, prediction=prediction, source=source), None
        fingerprint = asker.key.fingerprint(judgement.radiograph.sha256)
        return await self._records.record_once(
            event, ask.use, fingerprint, made.judged_at, prediction=prediction, source=source
        )

    def _observe(self, answer: Answer, live: LiveBundle) -> None:
        """A film counts once, however often its answer is asked for."""
        try:
            if answer.replayed:
                self._metrics.observe_repeat()
            else:
                self._metrics.observe_judgement(answer.judgement, live.ref, live.bundle.reference)
        except Exception:  # metrics cannot fail a request
            log.exception("metrics_failed")


def _made(data: Buffer, ask: _Ask, first: Repeated | None, limits: Limits) -> _Made | Begun:
    """On a worker: judge, and make the objects; or only begin, where further passes are needed.

    Raises:
        RequestError: idempotency_key_reused. Refusal: the film was refused.
    """
    key = ask.question.asker.key
    if first is not None and key is not None:
        first.check(key.fingerprint(hashlib.sha256(data).hexdigest()))
    begun = begin(data, ask.live, ask.point, ask.wanted, limits, tta=ask.question.tta)
    return begun if begun.passes else _stamped(begun.finish([]), ask, first)


def _stamped(drawn: Drawn, ask: _Ask, first: Repeated | None) -> _Made:
    """The objects of a judgement; those of a repeated request say when and by which request it was answered first."""
    request_id = first.request_id if first else ask.question.asker.request_id
    judged_at = first.judged_at if first else datetime.now(UTC)
    drawn, objects = with_objects(
        drawn, ask.question.objects, ask.live, ask.point, request_id=request_id, judged_at=judged_at
    )
    return _Made(drawn, objects, request_id, judged_at)


def _recorded(made: _Made, ask: _Ask, event: EventId, audit_ms: float, *, replayed: bool) -> Answer:
    judgement = made.drawn.judgement
    return Answer(
        request_id=made.request_id,
        digest=ask.live.bundle.digest,
        manifest=ask.live.manifest,
        point=ask.point,
        judgement=replace(judgement, timing_ms={**judgement.timing_ms, "audit": audit_ms}),
        event=event,
        objects=made.objects,
        replayed=replayed,
    )


def _settled(question: _Question, live: LiveBundle) -> _Ask:
    """Raises: RequestError for an operating point or target that the bundle has not; ConflictError where there are no heat maps."""
    wanted, manifest = question.wanted or drawing_for(question.objects, live), live.manifest
    point = _operating_point(manifest, question.operating_point)
    if wanted is not None:
        if wanted.target is not None and wanted.target not in manifest.classes:
            raise RequestError("unknown_target", known=", ".join(manifest.classes))
        if not live.head.available:
            raise ConflictError("explanation_unavailable", what="heat maps")
    return _Ask(question, live, point, wanted)


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
