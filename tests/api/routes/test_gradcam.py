"""POST /gradcam: three forms of one answer, and what it refuses."""

from __future__ import annotations

import asyncio
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image

from app.domain import Role
from app.imaging.phantom import encode_jpeg, phantom
from app.main import create_app
from app.settings import Settings
from tests.api.routes.test_predict import events
from tests.support.asgi import chunk_messages, scope_of, tell
from tests.support.tiny_bundle import make_tiny_bundle

JPEG = {"Content-Type": "image/jpeg"}


def picture(reply: httpx.Response) -> Image.Image:
    assert reply.status_code == 200, reply.text
    return Image.open(BytesIO(reply.content), formats=("PNG", "JPEG"))


@pytest.mark.parametrize(
    ("accept", "form"), [(None, "PNG"), ("*/*", "PNG"), ("image/png", "PNG"), ("image/jpeg", "JPEG")]
)
def test_pictures(client: httpx.Client, film: bytes, accept: str | None, form: str) -> None:
    headers = JPEG if accept is None else {**JPEG, "Accept": accept}
    reply = client.post("/gradcam", content=film, headers=headers)
    drawn = picture(reply)
    assert (drawn.format, drawn.size, drawn.mode) == (form, (448, 512), "RGB")
    assert reply.headers["content-type"] == f"image/{form.lower()}"
    assert reply.headers["cxr-bundle"] == "tiny/1.0.0"
    assert reply.headers["cxr-film-size"] == "448x512"
    assert reply.headers["cxr-target"] == reply.headers["cxr-label"]
    assert reply.headers["cxr-review-required"] in {"true", "false"}
    assert reply.headers["cache-control"] == "no-store"


def test_numbers(client: httpx.Client, film: bytes) -> None:
    reply = client.post("/gradcam?top_k=2", content=film, headers={**JPEG, "Accept": "application/json"})
    shown = reply.json()
    assert {e["target"] for e in shown["explanations"]} == {"normal", "pneumonia"}
    for explained in shown["explanations"]:
        assert explained["method"] == "gradcam"
        assert explained["caption"]
        for polygon in explained["contours"]["polygons"]:
            assert all(0 <= x <= 448 and 0 <= y <= 512 for x, y in polygon)
    assert (shown["geometry"]["original_width"], shown["geometry"]["original_height"]) == (448, 512)
    plain = client.post("/predict", content=film, headers=JPEG).json()
    assert shown["prediction"]["classes"] == plain["classes"]
    assert shown["request_id"] == reply.headers["x-request-id"]


def test_size(client: httpx.Client) -> None:
    film = encode_jpeg(phantom(1, height=1500, width=1200))
    assert picture(client.post("/gradcam", content=film, headers=JPEG)).size == (819, 1024)
    assert picture(client.post("/gradcam?size=full", content=film, headers=JPEG)).size == (1200, 1500)


def test_side_by_side(client: httpx.Client, film: bytes) -> None:
    reply = client.post("/gradcam?top_k=2&method=gradcam%2B%2B&alpha=0", content=film, headers=JPEG)
    assert picture(reply).size == (2 * 448, 512)
    assert sorted(reply.headers["cxr-target"].split(", ")) == ["normal", "pneumonia"]


@pytest.mark.parametrize(
    ("query", "accept", "wanted"),
    [
        ("", "image/webp", (406, "not_acceptable")),
        ("", "application/dicom", (422, "dicom_source_required")),
        ("top_k=2", "application/dicom", (400, "invalid_parameter")),
        ("method=lime", "*/*", (400, "invalid_parameter")),
        ("alpha=1.01", "*/*", (400, "invalid_parameter")),
        ("alpha=nan", "*/*", (400, "invalid_parameter")),
        ("top_k=0", "*/*", (400, "invalid_parameter")),
        ("top_k=4", "*/*", (400, "invalid_parameter")),
        ("size=half", "*/*", (400, "invalid_parameter")),
        ("target=none_such", "*/*", (400, "unknown_target")),
    ],
)
def test_problems(client: httpx.Client, film: bytes, query: str, accept: str, wanted: tuple[int, str]) -> None:
    reply = client.post(f"/gradcam?{query}", content=film, headers={**JPEG, "Accept": accept})
    assert (reply.status_code, reply.json()["code"]) == wanted


@pytest.mark.parametrize(("method", "name"), [("smoothgradcam++", "SmoothGrad-CAM++"), ("scorecam", "Score-CAM")])
def test_methods_with_further_passes(
    client: httpx.Client, shipped: FastAPI, film: bytes, state: Path, method: str, name: str
) -> None:
    asked = {"method": method, "target": "pneumonia"}
    request_id = f"slow-{method.removesuffix('++')}"
    headers = {**JPEG, "Accept": "application/json"}
    first, again = (
        client.post("/gradcam", params=asked, content=film, headers={**headers, "X-Request-ID": f"{request_id}-{i}"})
        for i in range(2)
    )
    assert first.status_code == 200, first.text
    (shown,) = first.json()["explanations"]
    assert (shown["method"], shown["target"]) == (method, "pneumonia")
    assert f"{name} evidence for pneumonia" in shown["caption"]
    assert shown == again.json()["explanations"][0]
    quick = client.post("/gradcam", params={**asked, "method": "gradcam"}, content=film, headers=headers).json()
    assert quick["prediction"]["classes"] == first.json()["prediction"]["classes"]
    assert quick["explanations"][0]["values"] != shown["values"]
    ((kind, payload),) = events(state, f"{request_id}-0")
    assert (kind, payload["explained"][0]["method"]) == ("gradcam", method)
    drawn = client.post("/gradcam", params=asked, content=film, headers=JPEG)
    assert picture(drawn).size == (448, 512)
    assert shipped.state.service._scheduler.admitted == 0


def test_a_bundle_without_a_head_explains_nothing_but_judges(tmp_path: Path, film: bytes) -> None:
    make_tiny_bundle(tmp_path / "bundles", explanation="none", latest=True)
    app = create_app(Settings(state_dir=tmp_path / "state", bundles_dir=tmp_path / "bundles"))

    async def run() -> list[tuple[int, str]]:
        async with app.router.lifespan_context(app):
            headers = {
                **JPEG,
                "X-API-Key": app.state.records.keys.create(Role.ADMIN, "t"),
                "Content-Length": str(len(film)),
            }
            told = [
                await tell(app, scope_of("POST", path, headers, query), chunk_messages([film]))
                for path, query in (
                    ("/gradcam", ""),
                    ("/gradcam", "method=smoothgradcam%2B%2B"),
                    ("/gradcam", "method=scorecam"),
                    ("/predict", ""),
                    ("/predict", "tta=true"),
                )
            ]
            return [(t.status, t.json().get("code")) for t in told]

    assert asyncio.run(run()) == [(409, "explanation_unavailable")] * 3 + [(200, None)] * 2
