"""STOW-RS in: what is answered to whom, what is read before it, what is said of each instance."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.errors import ImageError, UnavailableError
from app.gateway import stow_in
from app.gateway.header import read_facts
from app.gateway.multipart import build_related
from app.gateway.stow_in import StowIn
from app.gateway.values import Queue, Status
from tests.support.asgi import Told, chunk_messages, scope_of, tell
from tests.support.dicom_films import CANARY, dicom_film

TOKEN = "correct-horse-battery-staple"
FILMS = [dicom_film(seed, size=(160, 140)) for seed in (1, 2)]
FACTS = [read_facts(film, 1_000_000) for film in FILMS]
STATUS = Status(
    films={"received": 2, "judged": 5},
    oldest_s=12.5,
    refusals={"lateral_view": 3},
    judge_code=None,
    bundle="tiny/1.0.0",
    queues={
        "pacs": Queue(pending=4, delivered=9, dead=1, oldest_s=33.0, code="connection"),
        "ris": Queue(0, 1, 0, 0, None),
    },
    used_bytes=4_096,
)


@dataclass
class Sink:
    films: list[tuple[bytes, str]] = field(default_factory=list)
    answer: Callable[[bytes], None] = lambda _: None
    status: Callable[[], Status] = lambda: STATUS

    def __call__(self, data: bytes, peer: str) -> None:
        self.answer(data)
        self.films.append((data, peer))


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def stow(sink: Sink) -> Iterator[StowIn]:
    server = StowIn(
        sink,
        status=lambda: sink.status(),  # noqa: PLW0108 - a test replaces it
        connections=lambda: 2,
        token=TOKEN,
        file_max_bytes=100_000,
    )
    yield server
    server.close()


def ask(
    stow: StowIn,
    method: str = "POST",
    path: str = "/studies",
    *,
    token: str | None = TOKEN,
    headers: dict[str, str] | None = None,
    chunks: Sequence[bytes] = (),
) -> Told:
    sent = dict(headers or {})
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    return asyncio.run(tell(stow.app, scope_of(method, path, sent), chunk_messages(chunks)))


def post(stow: StowIn, films: Sequence[bytes], path: str = "/studies", **options: Any) -> Told:
    body, content_type = build_related(films, "application/dicom")
    headers = {"Content-Type": content_type, "Content-Length": str(len(body))}
    return ask(
        stow, path=path, headers=headers, chunks=[body[i : i + 50_000] for i in range(0, len(body), 50_000)], **options
    )


def reference(told: Told, tag: str) -> list[tuple[str, int | None]]:
    """(SOP Instance UID, Failure Reason) of a sequence of the answer."""
    return [
        (
            item.get("00081155", {"Value": [""]})["Value"][0],
            item["00081197"]["Value"][0] if "00081197" in item else None,
        )
        for item in told.json().get(tag, {"Value": []})["Value"]
    ]


def test_every_film_is_handed_on_as_it_came(stow: StowIn, sink: Sink) -> None:
    told = post(stow, FILMS)
    assert told.status == 200
    assert told.headers["content-type"] == "application/dicom+json"
    assert reference(told, "00081199") == [(facts.sop_instance_uid, None) for facts in FACTS]
    assert told.json()["00081199"]["Value"][0]["00081150"] == {"vr": "UI", "Value": [FACTS[0].sop_class_uid]}
    assert "00081198" not in told.json()
    assert sink.films == [(film, "STOW") for film in FILMS]


def test_into_a_named_study_goes_only_what_belongs_there(stow: StowIn, sink: Sink) -> None:
    told = post(stow, FILMS, path=f"/studies/{FACTS[1].study_uid}")
    assert told.status == 202
    assert reference(told, "00081199") == [(FACTS[1].sop_instance_uid, None)]
    assert reference(told, "00081198") == [(FACTS[0].sop_instance_uid, 0xA900)]
    assert sink.films == [(FILMS[1], "STOW")]


def test_a_meta_header_of_another_object_is_not_believed(stow: StowIn, sink: Sink) -> None:
    own, other = (facts.sop_instance_uid.encode() for facts in FACTS)
    assert len(own) == len(other)
    told = post(stow, [FILMS[0].replace(own, other, 1)])
    assert (told.status, reference(told, "00081198")) == (409, [(other.decode(), 0xA900)])
    assert not sink.films


@pytest.mark.parametrize(
    ("error", "reason", "status"),
    [
        (ImageError("malformed_dicom", what="x"), 0xC000, 409),
        (ImageError("dicom_without_image", what="x"), 0x0122, 409),
        (ImageError("unsupported_transfer_syntax", what="x"), 0xC122, 409),
        (UnavailableError("audit_unavailable"), 0xA700, 503),
        (ValueError(CANARY), 0x0110, 409),
    ],
    ids=lambda value: getattr(value, "code", str(value)),
)
def test_failure_reasons(
    stow: StowIn, sink: Sink, error: Exception, reason: int, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(_: bytes) -> None:
        raise error

    sink.answer = fail
    told = post(stow, FILMS[:1])
    assert told.status == status
    assert ("retry-after" in told.headers) == (status == 503)
    assert reference(told, "00081198") == [(FACTS[0].sop_instance_uid, reason)]
    assert CANARY.encode() not in told.body
    assert CANARY not in "".join(capfd.readouterr())


def test_one_bad_film_fails_nothing_else(stow: StowIn, sink: Sink) -> None:
    told = post(stow, [b"no DICOM", FILMS[0][: len(FILMS[0]) // 2], FILMS[1]])
    assert told.status == 202
    assert reference(told, "00081199") == [(FACTS[1].sop_instance_uid, None)]
    assert reference(told, "00081198") == [(FACTS[0].sop_instance_uid, 0xC000)]
    assert reference(told, "0008119A") == [("", 0xC000)]  # Other Failures Sequence: it does not say what it is
    assert sink.films == [(FILMS[1], "STOW")]


def test_a_film_above_the_limit_is_refused_by_itself(stow: StowIn, sink: Sink) -> None:
    large = dicom_film(3, size=(400, 400))
    assert len(large) > 100_000
    told = post(stow, [large, FILMS[0]])
    assert told.status == 202
    assert len(sink.films) == 1


def test_a_part_of_another_type_is_refused(stow: StowIn, sink: Sink) -> None:
    body, content_type = build_related(FILMS[:1], "application/dicom+json")
    told = ask(stow, headers={"Content-Type": content_type}, chunks=[body])
    assert told.status == 409
    assert not sink.films


# who may, and what is read before that is known


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN[:-1], TOKEN + "x", "\u00e9"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/studies"), ("POST", "/studies/1.2"), ("GET", "/metrics")])
def test_without_the_token_nothing_is_read(stow: StowIn, sink: Sink, method: str, path: str, token: str | None) -> None:
    told = ask(stow, method, path, token=token, chunks=[FILMS[0]])
    assert told.status == 401
    assert told.read_bytes == 0
    assert told.json()["code"] == "unauthenticated"
    assert not sink.films


def test_a_basic_login_with_the_token_is_no_token(stow: StowIn) -> None:
    assert ask(stow, token=None, headers={"Authorization": f"Basic {TOKEN}"}).status == 401


def test_a_body_that_says_it_is_too_large_is_not_read(stow: StowIn) -> None:
    told = ask(stow, headers={"Content-Length": "400001"}, chunks=[b"x"])
    assert (told.status, told.read_bytes) == (413, 0)


def test_a_body_that_grows_too_large_is_not_read_to_its_end(stow: StowIn) -> None:
    told = ask(stow, headers={"Transfer-Encoding": "chunked"}, chunks=[bytes(50_000)] * 20)
    assert told.status == 413
    assert told.read_bytes <= 450_000


def test_bodies_together_have_a_limit_that_is_free_again_afterwards(
    stow: StowIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stow_in, "HELD_BODIES", 0.1)  # 40 kB of all bodies
    assert post(stow, FILMS).status == 503
    monkeypatch.setattr(stow_in, "HELD_BODIES", 2)
    for _ in range(20):
        assert post(stow, FILMS).status == 200


def test_too_many_requests_at_once_are_told_to_come_back(stow: StowIn, sink: Sink) -> None:
    go, begun = threading.Event(), threading.Semaphore(0)

    def hold(_: bytes) -> None:
        begun.release()
        assert go.wait(20)

    sink.answer = hold
    told: list[int] = []
    senders = [
        threading.Thread(target=lambda: told.append(post(stow, FILMS[:1]).status)) for _ in range(stow_in.WORKERS)
    ]
    for sender in senders:
        sender.start()
    for _ in senders:
        assert begun.acquire(timeout=10)
    extra = post(stow, FILMS[:1])
    assert (extra.status, extra.read_bytes) == (503, 0)
    go.set()
    for sender in senders:
        sender.join(10)
    assert told == [200] * stow_in.WORKERS


def test_a_slow_body_is_ended(stow: StowIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stow_in, "BODY_DEADLINE_S", 0.1)

    async def slow() -> Told:
        scope = scope_of("POST", "/studies", {"Authorization": f"Bearer {TOKEN}"})
        return await tell(stow.app, scope, [{"type": "http.request", "body": b"x", "more_body": True}])

    assert asyncio.run(slow()).status == 408
    assert post(stow, FILMS).status == 200


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        ({"Content-Type": "application/dicom"}, FILMS[0], "malformed_multipart"),
        ({"Content-Type": "multipart/related; boundary=x"}, b"--x\r\n\r\nunfinished", "malformed_multipart"),
        ({"Content-Type": "multipart/related; boundary=x"}, b"--x--\r\n", "malformed_multipart"),
        ({"Content-Type": "multipart/related"}, b"", "malformed_multipart"),
        ({"Content-Length": "many"}, b"", "malformed_request"),
        ({"Content-Encoding": "gzip"}, b"", "unsupported_media_type"),
    ],
)
def test_what_is_no_store_request(stow: StowIn, sink: Sink, headers: dict[str, str], body: bytes, code: str) -> None:
    told = ask(stow, headers=headers, chunks=[body])
    assert told.json()["code"] == code
    assert told.headers["content-type"] == "application/problem+json"
    assert not sink.films


def test_a_study_that_is_no_uid_does_not_exist(stow: StowIn) -> None:
    assert post(stow, FILMS, path=f"/studies/{CANARY}").status == 404


def test_a_client_that_leaves_frees_its_place(stow: StowIn) -> None:
    for _ in range(stow_in.WORKERS + 1):
        scope = scope_of("POST", "/studies", {"Authorization": f"Bearer {TOKEN}"})
        asyncio.run(tell(stow.app, scope, chunk_messages([b"--x"], gone=True)))
    assert post(stow, FILMS).status == 200


# the pages that watch


def test_health_is_open_and_says_when_the_store_is_away(stow: StowIn, sink: Sink) -> None:
    assert ask(stow, "GET", "/health", token=None).status == 200

    def away() -> Status:
        raise UnavailableError("audit_unavailable")

    sink.status = away
    assert ask(stow, "GET", "/health", token=None).status == 503
    assert ask(stow, "GET", "/metrics").status == 503
    assert ask(stow, "GET", "/health", token=None).json()["code"] == "audit_unavailable"


def test_metrics_say_what_the_status_says(stow: StowIn) -> None:
    told = ask(stow, "GET", "/metrics")
    samples = {
        (s.name, *sorted(s.labels.items())): s.value
        for family in text_string_to_metric_families(told.body.decode())
        for s in family.samples
    }
    assert {k: v for k, v in samples.items() if str(k[0]).startswith("cxr_gateway")} == {
        ("cxr_gateway_films", ("state", "received")): 2,
        ("cxr_gateway_films", ("state", "judged")): 5,
        ("cxr_gateway_films_refused", ("code", "lateral_view")): 3,
        ("cxr_gateway_oldest_film_seconds",): 12.5,
        ("cxr_gateway_judging_fails",): 0,
        ("cxr_gateway_spool_bytes",): 4_096,
        ("cxr_gateway_dicom_connections",): 2,
        ("cxr_gateway_deliveries", ("destination", "pacs"), ("state", "pending")): 4,
        ("cxr_gateway_deliveries", ("destination", "pacs"), ("state", "delivered")): 9,
        ("cxr_gateway_deliveries", ("destination", "pacs"), ("state", "dead")): 1,
        ("cxr_gateway_deliveries", ("destination", "ris"), ("state", "pending")): 0,
        ("cxr_gateway_deliveries", ("destination", "ris"), ("state", "delivered")): 1,
        ("cxr_gateway_deliveries", ("destination", "ris"), ("state", "dead")): 0,
        ("cxr_gateway_oldest_delivery_seconds", ("destination", "pacs")): 33,
        ("cxr_gateway_oldest_delivery_seconds", ("destination", "ris")): 0,
        ("cxr_gateway_delivery_fails", ("destination", "pacs")): 1,
        ("cxr_gateway_delivery_fails", ("destination", "ris")): 0,
    }
