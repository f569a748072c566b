"""Commands on a fresh machine and with settings and paths that are wrong: they work, or say why in one line."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from pydicom.uid import RLELossless

from app.imaging.phantom import encode_jpeg, phantom
from tests.support.commands import cxr
from tests.support.dicom_films import CANARY, PATIENT, as_bytes, dicom_film, file_dataset
from tests.support.promotions import FAILED, LABEL
from tests.support.tiny_bundle import make_tiny_bundle


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundles")
    (root / "latest").write_text(f"{make_tiny_bundle(root)}\n")
    return root


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


def test_a_dicom_film_is_judged_and_found_again_by_its_study(bundles: Path, tmp_path: Path) -> None:
    """Uncompressed, and compressed by a decoder process of the command's own."""
    plain, packed = tmp_path / "plain.dcm", tmp_path / "packed.dcm"
    plain.write_bytes(dicom_film(5))
    data = file_dataset(6, bits_stored=8)
    data.compress(RLELossless)
    packed.write_bytes(as_bytes(data))
    where = {"state_dir": tmp_path / "state", "bundles_dir": bundles}
    done = cxr("predict", str(plain), str(packed), **where, upload_max_bytes=1_000)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["image"]["format"], first["image"]["acquisition"]["modality"]) == ("dicom", "CR")
    assert second["image"]["acquisition"]["transfer_syntax"] == RLELossless
    study = str(file_dataset(5).StudyInstanceUID)
    found = cxr("audit", "find", "--study", study, **where)
    assert found.returncode == 0
    (line,) = found.stdout.splitlines()
    chain, seq, at, kind, label = line.split()
    assert (seq, kind, label) == ("2", "predict", first["prediction"]["label"])
    assert at.endswith("Z")
    by_patient = cxr(
        "audit", "find", "--patient", PATIENT["PatientID"], "--issuer", PATIENT["IssuerOfPatientID"], **where
    )
    assert len(by_patient.stdout.splitlines()) == 2  # the phantoms' invented patient is one
    nothing = cxr("audit", "find", "--instance", study, **where)
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert said(cxr("audit", "find", "--study", study, "--instance", study, **where)).startswith("cxr: what_to_find: ")
    assert re.fullmatch("[0-9a-f]{16}", chain)
    assert cxr("audit", "verify", **where).returncode == 0
    assert CANARY not in done.stdout + done.stderr


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


def test_a_bundle_whose_promotion_gate_failed_is_labelled_and_asks_to_be_accepted(tmp_path: Path) -> None:
    root, state = tmp_path / "bundles", tmp_path / "state"
    make_tiny_bundle(root, latest=True)
    make_tiny_bundle(root, version="2.0.0", fields={"promotion": FAILED})
    broken = make_tiny_bundle(root, version="3.0.0")
    (root / broken.name / broken.version / "manifest.json").write_text("{}")
    where = {"state_dir": state, "bundles_dir": root}
    assert cxr("bundles", "list", **where).stdout.splitlines() == [
        "  tiny/1.0.0",
        f"  tiny/2.0.0  ({LABEL})",
        "  tiny/3.0.0  (wrong_schema_version)",
    ]
    verified = cxr("bundles", "verify", "tiny/2.0.0", **where)
    assert verified.returncode == 0
    assert verified.stdout.splitlines()[1:] == [
        "onnxruntime-fp32: golden answers given",
        f"not for patients: {LABEL}",
        "failed: source shortcut: wanted at most 0.60, measured 0.97",
        "failed: calibration: wanted at most 0.05, measured 0.08",
    ]
    activate = ("bundles", "activate", "tiny/2.0.0", "--wait-s", "0.1")
    refused = said(cxr(*activate, **where))
    assert refused.startswith("cxr: gate_failed: ")
    assert "source shortcut, calibration" in refused
    assert "no_answer" in said(cxr(*activate, "--accept-failed-gate", **where))  # asked for; no service runs


def test_a_film_is_judged_by_a_bundle_that_failed_only_where_a_setting_says_so(tmp_path: Path) -> None:
    root, film = tmp_path / "bundles", tmp_path / "film.jpg"
    make_tiny_bundle(root, fields={"promotion": FAILED}, latest=True)
    film.write_bytes(encode_jpeg(phantom(7)))
    where = {"state_dir": tmp_path / "state", "bundles_dir": root}
    assert said(cxr("predict", str(film), **where)).startswith("cxr: gate_failed: ")
    done = cxr("predict", str(film), **where, accept_failed_gate="true")
    assert done.returncode == 0
    assert json.loads(done.stdout)["warnings"][0]["code"] == "research_only"
    assert cxr("bundles", "list", **where).stdout == f"* tiny/1.0.0  ({LABEL})\n"
