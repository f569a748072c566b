"""A film in over HTTP, an audited answer out: the shipped app, a real process, real sockets."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from app.imaging.phantom import encode_jpeg, encode_png, phantom
from app.settings import PROJECT_ROOT
from benchmarks.server import Server, serving


def test_predict_is_answered_and_recorded(server: Server, key: str, film: bytes) -> None:
    reply = server.request("POST", "/predict", key=key, body=film, Content_Type="image/jpeg")
    assert reply.status == 200, reply.body
    answer = reply.json()
    assert answer["bundle"]["name"] == "tiny"
    assert len(answer["bundle"]["digest"]) == 64
    assert answer["engine"]["name"] == "onnxruntime"
    assert answer["engine"]["precision"] == "fp32"
    assert answer["task"] == "binary"
    assert answer["prediction"]["label"] in {c["name"] for c in answer["classes"]}
    assert sum(c["probability"] for c in answer["classes"]) == pytest.approx(1)
    assert answer["operating_point"]["name"]
    assert "intended_use_unverified" in {w["code"] for w in answer["warnings"]}
    with closing(sqlite3.connect(f"file:{server.state / 'cxr.sqlite3'}?mode=ro", uri=True)) as db:
        rows = db.execute(
            "SELECT label, image_sha256, bundle_digest FROM predictions WHERE request_id = ?", [answer["request_id"]]
        ).fetchall()
    assert rows == [(answer["prediction"]["label"], answer["image"]["sha256"], answer["bundle"]["digest"])]


def test_same_film_same_answer_by_every_way_in(server: Server, key: str) -> None:
    film = encode_png(phantom(3))
    boundary = "b0undary"
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="Doe^John.png"\r\n'
        "Content-Type: image/png\r\n\r\n"
    ).encode() + film + f"\r\n--{boundary}--\r\n".encode()  # fmt: skip
    raw = server.request("POST", "/predict", key=key, body=film, Content_Type="image/png").json()
    form = server.request(
        "POST", "/predict", key=key, body=body, Content_Type=f"multipart/form-data; boundary={boundary}"
    ).json()
    many = body.replace(b'name="file"', b'name="files"')
    batch = server.request(
        "POST", "/batch_predict", key=key, body=many, Content_Type=f"multipart/form-data; boundary={boundary}"
    ).json()
    explained = server.request(
        "POST", "/gradcam", key=key, body=film, Content_Type="image/png", Accept="application/json"
    ).json()
    assert raw["classes"] == form["classes"]
    assert json.dumps(raw["classes"]) in json.dumps(batch)
    assert json.dumps(raw["classes"]) in json.dumps(explained)
    assert b"Doe" not in (server.state / "cxr.sqlite3").read_bytes()
    assert "Doe" not in server.log()


def test_command_line_predicts_the_same(server: Server, key: str, tmp_path: Path) -> None:
    film = encode_jpeg(phantom(11))
    (tmp_path / "film.jpg").write_bytes(film)
    over_http = server.request("POST", "/predict", key=key, body=film, Content_Type="image/jpeg").json()
    printed = json.loads(server.cxr("predict", str(tmp_path / "film.jpg")).stdout)
    assert printed["classes"] == over_http["classes"]
    assert printed["operating_point"] == over_http["operating_point"]


def test_the_bundles_that_ship_serve_and_verify(tmp_path: Path) -> None:
    """As the README's first request has it: the real one refuses a phantom, the demo takes it."""
    latest = PROJECT_ROOT / "model_bundles" / "latest"
    if not latest.is_file():
        pytest.fail("no bundle ships in model_bundles/")
    film = encode_jpeg(phantom(1, height=1024, width=1024))
    with serving(tmp_path / "state") as server:
        key = server.key("radiologist")
        assert server.request("GET", "/health").json()["bundle"] == latest.read_text().strip()
        refused = server.request("POST", "/predict", key=key, body=film, Content_Type="image/jpeg")
        assert (refused.status, refused.json()["code"]) == (422, "not_a_chest_radiograph")
        server.cxr("bundles", "activate", "phantom-demo/1.0.0")
        answer = server.request("POST", "/predict", key=key, body=film, Content_Type="image/jpeg").json()
        assert answer["bundle"]["name"] == "phantom-demo"
        assert server.cxr("audit", "verify").returncode == 0
        assert server.stop() == 0


def test_an_admin_key_is_made_once_and_kept_private(bundles_dir: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with serving(state, bundles_dir=bundles_dir) as server:
        path = state / "admin.key"
        secret = path.read_text().strip()
        assert path.stat().st_mode & 0o777 == 0o600
        assert secret not in server.log()
        assert server.request("GET", "/metrics", key=secret).status == 200
    path.unlink()
    with serving(state, bundles_dir=bundles_dir):
        assert not path.exists()


def test_a_misspelt_setting_is_named_in_the_log(bundles_dir: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "state", bundles_dir=bundles_dir, quueue_max=3) as server:
        assert '"names": ["CXR_QUUEUE_MAX"], "event": "unknown_settings"' in server.log()
