"""POST /predict and /batch_predict over the shipped application: answers, problems, order, the audit, and places given back."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.domain import Role
from app.imaging.phantom import encode_jpeg, encode_png, phantom
from app.inference.scheduler import Scheduler
from tests.support.asgi import Told, chunk_messages, scope_of, tell

JPEG = {"Content-Type": "image/jpeg"}


def problem(reply: httpx.Response) -> tuple[int, str]:
    assert reply.headers["content-type"] == "application/problem+json"
    return reply.status_code, reply.json()["code"]


def events(state: Path, request_id: str) -> list[tuple[str, dict[str, Any]]]:
    with sqlite3.connect(f"file:{state / 'cxr.sqlite3'}?mode=ro", uri=True) as database:
        rows = database.execute(
            "SELECT kind, payload FROM audit_events JOIN audit_payloads USING (chain_id, seq) WHERE payload LIKE ?",
            [f"%{request_id}%"],
        ).fetchall()
    return [(kind, json.loads(payload)) for kind, payload in rows]


def idle(app: FastAPI) -> bool:
    """Whether every place and every byte was given back."""
    return bool(app.state.service._scheduler.admitted == 0)


def test_every_way_in_gives_the_same_answer(client: httpx.Client, film: bytes) -> None:
    raw = client.post("/predict", content=film, headers=JPEG)
    assert raw.status_code == 200
    form = client.post("/predict", files={"file": ("Doe^John.jpg", film)})
    pieces = client.post("/predict", content=(film[i : i + 999] for i in range(0, len(film), 999)), headers=JPEG)
    for reply in (form, pieces):
        assert reply.json()["classes"] == raw.json()["classes"]
        assert reply.json()["image"] == raw.json()["image"]
    assert raw.json()["request_id"] == raw.headers["x-request-id"]
    assert [w["code"] for w in raw.json()["warnings"]][-1] == "intended_use_unverified"
    assert "generated phantoms" in raw.json()["warnings"][-1]["message"]
    probabilities = [c["probability"] for c in raw.json()["classes"]]
    assert probabilities == sorted(probabilities, reverse=True)


def test_a_named_operating_point(client: httpx.Client, film: bytes) -> None:
    reply = client.post("/predict?operating_point=rule-in", content=film, headers=JPEG)
    assert reply.json()["operating_point"]["name"] == "rule-in"


def test_explain_adds_the_map(client: httpx.Client, film: bytes) -> None:
    (shown,) = client.post("/predict?explain=true", content=film, headers=JPEG).json()["explanations"]
    assert (shown["height"], shown["width"]) == (8, 8)
    assert max(map(max, shown["values"])) in (0, 1)
    assert shown["contours"] is None


VIEWS = ["identity", "rotation +5", "rotation -5", "brightness +0.15 stops", "brightness -0.15 stops"]


def test_the_mean_over_views_says_so_and_is_audited(client: httpx.Client, state: Path, film: bytes) -> None:
    plain = client.post("/predict", content=film, headers=JPEG).json()
    sent = {**JPEG, "X-Request-ID": "mean-over-views"}
    shown = client.post("/predict?tta=true&explain=true", content=film, headers=sent).json()
    assert plain["tta"] is None
    assert shown["tta"] == {"views": VIEWS}
    assert "mean_of_views" in [w["code"] for w in shown["warnings"]]
    assert "mean_of_views" not in [w["code"] for w in plain["warnings"]]
    assert shown["classes"] != plain["classes"]
    assert len(shown["explanations"]) == 1
    ((kind, payload),) = events(state, "mean-over-views")
    assert (kind, payload["views"]) == ("predict", VIEWS)
    with sqlite3.connect(f"file:{state / 'cxr.sqlite3'}?mode=ro", uri=True) as database:
        (warnings,) = database.execute(
            "SELECT warnings FROM predictions WHERE request_id = 'mean-over-views'"
        ).fetchone()
    assert "mean_of_views" in warnings


def test_a_batch_over_views(client: httpx.Client, shipped: FastAPI) -> None:
    films = [encode_jpeg(phantom(seed)) for seed in range(3)]
    reply = client.post("/batch_predict?tta=true", files=[("files", data) for data in films])
    alone = [client.post("/predict?tta=true", content=data, headers=JPEG).json()["classes"] for data in films]
    assert [r["result"]["classes"] for r in reply.json()["results"]] == alone
    assert all(r["result"]["tta"] == {"views": VIEWS} for r in reply.json()["results"])
    assert idle(shipped)


@pytest.mark.parametrize(
    ("path", "request_of", "wanted"),
    [
        ("/predict?tta=perhaps", {"content": b"x", "headers": JPEG}, (400, "invalid_parameter")),
        ("/predict?tta=true", {"content": b"GIF89a", "headers": JPEG}, (415, "unsupported_format")),
        ("/predict?explain=perhaps", {"content": b"x", "headers": JPEG}, (400, "invalid_parameter")),
        ("/predict?operating_piont=x", {"content": b"x", "headers": JPEG}, (400, "malformed_request")),
        ("/predict?explain=true&explain=false", {"content": b"x", "headers": JPEG}, (400, "malformed_request")),
        ("/predict?operating_point=none-such", {"content": b"x", "headers": JPEG}, (400, "unknown_operating_point")),
        ("/predict", {}, (400, "missing_file")),
        ("/predict", {"content": b"x", "headers": {"Content-Type": "text/csv"}}, (415, "unsupported_media_type")),
        ("/predict", {"files": {"image": b"x"}}, (400, "malformed_multipart")),
        ("/predict", {"files": {"file": b"x"}, "data": {"operating_point": "rule-in"}}, (400, "malformed_multipart")),
        ("/predict", {"files": [("file", b"x"), ("file", b"y")]}, (400, "too_many_files")),
        ("/predict", {"content": b"GIF89a", "headers": JPEG}, (415, "unsupported_format")),
        ("/predict", {"content": b"x" * 10_000_001, "headers": JPEG}, (413, "payload_too_large")),
        ("/batch_predict", {"files": [("files", b"x")] * 11}, (400, "too_many_files")),
        ("/batch_predict", {"content": b"x", "headers": JPEG}, (415, "unsupported_media_type")),
        (
            "/batch_predict?operating_point=none-such",
            {"files": [("files", b"x")] * 3},
            (400, "unknown_operating_point"),
        ),
    ],
)
def test_problems(
    client: httpx.Client, shipped: FastAPI, path: str, request_of: dict[str, Any], wanted: tuple[int, str]
) -> None:
    assert problem(client.post(path, **request_of)) == wanted
    assert idle(shipped)


def test_what_ends_after_admission_is_in_the_audit(client: httpx.Client, state: Path) -> None:
    sent = {"X-Request-ID": "audit-of-a-bad-body"}
    assert problem(client.post("/predict", files={"other": b"x"}, headers=sent)) == (400, "malformed_multipart")
    ((kind, payload),) = events(state, "audit-of-a-bad-body")
    assert kind == "refused"
    assert payload["code"] == "malformed_multipart"
    assert payload["route"] == "/predict"


def test_what_is_refused_before_admission_is_not(client: httpx.Client, state: Path) -> None:
    sent = {"X-Request-ID": "not-in-the-audit"}
    assert client.post("/predict?alpha=1", content=b"x", headers=sent).status_code == 400
    assert events(state, "not-in-the-audit") == []


def test_one_event_an_answer(client: httpx.Client, state: Path, film: bytes) -> None:
    client.post("/predict", content=film, headers={**JPEG, "X-Request-ID": "one-event-only"})
    client.post("/predict", content=b"\xff\xd8\xff nonsense", headers={**JPEG, "X-Request-ID": "one-refusal-only"})
    assert [kind for kind, _ in events(state, "one-event-only")] == ["predict"]
    assert [kind for kind, _ in events(state, "one-refusal-only")] == ["refused"]


def test_a_batch_answers_in_order_and_one_bad_item_fails_nothing(client: httpx.Client, film: bytes) -> None:
    films = [encode_jpeg(phantom(seed)) for seed in range(6)]
    sent = [films[0], b"GIF89a", films[1], b"", b"x" * 10_000_001, *films[2:]]
    reply = client.post("/batch_predict", files=[("files", (f"CANARY-{i}", data)) for i, data in enumerate(sent)])
    assert reply.status_code == 200
    results = reply.json()["results"]
    assert [r["index"] for r in results] == list(range(len(sent)))
    codes = {r["index"]: r["problem"]["code"] for r in results if r["problem"]}
    assert codes == {1: "unsupported_format", 3: codes[3], 4: "payload_too_large"}
    alone = [client.post("/predict", content=data, headers=JPEG).json()["classes"] for data in films]
    assert [r["result"]["classes"] for r in results if r["result"]] == alone
    assert all((r["result"] is None) != (r["problem"] is None) for r in results)
    assert "CANARY" not in reply.text


def test_a_file_that_is_too_large_for_its_batch_is_recorded(client: httpx.Client, state: Path) -> None:
    reply = client.post(
        "/batch_predict",
        files=[("files", b"x" * 10_000_001)],
        headers={"X-Request-ID": "only-a-large-file"},
    )
    assert reply.json()["results"][0]["problem"]["code"] == "payload_too_large"
    assert [(kind, facts["code"]) for kind, facts in events(state, "only-a-large-file")] == [
        ("refused", "payload_too_large")
    ]


def test_png_and_jpeg_are_told_by_content(client: httpx.Client) -> None:
    png = encode_png(phantom(2))
    assert client.post("/predict", content=png, headers=JPEG).json()["image"]["format"] == "png"


@pytest.mark.parametrize("role", [Role.MONITOR])
def test_a_monitor_judges_nothing(address: str, key: Callable[[Role], str], role: Role, film: bytes) -> None:
    reply = httpx.post(f"{address}/predict", content=film, headers={**JPEG, "X-API-Key": key(role)})
    assert problem(reply) == (403, "forbidden")
    assert reply.headers["connection"] == "close"


def ask(
    app: FastAPI,
    key: str,
    body: list[bytes],
    *,
    gone: bool = False,
    path: str = "/predict",
    urgency: dict[str, str] | None = None,
) -> Told:
    size = str(sum(map(len, body)) + (1 if gone else 0))
    headers = {"X-API-Key": key, "Content-Type": "image/jpeg", "Content-Length": size, **(urgency or {})}
    return asyncio.run(tell(app, scope_of("POST", path, headers), chunk_messages(body, gone=gone)))


def test_a_full_queue_is_known_before_the_body_is_read(
    address: str, shipped: FastAPI, key: Callable[[Role], str], film: bytes
) -> None:
    scheduler = shipped.state.service._scheduler
    with scheduler.admit(scheduler.places_of("routine")):
        told = ask(shipped, key(Role.SERVICE), [film])
        urgent = ask(shipped, key(Role.SERVICE), [film], urgency={"X-Priority": "stat"})
        patient = ask(shipped, key(Role.SERVICE), [film], urgency={"X-Priority": "bulk"})
    assert (urgent.status, patient.status) == (200, 503)
    assert (told.status, told.json()["code"]) == (503, "overloaded")
    assert (told.reads, told.read_bytes) == (0, 0)
    assert int(told.headers["retry-after"]) >= 1
    assert ask(shipped, key(Role.SERVICE), [film]).status == 200


def test_a_client_that_leaves_gives_its_place_back(
    address: str, shipped: FastAPI, key: Callable[[Role], str], film: bytes, state: Path
) -> None:
    told = ask(shipped, key(Role.SERVICE), [film[:100]], gone=True)
    assert told.status == 0
    assert idle(shipped)
    assert any(payload.get("code") == "client_gone" for _, payload in events(state, "client_gone"))


@contextmanager
def busy_workers(app: FastAPI) -> Iterator[Scheduler]:
    """Every worker is held until the end."""
    scheduler: Scheduler = app.state.service._scheduler
    free, begun = threading.Event(), threading.Semaphore(0)

    def hold() -> None:
        begun.release()
        assert free.wait(60)

    async def occupy() -> None:
        with scheduler.admit(scheduler.workers, lane="routine") as admission:
            await asyncio.gather(*(scheduler.run(hold, admission) for _ in range(scheduler.workers)))

    thread = threading.Thread(target=asyncio.run, args=(occupy(),))
    thread.start()
    try:
        assert all(begun.acquire(timeout=30) for _ in range(scheduler.workers))
        yield scheduler
    finally:
        free.set()
        thread.join()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.005)


def test_a_film_whose_client_left_is_never_judged(
    address: str, shipped: FastAPI, key: Callable[[Role], str], film: bytes, state: Path
) -> None:
    """Over a real connection that is closed while the film waits for a worker."""
    host, port = address.removeprefix("http://").split(":")
    head = (
        f"POST /predict HTTP/1.1\r\nHost: x\r\nX-API-Key: {key(Role.SERVICE)}\r\nX-Request-ID: left-while-waiting\r\n"
        f"Content-Type: image/jpeg\r\nContent-Length: {len(film)}\r\n\r\n"
    )
    with busy_workers(shipped) as scheduler:
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + film)
            until(lambda: scheduler.queued == 1)
        until(lambda: scheduler.queued == 0 and scheduler.admitted == scheduler.workers)
    until(lambda: bool(events(state, "left-while-waiting")))
    ((kind, payload),) = events(state, "left-while-waiting")
    assert (kind, payload["code"], payload["bytes"]) == ("refused", "client_gone", len(film))
    until(lambda: idle(shipped))


def test_a_film_that_cannot_begin_in_time_is_given_up(
    address: str, shipped: FastAPI, key: Callable[[Role], str], film: bytes
) -> None:
    headers = {**JPEG, "X-API-Key": key(Role.SERVICE), "X-Deadline-Ms": "200"}
    with busy_workers(shipped):
        reply = httpx.post(f"{address}/predict", content=film, headers=headers, timeout=30)
    assert problem(reply) == (503, "overloaded")
    assert int(reply.headers["retry-after"]) >= 1
    until(lambda: idle(shipped))


def test_a_batch_of_the_bulk_lane_fits_into_its_share(
    client: httpx.Client, shipped: FastAPI, film: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small that is: its films are then judged one after the other."""
    scheduler = shipped.state.service._scheduler
    with monkeypatch.context() as context:
        context.setattr(scheduler, "_partition", replace(scheduler._partition, bulk=1))
        context.setattr(scheduler._places, "_partition", scheduler._partition)
        reply = client.post("/batch_predict", files=[("files", film)] * 4, headers={"X-Priority": "bulk"})
    assert reply.status_code == 200
    assert [r["problem"] for r in reply.json()["results"]] == [None] * 4
