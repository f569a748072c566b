"""The door: a plain ASGI layer around everything else.

Request id, authentication, role, declared body size, rate and a look whether there is a place in the queue come before the first body
byte is asked for, and before the framework: under overload most requests end here. Whatever is answered while a body is still unread
closes the connection, so a refused upload is not read (a known key that is told to come back later keeps its connection: what it is
still sending is let go by, so that it can read the answer). Every answer gets the request id and the security headers, every error
becomes a problem document here and nowhere else, and every request is one log line and one observation. No body, file name, raw path
or query is logged.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from urllib.parse import parse_qsl

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.body import BodyRule, ClientGoneError, check_length
from app.api.call import Call, begin
from app.api.policy import UNKNOWN, Body, Shown, Table
from app.api.ports import Records, Service
from app.api.problems import as_http_error, problem_response
from app.api.rate import RateLimit
from app.api.urgency import urgency_of
from app.domain import Principal
from app.errors import AuthenticationError, CxrError, ForbiddenError, InternalError, RequestError
from app.metrics import Metrics

log = structlog.get_logger("cxr.api")
access = structlog.get_logger("cxr.access")

KEY_MAX_CHARS = 128
QUERY_MAX_FIELDS = 32
CLIENT_GONE_STATUS = 499  # logged and counted only; there is nobody to answer
_KEY_PREFIX = re.compile(r"cxr_([A-Za-z0-9]{8})_")
_COUNTED = frozenset({"unauthenticated", "forbidden", "rate_limited", "overloaded"})

_COME_BACK = frozenset({"rate_limited", "overloaded", "not_ready", "audit_unavailable"})

_NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_OWN_ONLY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_COMMON = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
_POLICIES = {
    Shown.DATA: (*_COMMON, (b"content-security-policy", _NOTHING.encode()), (b"cache-control", b"no-store")),
    Shown.PAGE: (*_COMMON, (b"content-security-policy", _OWN_ONLY.encode()), (b"cache-control", b"no-store")),
    Shown.ASSET: (*_COMMON, (b"content-security-policy", _NOTHING.encode()), (b"cache-control", b"no-cache")),
}


class Boundary:
    """ASGI middleware.

    Args:
        app: everything inside.
        table: who may call what.
        rules: limits of each kind of body.
        service: asked whether a film would be admitted.
        records: the keys, and the count of what is turned away.
        rate: requests per key.
        metrics: told of every request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        table: Table,
        rules: Mapping[Body, BodyRule],
        service: Service,
        records: Records,
        rate: RateLimit,
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._table = table
        self._rules = rules
        self._service = service
        self._records = records
        self._rate = rate
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = begin(scope, self._table.find(scope["method"], scope["path"]))
        exchange = _Exchange(call, receive, send)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=call.request_id)
        self._metrics.request_begun()
        try:
            await self._check(call, scope["query_string"])
            await self._app(scope, exchange.receive, exchange.send)
        except CxrError as error:
            await self._answer(error, scope, exchange)
        except ClientGoneError:
            call.code = "client_gone"
        except Exception as error:
            log.exception("unhandled_error", route=call.template)
            if call.status:  # half of an answer is out: only the server can end it, by closing the connection
                raise
            await self._answer(InternalError(), scope, exchange, cause=error)
        finally:
            self._report(call)

    async def _check(self, call: Call, query: bytes) -> None:
        """Everything that is settled before the body. The order is the contract's: key, role, length, rate, place.

        Raises:
            RequestError: of the kind that applies.
        """
        policy = call.policy
        if policy is None or policy.roles is not None:
            call.caller = await self._authenticate(call)
            structlog.contextvars.bind_contextvars(key_id=call.caller.key_id)
        if policy is None:
            raise RequestError("not_found" if call.match is UNKNOWN else "method_not_allowed")
        if call.caller is not None and policy.roles is not None and call.caller.role not in policy.roles:
            raise ForbiddenError
        rule = self._rules.get(policy.body)
        check_length(call.headers, rule.body_max_bytes if rule else 0)
        if call.caller is not None:
            self._rate.spend(call.caller.key_id)
        if query:
            _refuse_repeated(query)
        if rule is not None:
            asked = urgency_of(call)
            self._service.check(1, lane=asked.lane, owner=asked.owner, begin_within_s=asked.begin_within_s)

    async def _authenticate(self, call: Call) -> Principal:
        text = presented_key(call)
        caller = await self._records.authenticate_async(text) if text else None
        if caller is None:
            raise AuthenticationError
        return caller

    async def _answer(
        self, error: CxrError, scope: Scope, exchange: _Exchange, *, cause: Exception | None = None
    ) -> None:
        call = exchange.call
        shown = as_http_error(error)
        if shown is not error and cause is None:
            log.error("internal_error", route=call.template, exc_info=error)
        call.code = shown.code
        response = problem_response(shown, call.request_id)
        if shown.code == "method_not_allowed":
            response.headers["Allow"] = ", ".join(call.match.methods)
        await response(scope, exchange.receive, exchange.send)

    def _report(self, call: Call) -> None:
        """One line, one observation, and the count of what was turned away unaudited."""
        seconds = time.perf_counter() - call.begun
        caller, status = call.caller, call.status or CLIENT_GONE_STATUS
        self._metrics.observe_request(
            method=call.method,
            route=call.template,
            status=status,
            seconds=seconds,
            body_bytes=call.body_bytes,
            code=call.code if call.status else None,
        )
        if call.code in _COUNTED and not call.admitted:
            self._records.count(call.code, caller.key_id if caller else _prefix(presented_key(call)))
        access.info(
            "request",
            method=call.method,
            route=call.template,
            status=status,
            duration_ms=round(seconds * 1e3, 2),
            key_id=caller.key_id if caller else None,
            role=str(caller.role) if caller else None,
            request_id=call.request_id,
            code=call.code,
        )
        structlog.contextvars.clear_contextvars()


class _Exchange:
    """The two ASGI channels of one request, watched."""

    def __init__(self, call: Call, receive: Receive, send: Send) -> None:
        self.call = call
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.call.body_bytes += len(message.get("body", b""))
            self.call.body_done = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.call.status = message["status"]
            message["headers"] = self._headers(message)
        await self._send(message)

    def _headers(self, message: Message) -> list[tuple[bytes, bytes]]:
        call = self.call
        shown = call.policy.shown if call.policy and call.code is None else Shown.DATA
        headers = list(message.get("headers", ()))
        given = {name.lower() for name, _ in headers}
        headers += [(name, value) for name, value in _POLICIES[shown] if name not in given]
        headers.append((b"x-request-id", call.request_id.encode("ascii")))
        if not (call.body_done or _worth_draining(call)):
            headers.append((b"connection", b"close"))
        return headers


def _worth_draining(call: Call) -> bool:
    """Whether the server should let the rest of a body pass by unkept, so that a client still sending can read its answer.

    Only for a known key that must wait its turn: its declared length was found within bounds. Everybody else is hung up on.
    """
    return call.caller is not None and call.code in _COME_BACK and "content-length" in call.headers


def presented_key(call: Call) -> str | None:
    """The key a client sent: X-API-Key, else Authorization: Bearer. None for none, several, or one that is too long."""
    sent = call.headers.getlist("x-api-key")
    if not sent:
        schemes = (h.partition(" ") for h in call.headers.getlist("authorization"))
        sent = [key.strip() for scheme, _, key in schemes if scheme.lower() == "bearer"]
    return sent[0] if len(sent) == 1 and 0 < len(sent[0]) <= KEY_MAX_CHARS and sent[0].isascii() else None


def _refuse_repeated(query: bytes) -> None:
    """A parameter that is given twice: which one counts would be a guess.

    Raises:
        RequestError: `malformed_request`.
    """
    try:
        names = [name for name, _ in parse_qsl(query, keep_blank_values=True, max_num_fields=QUERY_MAX_FIELDS)]
    except ValueError:
        raise RequestError("malformed_request", what="it has too many query parameters") from None
    if len(set(names)) < len(names):
        raise RequestError("malformed_request", what="a query parameter is given twice")


def _prefix(key: str | None) -> str | None:
    """The public id inside a rejected key, for the count of failures; the secret part is never kept."""
    found = _KEY_PREFIX.match(key or "")
    return found.group(1) if found else None
