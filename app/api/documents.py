"""What the OpenAPI document says beyond the signatures: bodies, answers, problems, keys and roles.

No route declares a body parameter (the framework would read and spool it before the route's own checks), so the bodies are described
here. Keys and roles are taken from the policy table, problems from the error table: nothing is said twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from app.api.body import MULTIPART, RAW_TYPES
from app.api.examples import EXAMPLES
from app.api.idempotency import HEADER, REPLAYED
from app.api.objects import FACTS, FORMS, RELATED
from app.api.policy import POLICIES, Policy
from app.api.problems import MEDIA_TYPE, TYPE_PREFIX
from app.api.schemas import GradcamAnswer, PredictAnswer, Problem
from app.api.urgency import DEADLINE, DEADLINE_MAX_MS, PRIORITY
from app.bundle.gate_spec import GATE_CODES
from app.domain import LANES
from app.errors import ERROR_TABLE

GUARDED = ("unauthenticated", "forbidden", "rate_limited")
QUERY = ("malformed_request", "invalid_parameter")
NOT_READY = ("not_ready",)
RECORDED = ("not_ready", "audit_unavailable", "internal_error")
NEGOTIATED = ("not_acceptable",)
EXPLAINED = ("explanation_unavailable", "unknown_target")
OBJECTS = ("dicom_source_required", "presentation_unknown")
DICOM_FILES = (
    "malformed_dicom",
    "executable_preamble",
    "dicom_without_image",
    "unsupported_transfer_syntax",
    "unsupported_pixel_format",
    "multi_frame_image",
    "undecodable_image",
)
REFUSED = ("too_small", "blank_image", *(code for code in GATE_CODES if code in ERROR_TABLE))
UPLOADED = (
    *GUARDED,
    *QUERY,
    "malformed_multipart",
    "missing_file",
    "too_many_files",
    "unknown_operating_point",
    "malformed_image",
    "truncated_image",
    "trailing_data",
    "body_timeout",
    "payload_too_large",
    "image_too_large",
    "unsupported_media_type",
    "unsupported_format",
    "animated_image",
    "unsupported_color",
    *DICOM_FILES,
    *REFUSED,
    "idempotency_key_reused",
    "overloaded",
    *RECORDED,
)
_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_BINARY = {"type": "string", "format": "binary"}
_SCHEMES = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "`cxr_<id>_<secret>_<checksum>`"},
    "Bearer": {"type": "http", "scheme": "bearer", "description": "The same key, for clients that can send only this."},
}


def image_body() -> dict[str, Any]:
    """One film: a multipart part named `file`, or the body itself."""
    part = {"type": "object", "required": ["file"], "properties": {"file": _BINARY}, "additionalProperties": False}
    raw = {media_type: {"schema": _BINARY} for media_type in sorted(RAW_TYPES)}
    return _with_headers({"requestBody": {"required": True, "content": {MULTIPART: {"schema": part}, **raw}}})


def batch_body() -> dict[str, Any]:
    """Several films: multipart parts named `files`."""
    files = {"type": "array", "items": _BINARY, "minItems": 1}
    form = {"type": "object", "required": ["files"], "properties": {"files": files}, "additionalProperties": False}
    return _with_headers({"requestBody": {"required": True, "content": {MULTIPART: {"schema": form}}}})


def _with_headers(operation: dict[str, Any]) -> dict[str, Any]:
    """A request that may be sent again, and says how urgent it is."""
    return {**operation, "parameters": [_header(*header) for header in _REQUEST_HEADERS]}


def _header(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": description}


_REQUEST_HEADERS: tuple[tuple[str, dict[str, Any], str], ...] = (
    (
        HEADER,
        {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
        (
            "A name of the sender's for this request. Sent again by the same key with the same film, options and form of answer, it is "
            f"answered as the same request (`{REPLAYED}: true`) and recorded as one prediction, as long as the same bundle is live."
        ),
    ),
    (
        PRIORITY,
        {"type": "string", "enum": list(LANES)},
        (
            "How urgent: `stat` goes before everything and finds a place when the queue is full; `bulk` waits until nothing else does. "
            "Default: the lane of the key (`routine` unless it was made with another)."
        ),
    ),
    (
        DEADLINE,
        {"type": "integer", "minimum": 1, "maximum": DEADLINE_MAX_MS},
        (
            "Milliseconds from now after which the film need not be judged any more. If it cannot have begun by then, the answer is 503 "
            "at once, with `Retry-After`. It can only shorten the service's own limit (CXR_QUEUE_TIMEOUT_S)."
        ),
    ),
)


def json_answer(model: type[BaseModel], *, html: bool = False) -> dict[str, Any]:
    """The successful answer of a route as JSON; html: a page is offered too."""
    content: dict[str, Any] = {"application/json": {}} | ({"text/html": {"schema": {"type": "string"}}} if html else {})
    return {"model": model, "description": _first_line(model), "content": content}


def picture_answer() -> dict[str, Any]:
    """The successful answer of a route that draws; the headers say what a picture cannot."""
    return {
        "model": GradcamAnswer,
        "description": "The film with the heat map on it, or the map in numbers.",
        "headers": _headers(*FACTS, "CXR-Target", "CXR-No-Positive-Evidence", REPLAYED),
        "content": {
            "image/png": {"schema": _BINARY},
            "image/jpeg": {"schema": _BINARY},
            "application/dicom": {"schema": _BINARY},
            "application/json": {},
        },
    }


def predict_answer() -> dict[str, Any]:
    """The successful answer of the route that judges: the numbers, or one object by Accept."""
    answer = json_answer(PredictAnswer)
    content = {form: {"schema": _BINARY} for form, kind in FORMS.items() if kind is not None}
    return {**answer, "headers": _headers(*FACTS, REPLAYED), "content": answer["content"] | content}


def related_answer() -> dict[str, Any]:
    """The successful answer of the route that makes objects."""
    return {
        "description": "One part per object; `Content-Location` is its kind.",
        "headers": _headers(*FACTS, REPLAYED),
        "content": {RELATED: {"schema": _BINARY}},
    }


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"schema": {"type": "string"}} for name in names}


def text_answer(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}}


def problem_answers(*groups: tuple[str, ...]) -> dict[int | str, dict[str, Any]]:
    """The problems a route may answer with, by status, from their codes."""
    answers: dict[int | str, dict[str, Any]] = {}
    for code in dict.fromkeys(code for group in groups for code in group):
        spec = ERROR_TABLE[code]
        if spec.status not in answers:
            answers[spec.status] = {"description": "", "content": {MEDIA_TYPE: {"schema": _PROBLEM, "examples": {}}}}
        answer = answers[spec.status]
        answer["description"] = ", ".join(filter(None, [answer["description"], f"`{code}`"]))
        answer["content"][MEDIA_TYPE]["examples"][code] = {"value": _problem_example(code)}
        if spec.status in (429, 503):
            answer["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    return answers


def finish(app: FastAPI, policies: Mapping[tuple[str, str], Policy] = POLICIES) -> None:
    """Make the whole document once: the framework's, with keys, roles and problems, and without what never happens here."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):  # the framework's 422; a wrong parameter is our 400
        schemas.pop(unused, None)
    schemas["Problem"] = Problem.model_json_schema()
    components["securitySchemes"] = _SCHEMES
    for (method, path), policy in policies.items():
        operation = document["paths"].get(path, {}).get(method.lower())
        if operation is not None:
            operation["operationId"] = path.strip("/").replace("/", "_")
            _complete(operation, policy)
    app.openapi = lambda: document  # type: ignore[method-assign]  # FastAPI's documented way


def _complete(operation: dict[str, Any], policy: Policy) -> None:
    content = operation["responses"]["200"]["content"]
    if "image/png" in content:
        content["application/json"] = content.pop("application/json")  # last: the first is taken for the default
    answer = content.get("application/json", {})
    name = answer.get("schema", {}).get("$ref", "").rpartition("/")[2]
    if name in EXAMPLES:  # only now: the framework drops every null from what it is given
        answer["example"] = EXAMPLES[name]
    validation = operation["responses"].get("422", {}).get("content", {}).get("application/json", {})
    if validation.get("schema", {}).get("$ref", "").endswith("HTTPValidationError"):
        del operation["responses"]["422"]
    if policy.roles is not None:
        operation["security"] = [{name: []} for name in _SCHEMES]
        roles = ", ".join(sorted(policy.roles))
        trail = " Reaches the audit trail." if policy.audited else ""
        operation["description"] = f"{operation.get('description', '')}\n\nRoles: {roles}.{trail}".strip()


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or model.__name__).strip().splitlines()[0]


def _problem_example(code: str) -> dict[str, Any]:
    """The detail keeps its placeholders: they are filled with numbers and with words of ours."""
    spec = ERROR_TABLE[code]
    return {
        "type": TYPE_PREFIX + code,
        "title": spec.title,
        "status": spec.status,
        "detail": spec.detail,
        "code": code,
        "request_id": "0f8b2c4e6d1a4b7c9e3f5a7d9b1c3e5f",
    }
