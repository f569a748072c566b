"""`cxr engines` on a bundle with an int8 network: what is listed, measured, chosen, and how wrong names are answered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app.imaging.phantom import encode_jpeg, phantom
from tests.cli.test_commands import said
from tests.support.commands import cxr, environment
from tests.support.tiny_variants import make_variants, variant


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundles")
    out = {**variant("openvino-bf16"), "admitted": False, "bounds": {"logit": 0.01, "flips": 0.0, "auroc_loss": 0.01}}
    make_variants(root, variant("onnxruntime-int8"), out, latest=True)
    return root


def test_listed_chosen_and_listed_again(bundles: Path, tmp_path: Path) -> None:
    where = {"state_dir": tmp_path / "state", "bundles_dir": bundles, "workers": 2}
    first = cxr("engines", "list", **where)
    assert first.returncode == 0, first.stderr
    title, *lines = first.stdout.splitlines()
    assert title.startswith("tiny/1.0.0 on ")
    assert "; 2 cores; onnxruntime " in title
    assert [line[:30].split(":")[0] for line in lines] == [
        "  onnxruntime-fp32",
        "  onnxruntime-int8",
        "  openvino-bf16",
    ]
    assert "not admitted" in lines[2]
    assert "24 films of generated phantoms: logits moved by at most 0.05, at most 0 decisions changed" in lines[1]

    done = cxr("engines", "choose", "onnxruntime-int8", **where)
    assert done.returncode == 0, done.stderr
    again = cxr("engines", "list", **where).stdout.splitlines()
    assert again[2].startswith("* onnxruntime-int8: admitted")
    assert again[-1].endswith(": onnxruntime-int8")
    assert (
        cxr("engines", "list", engine="onnxruntime-fp32", **where).stdout.splitlines()[1].startswith("* onnxruntime-fp")
    )
    assert cxr("audit", "verify", state_dir=tmp_path / "state").returncode == 0

    assert "does not admit it" in said(cxr("engines", "choose", "openvino-bf16", **where))
    assert "has no variant of that name" in said(cxr("engines", "choose", "quick", **where))


def test_measured_and_followed(bundles: Path, tmp_path: Path) -> None:
    where = {"state_dir": tmp_path / "state", "bundles_dir": bundles, "workers": 1}
    done = cxr("engines", "measure", **where)
    assert done.returncode == 0, done.stderr
    assert sorted(line.split(":")[0] for line in done.stdout.splitlines()) == [
        "fastest",
        "onnxruntime-fp32",
        "onnxruntime-int8",
    ]
    assert "chosen" not in cxr("engines", "list", **where).stdout
    fastest = cxr("engines", "measure", "--choose", **where).stdout.splitlines()[-1].removeprefix("fastest: ")
    assert f": {fastest}" in cxr("engines", "list", **where).stdout.splitlines()[-1]


NOTING = """
import sys
import cv2
from app import engines
from app.cli.main import main

cv2.setNumThreads(3)
work_before = engines._work_before

def noting(manifest):
    print(f"{cv2.getNumThreads()} threads of OpenCV", file=sys.stderr)
    return work_before(manifest)

engines._work_before = noting
sys.argv[0] = "cxr"
main()
"""


@pytest.mark.parametrize("command", ["engines measure --choose", "score {films} --out {films}.parquet"])
def test_what_is_measured_runs_with_the_threads_of_the_service(bundles: Path, tmp_path: Path, command: str) -> None:
    """Its choice is followed by every replica, and OpenCV's own pool would be part of every figure."""
    films = tmp_path / "films"
    films.mkdir()
    (films / "film.jpg").write_bytes(encode_jpeg(phantom(7)))
    done = subprocess.run(
        [sys.executable, "-c", NOTING, *command.format(films=films).split()],
        env=environment(state_dir=tmp_path / "state", bundles_dir=bundles, workers=1, engine="auto"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line.endswith("of OpenCV")] == ["1 threads of OpenCV"]


def test_bundles_verify_asks_every_engine(bundles: Path, tmp_path: Path) -> None:
    done = cxr("bundles", "verify", "tiny/1.0.0", state_dir=tmp_path / "state", bundles_dir=bundles)
    assert done.returncode == 0, done.stderr
    title, *lines = done.stdout.splitlines()
    assert title.startswith("tiny/1.0.0 is sound, digest ")
    assert lines == ["onnxruntime-fp32: golden answers given", "onnxruntime-int8: golden answers given"]
