"""STOW-RS in (PS3.18 section 10.5), and the two pages that watch the gateway.

    POST /studies, /studies/{uid}   multipart/related; type="application/dicom"; the bearer token of the configuration
    GET  /metrics                   Prometheus text; the same token
    GET  /health                    open; 200 while the store can be read

A film's answer is what C-STORE would have said (`statuses.py`), in DICOM JSON: 200 all are durable, 202 some, 409 none; 503 where
none is because the store is away, so that senders come back. The token is checked before one byte of a body is read; bodies are
held in memory only, each and all together bounded.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from secrets import compare_digest
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from app.errors import AuthenticationError, CxrError, InternalError, RequestError, UnavailableError
from app.gateway.exposition import Exposition
from app.gateway.header import read_facts
from app.gateway.multipart import Part, parse_related
from app.gateway.part10 import Meta, read_meta
from app.gateway.statuses import FAULT, OUT_OF_RESOURCES, MismatchError, status_of
from app.gateway.values import Status

log = structlog.get_logger("cxr.gateway.stow")

PEER = "STOW"  # what selection rules call a sender that has no AE title
DICOM_JSON = "application/dicom+json"
BODY_MAX_FILES = 4  # a body may be as large as so many of the largest films
HELD_BODIES = 2  # all bodies together as large as so many of the largest bodies
BODY_DEADLINE_S = 120.0
WORKERS = 4
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")

Receive = Callable[[bytes, str], object]
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Outcome:
    """Of one part. status: as in `statuses.py`, 0 where the film is durable. meta: None where the part does not even say what it is."""

    status: int
    meta: Meta | None
    code: str | None = None


class StowIn:
    """The HTTP side of the gateway as a Starlette application, `app`.

    Args:
        receive: takes (Part 10 file, peer), returns when it is durable, raises CxrError where it is not.
        status: of the gateway; raises UnavailableError where the store is away.
        connections: open connections of the DICOM port, for the metrics.
        token: bearer token, visible ASCII.
        file_max_bytes: largest film.
    """

    def __init__(
        self,
        receive: Receive,
        *,
        status: Callable[[], Status],
        connections: Callable[[], int],
        token: str,
        file_max_bytes: int,
    ) -> None:
        self._receive = receive
        self._status = status
        self._exposition = Exposition(status, connections)
        self._token = token.encode("ascii")
        self._file_max_bytes = file_max_bytes
        self._body_max_bytes = BODY_MAX_FILES * file_max_bytes
        self._held = 0
        self._requests = 0
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="cxr-stow")
        self.app = Starlette(
            routes=[
                Route("/studies", _answered(self._store), methods=["POST"]),
                Route("/studies/{study}", _answered(self._store), methods=["POST"]),
                Route("/metrics", _answered(self._metrics), methods=["GET"]),
                Route("/health", _answered(self._health), methods=["GET"]),
            ]
        )
        self.app.router.redirect_slashes = False

    def close(self) -> None:
        """Wait for what is being stored."""
        self._workers.shutdown()

    # routes

    async def _store(self, request: Request) -> Response:
        self._authenticate(request)
        study = request.path_params.get("study")
        if study is not None and (len(study) > 64 or _UID.fullmatch(study) is None):
            raise RequestError("not_found")
        if self._requests >= WORKERS:
            raise UnavailableError("overloaded", retry_after_s=1.0)
        self._requests += 1
        held = 0
        try:
            pieces: list[bytes] = []
            self._check_length(request)
            async with asyncio.timeout(BODY_DEADLINE_S):
                async for piece in request.stream():
                    self._hold(len(piece))
                    held += len(piece)
                    if held > self._body_max_bytes:
                        raise RequestError("payload_too_large", what="body", limit=self._body_max_bytes)
                    pieces.append(piece)
            outcomes = await asyncio.get_running_loop().run_in_executor(
                self._workers, self._take_all, pieces, request.headers.get("content-type", ""), study
            )
        except TimeoutError:
            raise RequestError("body_timeout", limit_s=BODY_DEADLINE_S) from None
        finally:
            self._requests -= 1
            self._held -= held
        return _store_response(outcomes)

    async def _metrics(self, request: Request) -> Response:
        self._authenticate(request)
        loop = asyncio.get_running_loop()
        text, kind = await loop.run_in_executor(self._workers, self._exposition.render)
        return Response(text, headers={"Content-Type": kind})

    async def _health(self, _: Request) -> Response:
        await asyncio.get_running_loop().run_in_executor(self._workers, self._status)
        return Response('{"status":"ok"}', media_type="application/json")

    # what they do

    def _authenticate(self, request: Request) -> None:
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not compare_digest(shown.strip().encode("utf-8"), self._token):
            raise AuthenticationError

    def _check_length(self, request: Request) -> None:
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise RequestError("unsupported_media_type")
        length = request.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit() and len(length) < 20):
            raise RequestError("malformed_request", what="Content-Length is not a number")
        if int(length) > self._body_max_bytes:
            raise RequestError("payload_too_large", what="body", limit=self._body_max_bytes)

    def _hold(self, count: int) -> None:
        if self._held + count > HELD_BODIES * self._body_max_bytes:
            raise UnavailableError("overloaded", retry_after_s=1.0)
        self._held += count

    def _take_all(self, pieces: list[bytes], content_type: str, study: str | None) -> list[Outcome]:
        """On a worker. Empties `pieces`, so that the body is not held twice."""
        body = b"".join(pieces)
        pieces.clear()
        parts = parse_related(body, content_type)
        del body
        if not parts:
            raise RequestError("malformed_multipart", what="it has no part")
        return [self._take(part, study) for part in parts]

    def _take(self, part: Part, study: str | None) -> Outcome:
        meta = None
        try:
            meta = _announced(part)
            self._check_identity(part.content, meta, study)
            self._receive(part.content, PEER)
        except CxrError as error:
            outcome = Outcome(status_of(error), meta, error.code)
        except Exception as error:  # one film must not fail the others, and no text of it may be logged
            log.error("receive_failed", error=type(error).__name__)  # noqa: TRY400 - the text may quote the film
            outcome = Outcome(FAULT, meta, "internal_error")
        else:
            outcome = Outcome(0, meta)
        log.info("film_offered", peer=PEER, bytes=len(part.content), code=outcome.code)
        return outcome

    def _check_identity(self, film: bytes, meta: Meta, study: str | None) -> None:
        """Film, meta header and address must name the same object.

        Raises:
            ImageError: coded, also for a film that is too large; MismatchError.
        """
        facts = read_facts(film, self._file_max_bytes)
        if facts.sop_instance_uid != meta.sop_instance_uid or study not in {None, facts.study_uid}:
            raise MismatchError


def _announced(part: Part) -> Meta:
    """What a part says it is.

    Raises:
        RequestError, ImageError: coded; it is no DICOM file, or does not say what it is.
    """
    if part.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/dicom":
        raise RequestError("unsupported_media_type")
    return read_meta(part.content)


def _answered(handler: Handler) -> Handler:
    """The handler, whose errors become problem documents (RFC 9457) without any text of the request."""

    async def answer(request: Request) -> Response:
        try:
            response = await handler(request)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody is there to read it
        except CxrError as error:
            response = _problem(error if error.status != 500 else InternalError())
        except Exception as error:  # as above
            log.error("stow_failed", error=type(error).__name__)  # noqa: TRY400 - the text may quote the film
            response = _problem(InternalError())
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        return response

    return answer


def _problem(error: CxrError) -> Response:
    content = {
        "type": f"urn:cxr-triage:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
    }
    headers = {"Retry-After": "5"} if error.status == 503 else {}
    if error.status in {401, 408, 413, 503}:
        headers["Connection"] = "close"  # the rest of the body is not read
    return Response(
        json.dumps(content), status_code=error.status, media_type="application/problem+json", headers=headers
    )


def _store_response(outcomes: Sequence[Outcome]) -> Response:
    """The Store Instances Response Payload (PS3.18 annex I.2)."""
    stored = [o for o in outcomes if not o.status]
    failed = [o for o in outcomes if o.status and o.meta is not None]
    other = [o for o in outcomes if o.status and o.meta is None]
    payload: dict[str, Any] = {"00081190": {"vr": "UR"}}  # Retrieve URL, empty: nothing is kept for retrieval
    for tag, those in (("00081199", stored), ("00081198", failed), ("0008119A", other)):
        if those:
            payload[tag] = {"vr": "SQ", "Value": [_item(o) for o in those]}
    status = 200 if len(stored) == len(outcomes) else 202 if stored else 409
    headers = {}
    if not stored and all(o.status == OUT_OF_RESOURCES for o in outcomes):
        status, headers = 503, {"Retry-After": "5"}
    return Response(json.dumps(payload), status_code=status, media_type=DICOM_JSON, headers=headers)


def _item(outcome: Outcome) -> dict[str, Any]:
    item: dict[str, Any] = {}
    if outcome.meta is not None:
        item["00081150"] = {"vr": "UI", "Value": [outcome.meta.sop_class_uid]}
        item["00081155"] = {"vr": "UI", "Value": [outcome.meta.sop_instance_uid]}
    if outcome.status:
        item["00081197"] = {"vr": "US", "Value": [outcome.status]}
    else:
        item["00081190"] = {"vr": "UR"}
    return item
