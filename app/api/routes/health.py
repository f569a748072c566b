"""GET /health, /health/live, /health/ready: open, from memory only, so they answer while every worker is busy."""

from __future__ import annotations

from fastapi import FastAPI, Response

from app.api.documents import NOT_READY, json_answer, problem_answers
from app.api.room import Room
from app.api.schemas import API_VERSION, Health, Live, ServingEngine
from app.errors import UnavailableError

READY_RETRY_S = 2.0


def add_health(app: FastAPI, room: Room) -> None:
    """The three open routes."""

    @app.get(
        "/health",
        tags=["watching"],
        summary="What is running, and whether it is ready",
        responses={200: json_answer(Health)},
    )
    async def health() -> Response:
        """Always 200 while the process answers; see `/health/ready` for a status that a balancer can use."""
        return Response(describe(room).model_dump_json(), media_type="application/json")

    @app.get(
        "/health/live", tags=["watching"], summary="Whether the process answers", responses={200: json_answer(Live)}
    )
    async def live() -> Response:
        return Response(Live().model_dump_json(), media_type="application/json")

    @app.get(
        "/health/ready",
        tags=["watching"],
        summary="Whether films can be judged",
        responses={200: json_answer(Health), **problem_answers(NOT_READY)},
    )
    async def ready() -> Response:
        """200 only with one verified, warm bundle and a writable audit store; else 503 with the reason."""
        readiness = room.service.readiness()
        if not readiness.ready:
            raise UnavailableError("not_ready", retry_after_s=READY_RETRY_S, reason=readiness.reason or "unknown")
        return Response(describe(room).model_dump_json(), media_type="application/json")


def describe(room: Room) -> Health:
    """The state of this process. The bundle is named even while something else keeps the service from being ready."""
    readiness = room.service.readiness()
    bundle, restriction, engine = None, None, None
    try:
        live = room.service.live
    except UnavailableError:
        pass
    else:
        info = live.engine.info
        bundle, restriction = f"{live.manifest.name}/{live.manifest.version}", live.manifest.research_label
        engine = ServingEngine(name=info.name, version=info.version, precision=info.precision, threads=info.threads)
    return Health(
        api_version=API_VERSION,
        version=room.version,
        ready=readiness.ready,
        reason=readiness.reason,
        bundle=bundle,
        restriction=restriction,
        engine=engine,
    )
