"""Answers that are standard objects: which form of an answer is which object, and the headers that say what an object cannot."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Final

from fastapi import Response

from app.api.idempotency import replayed
from app.results import MEDIA_TYPES, ResultKind
from app.service import Answer

JSON: Final = "application/json"
RELATED: Final = "multipart/related"
# what `POST /predict` answers by Accept: the numbers, or one object
FORMS: Final[Mapping[str, ResultKind | None]] = {
    JSON: None,
    **{MEDIA_TYPES[kind]: kind for kind in ("fhir", "sr", "pdf", "oru")},
}
FACTS: Final = (
    "CXR-Bundle",
    "CXR-Restriction",
    "CXR-Label",
    "CXR-Review-Required",
    "CXR-Request-Id",
    "CXR-Film-Size",
)


def facts(answer: Answer) -> dict[str, str]:
    """Every value is ours: names from the manifest, numbers, and a request id of known form."""
    decision, film = answer.judgement.decision, answer.judgement.radiograph
    values = (
        f"{answer.manifest.name}/{answer.manifest.version}",
        answer.manifest.research_label or "none",
        decision.label,
        str(decision.review_required).lower(),
        answer.request_id,
        f"{film.width}x{film.height}",
    )
    return {"Vary": "Accept", **dict(zip(FACTS, values, strict=True)), **replayed(answer.replayed)}


def object_response(answer: Answer, kind: ResultKind) -> Response:
    """One object as the whole answer."""
    return Response(answer.objects[kind], headers={**facts(answer), "Content-Type": MEDIA_TYPES[kind]})


def related_response(answer: Answer, wanted: Sequence[ResultKind]) -> Response:
    """Several objects as multipart/related (RFC 2387), in the order asked for; a part's `Content-Location` is its kind. `CXR-Omitted`
    names those of `wanted` that could not be made of this film by this bundle."""
    boundary = _boundary(answer.objects)
    pieces: list[bytes] = []
    for kind, content in answer.objects.items():
        head = (
            f"--{boundary}\r\nContent-Type: {MEDIA_TYPES[kind]}\r\n"
            f"Content-Location: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        pieces += [head.encode("ascii"), content, b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode("ascii"))
    root = MEDIA_TYPES[next(iter(answer.objects))]
    content_type = f'{RELATED}; boundary={boundary}; type="{root}"'
    omitted = ", ".join(kind for kind in wanted if kind not in answer.objects) or "none"
    return Response(b"".join(pieces), headers={**facts(answer), "CXR-Omitted": omitted, "Content-Type": content_type})


def _boundary(objects: Mapping[ResultKind, bytes]) -> str:
    """A line that stands in no part (RFC 2046 section 5.1.1)."""
    while True:
        boundary = uuid.uuid4().hex
        if not any(boundary.encode("ascii") in content for content in objects.values()):
            return boundary
