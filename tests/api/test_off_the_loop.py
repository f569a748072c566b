"""Nothing heavy happens on the event loop: for every route and kind of film, hashes, decoders and arithmetic run on worker threads."""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import simplejpeg

from app.imaging import decode as decode_module
from app.imaging.phantom import encode_jpeg, encode_png, phantom
from app.imaging.phantom_dicom import encode_dicom

LOOP = "server"  # the thread that `listening` runs the server on
JPEG = {"Content-Type": "image/jpeg"}
FILM = phantom(1, height=256, width=224)
LARGE = 5_000  # bytes; what is shorter, such as an audit event, may be hashed anywhere; the films are larger


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, client: httpx.Client) -> dict[str, set[str]]:
    """The names of the threads on which each kind of heavy work was done."""
    threads: dict[str, set[str]] = defaultdict(set)

    def watch(place: Any, name: str, *, large: Callable[..., bool] = lambda *_, **__: True) -> None:
        real = getattr(place, name)

        def spy(*args: Any, **options: Any) -> Any:
            if large(*args, **options):
                threads[name].add(threading.current_thread().name)
            return real(*args, **options)

        monkeypatch.setattr(place, name, spy)

    watch(hashlib, "sha256", large=lambda data=b"", **_: memoryview(data).nbytes > LARGE)
    watch(decode_module, "sniff")
    watch(decode_module, "read_jpeg_header")
    watch(decode_module, "read_png_header")
    watch(decode_module, "read_dicom")
    watch(simplejpeg, "decode_jpeg")
    watch(cv2, "imdecode")
    watch(cv2, "resize")
    watch(cv2, "meanStdDev")
    return threads


def check(seen: dict[str, set[str]], *expected: str) -> None:
    assert set(expected) <= set(seen), f"nothing of {set(expected) - set(seen)} was seen"
    assert {name: names for name, names in seen.items() if LOOP in names} == {}


@pytest.mark.parametrize(
    ("path", "accept"),
    [
        ("/predict", "application/json"),
        ("/predict?explain=true", "application/json"),
        ("/predict", "application/pdf"),
        ("/gradcam", "image/jpeg"),
        ("/gradcam", "application/json"),
        ("/reports?objects=pdf,fhir", "multipart/related"),
    ],
)
def test_routes_for_one_film(path: str, accept: str, client: httpx.Client, seen: dict[str, set[str]]) -> None:
    headers = {**JPEG, "Accept": accept, "Idempotency-Key": f"{path} {accept}".replace(" ", "-")}
    for repeated in (None, "true"):
        reply = client.post(path, content=encode_jpeg(FILM), headers=headers)
        assert (reply.status_code, reply.headers.get("Idempotency-Replayed")) == (200, repeated), reply.text
    check(seen, "sha256", "sniff", "read_jpeg_header", "decode_jpeg", "resize", "meanStdDev")


def test_every_format(client: httpx.Client, seen: dict[str, set[str]]) -> None:
    for kind, data in {
        "image/png": encode_png(FILM),
        "application/dicom": encode_dicom(FILM),
        "image/jpeg": encode_jpeg(FILM),
    }.items():
        assert client.post("/predict", content=data, headers={"Content-Type": kind}).status_code == 200
    check(seen, "sha256", "read_png_header", "imdecode", "read_dicom", "decode_jpeg")


def test_a_batch_with_a_film_that_is_none(client: httpx.Client, seen: dict[str, set[str]]) -> None:
    junk = b"\xff\xd8\xff" + bytes(2 * LARGE)
    files = [("files", ("a", data)) for data in (encode_jpeg(FILM), encode_png(FILM), junk)]
    results = client.post("/batch_predict", files=files).json()["results"]
    assert [result["problem"] is None for result in results] == [True, True, False]
    check(seen, "sha256", "decode_jpeg", "imdecode")


def test_a_film_that_is_refused(client: httpx.Client, seen: dict[str, set[str]]) -> None:
    blank = encode_png(np.random.default_rng(1).integers(100, 102, (256, 256), dtype=np.uint8))
    reply = client.post("/predict", content=blank, headers={"Content-Type": "image/png"})
    assert reply.json()["code"] == "blank_image"
    check(seen, "sha256", "imdecode")
