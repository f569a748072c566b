"""One HTTP request as the boundary and the routes see it."""

from __future__ import annotations

import random
import re
import time
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from app.api.policy import Match, Policy
from app.domain import Principal
from app.errors import InternalError

SCOPE_KEY = "cxr.call"
_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{8,64}")


@dataclass
class Call:
    """What is known about a request while it lives. Filled by the boundary; a route reads it and sets `admitted`.

    admitted: a place in the queue was given, so whatever follows is audited; code: of the problem answered, if any;
    body_bytes: taken from the client so far; body_done: nothing of the body is left unread.
    """

    request_id: str
    method: str
    match: Match
    headers: Headers
    begun: float = field(default_factory=time.perf_counter)
    caller: Principal | None = None
    admitted: bool = False
    status: int = 0
    code: str | None = None
    body_bytes: int = 0
    body_done: bool = False

    @property
    def template(self) -> str:
        return self.match.template

    @property
    def policy(self) -> Policy | None:
        return self.match.policy

    @property
    def principal(self) -> Principal:
        """Who asks. The boundary lets nobody without a key pass to a route that reads this."""
        if self.caller is None:
            raise InternalError
        return self.caller


def new_request_id() -> str:
    """Unique, 32 hex digits; no secret, so it need not come from the kernel, for which the event loop would give its turn away."""
    return f"{random.getrandbits(128):032x}"


def call_of(connection: HTTPConnection) -> Call:
    """The call that the boundary put into the scope."""
    call: Call = connection.scope[SCOPE_KEY]
    return call


def begin(scope: MutableMapping[str, Any], match: Match) -> Call:
    """A call for an ASGI scope, put into it. The client's X-Request-ID is taken only if it cannot carry anything."""
    headers = Headers(raw=scope["headers"])
    sent = headers.get("x-request-id", "")
    call = Call(
        request_id=sent if _REQUEST_ID.fullmatch(sent) else new_request_id(),
        method=scope["method"],
        match=match,
        headers=headers,
        body_done=headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers,
    )
    scope[SCOPE_KEY] = call
    return call
