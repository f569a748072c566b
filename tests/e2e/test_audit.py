"""A thousand mixed requests, then the trail: every outcome has its event, and verify says so."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import Counter
from pathlib import Path

from app.imaging.phantom import encode_jpeg, encode_png, phantom
from benchmarks.server import Server, ask, serving
from tests.support.hostile import hostile_images

BAD_KEY = "cxr_aaaaaaaa_" + "b" * 43 + "_cccccc"


def test_verify_passes_after_a_thousand_mixed_requests(bundles_dir: Path, tmp_path: Path) -> None:
    films = [encode_jpeg(phantom(seed)) for seed in range(6)]
    batch = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
        + encode_png(phantom(seed))
        + b"\r\n"
        for seed in range(3)
    ) + b"--x--\r\n"  # fmt: skip
    damaged = [case for case in hostile_images() if len(case.data) < 100_000][::12][:10]
    seen: Counter[tuple[str, int]] = Counter()
    with serving(tmp_path / "state", bundles_dir=bundles_dir, rate_limit_per_minute=1_000_000) as server:
        service_key, admin_key = server.key("service"), server.key("admin")

        def client(first: int) -> None:
            connection = server.connection()
            for i in range(first, 1_000, 4):
                path, key, body, kind, accept = {
                    0: ("/gradcam", service_key, films[i % 6], "image/jpeg", "image/jpeg"),
                    1: ("/predict", service_key, damaged[i % 10].data, damaged[i % 10].content_type, "*/*"),
                    2: ("/predict", BAD_KEY, films[0], "image/jpeg", "*/*"),
                    3: ("/batch_predict", service_key, batch, "multipart/form-data; boundary=x", "*/*"),
                }.get(i % 10, ("/predict", service_key, films[i % 6], "image/jpeg", "*/*"))
                reply = ask(connection, "POST", path, key=key, body=body, Content_Type=kind, Accept=accept)
                if reply.headers.get("connection") == "close":
                    connection.close()
                    connection = server.connection()
                seen[path, reply.status] += 1
            connection.close()

        threads = [threading.Thread(target=client, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for _ in range(3):
            assert server.request("GET", "/drift_report", key=admin_key).status == 200
        assert server.cxr("audit", "verify").returncode == 0  # beside a running service
    verified = server.cxr("audit", "verify")
    print(f"{dict(seen)}\n{verified.stdout.strip()}")
    assert verified.returncode == 0
    assert sum(seen.values()) == 1_000
    assert not any(status >= 500 for _, status in seen)
    with contextlib.closing(sqlite3.connect(server.state / "cxr.sqlite3")) as db:
        events = Counter(dict(db.execute("SELECT kind, count(*) FROM audit_events GROUP BY kind").fetchall()))
        (rows,) = db.execute("SELECT count(*) FROM predictions").fetchone()
    assert rows == seen["/predict", 200] + 3 * seen["/batch_predict", 200]
    assert events["predict"] == rows
    assert events["gradcam"] == seen["/gradcam", 200]
    assert events["refused"] == sum(
        n for (path, status), n in seen.items() if path == "/predict" and status in {400, 413, 415, 422}
    )
    assert events["drift_report"] == 3
    with contextlib.closing(sqlite3.connect(server.state / "cxr.sqlite3")) as db, db:
        db.execute(
            "UPDATE predictions SET label = 'normal' WHERE rowid = (SELECT max(rowid) FROM predictions WHERE label <> 'normal')"
        )
    assert server.cxr("audit", "verify", check=False).returncode == 1


def test_an_admitted_request_that_cannot_be_met_is_recorded(server: Server, key: str, film: bytes) -> None:
    for query, status, code in (
        ("operating_point=nowhere", 400, "unknown_operating_point"),
        ("target=elsewhere", 400, "unknown_target"),
    ):
        reply = server.request(
            "POST", f"/gradcam?{query}", key=key, body=film, Content_Type="image/jpeg", Accept="application/json"
        )
        assert (reply.status, reply.json()["code"]) == (status, code)
        with contextlib.closing(sqlite3.connect(server.state / "cxr.sqlite3")) as db:
            found = db.execute(
                "SELECT kind, payload FROM audit_events JOIN audit_payloads USING (chain_id, seq) WHERE payload LIKE ?",
                [f"%{reply.json()['request_id']}%"],
            ).fetchall()
        assert [(kind, code in payload) for kind, payload in found] == [("refused", True)]
