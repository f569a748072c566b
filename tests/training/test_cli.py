"""The real command line on phantoms: from films to a bundle that verifies and tests itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient

from app.bundle.store import BundleRef, BundleStore
from app.inference.engine import OnnxRuntimeEngine
from app.selftest import self_test
from tests.training.factory import Factory, write_factory
from tests.training.phantom_data import TINY, write_lenient_policy
from training.cli.main import main
from training.judging import ledger
from training.places import CHECKOUT
from training.publishing import policy
from training.recipe import load_recipe
from training.runs import Run

SHIPPED_POLICIES = policy.POLICIES


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Factory]:
    """A factory after `run`, with one bundle, under a policy without minima.

    The fit hashes the test films to find copies of training films. The steps that choose could not open them at all.
    """
    factory = write_factory(tmp_path_factory.mktemp("factory"))
    hidden = factory.root / "hidden"
    folder = write_lenient_policy(factory.root / "policies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "POLICIES", folder)
        factory("fit", str(factory.recipe))
        for films in ("kermany_hires", "kermany_224"):
            shutil.move(factory.root / "data" / films / "test", hidden / films / "test")
        factory("evaluate", "tiny", "--split", "hard")
        factory("evaluate", "tiny", "--split", "report")
        factory("evaluate", "tiny", "--split", "external")
        factory("checks", "tiny")
        for films in ("kermany_hires", "kermany_224"):
            shutil.move(hidden / films / "test", factory.root / "data" / films / "test")
        factory("run", str(factory.recipe), "--version", "1.2.3")
        yield factory


def test_the_bundle_verifies_and_tests_itself(made: Factory) -> None:
    store = BundleStore(made.root / "bundles")
    assert store.latest() == BundleRef("tiny", "1.2.3")
    bundle = store.verify(BundleRef("tiny", "1.2.3"))
    self_test(bundle, OnnxRuntimeEngine(bundle.network))
    manifest = bundle.manifest
    assert manifest.classes == ("normal", "pneumonia")
    assert [p.name for p in manifest.operating_points] == ["screening", "sensitivity-90", "rule-in"]
    assert all(p.measured["pneumonia"].sensitivity.ci is not None for p in manifest.operating_points)
    assert manifest.provenance.recipe_digest == load_recipe(made.recipe).digest
    assert manifest.licence.commercial_use
    assert manifest.intended_use.age_years == (1.0, 5.0)
    assert {d.licence for d in manifest.provenance.data} == {"CC BY 4.0"}
    assert sum(d.images for d in manifest.provenance.data) == len_of(made.run, "train")
    assert int(bundle.reference["n"]) == len_of(made.run, "fit") + len_of(made.run, "report")


def len_of(run: Run, part: str) -> int:
    return int(run.read_json("splits.json")["films"][part])


def test_the_card_prints_the_manifests_figures(made: Factory) -> None:
    bundle = BundleStore(made.root / "bundles").verify(BundleRef("tiny", "1.2.3"))
    card = (bundle.path / "MODEL_CARD.md").read_text()
    for metric in bundle.manifest.metrics:
        assert f"| {metric.data} | {metric.name} | {metric.value:.4f}" in card
    for point in bundle.manifest.operating_points:
        assert f"**{point.name}**" in card
        assert f"{point.thresholds['pneumonia']:.4f}" in card
    assert "Kermany" in card
    assert "children of 1 to 5 years" in card


def test_every_look_at_the_test_split_is_in_the_ledger(made: Factory) -> None:
    rows = ledger.read(made.root / "ledger.csv")
    figures = made.run.read_json("figures-test.json")
    assert len(rows) == 1
    assert rows[0] == figures["ledger_row"]
    assert rows[0]["n"] == str(len_of(made.run, "test")) == "24"
    assert rows[0]["auroc"] == f"{figures['test']['macro']['auroc']['value']:.5f}"
    assert rows[0]["weights_digest"] == made.run.weights_digest()


def test_a_finished_run_is_not_fitted_or_tested_again(made: Factory, capsys: pytest.CaptureFixture[str]) -> None:
    before = made.run.weights_file.stat().st_mtime_ns
    made("run", str(made.recipe))
    assert "judged before" in capsys.readouterr().out
    assert made.run.weights_file.stat().st_mtime_ns == before
    assert len(ledger.read(made.root / "ledger.csv")) == 1
    assert BundleStore(made.root / "bundles").latest() == BundleRef("tiny", "1.2.4")


def test_fit_of_a_complete_run_says_its_name_alone(made: Factory, capsys: pytest.CaptureFixture[str]) -> None:
    """`make train` gates the run that is named so."""
    made("fit", str(made.recipe))
    assert capsys.readouterr().out == f"{made.run.path.name}\n"


def test_a_version_is_written_once(made: Factory, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        made("export", "tiny", "--version", "1.2.3")
    assert end.value.code == 1
    assert "bundle_exists" in capsys.readouterr().err


def test_the_report_is_one_page_that_loads_nothing(made: Factory) -> None:
    page = (made.run.path / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 4
    assert 'src="http' not in page
    assert "<script" not in page
    for heading in (
        "Promotion",
        "Reliability",
        "Confusion",
        "Learning curves",
        "Shortcut",
        "Corruption",
        "Explanation",
    ):
        assert heading.lower() in page.lower()


def test_reduced_copies_of_a_bundle_and_of_a_run_agree(made: Factory, capsys: pytest.CaptureFixture[str]) -> None:
    def lines(model: str) -> list[str]:
        try:
            made("reduced-copies", model)
        except SystemExit as end:
            assert end.code == 1  # noqa: PT017  a bad model is a fair answer here
        return capsys.readouterr().out.splitlines()

    bundle, run = lines("tiny/1.2.3"), lines(made.run.path.name)
    assert bundle[:2] == run[:2]
    assert "2 pairs, worst difference" in bundle[-1]
    assert len(made.run.read_json("figures-reduced.json")["pairs"]) == 2


def test_the_leaderboard_knows_no_test_figure(made: Factory, capsys: pytest.CaptureFixture[str]) -> None:
    readme = made.root / "README.md"
    readme.write_text("before\n<!-- figures:leaderboard -->\nold\n<!-- /figures:leaderboard -->\nafter\n")
    made("leaderboard", "--readme", str(readme))
    block = readme.read_text()
    assert "| tiny, 7 | 1 | network | tiny_cnn |" in block
    assert "old" not in block
    assert block.startswith("before\n")
    assert block.endswith("after\n")
    shown = capsys.readouterr().out
    assert f"{made.run.read_json('figures-hard.json')['selection']:.4f}" in shown
    written = (made.root / "runs" / "leaderboard.md").read_text()
    assert made.run.path.name in written
    test = made.run.read_json("figures-test.json")["test"]["macro"]["auroc"]["value"]
    assert f"{test:.4f}" not in shown + written


def test_readme_figures_go_between_the_markers(made: Factory, capsys: pytest.CaptureFixture[str]) -> None:
    readme = made.root / "README.md"
    blocks = ("figures:model", "figures:gate", "figures:designs", "figures:seeds")
    readme.write_text("before\n" + "".join(f"<!-- {b} -->\nold\n<!-- /{b} -->\n" for b in blocks) + "after\n")
    made("readme-figures", "tiny/1.2.3", "--readme", str(readme))
    text = readme.read_text()
    assert text.startswith("before\n<!-- figures:model -->\n")
    assert "<!-- figures:gate -->\n`tiny/1.2.3` has no gate that looks at pictures.\n" in text
    assert text.endswith("<!-- /figures:seeds -->\nafter\n")
    assert "old\n" not in text
    auroc = made.run.read_json("figures-test.json")["test"]["macro"]["auroc"]["value"]
    assert f"| AUROC | {auroc:.4f} (" in text
    assert "0.9605" in text
    assert "1 row; the last:" in text
    readme.write_text("no markers")
    with pytest.raises(SystemExit):
        made("readme-figures", "tiny/1.2.3", "--readme", str(readme))
    assert "markers_missing" in capsys.readouterr().err


def test_a_run_that_fails_its_policy_is_exported_by_name_only(
    tmp_path: Path, made: Factory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(policy, "POLICIES", SHIPPED_POLICIES)
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    strict = Factory(tmp_path)
    shutil.rmtree(tmp_path / "bundles")
    with pytest.raises(SystemExit):
        strict("promote", "tiny")
    assert "FAILED  discrimination: auroc of pneumonia, mix" in capsys.readouterr().out
    for arguments in ((), ("--accept-failed", "another-run")):
        with pytest.raises(SystemExit):
            strict("export", "tiny", *arguments)
        assert not (tmp_path / "bundles" / "tiny").exists()
    strict("export", "tiny", "--accept-failed", strict.run.path.name)
    manifest = BundleStore(tmp_path / "bundles").verify(BundleRef("tiny", "1.0.0")).manifest
    assert manifest.promotion is not None
    assert manifest.gate_failed
    assert "discrimination" in manifest.promotion.label
    assert not (tmp_path / "bundles" / "latest").exists()


def test_every_step_is_tracked_and_a_store_that_is_away_stops_none(
    tmp_path: Path, made: Factory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    alone = Factory(tmp_path)
    for path in (tmp_path / "runs").glob("mlflow*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    alone("evaluate", "tiny", "--split", "report")
    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    (experiment,) = (e for e in client.search_experiments() if e.name == "cxr-triage-binary")
    (entry,) = client.search_runs([experiment.experiment_id])
    assert entry.info.run_name == alone.run.path.name
    assert (
        entry.data.metrics["report/clean/macro/auroc"]
        == alone.run.read_json("figures-report.json")["clean"]["macro"]["auroc"]["value"]
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://tracking")
    alone("evaluate", "tiny", "--split", "external")
    assert "not tracked in MLflow" in capsys.readouterr().err


def test_an_unknown_policy_is_said_before_anything_is_done(made: Factory, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("splits", "run"):
        with pytest.raises(SystemExit):
            made(command, str(made.recipe), "--set", "policy=strikt")
        said = capsys.readouterr()
        assert "unknown_policy: no policy 'strikt'; there are: default" in said.err
        assert not said.out


def test_a_folder_of_anybodys_originals_does_not_stop_the_checks(
    tmp_path: Path, made: Factory, capsys: pytest.CaptureFixture[str]
) -> None:
    own = made.copied(tmp_path / "own")
    (own.root / "data" / "originals" / "manifest.csv").unlink()
    own("checks", "tiny")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        own("reduced-copies", "tiny/1.2.3")
    assert "data_missing: no originals/manifest.csv" in capsys.readouterr().err


def test_a_changed_recipe_is_another_run(made: Factory, capsys: pytest.CaptureFixture[str]) -> None:
    made("splits", str(made.recipe), "--set", "data.validation_each=0.3", "--seed", "8")
    assert "kermany" not in capsys.readouterr().err
    for change, code in (("training.rate=1", "invalid_recipe"), ("nonsense", "invalid_change")):
        with pytest.raises(SystemExit):
            made("splits", str(made.recipe), "--set", change)
        assert code in capsys.readouterr().err


def test_a_source_without_an_origin_is_refused_before_the_fit(
    made: Factory, capsys: pytest.CaptureFixture[str]
) -> None:
    (made.root / "data" / "ours").mkdir()
    shutil.copy(made.root / "data" / "kermany_hires" / "manifest.csv", made.root / "data" / "ours")
    recipe = made.root / "ours.toml"
    recipe.write_text(made.recipe.read_text().replace('folder = "kermany_hires"', 'folder = "ours"'))
    with pytest.raises(SystemExit):
        made("run", str(recipe), "--seed", "11")
    assert "unknown_source" in capsys.readouterr().err


def test_steps_out_of_order_are_refused(tmp_path: Path, made: Factory, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(made.run.path, tmp_path / "runs" / made.run.path.name)
    late = Factory(tmp_path)
    shutil.copytree(made.root / "data", tmp_path / "data")
    for name in ("figures-report.json", "decision.json", "weights.pt"):
        (late.run.path / name).unlink()
        with pytest.raises(SystemExit):
            late("evaluate", "tiny", "--split", "test")
        assert "step_missing" in capsys.readouterr().err
    assert not (tmp_path / "ledger.csv").exists()
    with pytest.raises(SystemExit):
        late("evaluate", "nothing", "--split", "hard")
    assert "unknown_run" in capsys.readouterr().err


def test_other_weights_cannot_be_tested_with_old_thresholds(
    tmp_path: Path, made: Factory, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made.run.path, tmp_path / "runs" / made.run.path.name)
    shutil.copytree(made.root / "data", tmp_path / "data")
    changed = Factory(tmp_path)
    weights = torch.load(changed.run.weights_file, weights_only=True)
    weights["head.bias"] += 1
    torch.save(weights, changed.run.weights_file)
    with pytest.raises(SystemExit):
        changed("evaluate", "tiny", "--split", "test")
    assert "stale_step" in capsys.readouterr().err


def test_only_a_fit_is_shared_by_processes(
    made: Factory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        made("run", str(made.recipe))
    assert "one_process" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_fit_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    text = TINY.replace("{ epochs = 1, size = 64 }", "{ epochs = 5, size = 64 }")
    factory = write_factory(tmp_path, text=text)
    command = [sys.executable, "-m", "training", *factory.arguments, "fit", str(factory.recipe)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        runs = tmp_path / "runs"
        deadline = time.monotonic() + 120
        while not list(runs.glob("*/checkpoint.pt")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not factory.run.complete
    lines = (factory.run.path / "metrics.jsonl").read_text().splitlines() if _has_metrics(factory.run) else []
    assert len(lines) < 6
    factory("fit", str(factory.recipe))
    resumed = factory.run
    assert [json.loads(line)["epoch"] for line in (resumed.path / "metrics.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    digest = resumed.weights_digest()
    shutil.rmtree(resumed.path)
    factory("fit", str(factory.recipe))
    assert factory.run.weights_digest() == digest


def _has_metrics(run: Run) -> bool:
    return (run.path / "metrics.jsonl").is_file()


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for command in (
        "splits",
        "eda",
        "checks",
        "promote",
        "search",
        "classical",
        "track",
        "record",
        "fit",
        "evaluate",
        "export",
        "report",
        "run",
        "gate",
        "variants",
        "leaderboard",
        "reduced-copies",
        "readme-figures",
    ):
        assert command in shown
