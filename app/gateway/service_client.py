"""The triage service as the gateway sees it: which bundle serves, and `POST /reports` for one film."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from app.errors import ERROR_TABLE, RequestError
from app.gateway.config import ObjectKind, Service, read_secret
from app.gateway.exchange import ExchangeError, Reply, exchange, new_client
from app.gateway.multipart import parse_related

REPORTS_MAX_BYTES: Final = 256_000_000

# codes of 4xx answers that say something about this request or this key, not about the film: it waits until that is put right
_NOT_THE_FILM: Final = frozenset(
    {
        "malformed_request", "malformed_multipart", "missing_file", "too_many_files", "invalid_parameter", "body_timeout",
        "unsupported_media_type", "not_acceptable", "not_found", "method_not_allowed", "unauthenticated", "forbidden", "rate_limited",
        "idempotency_key_reused", "explanation_unavailable", "unknown_operating_point", "unknown_target",
    }
)  # fmt: skip


_AWAY: Final = frozenset({401, 403, 404, 408, 429, 502, 503, 504})


@dataclass(frozen=True)
class ResultObject:
    """One object as the service made it."""

    kind: ObjectKind
    content: bytes


@dataclass(frozen=True)
class Judged:
    """bundle: `name/version` that judged. objects: those that could be made, at least one."""

    bundle: str
    objects: tuple[ResultObject, ...]


@dataclass(frozen=True)
class Refused:
    """The film must not be judged. code: of `ERROR_TABLE`."""

    code: str


class JudgeError(Exception):
    """No judgement this time. code: one of our words; away: the service itself is away or overloaded, so no other film will do better;
    counts: the film may be to blame, so it is not tried for ever."""

    def __init__(
        self, code: str, *, away: bool = False, counts: bool = False, retry_after_s: float | None = None
    ) -> None:
        self.code, self.away, self.counts, self.retry_after_s = code, away, counts, retry_after_s
        super().__init__(code)


class ServiceClient:
    """Thread-safe.

    Args:
        objects: kinds to ask for, at least one.

    Raises:
        ConfigurationError: the key's file cannot be read.
    """

    def __init__(self, service: Service, objects: Sequence[ObjectKind]) -> None:
        self._service = service
        self._objects = tuple(objects)
        self._key = read_secret(service.key_file)
        self._url = service.url.rstrip("/")
        query = {"objects": ",".join(objects)}
        if service.operating_point is not None:
            query["operating_point"] = service.operating_point
        self._query = urlencode(query, safe=",")
        self._client = new_client(service.timeout_s)

    def bundle(self) -> str:
        """`name/version` of the bundle that serves.

        Raises:
            JudgeError: the service is away or not ready.
        """
        reply = self._exchange("GET", "/health", {})
        if reply.status != 200:
            raise JudgeError("service_unavailable", away=True, retry_after_s=reply.retry_after_s)
        bundle = _json(reply.body).get("bundle")
        if not isinstance(bundle, str):
            raise JudgeError("not_ready", away=True)
        return bundle

    def judge(self, film: bytes) -> Judged | Refused:
        """Judge one film. Safe to be repeated: the Idempotency-Key follows from the film's bytes (which hold its SOP Instance UID) and
        from what is asked, so the service records one prediction however often this is called.

        Raises:
            JudgeError: no judgement this time.
        """
        key = hashlib.sha256(hashlib.sha256(film).digest() + self._query.encode()).hexdigest()
        headers = {"Content-Type": "application/dicom", "Accept": "multipart/related", "Idempotency-Key": key}
        reply = self._exchange("POST", f"/reports?{self._query}", headers, film)
        return self._judged(reply) if reply.status == 200 else _refused(reply)

    def close(self) -> None:
        self._client.close()

    def _judged(self, reply: Reply) -> Judged:
        try:
            parts = parse_related(reply.body, reply.headers.get("content-type", ""))
        except RequestError:
            raise JudgeError("unusable_answer", counts=True) from None
        found = {part.headers.get("content-location", ""): part.content for part in parts}
        bundle = reply.headers.get("cxr-bundle")
        # what cannot be made of this film is named; what is neither there nor named is missing
        omitted = {kind.strip() for kind in reply.headers.get("cxr-omitted", "none").split(",")} - {"none"}
        if not bundle or len(parts) != len(found) or {*found, *omitted} != set(self._objects) or not found:
            raise JudgeError("unusable_answer", counts=True)
        return Judged(bundle, tuple(ResultObject(kind, found[kind]) for kind in self._objects if kind in found))

    def _exchange(self, method: str, target: str, headers: dict[str, str], content: bytes | None = None) -> Reply:
        try:
            return exchange(
                self._client,
                method,
                self._url + target,
                headers=headers | {"X-API-Key": self._key},
                content=content,
                deadline_s=self._service.timeout_s,
                max_bytes=REPORTS_MAX_BYTES,
            )
        except ExchangeError as error:
            raise JudgeError(f"service_{error.code}", away=True) from None


def _refused(reply: Reply) -> Refused:
    code = _json(reply.body).get("code")
    known = isinstance(code, str) and code in ERROR_TABLE
    if known and 400 <= reply.status < 500 and code not in _NOT_THE_FILM:
        return Refused(str(code))
    # what is wrong with the request or the key is wrong for every film, as is a service that is not there
    away = reply.status in _AWAY or (code in _NOT_THE_FILM and code != "idempotency_key_reused")
    raise JudgeError(
        str(code) if known else "unusable_answer", away=away, counts=not away, retry_after_s=reply.retry_after_s
    )


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
