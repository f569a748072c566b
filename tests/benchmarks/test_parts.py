"""What the benchmarks stand on: synthetic trails that verify, bundles that tell films apart, planted faults, a disk that is slow."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from app.imaging.decode import ImageLimits, decode
from app.preprocessing import network_tensor
from app.records import Records, verify
from app.settings import Settings
from benchmarks import processes
from benchmarks.bundles import INPUT, SPREAD, identity_network, write
from benchmarks.competitors import film as film_for_others
from benchmarks.competitors.running import logits, settings
from benchmarks.engines import auroc
from benchmarks.films import films
from benchmarks.outcome import Answers, Conditions, Cost, Samples, measured
from benchmarks.planted import plant
from benchmarks.questions import FP32, Reference, ours, upload
from benchmarks.report import Report
from benchmarks.slow_disk import slow_disk
from benchmarks.synthetic_records import FILMS_PER_PATIENT, PATIENT, Trail


def test_a_synthetic_trail_is_whole_and_is_what_it_says(tmp_path: Path) -> None:
    trail = Trail(Settings(state_dir=tmp_path / "state"), digest="ab" * 32)
    trail.grow(40)
    trail.grow(100)
    report = verify(trail.settings)
    assert (list(report.problems), report.predictions, report.events) == ([], 100, 101)
    records = Records.open(trail.settings, role="cli")
    try:
        assert len(records.find_films("patient", "", PATIENT.format(7))) == FILMS_PER_PATIENT
        now = datetime.now(UTC)
        window = asyncio.run(records.window(now - timedelta(days=1), now + timedelta(minutes=1), digest="ab" * 32))
        assert window.n == 100
        assert asyncio.run(records.window(now - timedelta(days=1), now, digest="cd" * 32)).n == 0
    finally:
        records.close()


def test_a_trail_that_the_disk_cannot_hold_is_refused(tmp_path: Path) -> None:
    trail = Trail(Settings(state_dir=tmp_path / "state"), digest="ab" * 32)
    with pytest.raises(OSError, match="rows need about"):
        trail.grow(10**12)


def test_the_identity_bundle_verifies_and_tells_its_films_apart(tmp_path: Path) -> None:
    reference = Reference.of(tmp_path, write(tmp_path, identity_network()))
    found = reference.of_films("jpeg", 256)[:, 0]
    gaps = np.diff(np.sort(found))
    assert gaps.min() > FP32  # an answer to another film is wrong
    assert found.std() == pytest.approx(SPREAD, rel=0.7)
    assert reference.names == ("pneumonia",)


def test_logits_are_read_by_name_and_from_lists() -> None:
    body = b'{"classes": [{"name": "b", "logit": 2.0}, {"name": "a", "logit": 1.0}]}'
    assert ours(("a", "b"))(body) == [1.0, 2.0]
    assert ours(("a", "b"))(b'{"explanations": [], "prediction": ' + body + b"}") == [1.0, 2.0]  # of /gradcam
    assert logits(b'{"logits": [0.5]}') == logits(b'[{"logits": [0.5]}]') == [0.5]


def test_an_upload_is_well_formed() -> None:
    request = upload("/predict", [b"one", b"two"], "image/jpeg", "files", {"X-API-Key": "k"})
    assert f"Content-Length: {len(request.body)}\r\n".encode() in request.head
    assert b"X-API-Key: k\r\n" in request.head
    assert request.head.endswith(b"\r\n\r\n")
    assert request.body.count(b'name="files"') == 2
    assert request.body.endswith(b"two\r\n--cxr-bench-boundary--\r\n")


def test_every_competitor_is_tried_with_one_and_with_all_cores() -> None:
    for name, tried in settings(cores=4).items():
        assert len(tried) == len({setting.words for setting in tried}), name
        assert {(s.values["threads"], s.values["workers"]) for s in tried} >= {(4, 1), (1, 4)}


def test_the_planted_service_leaks_as_told() -> None:
    async def answer(*_: object) -> str:
        return "right"

    leaking: Callable[..., object] = plant(answer, {"requests_per_file": 2, "slower_us": 2_000})
    before = processes.open_files(os.getpid())

    async def ten() -> float:
        begun = time.perf_counter()
        assert [await leaking() for _ in range(10)] == ["right"] * 10  # type: ignore[misc]  # it is a coroutine
        return time.perf_counter() - begun

    assert asyncio.run(ten()) >= 0.002 * 55
    assert processes.open_files(os.getpid()) == before + 5


def test_the_slow_disk_is_slow(tmp_path: Path) -> None:
    environment = slow_disk(tmp_path, 400.0)  # far more than a busy disk takes by itself
    if environment is None:
        pytest.skip("no C compiler here")
    code = """
import os, time
with open("probe", "wb") as file:
    begun = time.perf_counter()
    os.fdatasync(file.fileno()), os.fsync(file.fileno())
    print(time.perf_counter() - begun)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, cwd=tmp_path, capture_output=True, check=True
    )
    assert float(done.stdout) >= 0.8


def test_a_trees_memory_and_time_include_its_children() -> None:
    child = "import sys; x = bytearray(60_000_000); print(1, flush=True); sys.stdin.read()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert len(processes.tree(parent.pid)) == 2
        assert processes.rss_bytes(parent.pid) > processes.own_rss_bytes(parent.pid) + 60_000_000
        assert processes.cpu_s(parent.pid) > 0
        parent.communicate()


def test_the_other_servers_see_the_same_input() -> None:
    (film,) = films("jpeg", 1_024, 1)
    ours = network_tensor(decode(film, ImageLimits(128, 4_096)), INPUT)
    assert np.array_equal(film_for_others.tensor(film), ours)


def test_an_unsound_round_leaves_no_ratio(tmp_path: Path) -> None:
    report = Report("quick", quiet=0.5)
    report.ratio("fp32/litserve", float(np.median([2.0, float("nan"), 2.1])))
    report.data["audit"] = {"with_cpu_ms": [1.0, float("nan")]}
    report.write_json(tmp_path / "bench.json")
    found = json.loads((tmp_path / "bench.json").read_text(), parse_constant=_no_constant)
    assert found["ratios"] == {"fp32/litserve": None}
    assert found["audit"] == {"with_cpu_ms": [1.0, None]}


def _no_constant(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


def test_auroc_counts_pairs() -> None:
    assert auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])) == 0.75
    assert auroc(np.array([1.0, 1.0]), np.array([True, False])) == 0.5


def test_the_report_calls_valid_only_what_is(capsys: pytest.CaptureFixture[str]) -> None:
    times = np.arange(4.0)
    seen = Samples(times, times, times + 1, np.full(4, 200), np.zeros(4, np.int64))
    report = Report("quick", quiet=0.5)
    for seconds, valid in ((1.0, True), (30.0, False)):
        row = measured(
            seen, subject="s", asked="q", load="closed 1", answers=Answers(checked=4), cost=Cost(1, 1, 1, 1, 0), cores=2,
            conditions=Conditions(seconds, 1),
        )  # fmt: skip
        report.row(row)
        assert (report.markdown("make bench").splitlines()[-1].endswith("| VALID |")) is valid
    report.ratio("service/floor", 0.9)
    capsys.readouterr()
    report.print_ratios()
    assert capsys.readouterr().out == "ratio service/floor: 0.900\n"
    assert not math.isnan(report.as_json()["ratios"]["service/floor"])
