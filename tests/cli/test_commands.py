"""Commands on a fresh machine and with settings and paths that are wrong: they work, or say why in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.imaging.phantom import encode_jpeg, phantom
from tests.support.tiny_bundle import make_tiny_bundle


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundles")
    (root / "latest").write_text(f"{make_tiny_bundle(root)}\n")
    return root


def cxr(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CXR_")}
    env = clean | {f"CXR_{name.upper()}": str(value) for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments], env=env, capture_output=True, text=True, timeout=60, check=False
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that failed."""
    assert done.returncode == 1, done
    (line,) = done.stderr.splitlines()
    return line


def test_a_film_is_judged_on_a_fresh_state_with_the_limits_of_the_service(bundles: Path, tmp_path: Path) -> None:
    film = tmp_path / "film.jpg"
    film.write_bytes(encode_jpeg(phantom(7)))
    large = tmp_path / "large.jpg"
    large.write_bytes(film.read_bytes() + bytes(1_000_000))
    done = cxr(
        "predict", str(film), str(large), state_dir=tmp_path / "state", bundles_dir=bundles, upload_max_bytes=1_000_000
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["bundle"]["name"] == "tiny"
    assert "payload_too_large" in done.stderr
    assert cxr("audit", "verify", state_dir=tmp_path / "state").returncode == 0


def test_a_wrong_setting_is_named_without_its_value(tmp_path: Path) -> None:
    for command in (["keys", "list"], ["serve"], ["audit", "verify"], ["bundles", "show", "tiny/1.0.0"]):
        line = said(cxr(*command, state_dir=tmp_path, port="CANARY", workers=0))
        assert line.startswith("cxr: settings: CXR_PORT: ")
        assert "CXR_WORKERS: " in line
        assert "CANARY" not in line


def test_an_empty_setting_is_none(bundles: Path, tmp_path: Path) -> None:
    """As compose hands over `${CXR_BUNDLE:-}`."""
    state = tmp_path / "state"
    empty = {"bundle": "", "secrets_dir": "", "database_url": "", "database_password_file": "", "workers": ""}
    assert cxr("keys", "list", state_dir=state, **empty).returncode == 0
    assert (state / "secrets" / "keyring.json").exists()
    asked = cxr("bundles", "activate", "tiny/1.0.0", "--wait-s", "0.1", state_dir=state, bundles_dir=bundles, **empty)
    assert "no_answer" in said(asked)


def test_a_path_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert said(cxr("keys", "list", state_dir=file / "state")).startswith("cxr: state_dir: ")
    assert said(cxr("phantom", "--out", str(file / "film.png"))).endswith("film.png: Not a directory")


def test_a_missing_key_ring_is_not_blamed_on_events_that_are_not_there(tmp_path: Path) -> None:
    done = cxr("audit", "verify", state_dir=tmp_path / "fresh")
    assert done.returncode == 1
    assert "keyring_missing" in done.stderr
    assert "holds events" not in done.stderr
