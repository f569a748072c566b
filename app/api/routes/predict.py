"""POST /predict and POST /batch_predict."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.api.body import File
from app.api.documents import UPLOADED, batch_body, image_body, json_answer, problem_answers
from app.api.problems import problem
from app.api.room import Room
from app.api.schemas import API_VERSION, BatchAnswer, BatchItem, PredictAnswer, Problem, prediction_response
from app.api.uploads import Upload, admitted_upload, only_file, record_refusal
from app.errors import CxrError, RequestError
from app.service import PredictOptions


class PredictQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    operating_point: str | None = Field(
        None, max_length=64, description="A name of the bundle; default: the bundle's own."
    )
    tta: bool = Field(False, description="Test-time augmentation; not offered yet, so only false is taken.")
    explain: bool = Field(False, description="Add the heat map of the decided class, in numbers.")

    def options(self) -> PredictOptions:
        if self.tta:
            raise RequestError("invalid_parameter", parameter="tta", must_be="false: there is no augmentation yet")
        return PredictOptions(operating_point=self.operating_point, explain=self.explain)


def add_predict(app: FastAPI, room: Room) -> None:
    """The two routes that judge."""

    @app.post(
        "/predict",
        tags=["judging"],
        summary="Judge one film",
        responses={200: json_answer(PredictAnswer), **problem_answers(UPLOADED)},
        openapi_extra=image_body(),
    )
    async def predict(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
        """A calibrated risk score per class, a decision at a named operating point, and the reasons why a human must look.

        Decision support, not a diagnosis. The answer was durably recorded before it was sent.
        """
        options = query.options()
        async with admitted_upload(request, room) as upload:
            call, film = upload.call, only_file(upload)
            answer = await room.service.predict(film, call.principal, call.request_id, options, upload.admission)
            return Response(prediction_response(answer).model_dump_json(), media_type="application/json")

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
        async with admitted_upload(request, room, places=room.batch_places) as upload:
            results = await _judge_all(room, upload, options)
            answer = BatchAnswer(api_version=API_VERSION, request_id=upload.call.request_id, results=results)
            return Response(answer.model_dump_json(), media_type="application/json")


async def _judge_all(room: Room, upload: Upload, options: PredictOptions) -> list[BatchItem]:
    """Judge the files, at most `batch_places` at one time: each needs a place of its own in the queue."""
    places = asyncio.Semaphore(room.batch_places)

    async def one(index: int, file: File) -> BatchItem:
        async with places:
            return await _judge(room, upload, index, file, options)

    outcomes = await asyncio.gather(*(one(i, f) for i, f in enumerate(upload.files)), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, BatchItem)]


async def _judge(room: Room, upload: Upload, index: int, file: File, options: PredictOptions) -> BatchItem:
    """One item. What is wrong with the request, and not with a file, fails the request."""
    call = upload.call
    try:
        if isinstance(file, RequestError):
            await record_refusal(room, call, file.code)
            raise file
        answer = await room.service.predict(file, call.principal, call.request_id, options, upload.admission)
    except CxrError as error:
        if isinstance(error, RequestError) and error is not file:
            raise
        return BatchItem(index=index, result=None, problem=Problem(**problem(error, call.request_id)))
    return BatchItem(index=index, result=prediction_response(answer), problem=None)
