"""POST /reports."""

from __future__ import annotations

from typing import Annotated, get_args

from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.api.call import call_of
from app.api.documents import EXPLAINED, NEGOTIATED, OBJECTS, UPLOADED, image_body, problem_answers, related_answer
from app.api.idempotency import asker_of
from app.api.negotiate import choose
from app.api.objects import RELATED, related_response
from app.api.room import Room
from app.api.uploads import admitted_upload, only_file
from app.errors import RequestError
from app.results import ResultKind
from app.service import PredictOptions

KINDS: tuple[ResultKind, ...] = get_args(ResultKind)


class ReportsQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    objects: str = Field(
        max_length=64,
        description=(
            "Kinds of objects, separated by commas: `sr` structured report, `sc` overlay as Secondary Capture, `gsps` presentation "
            "state, `pdf_dicom` Encapsulated PDF, `pdf`, `fhir` DiagnosticReport, `oru` HL7 v2 message."
        ),
        examples=["sr,sc", "fhir"],
    )
    operating_point: str | None = Field(
        None, max_length=64, description="A name of the bundle; default: the bundle's own."
    )

    def options(self) -> PredictOptions:
        """Raises: RequestError for a word that is no kind, or one that is there twice."""
        wanted = self.objects.split(",")
        kinds = tuple(kind for word in wanted for kind in KINDS if kind == word)
        if len(set(kinds)) != len(wanted):
            known = ", ".join(KINDS)
            raise RequestError(
                "invalid_parameter", parameter="objects", must_be=f"different kinds, separated by commas: {known}"
            )
        return PredictOptions(operating_point=self.operating_point, objects=kinds)


def add_reports(app: FastAPI, room: Room) -> None:
    """The route that answers with objects for the systems around."""

    @app.post(
        "/reports",
        tags=["judging"],
        summary="Judge one film and get the result as standard objects",
        response_class=Response,
        responses={200: related_answer(), **problem_answers(UPLOADED, NEGOTIATED, EXPLAINED, OBJECTS)},
        openapi_extra=image_body(),
    )
    async def reports(request: Request, query: Annotated[ReportsQuery, Query()]) -> Response:
        """One judgement, several objects: `multipart/related`, one part per object; `Content-Location` is its kind.

        DICOM objects belong to the study of the film and carry its identifiers; they have the same UIDs whenever the same film is
        judged by the same bundle at the same operating point. An object that this film or this bundle does not allow (a presentation
        state of a film shown through a look-up table, a picture without an explanation) is left out and named in `CXR-Omitted`.
        """
        choose(call_of(request).headers.get("accept"), (RELATED,))
        options, asker = query.options(), asker_of(request, RELATED)
        async with admitted_upload(request, room) as upload:
            answer = await room.service.report(only_file(upload), asker, options, upload.admission)
            return related_response(answer, options.objects)
