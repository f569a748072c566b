"""POST /predict and POST /batch_predict."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.api.body import File
from app.api.call import call_of
from app.api.documents import (
    NEGOTIATED,
    OBJECTS,
    UPLOADED,
    batch_body,
    image_body,
    json_answer,
    predict_answer,
    problem_answers,
)
from app.api.idempotency import asker_of, replayed
from app.api.negotiate import choose
from app.api.objects import FORMS, JSON, facts, object_response
from app.api.problems import problem
from app.api.room import Room
from app.api.schemas import API_VERSION, BatchAnswer, BatchItem, Problem, prediction_response
from app.api.uploads import Upload, admitted_upload, only_file, record_refusal
from app.errors import CxrError, RequestError
from app.service import Asker, PredictOptions


class PredictQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    operating_point: str | None = Field(
        None, max_length=64, description="A name of the bundle; default: the bundle's own."
    )
    tta: bool = Field(
        False,
        description=(
            "Decide on the mean logits of five views: the film, turned by 5 degrees both ways, 0.15 stops brighter and darker. Five times "
            "the network's work; the further passes wait for spare workers."
        ),
    )
    explain: bool = Field(False, description="Add the heat map of the decided class, in numbers.")

    def options(self) -> PredictOptions:
        return PredictOptions(operating_point=self.operating_point, tta=self.tta, explain=self.explain)


def add_predict(app: FastAPI, room: Room) -> None:
    """The two routes that judge."""

    @app.post(
        "/predict",
        tags=["judging"],
        summary="Judge one film",
        responses={200: predict_answer(), **problem_answers(UPLOADED, NEGOTIATED, OBJECTS)},
        openapi_extra=image_body(),
    )
    async def predict(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
        """A calibrated risk score per class, a decision at a named operating point, and the reasons why a human must look.

        Decision support, not a diagnosis. The answer was durably recorded before it was sent. By `Accept`: numbers as JSON, a FHIR
        DiagnosticReport, a DICOM structured report for the film's study, a page as PDF, or an HL7 v2 message.
        """
        form = choose(call_of(request).headers.get("accept"), tuple(FORMS))
        kind, asker = FORMS[form], asker_of(request, form)
        options = replace(query.options(), objects=(kind,) if kind else ())
        async with admitted_upload(request, room) as upload:
            answer = await room.service.predict(only_file(upload), asker, options, upload.admission)
            if kind is not None:
                return object_response(answer, kind)
            return Response(prediction_response(answer).model_dump_json(), media_type=JSON, headers=facts(answer))

    @app.post(
        "/batch_predict",
        tags=["judging"],
        summary="Judge several films",
        responses={200: json_answer(BatchAnswer), **problem_answers(UPLOADED)},
        openapi_extra=batch_body(),
    )
    async def batch_predict(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
        """One result or one problem per file, in the order of the files. A file that is refused fails nothing else."""
        options = query.options()
        asker_of(request, JSON)  # a key that is none is refused before the body is read
        async with admitted_upload(request, room, places=room.batch_places) as upload:
            judged = await _judge_all(room, request, upload, options)
            answer = BatchAnswer(
                api_version=API_VERSION, request_id=upload.call.request_id, results=[j.item for j in judged]
            )
            headers = replayed(any(j.replayed for j in judged))
            return Response(answer.model_dump_json(), media_type=JSON, headers=headers)


@dataclass(frozen=True)
class _Item:
    """One file of a batch, with its place in it."""

    index: int
    file: File
    asker: Asker


@dataclass(frozen=True)
class _Judged:
    item: BatchItem
    replayed: bool = False


async def _judge_all(room: Room, request: Request, upload: Upload, options: PredictOptions) -> list[_Judged]:
    """Judge the files, at one time as many as were admitted: each needs a place of its own in the queue."""
    places = asyncio.Semaphore(upload.admission.n)

    async def one(index: int, file: File) -> _Judged:
        item = _Item(index, file, asker_of(request, JSON, index=index, files=len(upload.files)))
        async with places:
            return await _judge(room, upload, item, options)

    outcomes = await asyncio.gather(*(one(i, f) for i, f in enumerate(upload.files)), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, _Judged)]


async def _judge(room: Room, upload: Upload, item: _Item, options: PredictOptions) -> _Judged:
    """One item. What is wrong with the request, and not with a file, fails the request."""
    call, file = upload.call, item.file
    try:
        if isinstance(file, RequestError):
            await record_refusal(room, call, file.code)
            raise file
        answer = await room.service.predict(file, item.asker, options, upload.admission)
    except CxrError as error:
        if isinstance(error, RequestError) and error is not file:
            raise
        shown = Problem(**problem(error, call.request_id))
        return _Judged(BatchItem(index=item.index, result=None, problem=shown))
    return _Judged(BatchItem(index=item.index, result=prediction_response(answer), problem=None), answer.replayed)
