"""The door, by itself: what passes, what is turned away, how little of it is read, and what is said and logged about it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.testing import capture_logs

from app.api.body import ClientGoneError, rules
from app.api.boundary import Boundary
from app.api.call import SCOPE_KEY
from app.api.policy import POLICIES, Table
from app.api.rate import RateLimit
from app.domain import Lane, Principal, Role
from app.errors import BundleError, RefusedError, UnavailableError
from app.metrics import Metrics
from app.records import AuditEvent, EventId
from app.settings import Settings
from tests.support.asgi import Told, chunk_messages, scope_of, tell

KEYS = {f"key-of-{role}": Principal(f"{role}-id", "n", role) for role in Role}
ADMIN = {"X-API-Key": "key-of-admin"}
JPEG = {"Content-Type": "image/jpeg"}


@dataclass
class Keys:
    """Just enough of the records for the door."""

    counted: list[tuple[str, str | None]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def authenticate_async(self, text: str) -> Principal | None:
        self.asked.append(text)
        return KEYS.get(text)

    def count(self, kind: str, key_prefix: str | None = None) -> None:
        self.counted.append((kind, key_prefix))

    async def record(self, event: AuditEvent) -> EventId:
        raise NotImplementedError


class Inside:
    """What stands behind the door: answers, reads, or breaks as it is told."""

    def __init__(self, act: BaseException | str = "answer") -> None:
        self.act = act
        self.reached = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reached += 1
        if isinstance(self.act, BaseException):
            raise self.act
        if self.act == "read":
            while (await receive()).get("more_body"):
                pass
        await PlainTextResponse(scope[SCOPE_KEY].request_id)(scope, receive, send)


@dataclass
class Full:
    """Just enough of the service: whether there is a place. full: lanes without one; asked: by whom and how urgently."""

    full: set[Lane] = field(default_factory=set)
    asked: list[tuple[int, Lane, str, float | None]] = field(default_factory=list)

    def check(self, n: int, *, lane: Lane, owner: str, begin_within_s: float | None) -> None:
        self.asked.append((n, lane, owner, begin_within_s))
        if lane in self.full:
            raise UnavailableError("overloaded", retry_after_s=7)


@dataclass
class Door:
    app: ASGIApp
    keys: Keys
    inside: Inside
    service: Full
    registry: CollectorRegistry

    def ask(
        self,
        method: str = "GET",
        path: str = "/metrics",
        headers: dict[str, str] | None = None,
        messages: Iterable[Message] = (),
        query: str = "",
    ) -> Told:
        return asyncio.run(tell(self.app, scope_of(method, path, headers, query), messages))

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


def make_door(act: BaseException | str = "answer", **settings: Any) -> Door:
    made = Settings(**settings)
    inside, keys, service, registry = Inside(act), Keys(), Full(), CollectorRegistry()
    app = Boundary(
        inside,
        table=Table(POLICIES),
        rules=rules(made),
        service=service,  # type: ignore[arg-type]  # as much of it as the door asks for
        records=keys,
        rate=RateLimit(made.rate_limit_per_minute),
        metrics=Metrics(registry),
    )
    return Door(app, keys, inside, service, registry)


def code(told: Told) -> tuple[int, str]:
    assert told.headers["content-type"] == "application/problem+json"
    problem = told.json()
    assert problem["status"] == told.status
    assert problem["request_id"] == told.headers["x-request-id"]
    assert problem["type"] == f"urn:cxr-triage:problem:{problem['code']}"
    return told.status, problem["code"]


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/openapi.json", "/static/x.js", "/health", "/health/live", "/health/ready"]
)
def test_open_routes_ask_for_no_key(path: str) -> None:
    door = make_door()
    assert door.ask("GET", path).status == 200
    assert door.ask("GET", path, {"X-API-Key": "nonsense"}).status == 200
    assert door.keys.asked == []


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(("method", "path"), [r for r, p in POLICIES.items() if not p.open])
def test_roles(role: Role, method: str, path: str) -> None:
    door = make_door()
    told = door.ask(method, path, {"X-API-Key": f"key-of-{role}"})
    if role in (POLICIES[(method, path)].roles or ()):
        assert told.status == 200
    else:
        assert code(told) == (403, "forbidden")
        assert door.inside.reached == 0
        assert door.keys.counted == [("forbidden", f"{role}-id")]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": "wrong"},
        {"X-API-Key": ""},
        {"X-API-Key": "k" * 129},
        {"X-API-Key": "kéy"},
        {"Authorization": "Basic a2V5LW9mLWFkbWlu"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"X-API-Key": "wrong", "Authorization": "Bearer key-of-admin"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/predict"), ("GET", "/nothing"), ("POST", "/health"), ("PUT", "/predict")]
)
def test_nobody_without_a_key_learns_anything(headers: dict[str, str], method: str, path: str) -> None:
    door = make_door()
    assert code(door.ask(method, path, headers)) == (401, "unauthenticated")
    assert door.inside.reached == 0


def test_both_ways_to_send_a_key() -> None:
    door = make_door()
    assert door.ask(headers=ADMIN).status == 200
    assert door.ask(headers={"Authorization": "Bearer key-of-admin"}).status == 200
    assert door.ask(headers={"Authorization": "bearer   key-of-admin "}).status == 200


def test_two_keys_are_none() -> None:
    door = make_door()
    scope = scope_of("GET", "/metrics")
    scope["headers"] = [(b"x-api-key", b"key-of-admin"), (b"x-api-key", b"wrong")]
    assert asyncio.run(tell(door.app, scope)).status == 401


def test_with_a_key_the_unknown_is_named() -> None:
    door = make_door()
    assert code(door.ask("GET", "/nothing", ADMIN)) == (404, "not_found")
    told = door.ask("PUT", "/predict", ADMIN)
    assert code(told) == (405, "method_not_allowed")
    assert told.headers["allow"] == "POST"
    assert door.inside.reached == 0


def test_failures_are_counted_by_the_public_part_of_the_key() -> None:
    door = make_door()
    door.ask(headers={"X-API-Key": "cxr_abcd2345_" + "s" * 43 + "_checks"})
    door.ask(headers={"X-API-Key": "whatever"})
    door.ask()
    assert door.keys.counted == [("unauthenticated", "abcd2345"), ("unauthenticated", None), ("unauthenticated", None)]


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({"Content-Length": "9000000"}, (401, "unauthenticated")),
        ({"X-API-Key": "key-of-monitor", "Content-Length": "9000000"}, (403, "forbidden")),
        ({**ADMIN, "Content-Length": "900000000"}, (413, "payload_too_large")),
        ({**ADMIN, "Content-Length": "12x"}, (400, "malformed_request")),
    ],
)
def test_a_refused_upload_is_not_read(headers: dict[str, str], wanted: tuple[int, str]) -> None:
    door = make_door()
    told = door.ask("POST", "/predict", {**headers, **JPEG}, chunk_messages([b"x" * 65_536] * 138))
    assert code(told) == wanted
    assert told.headers["connection"] == "close"
    assert (told.reads, told.read_bytes) == (0, 0)


def test_what_is_answered_before_the_end_of_the_body_closes_the_connection() -> None:
    unread = make_door().ask("POST", "/predict", {**ADMIN, "Transfer-Encoding": "chunked"}, chunk_messages([b"x"] * 3))
    assert unread.headers["connection"] == "close"
    read = make_door("read").ask("POST", "/predict", {**ADMIN, "Content-Length": "3"}, chunk_messages([b"x"] * 3))
    assert "connection" not in read.headers
    assert read.read_bytes == 3
    assert "connection" not in make_door().ask(headers=ADMIN).headers


def test_a_known_key_that_must_come_back_keeps_its_connection() -> None:
    """So that it can read when: what it is still sending is let go by."""
    busy = UnavailableError("overloaded", retry_after_s=1)
    upload = {**JPEG, "Content-Length": "3"}
    assert "connection" not in make_door(busy).ask("POST", "/predict", {**ADMIN, **upload}).headers
    endless = {**ADMIN, **JPEG, "Transfer-Encoding": "chunked"}
    assert make_door(busy).ask("POST", "/predict", endless).headers["connection"] == "close"
    assert (
        make_door(RefusedError("blank_image")).ask("POST", "/predict", {**ADMIN, **upload}).headers["connection"]
        == "close"
    )


def test_overload_ends_at_the_door() -> None:
    """Before the framework, before a byte of the body; the lane decides who is turned away."""
    door = make_door()
    door.service.full = {"routine", "bulk"}
    upload = {**ADMIN, **JPEG, "Content-Length": "3"}
    told = door.ask("POST", "/predict", upload, chunk_messages([b"abc"]))
    assert code(told) == (503, "overloaded")
    assert (told.headers["retry-after"], told.reads, door.inside.reached) == ("7", 0, 0)
    assert door.ask("POST", "/predict", {**upload, "X-Priority": "stat", "X-Deadline-Ms": "250"}).status == 200
    assert door.ask("POST", "/predict", {**upload, "X-Priority": "bulk"}).status == 503
    assert door.service.asked == [
        (1, "routine", "admin-id", None),
        (1, "stat", "admin-id", 0.25),
        (1, "bulk", "admin-id", None),
    ]
    assert door.ask(headers=ADMIN).status == 200  # a route without a film is not asked for a place
    assert door.keys.counted == [("overloaded", "admin-id")] * 2


def test_the_key_s_lane_holds_where_the_request_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KEYS, "key-of-night", Principal("night-id", "n", Role.SERVICE, "bulk"))
    door = make_door()
    door.ask("POST", "/predict", {"X-API-Key": "key-of-night", **JPEG})
    door.ask("POST", "/predict", {"X-API-Key": "key-of-night", **JPEG, "X-Priority": "routine"})
    assert [lane for _, lane, _, _ in door.service.asked] == ["bulk", "routine"]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Priority": "STAT"},
        {"X-Priority": "urgent"},
        {"X-Priority": ""},
        {"X-Deadline-Ms": "0"},
        {"X-Deadline-Ms": "-5"},
        {"X-Deadline-Ms": "1.5"},
        {"X-Deadline-Ms": "1e3"},
        {"X-Deadline-Ms": "600001"},
        {"X-Deadline-Ms": "9" * 40},
        {"X-Deadline-Ms": ""},
    ],
)
def test_an_urgency_that_is_none_is_refused(headers: dict[str, str]) -> None:
    door = make_door()
    told = door.ask("POST", "/predict", {**ADMIN, **JPEG, **headers})
    assert code(told) == (400, "malformed_request")
    assert next(iter(headers)) in told.json()["detail"]
    assert door.inside.reached == 0


@pytest.mark.parametrize("name", [b"x-priority", b"x-deadline-ms"])
def test_an_urgency_given_twice_is_refused(name: bytes) -> None:
    door = make_door()
    scope = scope_of("POST", "/predict", ADMIN)
    value = b"stat" if name == b"x-priority" else b"5"
    scope["headers"] += [(name, value), (name, value)]
    assert code(asyncio.run(tell(door.app, scope)))[1] == "malformed_request"


def test_a_route_without_a_body_takes_none() -> None:
    assert code(make_door().ask("GET", "/metrics", {**ADMIN, "Content-Length": "1"})) == (413, "payload_too_large")
    assert code(make_door().ask("GET", "/health", {"Transfer-Encoding": "chunked"})) == (413, "payload_too_large")


@pytest.mark.parametrize("sent", ["abcdefgh", "A-1" * 21, "0" * 64])
def test_a_harmless_request_id_is_kept(sent: str) -> None:
    told = make_door().ask(headers={**ADMIN, "X-Request-ID": sent})
    assert told.headers["x-request-id"] == sent
    assert told.body == sent.encode()


@pytest.mark.parametrize(
    "sent", ["short", "0" * 65, "with space", 'quote"12345', "new\nline123", "", "Doe^John-19700101", "ä" * 8]
)
def test_any_other_request_id_is_replaced(sent: str) -> None:
    told = make_door().ask(headers={**ADMIN, "X-Request-ID": sent})
    assert told.headers["x-request-id"] != sent
    assert len(told.headers["x-request-id"]) == 32


def test_the_rate_is_counted_by_key() -> None:
    door = make_door(rate_limit_per_minute=3)
    assert [door.ask(headers=ADMIN).status for _ in range(5)] == [200, 200, 200, 429, 429]
    told = door.ask(headers=ADMIN)
    assert code(told) == (429, "rate_limited")
    assert 1 <= int(told.headers["retry-after"]) <= 120
    assert door.ask(headers={"X-API-Key": "key-of-monitor"}).status == 200
    assert [door.ask(headers={"X-API-Key": "bad"}).status for _ in range(9)] == [401] * 9
    assert door.keys.counted.count(("rate_limited", "admin-id")) == 3


@pytest.mark.parametrize(
    ("path", "content_security", "cache"),
    [
        ("/health", "default-src 'none'", "no-store"),
        ("/docs", "script-src 'self'", "no-store"),
        ("/static/x.js", "default-src 'none'", "no-cache"),
    ],
)
def test_security_headers(path: str, content_security: str, cache: str) -> None:
    headers = make_door().ask("GET", path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert content_security in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cache-control"] == cache


def test_errors_carry_the_headers_too() -> None:
    headers = make_door().ask("POST", "/predict").headers
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"].startswith("default-src 'none';")
    assert headers["x-content-type-options"] == "nosniff"


def test_a_header_of_the_answer_is_not_given_twice() -> None:
    async def own_policy(scope: Scope, receive: Receive, send: Send) -> None:
        await Response("x", headers={"Content-Security-Policy": "own", "Cache-Control": "own"})(scope, receive, send)

    door = make_door()
    door.inside.__class__ = type("Own", (Inside,), {"__call__": staticmethod(own_policy)})
    headers = door.ask(headers=ADMIN).headers
    assert headers["content-security-policy"] == headers["cache-control"] == "own"


def test_coded_errors_become_problems() -> None:
    told = make_door(RefusedError("too_small", width=5, height=6, limit=128)).ask(headers=ADMIN)
    assert code(told) == (422, "too_small")
    assert told.json()["detail"] == "The image is 5 x 6 px; at least 128 px a side."
    told = make_door(UnavailableError("not_ready", retry_after_s=4.2, reason="warming up")).ask(headers=ADMIN)
    assert code(told) == (503, "not_ready")
    assert told.headers["retry-after"] == "5"


@pytest.mark.parametrize(
    "error", [ValueError("CANARY /work/secret"), KeyError("CANARY"), BundleError("changed_file", "CANARY")]
)
def test_nothing_of_an_unexpected_error_is_shown(error: Exception) -> None:
    door = make_door(error)
    with capture_logs() as logs:
        told = door.ask(headers=ADMIN)
    assert code(told) == (500, "internal_error")
    assert b"CANARY" not in told.body
    (line,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert line["exc_info"]
    assert line["route"] == "/metrics"


def test_an_error_after_the_start_of_an_answer_goes_on_to_the_server() -> None:
    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("CANARY")

    door = make_door()
    door.inside.__class__ = type("Half", (Inside,), {"__call__": staticmethod(half)})
    with capture_logs(), pytest.raises(ValueError, match="CANARY"):
        door.ask(headers=ADMIN)


def test_a_client_that_left_is_only_logged() -> None:
    door = make_door(ClientGoneError())
    with capture_logs() as logs:
        told = door.ask(headers=ADMIN)
    assert told.status == 0
    assert (logs[-1]["status"], logs[-1]["code"]) == (499, "client_gone")
    assert door.value("cxr_http_problems_total", route="/metrics", code="other") is None


def test_one_line_a_request_without_anything_of_it() -> None:
    door = make_door("read")
    with capture_logs() as logs:
        door.ask(
            "POST",
            "/predict",
            {**ADMIN, "Content-Length": "6", "User-Agent": "CANARY", "X-Request-ID": "01234567"},
            chunk_messages([b"CANARY"]),
            query="operating_point=CANARY",
        )
        door.ask("GET", "/CANARY/of/a/path", ADMIN, query="CANARY=1")
    assert "CANARY" not in json.dumps(logs)
    assert [entry["event"] for entry in logs] == ["request", "request"]
    assert logs[0] == {
        "event": "request",
        "log_level": "info",
        "method": "POST",
        "route": "/predict",
        "status": 200,
        "duration_ms": logs[0]["duration_ms"],
        "key_id": "admin-id",
        "role": "admin",
        "request_id": "01234567",
        "code": None,
    }
    assert (logs[1]["route"], logs[1]["status"]) == ("other", 404)


def test_metrics_of_requests() -> None:
    door = make_door("read")
    for _ in range(2):
        door.ask("POST", "/predict", {**ADMIN, "Content-Length": "6"}, chunk_messages([b"abcdef"]))
    door.ask("GET", "/nothing", ADMIN)
    door.ask("PROPFIND", "/predict", ADMIN)
    requests = "cxr_http_requests_total"
    assert door.value(requests, method="POST", route="/predict", status_class="2xx") == 2
    assert door.value(requests, method="GET", route="other", status_class="4xx") == 1
    assert door.value(requests, method="other", route="/predict", status_class="4xx") == 1
    assert door.value("cxr_http_request_body_bytes_total", route="/predict") == 12
    assert door.value("cxr_http_problems_total", route="other", code="not_found") == 1
    assert door.value("cxr_http_requests_in_flight") == 0
    assert door.value("cxr_http_request_duration_seconds_count", route="/predict") == 3


def test_a_parameter_given_twice_is_refused() -> None:
    door = make_door()
    assert code(door.ask(headers=ADMIN, query="a=1&b=2&a=3")) == (400, "malformed_request")
    assert code(door.ask(headers=ADMIN, query="&".join(f"p{i}=1" for i in range(40)))) == (400, "malformed_request")
    assert door.ask(headers=ADMIN, query="a=1&b=2&c=").status == 200


def test_websockets_are_turned_away() -> None:
    door = make_door()
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def connect() -> None:
        await door.app({"type": "websocket", "path": "/predict", "headers": []}, receive, send)

    asyncio.run(connect())
    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert door.inside.reached == 0


def test_bad_keys_leave_nothing_in_memory() -> None:
    door = make_door()
    for i in range(200):
        door.ask(headers={"X-API-Key": f"bad-{i}"})
    rate = door.app._rate  # type: ignore[attr-defined]  # looked at on purpose
    assert len(rate._minutes) == 0
