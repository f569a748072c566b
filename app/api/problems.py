"""Errors as RFC 9457 problem documents: one shape, one place.

`{type, title, status, detail, code, request_id}`; `type` is `urn:cxr-triage:problem:<code>`, a name and not an address. The texts
come from the error table; nothing of a request, no path and no exception text can get into them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from app.errors import CxrError, InternalError, RequestError

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:cxr-triage:problem:"
_RETRY_STATUS = frozenset({429, 503})


def problem(error: CxrError, request_id: str) -> dict[str, Any]:
    """The problem document of an error; an error that is not meant for clients becomes `internal_error`."""
    shown = as_http_error(error)
    return {
        "type": TYPE_PREFIX + shown.code,
        "title": shown.title,
        "status": shown.status,
        "detail": shown.detail,
        "code": shown.code,
        "request_id": request_id,
    }


def problem_response(error: CxrError, request_id: str) -> Response:
    """The answer to a request that ended in an error; `Retry-After` in whole seconds where waiting helps."""
    content = problem(error, request_id)
    headers = {}
    if error.retry_after_s is not None or content["status"] in _RETRY_STATUS:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s or 1.0)))
    return Response(json.dumps(content), status_code=content["status"], media_type=MEDIA_TYPE, headers=headers)


def as_http_error(error: CxrError) -> CxrError:
    """The error itself, or `internal_error` for one that is meant for operators (bundles, records, settings)."""
    return error if error.status != 500 else InternalError()


def invalid_parameter(error: Mapping[str, Any], known: tuple[str, ...]) -> RequestError:
    """A `RequestError` for one entry of pydantic's error list.

    Args:
        error: `type`, `loc` and `ctx` are used; `input` and `msg` hold what the client sent, and are not.
        known: the route's own parameter names; a name outside them is the client's word and is not repeated.
    """
    name = str(error["loc"][1]) if len(error["loc"]) > 1 else ""
    if error["type"] == "extra_forbidden" or name not in known:
        return RequestError("malformed_request", what=f"a query parameter is unknown; known are {_listed(known)}")
    return RequestError("invalid_parameter", parameter=name, must_be=_must_be(error["type"], error.get("ctx", {})))


_PHRASES = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "missing": "given",
}
_LIMITS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
    "string_too_long": ("max_length", "not longer than"),
    "string_too_short": ("min_length", "not shorter than"),
    "literal_error": ("expected", "one of"),
}


def _must_be(kind: str, context: Mapping[str, Any]) -> str:
    if kind in _LIMITS and _LIMITS[kind][0] in context:
        key, words = _LIMITS[kind]
        return f"{words} {context[key]}"
    return _PHRASES.get(kind, "of the form that the API documentation gives")


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) if names else "none"


def install_handlers(app: FastAPI) -> None:
    """What FastAPI and Starlette raise becomes an error of ours and goes on to the boundary, which answers all of them."""

    async def translate(request: Request, error: Exception) -> Response:
        raise _ours(error, parameters(request)) from None

    app.add_exception_handler(HTTPException, translate)
    app.add_exception_handler(RequestValidationError, translate)


def parameters(request: Request) -> tuple[str, ...]:
    """Names of the query parameters of the route that a request reached."""
    route = request.scope.get("route")
    fields = route.dependant.query_params if isinstance(route, APIRoute) else []
    models = [f.field_info.annotation for f in fields]
    return tuple(name for m in models if isinstance(m, type) and issubclass(m, BaseModel) for name in m.model_fields)


def _ours(error: Exception, known: tuple[str, ...]) -> CxrError:
    if isinstance(error, RequestValidationError):
        return invalid_parameter(error.errors()[0], known)
    codes = {404: "not_found", 405: "method_not_allowed"}
    status = error.status_code if isinstance(error, HTTPException) else 500
    return RequestError(codes[status]) if status in codes else InternalError()
