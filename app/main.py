"""The composition root: `create_app(settings)` wires every part once, and its lifespan starts and stops them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from app.api.install import install
from app.bundle.store import BundleStore
from app.domain import LANES
from app.engines import Engines
from app.errors import CxrError
from app.imaging.decode import limit_threads
from app.imaging.dicom.decoders import DecoderPool
from app.inference.cores import usable_cores
from app.inference.machine import process_age_s
from app.inference.scheduler import Scheduler
from app.live import LiveBundles
from app.metrics import Metrics
from app.records import Records
from app.service import TriageService
from app.settings import Settings

log = structlog.get_logger("cxr.main")


def create_app(settings: Settings) -> FastAPI:
    """Build the service. Nothing is listening, loading or counting time until the lifespan starts.

    Raises:
        ConfigurationError, RecordsError: secrets or database with which the service must not start.
    """
    limit_threads()
    metrics = Metrics(CollectorRegistry())
    records = Records.open(
        settings,
        role="serve",
        observe_commit=metrics.observe_audit_commit,
        observe_failure=metrics.observe_audit_failure,
    )
    scheduler = Scheduler(
        workers=settings.workers or usable_cores(),
        queue_max=settings.queue_max,
        queue_timeout_s=settings.queue_timeout_s,
        stat_places=settings.stat_places,
        bulk_places=settings.bulk_places,
        stat_threads=1 if settings.stat_places else 0,
    )
    decoder = DecoderPool(
        size=scheduler.threads,
        timeout_s=settings.dicom_decode_timeout_s,
        memory_bytes=settings.dicom_decode_max_bytes,
    )
    bundles = LiveBundles(
        BundleStore(settings.bundles_dir),
        records,
        pin=settings.bundle,
        poll_s=settings.bundle_poll_s,
        accept_failed_gate=settings.accept_failed_gate,
        engines=Engines(
            settings.engine,
            workers=scheduler.workers,
            callers=scheduler.threads,
            cache_dir=settings.engine_cache,
            choices=records.choices,
        ),
        changed=lambda live: metrics.serve_bundle(
            live.manifest, live.bundle.digest, live.engine.info, live.bundle.reference
        ),
    )
    service = TriageService(
        settings=settings, records=records, scheduler=scheduler, bundles=bundles, metrics=metrics, decoder=decoder
    )

    metrics.set_limits(places={lane: scheduler.places_of(lane) for lane in LANES}, version=version("cxr-triage"))
    metrics.watch(
        ready=lambda: service.readiness().ready,
        lanes=scheduler.states,
        audit_healthy=lambda: records.healthy,
        decoder_restarts=lambda: decoder.restarts,
    )

    app = FastAPI(
        title="cxr-triage",
        version=version("cxr-triage"),
        description="Chest X-ray triage: calibrated risk scores for decision support, never autonomous diagnosis.",
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # the boundary measures; nothing leaves unasked
        lifespan=partial(_lifespan, settings, records, scheduler, decoder, bundles, service),
    )
    app.state.service = service
    app.state.records = records
    install(app, settings=settings, service=service, records=records, metrics=metrics)
    return app


@asynccontextmanager
async def _lifespan(  # noqa: PLR0917 - bound by `partial`; the framework gives the last
    settings: Settings,
    records: Records,
    scheduler: Scheduler,
    decoder: DecoderPool,
    bundles: LiveBundles,
    service: TriageService,
    _: FastAPI,
) -> AsyncIterator[None]:
    """Start what must be there before the first request; at the end finish what was begun, the records last."""
    try:
        try:
            decoder.warm()
            bundles.start()
        except CxrError as error:
            log.error("start_refused", reason=str(error))  # noqa: TRY400 - the server logs the traceback
            raise
        log.info(
            "ready",
            bundle=str(bundles.current and bundles.current.ref),
            workers=scheduler.workers,
            cold_start_s=process_age_s(),
        )
        yield
    finally:
        service.begin_drain()
        await scheduler.drain(settings.drain_s)
        bundles.stop()
        scheduler.close()
        decoder.close()
        records.close()
        log.info("stopped")
