"""GET /metrics and GET /drift_report."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.api.call import call_of
from app.api.documents import GUARDED, NEGOTIATED, QUERY, RECORDED, json_answer, problem_answers, text_answer
from app.api.drift_page import STYLE_POLICY, drift_page
from app.api.drift_schema import DriftAnswer, drift_response
from app.api.negotiate import choose
from app.api.room import Room
from app.api.window import parse_window

JSON, HTML = "application/json", "text/html"


class DriftQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    window: str | None = Field(
        None,
        max_length=16,
        description="How far back: `24h`, `7d`, or an ISO 8601 duration such as `P7D`, `PT36H`; at most 366 days.",
        examples=["24h", "7d", "P1DT12H"],
    )


def add_watch(app: FastAPI, room: Room) -> None:
    """The two routes for those who watch."""

    @app.get(
        "/metrics",
        tags=["watching"],
        summary="Prometheus metrics",
        responses={200: text_answer("The text exposition format."), **problem_answers(GUARDED)},
    )
    async def metrics() -> Response:
        content, media_type = room.metrics.render()
        return Response(content, headers={"Content-Type": media_type})

    @app.get(
        "/drift_report",
        tags=["watching"],
        summary="The films of late against those the bundle was measured on",
        responses={200: json_answer(DriftAnswer, html=True), **problem_answers(GUARDED, QUERY, NEGOTIATED, RECORDED)},
    )
    async def drift_report(request: Request, query: Annotated[DriftQuery, Query()]) -> Response:
        """Population stability index per input statistic, confidence and class; JSON, or a page by `Accept: text/html`."""
        call = call_of(request)
        media_type = choose(call.headers.get("accept"), (JSON, HTML))
        manifest = room.service.live.manifest
        report = await room.service.drift(parse_window(query.window), call.principal, call.request_id)
        answer = drift_response(report, f"{manifest.name}/{manifest.version}", call.request_id)
        if media_type == HTML:
            return Response(drift_page(answer), media_type=HTML, headers={"Content-Security-Policy": STYLE_POLICY})
        return Response(answer.model_dump_json(), media_type=JSON)
