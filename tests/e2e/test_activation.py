"""Which bundle is live: seeded, activated, refused; a broken one never serves and never displaces a sound one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.server import serving, start
from tests.support.promotions import FAILED
from tests.support.tiny_bundle import make_tiny_bundle


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    root = tmp_path / "bundles"
    first = make_tiny_bundle(root, version="1.0.0", seed=0)
    make_tiny_bundle(root, version="1.1.0", seed=1)
    broken = make_tiny_bundle(root, version="1.2.0", seed=2)
    network = root / broken.name / broken.version / "network.onnx"
    network.write_bytes(network.read_bytes()[:-1] + b"\0")
    (root / "latest").write_text(f"{first}\n")
    return root


def test_activation_swaps_and_survives_a_restart(bundles: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "state", bundles_dir=bundles) as server:
        assert "1.0.0" in server.request("GET", "/health").body.decode()
        done = server.cxr("bundles", "activate", "tiny/1.1.0")
        assert done.returncode == 0
        assert "1.1.0" in server.request("GET", "/health").body.decode()
        listed = server.cxr("bundles", "list").stdout
        assert "1.1.0" in listed
    with serving(tmp_path / "state", bundles_dir=bundles) as server:
        assert "1.1.0" in server.request("GET", "/health").body.decode()
        assert server.cxr("audit", "verify").returncode == 0


def test_a_broken_activation_leaves_the_old_one_serving(bundles: Path, tmp_path: Path, film: bytes) -> None:
    with serving(tmp_path / "state", bundles_dir=bundles) as server:
        key = server.key("service")
        refused = server.cxr("bundles", "activate", "tiny/1.2.0", check=False)
        assert refused.returncode == 1
        assert "changed_file" in refused.stderr
        reply = server.request("POST", "/predict", key=key, body=film, Content_Type="image/jpeg")
        assert reply.json()["bundle"]["version"] == "1.0.0"
        assert server.cxr("bundles", "verify", "tiny/1.2.0", check=False).returncode == 1
        assert server.cxr("bundles", "verify", "tiny/1.1.0").returncode == 0


def test_a_broken_live_bundle_fails_the_start_loudly(bundles: Path, tmp_path: Path) -> None:
    (bundles / "latest").write_text("tiny/1.2.0\n")
    with pytest.raises(RuntimeError, match="changed_file"):
        start(tmp_path / "state", bundles_dir=bundles)
    lines = [
        json.loads(line) for line in (tmp_path / "state" / "server.log").read_text().splitlines() if line[0] == "{"
    ]
    (said,) = [line["reason"] for line in lines if line["event"] == "start_refused"]
    assert said.startswith("changed_file: network.onnx ")


def test_a_bundle_that_changed_since_it_was_activated_is_refused(bundles: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "state", bundles_dir=bundles):
        pass
    shutil.rmtree(bundles / "tiny" / "1.0.0")
    make_tiny_bundle(bundles, version="1.0.0", seed=9)
    with pytest.raises(RuntimeError, match="digest"):
        start(tmp_path / "state", bundles_dir=bundles)


def test_a_pinned_service_answers_pinned(bundles: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "state", bundles_dir=bundles, bundle="tiny/1.0.0") as server:
        refused = server.cxr("bundles", "activate", "tiny/1.1.0", check=False)
        assert refused.returncode == 1
        assert "pinned" in refused.stderr
        assert "1.0.0" in server.request("GET", "/health").body.decode()


def test_a_bundle_that_failed_its_gate_serves_only_where_that_was_accepted(tmp_path: Path, film: bytes) -> None:
    root = tmp_path / "bundles"
    make_tiny_bundle(root, latest=True)
    make_tiny_bundle(root, version="2.0.0", seed=1, fields={"promotion": FAILED})

    def judged(key: str) -> tuple[str, set[str]]:
        answer = server.request("POST", "/predict", key=key, body=film, Content_Type="image/jpeg").json()
        return answer["bundle"]["version"], {w["code"] for w in answer["warnings"]}

    with serving(tmp_path / "state", bundles_dir=root) as server:
        key = server.key("service")
        refused = server.cxr("bundles", "activate", "tiny/2.0.0", check=False)
        assert (refused.returncode, "gate_failed" in refused.stderr) == (1, True)
        assert judged(key) == ("1.0.0", {"intended_use_unverified"})
        assert server.cxr("bundles", "activate", "tiny/2.0.0", "--accept-failed-gate").returncode == 0
        assert judged(key) == ("2.0.0", {"research_only", "intended_use_unverified"})
    with serving(tmp_path / "state", bundles_dir=root) as server:  # as another replica would, without any setting
        assert judged(key)[0] == "2.0.0"
        assert server.cxr("bundles", "activate", "tiny/1.0.0").returncode == 0
        assert judged(key)[0] == "1.0.0"
        assert server.cxr("audit", "verify").returncode == 0
    (root / "latest").write_text("tiny/2.0.0\n")
    with pytest.raises(RuntimeError, match="gate_failed"):
        start(tmp_path / "fresh", bundles_dir=root)


def test_the_command_line_teaches() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "app.cli", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for command in ("serve", "predict", "phantom", "keys", "bundles", "audit"):
        assert command in shown
