"""Problem documents: from every row of the error table, and never from what a client sent."""

from __future__ import annotations

import asyncio
import json
import string
from typing import Annotated, Literal
from urllib.parse import quote

import pytest
from fastapi import FastAPI, Query, Response
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from app.api.problems import MEDIA_TYPE, as_http_error, install_handlers, parameters, problem, problem_response
from app.errors import (
    ERROR_TABLE,
    BundleError,
    CxrError,
    ForbiddenError,
    InternalError,
    RateLimitedError,
    RecordsError,
    RequestError,
    UnavailableError,
)
from tests.support.asgi import scope_of, tell

REQUEST_ID = "0123456789abcdef"


def with_every_fact(code: str) -> CxrError:
    names = [name for _, name, _, _ in string.Formatter().parse(ERROR_TABLE[code].detail) if name]
    return CxrError(code, **dict.fromkeys(names, 7))


@pytest.mark.parametrize("code", sorted(ERROR_TABLE))
def test_every_code_makes_a_problem(code: str) -> None:
    response = problem_response(with_every_fact(code), REQUEST_ID)
    shown = json.loads(bytes(response.body))
    assert list(shown) == ["type", "title", "status", "detail", "code", "request_id"]
    assert response.media_type == MEDIA_TYPE
    assert response.status_code == shown["status"] == ERROR_TABLE[code].status
    assert shown["code"] == code
    assert shown["type"] == f"urn:cxr-triage:problem:{code}"
    assert shown["request_id"] == REQUEST_ID
    assert "{" not in shown["detail"]
    assert ("retry-after" in response.headers) == (response.status_code in (429, 503))


@pytest.mark.parametrize(("seconds", "header"), [(0.1, "1"), (1.0, "1"), (1.2, "2"), (59.5, "60")])
def test_retry_after_is_in_whole_seconds(seconds: float, header: str) -> None:
    assert problem_response(RateLimitedError(seconds), REQUEST_ID).headers["retry-after"] == header


@pytest.mark.parametrize(
    "error",
    [
        BundleError("changed_file", "CANARY"),
        RecordsError("audit_store_full", "CANARY"),
    ],
)
def test_an_error_that_is_not_for_clients_is_internal(error: CxrError) -> None:
    assert isinstance(as_http_error(error), InternalError)
    assert "CANARY" not in json.dumps(problem(error, REQUEST_ID))


def test_the_others_stay_what_they_are() -> None:
    for error in (ForbiddenError(), UnavailableError("overloaded")):
        assert as_http_error(error) is error


class Query_(BaseModel):  # noqa: N801 - not fastapi's
    model_config = ConfigDict(extra="forbid")
    alpha: float = Field(0.5, ge=0, le=1, allow_inf_nan=False)
    count: int = Field(1, gt=0)
    kind: Literal["a", "b"] = "a"
    text: str | None = Field(None, max_length=4)
    flag: bool = False


def make_app() -> FastAPI:
    app = FastAPI()
    install_handlers(app)

    @app.get("/x")
    async def x(request: Request, query: Annotated[Query_, Query()]) -> Response:
        return Response(",".join(parameters(request)))

    return app


APP = make_app()


async def ask(query: str, path: str = "/x") -> CxrError | str:
    try:
        told = await tell(APP, scope_of("GET", path, query=query))
    except CxrError as error:
        return error
    return told.body.decode()


def refused(runner_query: str, path: str = "/x") -> CxrError:
    outcome = asyncio.run(ask(runner_query, path))
    assert isinstance(outcome, CxrError)
    return outcome


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("alpha=2", "The query parameter 'alpha' must be at most 1.0."),
        ("alpha=-1", "The query parameter 'alpha' must be at least 0.0."),
        ("alpha=CANARY", "The query parameter 'alpha' must be a number."),
        ("alpha=nan", "The query parameter 'alpha' must be a finite number."),
        ("count=0", "The query parameter 'count' must be greater than 0."),
        ("count=CANARY", "The query parameter 'count' must be a whole number."),
        ("kind=CANARY", "The query parameter 'kind' must be one of 'a' or 'b'."),
        ("text=CANARY", "The query parameter 'text' must be not longer than 4."),
        ("flag=CANARY", "The query parameter 'flag' must be true or false."),
    ],
)
def test_what_a_parameter_must_be(query: str, detail: str) -> None:
    error = refused(query)
    assert error.code == "invalid_parameter"
    assert error.detail == detail


@given(st.text(min_size=1, max_size=20))
def test_an_unknown_parameter_is_refused_and_not_repeated(name: str) -> None:
    error = refused(f"CANARY{quote(name)}=CANARY")
    assert error.code == "malformed_request"
    assert "CANARY" not in error.detail
    assert error.detail.endswith("known are alpha, count, kind, text, flag.")


def test_the_frameworks_errors_are_translated() -> None:
    assert refused("", "/nothing").code == "not_found"
    with pytest.raises(RequestError) as caught:
        asyncio.run(tell(APP, scope_of("POST", "/x")))
    assert caught.value.code == "method_not_allowed"
