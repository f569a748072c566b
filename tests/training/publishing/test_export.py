"""Tiny networks fitted on phantoms, exported for every task."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from app.bundle.store import BundleRef, BundleStore, VerifiedBundle
from app.errors import BundleError, ConfigurationError
from app.imaging.phantom import encode_jpeg
from app.inference.engine import OnnxRuntimeEngine
from app.selftest import THRESHOLD_DISTANCE, self_test, threshold_distance
from tests.training.phantom_data import draw, film, write_data
from tests.training.publishing.figure_files import BASELINE, described, recipe_of
from training.data.films import Film
from training.data.splits import recipe_splits
from training.fitting.fit import fit
from training.judging.evaluate import evaluate
from training.judging.reading import Read, Reading, torch_reader
from training.networks.network import TriageNetwork
from training.places import Places
from training.publishing import draft, manifest, policy
from training.publishing import export as exporting
from training.publishing.export import Exported, export
from training.publishing.manifest import PRETRAINING, WEIGHTS, _licence, trained_pixels
from training.recipe import Recipe
from training.runs import Run, find_run

OPEN = 'name = "default"\ntitle = "none"\nshortcuts = false\ncard = false\nmin_positives = 1\n'
OPEN += 'rate = [{ figure = "specificity", at_least = 0, bound = "value" }]\n'
PIXELS3 = {"kind": "fixed", "mean": [0.5] * 3, "std": [0.25] * 3}
MLP = {"kind": "mlp", "hidden": [8], "dropout": [0.1, 0.0]}
# Networks of two epochs tell little apart: nearly every phantom then lies near some threshold.
LONGER = {"training__stages": [{"epochs": 8, "size": 64}], "training__learning_rate": 1e-2}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "binary": ("binary", {"decision__calibrators": ["none"]}),
    "multiclass": ("multiclass", LONGER),
    "multilabel": ("multilabel", LONGER | {"decision__calibrators": ["none"]}),
    "mlp": (
        "binary",
        {"name": "tiny-mlp", "network__head": MLP, "input__channels": 3, "input__normalisation": PIXELS3},
    ),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    root = tmp_path_factory.mktemp("factory")
    write_data(root / "data")
    return Places(root / "data", root / "cache", root / "runs", root / "bundles", root / "ledger.csv")


@pytest.fixture(scope="module")
def judged(places: Places) -> Callable[[str], Run]:
    """The run of a variant, fitted and judged once."""

    def make(variant: str) -> Run:
        task, changes = VARIANTS[variant]
        recipe = recipe_of(task, **changes)
        if (places.runs / recipe.run_name / "figures-report.json").is_file():
            return find_run(recipe.run_name, places)
        run = fit(recipe, places, Console(quiet=True))
        for step in ("hard", "report", "external", "test"):
            evaluate(run, places, step)
        return run

    return make


@pytest.fixture
def here(places: Places, tmp_path: Path) -> Places:
    """A folder of bundles of the test's own."""
    return replace(places, bundles=tmp_path / "bundles")


def _verified(places: Places, done: Exported) -> VerifiedBundle:
    bundle = BundleStore(places.bundles).verify(done.ref)
    self_test(bundle, OnnxRuntimeEngine(bundle.network, threads=1))
    return bundle


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_task_and_head_is_exported(judged: Callable[[str], Run], here: Places, variant: str) -> None:
    run = judged(variant)
    recipe = run.recipe
    bundle = _verified(here, export(run, here, "1.0.0", accept_failed=run.path.name))
    m = bundle.manifest
    assert (m.task, m.classes, m.network.logits) == (recipe.data.task, recipe.data.classes, len(recipe.data.outputs))
    assert m.network.explanation == ("gap_mlp_relu" if variant == "mlp" else "gap_linear")
    assert m.input == recipe.input
    assert m.gate is None
    assert m.provenance.parent_digest is None
    assert {d.name for d in m.provenance.data} == {
        f"{s.folder}, training films" for s in recipe.data.sources if s.side != "test"
    }
    assert sum(d.images for d in m.provenance.data) == run.read_json("splits.json")["films"]["train"]
    assert [p.name for p in m.operating_points] == [p.name for p in recipe.decision.points]
    for point in m.operating_points:
        assert (point.conformal is None) == (point.rule != "conformal")
        assert point.rule == "conformal" or point.measured
    engine = OnnxRuntimeEngine(bundle.network, threads=1)
    logits = [bundle.golden[name] for name in bundle.golden if name.startswith("logits_")]
    assert len(logits) == exporting.GOLDENS
    assert all(threshold_distance(m, engine, row) >= THRESHOLD_DISTANCE for row in logits)
    assert bool(np.isnan(bundle.reference["edges_confidence"]).all()) == (m.task == "multilabel")


def test_a_failed_run_is_not_exported(judged: Callable[[str], Run], here: Places) -> None:
    run = judged("binary")
    with pytest.raises(ConfigurationError, match=f"promotion_failed.*--accept-failed {run.path.name}"):
        export(run, here, "1.0.0")
    assert not here.bundles.exists()
    assert not run.read_json("promotion.json")["passed"]


def test_another_runs_name_exports_nothing(judged: Callable[[str], Run], here: Places) -> None:
    run = judged("binary")
    for name in ("tiny", "tiny-00000000", ""):
        with pytest.raises(ConfigurationError, match="wrong_run_named"):
            export(run, here, "1.0.0", accept_failed=name)
    assert not here.bundles.exists()


def test_a_failed_bundle_carries_its_lines_and_never_becomes_latest(judged: Callable[[str], Run], here: Places) -> None:
    run = judged("multiclass")
    here.bundles.mkdir()
    (here.bundles / "latest").write_text("older/1.0.0\n")
    done = export(run, here, "1.0.0", accept_failed=run.path.name)
    m = _verified(here, done).manifest
    assert m.promotion is not None
    assert m.promotion == done.promotion
    assert not m.promotion.passed
    assert m.research_only
    assert m.promotion.failed
    assert m.promotion.label.startswith("research-only, gate failed: source shortcut")
    assert [line.passed for line in m.promotion.lines if line.name == "golden test"] == [True]
    assert not done.latest
    assert (here.bundles / "latest").read_text() == "older/1.0.0\n"
    card = (here.bundles / str(done.ref) / "MODEL_CARD.md").read_text()
    assert all(f"| **failed** | {name} |" in card for name in m.promotion.failed)


def _policy(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str = OPEN) -> None:
    folder.mkdir()
    (folder / "default.toml").write_text(text)
    (folder / "research.toml").write_text(text.replace('"default"', '"research"'))
    monkeypatch.setattr(policy, "POLICIES", folder)


def test_a_bundle_that_passes_becomes_latest(
    judged: Callable[[str], Run], here: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _policy(monkeypatch, tmp_path / "policies")
    done = export(judged("binary"), here, "1.0.0")
    assert done.latest
    assert BundleStore(here.bundles).latest() == BundleRef("tiny", "1.0.0") == done.ref
    m = _verified(here, done).manifest
    assert m.promotion is not None
    assert m.promotion.label == "passed"
    assert not m.research_only
    assert judged("binary").read_json("exported.json")["latest"]


@pytest.mark.parametrize(("variant", "text"), [("binary", "research_only = true\n"), ("multiclass", "")])
def test_what_is_for_research_passes_and_is_not_latest(
    judged: Callable[[str], Run], here: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str, text: str
) -> None:
    """A research policy, and films whose licence excludes commercial use (TBX11K)."""
    _policy(monkeypatch, tmp_path / "policies", OPEN + text)
    done = export(judged(variant), here, "1.0.0")
    m = _verified(here, done).manifest
    assert m.promotion is not None
    assert m.promotion.passed
    assert m.research_only
    assert not done.latest
    assert not (here.bundles / "latest").exists()
    if variant == "multiclass":
        assert not m.licence.commercial_use
        assert "For research only" in (here.bundles / str(done.ref) / "MODEL_CARD.md").read_text()


def test_the_baseline_stands_beside_the_figure(judged: Callable[[str], Run], here: Places, tmp_path: Path) -> None:
    run = _copied(judged("binary"), tmp_path)
    verdict = [{"name": "source, pneumonia", "wanted": "w", "measured": "m", "passed": True}]
    baseline = {"name": BASELINE, "clean": described(run.recipe, auroc=0.77)}
    run.write_json("figures-shortcuts.json", {"verdict": verdict, "baseline": baseline})
    done = export(run, here, "1.0.0", accept_failed=run.path.name)
    metrics = _verified(here, done).manifest.metrics
    beside = {m.baseline.value for m in metrics if m.baseline and m.name == "auroc"}
    assert beside == {0.77}
    card = (here.bundles / str(done.ref) / "MODEL_CARD.md").read_text()
    assert "| films | figure | value | beside | n |" in card


def _copied(run: Run, root: Path) -> Run:
    """The same run in a folder that the test may change; its name stays."""
    shutil.copytree(run.path, root / "copy" / run.path.name)
    return Run(root / "copy" / run.path.name, run.recipe)


def test_changed_weights_are_not_exported(judged: Callable[[str], Run], here: Places, tmp_path: Path) -> None:
    run = _copied(judged("binary"), tmp_path)
    state = torch.load(run.weights_file, weights_only=True)
    torch.save({k: v + 0.01 if v.is_floating_point() else v for k, v in state.items()}, run.weights_file)
    with pytest.raises(ConfigurationError, match="stale_step"):
        export(run, here, "1.0.0", accept_failed=run.path.name)


def test_an_engine_that_disagrees_stops_the_export(
    judged: Callable[[str], Run], here: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = judged("binary")
    by_torch = torch_reader

    def off_by(change: float) -> Callable[..., Read]:
        def made(network: TriageNetwork, recipe: Recipe) -> Read:
            return lambda films: Reading(by_torch(network, recipe)(films).logits + change, np.empty((0, 0)))

        return made

    monkeypatch.setattr(exporting, "torch_reader", off_by(2e-3))
    with pytest.raises(ConfigurationError, match="export_mismatch"):
        export(run, here, "1.0.0", accept_failed=run.path.name)
    monkeypatch.setattr(exporting, "torch_reader", off_by(np.nan))
    with pytest.raises(ConfigurationError, match="export_mismatch"):
        export(run, here, "1.0.0", accept_failed=run.path.name)


def test_what_fails_its_golden_test_or_is_too_large_leaves_no_folder(
    judged: Callable[[str], Run], here: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = judged("binary")
    monkeypatch.setattr(draft, "MAX_BYTES", {"tiny_cnn": 10_000})
    with pytest.raises(ConfigurationError, match="bundle_too_large"):
        export(run, here, "1.0.0", accept_failed=run.path.name)
    monkeypatch.undo()
    from training.networks.onnx_export import head_tensors as good

    monkeypatch.setattr(exporting, "head_tensors", lambda network: {k: v + 1 for k, v in good(network).items()})
    with pytest.raises(BundleError, match="head_mismatch"):
        export(run, here, "1.0.0", accept_failed=run.path.name)
    assert not here.bundles.exists()


def test_every_architecture_has_a_size_limit() -> None:
    from typing import get_args

    from training.networks.spec import Architecture

    assert set(draft.MAX_BYTES) == set(get_args(Architecture))


def test_films_and_weights_from_before_the_fit_are_in_the_provenance(places: Places, tmp_path: Path) -> None:
    from training.publishing.manifest import _pretraining, _weights

    source = {"kind": "manifest", "folder": "nih_chestxray14"}
    part = {"sources": [source], "epochs": 1, "size": 32, "batch": 2}
    recipe = recipe_of("binary", pretraining=part, evaluation__external=[])
    [found] = _pretraining(recipe, places)
    assert found.name == f"nih_chestxray14, {PRETRAINING}"
    assert found.images > 0
    assert _pretraining(recipe_of(), places) == []
    (tmp_path / "body.pt").write_bytes(b"weights")
    [weights] = _weights(recipe_of("binary", network__weights={"file": str(tmp_path / "body.pt")}), places)
    assert weights.name == f"{WEIGHTS}body.pt"
    assert weights.licence == "not stated by the recipe"
    said = {"file": str(tmp_path / "body.pt"), "licence": "BSD-3-Clause"}
    assert _weights(recipe_of("binary", network__weights=said), places)[0].licence == "BSD-3-Clause"
    assert weights.digest == "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"


def _changed_film(run: Run, places: Places, root: Path) -> Places:
    """The same data folder elsewhere, one training film of it another picture under the old name; and a cache of its own."""
    shutil.copytree(places.data, root / "data")
    path = recipe_splits(run.recipe, places).train[0].path
    (root / "data" / path).write_bytes(encode_jpeg(draw(99_999, "pneumonia"), 88))
    return replace(places, data=root / "data", cache=root / "cache")


def test_films_that_changed_since_the_fit_stop_the_export(
    judged: Callable[[str], Run], here: Places, tmp_path: Path
) -> None:
    run = _copied(judged("binary"), tmp_path)
    changed = _changed_film(run, here, tmp_path)
    with pytest.raises(ConfigurationError, match=run.path.name) as caught:
        export(run, changed, "1.0.0", accept_failed=run.path.name)
    assert caught.value.code == "data_changed"
    assert not here.bundles.exists()
    environment = run.read_json("environment.json")
    del environment["training_data_digest"]
    run.write_json("environment.json", environment)
    assert export(run, changed, "1.0.0", accept_failed=run.path.name).ref == BundleRef("tiny", "1.0.0")


def test_films_dealt_out_anew_since_the_fit_stop_the_export(
    judged: Callable[[str], Run], here: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before one of them is read."""
    run = _copied(judged("binary"), tmp_path)
    run.write_json("splits.json", run.read_json("splits.json") | {"digest": "0" * 64})
    for module in (exporting, manifest):
        monkeypatch.setattr(module, "load_pixels", None)
    steps = (lambda: export(run, here, "1.0.0", accept_failed=run.path.name), lambda: trained_pixels(run, here))
    for step in steps:
        with pytest.raises(ConfigurationError) as caught:
            step()
        assert caught.value.code == "stale_data"
    assert not here.bundles.exists()


def test_a_network_that_began_with_weights_of_unknown_licence_is_for_research() -> None:
    films = [film("kermany_hires/a.jpg")]
    free = _licence(films, recipe_of())
    assert free.commercial_use
    unknown = _licence(films, recipe_of("binary", network__weights={"file": "imagenet/body.pt"}))
    assert not unknown.commercial_use
    assert unknown.weights == f"{free.weights}; {WEIGHTS}body.pt (licence not stated by the recipe)"
    why = f"No commercial use, because of {WEIGHTS}body.pt (licence not stated by the recipe)."
    assert unknown.notes == f"{why} {free.notes}"
    said = {"file": "imagenet/body.pt", "licence": "BSD-3-Clause"}
    assert not _licence(films, recipe_of("binary", network__weights=said)).commercial_use
    allowed = _licence(films, recipe_of("binary", network__weights=said | {"commercial_use": True}))
    assert (allowed.commercial_use, allowed.notes) == (True, free.notes)
    assert allowed.weights == f"{free.weights}; {WEIGHTS}body.pt (licence BSD-3-Clause)"
    bound = _licence(
        [film("kermany_hires/a.jpg"), *_bound()], recipe_of("binary", network__weights=said | {"commercial_use": True})
    )
    assert not bound.commercial_use
    with pytest.raises(ConfigurationError, match="needs the licence"):
        recipe_of("binary", network__weights={"file": "imagenet/body.pt", "commercial_use": True})


def _bound() -> list[Film]:
    return [replace(film("cohen_covid_chestxray/a.jpg"), licence="CC BY-NC-SA 4.0")]


def test_a_bundle_that_began_with_unknown_weights_never_becomes_latest(
    judged: Callable[[str], Run], here: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a policy that the run passes, with films that are free."""
    _policy(monkeypatch, tmp_path / "policies")
    run = _copied(judged("binary"), tmp_path)
    (tmp_path / "body.pt").write_bytes(b"weights")
    part = {"file": str(tmp_path / "body.pt")}
    begun = Run(run.path, run.recipe.changed({"network.weights": part}))
    done = export(begun, here, "1.0.0")
    m = _verified(here, done).manifest
    assert done.promotion.passed
    assert (m.research_only, m.licence.commercial_use, done.latest) == (True, False, False)
    assert not (here.bundles / "latest").exists()
