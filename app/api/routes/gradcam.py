"""POST /gradcam."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.api.call import call_of
from app.api.documents import (
    EXPLAINED,
    NEGOTIATED,
    OBJECTS,
    UPLOADED,
    image_body,
    picture_answer,
    problem_answers,
)
from app.api.idempotency import asker_of, replayed
from app.api.negotiate import choose
from app.api.objects import JSON, facts
from app.api.room import Room
from app.api.schemas import gradcam_response
from app.api.uploads import admitted_upload, only_file
from app.errors import RequestError
from app.judging import ExplainOptions, Method
from app.results import ResultKind
from app.service import Explanation

DICOM = "application/dicom"
Output = Literal["png", "jpeg", "array", "json"]
OUTPUTS: dict[str, Output] = {"image/png": "png", "image/jpeg": "jpeg", JSON: "json", DICOM: "array"}


class GradcamQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    operating_point: str | None = Field(
        None, max_length=64, description="A name of the bundle; default: the bundle's own."
    )
    target: str | None = Field(None, max_length=64, description="Class to explain; default: the decided one.")
    method: Method = Field(
        "gradcam",
        description=(
            "`gradcam` and `gradcam++` cost next to nothing beyond the judgement. `smoothgradcam++` looks at 16 noisy copies of the film, "
            "`scorecam` at up to 32 masked ones and the empty input; these passes wait for spare workers. The same film always has the "
            "same map."
        ),
    )
    alpha: float = Field(0.35, ge=0, le=1, allow_inf_nan=False, description="Weight of the heat on the film.")
    top_k: int = Field(1, ge=1, le=3, description="How many classes to explain, side by side in a picture.")
    size: Literal["full"] | None = Field(None, description="`full` draws at the film's own size, which takes longer.")

    def options(self, output: Output) -> ExplainOptions:
        """Raises: RequestError for several maps in an object that shows one."""
        if output == "array" and self.top_k > 1:
            raise RequestError("invalid_parameter", parameter="top_k", must_be=f"1 for {DICOM}")
        return ExplainOptions(
            operating_point=self.operating_point,
            target=self.target,
            method=self.method,
            alpha=self.alpha,
            top_k=self.top_k,
            full_size=self.size == "full",
            output=output,
        )


def add_gradcam(app: FastAPI, room: Room) -> None:
    """The route that explains."""

    @app.post(
        "/gradcam",
        tags=["judging"],
        summary="Show what a judgement rests on",
        responses={200: picture_answer(), **problem_answers(UPLOADED, NEGOTIATED, EXPLAINED, OBJECTS)},
        openapi_extra=image_body(),
    )
    async def gradcam(request: Request, query: Annotated[GradcamQuery, Query()]) -> Response:
        """The film with a heat map on it (PNG; by `Accept` JPEG, or DICOM Secondary Capture for the film's study), or the map in numbers
        with contours and caption (JSON).

        A heat map is a hint, not the outline of a lesion. The judgement behind it is recorded like any other.
        """
        media_type = choose(call_of(request).headers.get("accept"), tuple(OUTPUTS))
        options, asker = query.options(OUTPUTS[media_type]), asker_of(request, media_type)
        async with admitted_upload(request, room) as upload:
            wanted: tuple[ResultKind, ...] = ("sc",) if media_type == DICOM else ()
            found = await room.service.explain(only_file(upload), asker, options, upload.admission, wanted)
            if media_type == JSON:
                headers = {"Vary": "Accept", **replayed(found.answer.replayed)}
                return Response(gradcam_response(found).model_dump_json(), media_type=JSON, headers=headers)
            content = found.answer.objects["sc"] if wanted else found.picture
            return Response(content, media_type=media_type, headers=_facts(found))


def _facts(found: Explanation) -> dict[str, str]:
    """What a picture cannot say of itself. Every value is ours: names from the manifest and numbers."""
    maps = found.answer.judgement.maps
    return {
        **facts(found.answer),
        "CXR-Target": ", ".join(m.target for m in maps),
        "CXR-No-Positive-Evidence": ", ".join(m.target for m in maps if m.no_positive_evidence) or "none",
    }
