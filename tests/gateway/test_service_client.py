"""What the service's answers mean for a film: a result, a refusal, or another try; and who is to blame for that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import ERROR_TABLE, ConfigurationError
from app.gateway.config import Service
from app.gateway.service_client import Judged, JudgeError, Refused, ServiceClient
from tests.support.dicom_films import dicom_film
from tests.support.gateway_peers import API_KEY, HttpPeer, ServicePeer, problem

Answer = tuple[int, dict[str, str], bytes]


class Scripted(HttpPeer):
    """Answers as it is told, and keeps the headers of the last request."""

    def __init__(self) -> None:
        super().__init__()
        self.script: Answer = (200, {}, b"")
        self.headers: dict[str, str] = {}
        self.path = ""

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        self.headers, self.path = headers, path
        return self.script


@pytest.fixture
def peer() -> Iterator[Scripted]:
    peer = Scripted()
    peer.set("ok")
    yield peer
    peer.close()


def client(peer: HttpPeer, tmp_path: Path, **settings: object) -> ServiceClient:
    (tmp_path / "key").write_text(API_KEY)
    fields = {"url": peer.url + "/", "key_file": tmp_path / "key", "timeout_s": 2}
    return ServiceClient(Service.model_validate(fields | settings), ("sr", "fhir"))


def judge(peer: Scripted, tmp_path: Path, answer: Answer) -> Judged | Refused:
    peer.script = answer
    asking = client(peer, tmp_path)
    try:
        return asking.judge(b"film")
    finally:
        asking.close()


def related(*parts: tuple[str, bytes], bundle: str | None = "b/1") -> Answer:
    body = b"".join(f"--B\r\nContent-Location: {name}\r\n\r\n".encode() + data + b"\r\n" for name, data in parts)
    headers = {"Content-Type": "multipart/related; boundary=B"} | ({"CXR-Bundle": bundle} if bundle else {})
    return 200, headers, body + b"--B--\r\n"


def test_objects_come_in_the_order_asked_for(peer: Scripted, tmp_path: Path) -> None:
    judged = judge(peer, tmp_path, related(("fhir", b"{}"), ("sr", b"\r\n--b")))
    assert isinstance(judged, Judged)
    assert [(o.kind, o.content) for o in judged.objects] == [("sr", b"\r\n--b"), ("fhir", b"{}")]
    assert judged.bundle == "b/1"
    assert peer.path == "/reports?objects=sr,fhir"
    assert peer.headers["X-API-Key"] == API_KEY


def test_an_object_that_is_named_as_impossible_is_not_missed(peer: Scripted, tmp_path: Path) -> None:
    status, headers, body = related(("fhir", b"{}"))
    judged = judge(peer, tmp_path, (status, headers | {"CXR-Omitted": "sr"}, body))
    assert isinstance(judged, Judged)
    assert [o.kind for o in judged.objects] == ["fhir"]


def test_the_idempotency_key_follows_from_the_film_and_the_question(tmp_path: Path) -> None:
    peer = ServicePeer()
    peer.set("ok")
    film = dicom_film(1, size=(64, 64))
    for settings in ({}, {}, {"operating_point": "screening"}):
        asking = client(peer, tmp_path, **settings)
        asking.judge(film)
        asking.judge(dicom_film(2, size=(64, 64)))
        asking.close()
    assert sorted(peer.times.values()) == [1, 1, 2, 2]
    peer.close()


@pytest.mark.parametrize(
    "answer",
    [
        (200, {}, b""),
        (200, {"Content-Type": "application/json"}, b"{}"),
        related(("sr", b"x")),
        related(("sr", b"x"), ("sr", b"x")),
        related(("sr", b"x"), ("sc", b"x")),
        related(("sr", b"x"), ("fhir", b"x"), ("sc", b"x")),
        related(("sr", b"x"), ("fhir", b"x"), bundle=None),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_counts_against_the_film(
    peer: Scripted, tmp_path: Path, answer: Answer
) -> None:
    with pytest.raises(JudgeError) as failure:
        judge(peer, tmp_path, answer)
    assert (failure.value.code, failure.value.counts, failure.value.away) == ("unusable_answer", True, False)


# code -> what the gateway does; every code of the table has its row here, so that a new one is thought about
REFUSES = {
    "payload_too_large", "unsupported_format", "malformed_image", "truncated_image", "trailing_data", "animated_image",
    "unsupported_color", "image_too_large", "malformed_dicom", "executable_preamble", "dicom_without_image",
    "unsupported_transfer_syntax", "unsupported_pixel_format", "multi_frame_image", "undecodable_image", "too_small", "blank_image",
    "unsupported_modality", "unsupported_body_part", "lateral_view", "unsupported_view", "patient_age_out_of_range",
    "burned_in_annotation", "not_for_presentation", "not_a_chest_radiograph", "rotated_image", "inverted_image", "cropped_image",
    "under_exposed", "over_exposed", "low_contrast", "dicom_source_required", "presentation_unknown",
}  # fmt: skip
WAITS = {
    "malformed_request", "malformed_multipart", "missing_file", "too_many_files", "invalid_parameter", "body_timeout",
    "unsupported_media_type", "not_acceptable", "not_found", "method_not_allowed", "unauthenticated", "forbidden", "rate_limited",
    "explanation_unavailable", "unknown_operating_point", "unknown_target", "overloaded", "not_ready", "audit_unavailable",
}  # fmt: skip
COUNTS = {"internal_error", "idempotency_key_reused"}


def test_every_code_has_its_consequence() -> None:
    assert set(ERROR_TABLE) == REFUSES | WAITS | COUNTS


@pytest.mark.parametrize("code", sorted(ERROR_TABLE))
def test_a_problem(peer: Scripted, tmp_path: Path, code: str) -> None:
    answer = problem(ERROR_TABLE[code].status, code)
    if code in REFUSES:
        assert judge(peer, tmp_path, answer) == Refused(code)
        return
    with pytest.raises(JudgeError) as failure:
        judge(peer, tmp_path, answer)
    assert (failure.value.code, failure.value.away, failure.value.counts) == (code, code in WAITS, code in COUNTS)


@pytest.mark.parametrize(("status", "away"), [(404, True), (502, True), (500, False), (418, False), (302, False)])
def test_an_answer_that_is_no_problem_of_ours(peer: Scripted, tmp_path: Path, status: int, away: bool) -> None:
    with pytest.raises(JudgeError) as failure:
        judge(peer, tmp_path, (status, {"Retry-After": "7"}, b'{"code": "lateral_vieww"}'))
    assert (failure.value.code, failure.value.away) == ("unusable_answer", away)
    assert failure.value.retry_after_s == 7.0


def test_a_service_that_is_not_ready_has_no_bundle(peer: Scripted, tmp_path: Path) -> None:
    answers: tuple[tuple[Answer, str], ...] = (
        ((200, {}, b'{"bundle": null}'), "not_ready"),
        ((500, {}, b""), "service_unavailable"),
    )
    for answer, code in answers:
        peer.script = answer
        asking = client(peer, tmp_path)
        with pytest.raises(JudgeError) as failure:
            asking.bundle()
        assert (failure.value.code, failure.value.away) == (code, True)
        asking.close()


def test_a_service_without_a_key_does_not_start(peer: Scripted, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        client(peer, tmp_path, key_file=tmp_path / "none")
