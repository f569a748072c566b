"""A variant of the network that serves is named wherever an answer is: in it, in /health, in the metrics, in the audit trail."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from app.imaging.phantom import encode_jpeg, phantom
from benchmarks.server import serving
from tests.support.tiny_variants import make_variants, variant

INT8 = "onnxruntime-int8"


def test_answer_health_metrics_and_audit_name_the_engine(tmp_path: Path) -> None:
    thresholds = {"screening": {"pneumonia": -0.6}, "rule-in": {"pneumonia": 1.4}}  # the bundle's own are -0.4 and 1.2
    make_variants(tmp_path / "bundles", variant(INT8, thresholds=thresholds), latest=True)
    with serving(tmp_path / "state", bundles_dir=tmp_path / "bundles", engine=INT8) as server:
        reply = server.request(
            "POST", "/predict", key=server.key("service"), body=encode_jpeg(phantom(7)), Content_Type="image/jpeg"
        )
        answer = reply.json()
        assert reply.status == 200, answer
        assert (answer["engine"]["name"], answer["engine"]["precision"]) == ("onnxruntime", "int8")
        assert answer["classes"][0]["threshold_margin"] == thresholds["screening"]["pneumonia"]
        health = server.request("GET", "/health").json()
        assert (health["engine"]["name"], health["engine"]["precision"]) == ("onnxruntime", "int8")
        assert 'precision="int8"' in server.request("GET", "/metrics", key=server.key("admin")).body.decode()
        with closing(sqlite3.connect(f"file:{server.state / 'cxr.sqlite3'}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT request_id, engine, precision FROM predictions").fetchall()
        assert rows == [(answer["request_id"], f"onnxruntime {answer['engine']['version']}", "int8")]
        assert server.cxr("audit", "verify").returncode == 0
