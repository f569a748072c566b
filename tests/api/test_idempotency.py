"""Idempotency-Key over the shipped application: one prediction, however often and however closely together it is asked for."""

from __future__ import annotations

import dataclasses
import sqlite3
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from fastapi import FastAPI

from app.domain import Role
from app.imaging.phantom import encode_jpeg, phantom
from tests.api.routes.test_predict import events, idle
from tests.api.routes.test_reports import DICOM, JPEG, code, parts
from tests.support.dicom_films import dicom_film

KEY = "Idempotency-Key"
REPLAYED = "idempotency-replayed"


def rows(state: Path, request_ids: list[str]) -> list[str]:
    marks = ",".join("?" * len(request_ids))
    with sqlite3.connect(f"file:{state / 'cxr.sqlite3'}?mode=ro", uri=True) as database:
        query = f"SELECT request_id FROM predictions WHERE request_id IN ({marks})"
        return [request_id for (request_id,) in database.execute(query, request_ids)]


def value(client: httpx.Client, name: str) -> float:
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_a_request_sent_again_is_answered_and_recorded_once(client: httpx.Client, film: bytes, state: Path) -> None:
    ids = ["first-of-two", "second-of-two"]
    judged, repeats = value(client, "cxr_predictions_total"), value(client, "cxr_repeated_requests_total")
    first, again = (
        client.post("/predict", content=film, headers={**JPEG, KEY: "sent-again", "X-Request-ID": i}) for i in ids
    )
    assert (first.status_code, again.status_code) == (200, 200)
    assert (REPLAYED in first.headers, again.headers[REPLAYED]) == (False, "true")
    assert again.headers["x-request-id"] == "second-of-two"  # of this exchange, for the log
    shown = [{k: v for k, v in reply.json().items() if k != "timing_ms"} for reply in (first, again)]
    assert shown[0] == shown[1]
    assert shown[0]["request_id"] == "first-of-two"
    assert rows(state, ids) == ["first-of-two"]
    ((kind, payload),) = events(state, "second-of-two")
    assert (kind, payload["first"]["request_id"], payload["route"]) == ("repeat", "first-of-two", "predict")
    assert value(client, "cxr_predictions_total") == judged + 1
    assert value(client, "cxr_repeated_requests_total") == repeats + 1


def test_however_the_film_is_sent(client: httpx.Client, film: bytes) -> None:
    """The film counts, not the envelope: a client library makes a new boundary every time."""
    headers = {KEY: "two-envelopes"}
    first = client.post("/predict", files={"file": film}, headers=headers)
    again = client.post("/predict", files={"file": ("another-name", film)}, headers=headers)
    raw = client.post("/predict", content=film, headers={**headers, **JPEG})
    assert [REPLAYED in r.headers for r in (first, again, raw)] == [False, True, True]


def test_objects_sent_again_are_the_same_bytes(client: httpx.Client) -> None:
    film = dicom_film(11)
    headers = {**DICOM, KEY: "same-objects"}
    first, again = (client.post("/reports?objects=sr,sc,pdf", content=film, headers=headers) for _ in range(2))
    assert parts(first) == parts(again)
    assert again.headers[REPLAYED] == "true"
    assert again.headers["cxr-request-id"] == first.headers["cxr-request-id"]
    later = client.post("/reports?objects=sr,sc,pdf", content=film, headers=DICOM)
    assert parts(later) != parts(first)  # without the key it is another answer, of another time
    uids = [
        {pydicom.dcmread(BytesIO(c)).SOPInstanceUID for _, m, c in parts(r) if m == DICOM["Content-Type"]}
        for r in (first, later)
    ]
    assert uids[0] == uids[1]  # of the same film by the same bundle


OTHERS: dict[str, Callable[[httpx.Client, bytes], httpx.Response]] = {
    "film": lambda c, _: c.post("/predict", content=encode_jpeg(phantom(8)), headers={**JPEG, KEY: "k-film"}),
    "unfit": lambda c, _: c.post("/predict", content=b"GIF89a", headers={**JPEG, KEY: "k-unfit"}),
    "query": lambda c, f: c.post("/predict?explain=true", content=f, headers={**JPEG, KEY: "k-query"}),
    "point": lambda c, f: c.post("/predict?operating_point=rule-in", content=f, headers={**JPEG, KEY: "k-point"}),
    "form": lambda c, f: c.post("/predict", content=f, headers={**JPEG, KEY: "k-form", "Accept": "application/pdf"}),
    "route": lambda c, f: c.post("/gradcam", content=f, headers={**JPEG, KEY: "k-route"}),
    "batch": lambda c, f: c.post("/batch_predict", files=[("files", f)], headers={KEY: "k-batch"}),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_request_under_the_same_key(client: httpx.Client, film: bytes, what: str, state: Path) -> None:
    assert client.post("/predict", content=film, headers={**JPEG, KEY: f"k-{what}"}).status_code == 200
    client.headers["X-Request-ID"] = f"reused-for-{what}"
    try:
        assert code(OTHERS[what](client, film)) == (422, "idempotency_key_reused")
    finally:
        del client.headers["X-Request-ID"]
    ((kind, payload),) = events(state, f"reused-for-{what}")
    assert (kind, payload["code"]) == ("refused", "idempotency_key_reused")


def test_the_order_of_the_query_is_no_other_request(client: httpx.Client, film: bytes) -> None:
    for query, is_repeat in (("explain=true&tta=false", False), ("tta=false&explain=true", True)):
        reply = client.post(f"/predict?{query}", content=film, headers={**JPEG, KEY: "order"})
        assert (REPLAYED in reply.headers) is is_repeat


def test_a_key_belongs_to_its_sender(
    client: httpx.Client, address: str, key: Callable[[Role], str], film: bytes
) -> None:
    client.post("/predict", content=film, headers={**JPEG, KEY: "whose"})
    headers = {**JPEG, KEY: "whose", "X-API-Key": key(Role.SERVICE)}
    other = httpx.post(f"{address}/predict", content=film, headers=headers)
    assert other.status_code == 200
    assert REPLAYED not in other.headers


def test_first_uses_at_the_same_time(client: httpx.Client, state: Path, shipped: FastAPI) -> None:
    """Eight at once: one prediction row, eight equal answers under the request id of the one that was recorded."""
    film = dicom_film(12)
    ids = [f"at-the-same-time-{i}" for i in range(8)]
    replies: list[httpx.Response] = []
    start = threading.Barrier(len(ids))

    def send(request_id: str) -> None:
        start.wait()
        headers = {**DICOM, KEY: "at-once", "X-Request-ID": request_id}
        replies.append(client.post("/reports?objects=sr", content=film, headers=headers))

    threads = [threading.Thread(target=send, args=(i,)) for i in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [r.status_code for r in replies] == [200] * len(ids)
    (first,) = rows(state, ids)
    assert {r.headers["cxr-request-id"] for r in replies} == {first}
    assert len({parts(r)[0][2] for r in replies}) == 1
    assert sorted(REPLAYED in r.headers for r in replies) == [False] + [True] * (len(ids) - 1)
    kinds = [kind for i in ids for kind, p in events(state, i) if p["request_id"] == i]
    assert sorted(kinds) == ["repeat"] * (len(ids) - 1) + ["report"]
    assert idle(shipped)


def test_what_was_refused_leaves_its_key_free(client: httpx.Client, film: bytes) -> None:
    headers = {**JPEG, KEY: "refused-first"}
    assert client.post("/predict", content=b"GIF89a", headers=headers).status_code == 415
    again = client.post("/predict", content=film, headers=headers)
    assert again.status_code == 200
    assert REPLAYED not in again.headers


def test_a_batch_is_repeated_film_by_film(client: httpx.Client, state: Path) -> None:
    films = [("files", encode_jpeg(phantom(seed))) for seed in (21, 21, 22)]  # the same film twice is two items
    ids = ["batch-first", "batch-again"]
    first, again = (client.post("/batch_predict", files=films, headers={KEY: "batch", "X-Request-ID": i}) for i in ids)
    assert (REPLAYED in first.headers, again.headers[REPLAYED]) == (False, "true")
    assert rows(state, ids) == ["batch-first"] * 3
    assert [r["result"]["request_id"] for r in again.json()["results"]] == ["batch-first"] * 3
    assert code(client.post("/batch_predict", files=films[:2], headers={KEY: "batch"})) == (
        422,
        "idempotency_key_reused",
    )


@pytest.mark.parametrize("sent", ["", "a b", "k" * 256, "schl\u00fcssel".encode("latin-1").decode("latin-1")])
def test_a_key_that_is_none(client: httpx.Client, film: bytes, sent: str) -> None:
    headers = [(b"Content-Type", b"image/jpeg"), (KEY.encode(), sent.encode("latin-1"))]
    for path in ("/predict", "/gradcam", "/reports?objects=pdf", "/batch_predict"):
        assert code(client.post(path, content=film, headers=headers)) == (400, "malformed_request")


def test_two_keys_are_none_and_a_long_one_is_one(client: httpx.Client, film: bytes) -> None:
    two = [("Content-Type", "image/jpeg"), (KEY, "a"), (KEY, "b")]
    assert code(client.post("/predict", content=film, headers=two)) == (400, "malformed_request")
    assert client.post("/predict", content=film, headers={**JPEG, KEY: "~" * 255}).status_code == 200


def test_a_key_counts_as_new_for_another_bundle(client: httpx.Client, film: bytes, shipped: FastAPI) -> None:
    """As after an activation: what answers is another bundle, so that its answer is another one."""
    headers = {**JPEG, KEY: "before-and-after"}
    assert client.post("/predict", content=film, headers=headers).status_code == 200
    bundles = shipped.state.service._bundles
    before = bundles.current
    bundles.current = _other(before)
    try:
        after = client.post("/predict", content=film, headers=headers)
    finally:
        bundles.current = before
    assert after.status_code == 200
    assert REPLAYED not in after.headers
    assert client.post("/predict", content=film, headers=headers).headers[REPLAYED] == "true"


def _other(live: Any) -> Any:
    return dataclasses.replace(live, bundle=dataclasses.replace(live.bundle, digest="f" * 64))
