"""Classical baselines end to end on phantoms: lines of the leaderboard, never bundles."""

from __future__ import annotations

import io
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from app.errors import ConfigurationError
from tests.training.phantom_data import TINY, TINY_MULTICLASS, TINY_MULTILABEL, write_data
from training.classical.run import run_classical
from training.classical.spec import ClassicalPart, HogPart
from training.data.leaks import check_duplicates
from training.data.splits import recipe_splits
from training.judging.evaluate import evaluate, load_logits, selection
from training.judging.judge import CLEAN, SELECTION_KINDS
from training.places import Places
from training.publishing.promotion import promote
from training.recipe import Recipe, parse_recipe
from training.runs import Run, find_run
from training.tracking.leaderboard import leaderboard

QUIET = Console(file=io.StringIO())
PART = ClassicalPart(features=HogPart(size=64), models=("hog-logistic", "thumbnail-logistic"))


def parsed(text: str) -> Recipe:
    return parse_recipe(tomllib.loads(text), "tiny")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Phantoms without a single test film, whose hashes alone are kept: whoever opens one fails."""
    root = tmp_path_factory.mktemp("classical")
    made = Places(write_data(root / "data"), root / "cache", root / "runs", root / "bundles", root / "ledger.csv")
    for text in (TINY, TINY_MULTICLASS, TINY_MULTILABEL):
        recipe = parsed(text)
        check_duplicates(recipe_splits(recipe, made), made, recipe.data.duplicate_bits)
    for text in (TINY, TINY_MULTICLASS, TINY_MULTILABEL):
        recipe = parsed(text)
        outside = {s.folder for part in recipe.evaluation.external for s in part.sources}
        for film in recipe_splits(recipe, made).test:
            if film.folder.startswith("kermany") and film.folder not in outside:
                (made.data / film.path).unlink(missing_ok=True)
    return made


@pytest.fixture(scope="module")
def binary(places: Places) -> dict[str, Run]:
    names = run_classical(parsed(TINY), places, QUIET, PART)
    return dict(zip(PART.models, (find_run(name, places) for name in names), strict=True))


def test_a_baseline_is_judged_as_a_network_is(binary: dict[str, Run], places: Places) -> None:
    run = binary["hog-logistic"]
    recipe, splits = run.recipe, recipe_splits(run.recipe, places)
    kept = load_logits(run, "hard")
    names = [CLEAN, *(f"{kind}-{level}" for kind in SELECTION_KINDS for level in recipe.evaluation.severities)]
    assert list(kept) == [f"{half}/{name}" for half in ("fit", "report") for name in names]
    for half in ("fit", "report"):
        assert kept[f"{half}/clean"].paths.tolist() == [f.path for f in getattr(splits, half)]
    halves = {h: [kept[f"{h}/{name}"] for name in names] for h in ("fit", "report")}
    hard = run.read_json("figures-hard.json")
    expected = selection(recipe, halves, load_logits(run, "external"))
    assert {key: hard[key] for key in expected} == expected
    assert set(hard["external_auroc"]) == {"nih-clean", "nih-all"}
    assert hard["clean_auroc"] > 0.7
    assert {p["name"] for p in run.read_json("decision.json")["operating_points"]} == {
        "screening",
        "sensitivity-90",
        "rule-in",
    }
    assert run.read_json("figures-report.json")["clean"]["macro"]["auroc"]["value"] > 0.5
    assert run.read_json("classical.json")["features"] == {"kind": "hog", "size": 64, "cell": 16, "block": 2, "bins": 9}


def test_it_has_no_weights_and_is_never_exported_or_tested(binary: dict[str, Run], places: Places) -> None:
    for run in binary.values():
        assert not run.complete
        with pytest.raises(ConfigurationError):
            run.network()
        for refused in (lambda run=run: promote(run), lambda run=run: evaluate(run, places, "test")):
            with pytest.raises((ConfigurationError, OSError)):
                refused()
    assert not places.ledger.exists()


def test_the_same_picture_on_both_sides_stops_it_before_the_fit(tmp_path: Path) -> None:
    own = Places(write_data(tmp_path / "data"), tmp_path / "cache", tmp_path / "runs", tmp_path / "bundles")
    splits = recipe_splits(parsed(TINY), own)
    shutil.copy(own.data / splits.test[0].path, own.data / splits.train[0].path)
    with pytest.raises(ConfigurationError, match="show the same picture") as caught:
        run_classical(parsed(TINY), own, QUIET, PART)
    assert caught.value.code == "leak"
    assert not own.runs.exists()


def test_a_finished_baseline_is_not_fitted_again(binary: dict[str, Run], places: Places) -> None:
    before = {path: path.stat().st_mtime_ns for run in binary.values() for path in run.path.iterdir()}
    said = io.StringIO()
    again = run_classical(parsed(TINY), places, Console(file=said), PART)
    assert again == [run.path.name for run in binary.values()]
    assert "nothing to do" in said.getvalue()
    assert {path: path.stat().st_mtime_ns for run in binary.values() for path in run.path.iterdir()} == before


def test_the_folder_names_what_shapes_it(binary: dict[str, Run], places: Places) -> None:
    """The network and its training do not; films, judging and the features of that model do."""
    from training.classical.run import _folder

    recipe, name = parsed(TINY), binary["hog-logistic"].path.name
    assert name.endswith("-hog-logistic")
    assert _folder(recipe.changed({"training.learning_rate": 0.1, "seed": 3}), PART, "hog-logistic") == name
    other = PART.model_copy(update={"features": HogPart(size=32)})
    assert _folder(recipe, other, "hog-logistic") != name
    assert _folder(recipe, other, "thumbnail-logistic") == binary["thumbnail-logistic"].path.name
    assert _folder(recipe.changed({"data.split_seed": 1}), PART, "hog-logistic") != name
    assert _folder(recipe.changed({"evaluation.severities": [2]}), PART, "hog-logistic") != name


def test_it_stands_on_the_leaderboard(binary: dict[str, Run], places: Places) -> None:
    board = leaderboard(places, bootstraps=50)
    lines = {line.run: line for group in board.groups for line in group.lines}
    line = lines[binary["hog-logistic"].path.name]
    assert (line.kind, line.model, line.state) == ("classical", "hog-logistic", "baseline, never exported")
    assert line.images_per_s is not None
    assert line.images_per_s > 0
    assert line.ece is not None
    assert board.seeds == ()


@pytest.mark.parametrize("text", [TINY_MULTICLASS, TINY_MULTILABEL], ids=["multiclass", "multilabel"])
def test_other_tasks(text: str, places: Places) -> None:
    recipe = parsed(text)
    part = ClassicalPart(models=("thumbnail-logistic",))
    [name] = run_classical(recipe, places, QUIET, part)
    run = find_run(name, places)
    clean = load_logits(run, "hard")["fit/clean"]
    assert clean.logits.shape == (len(clean), len(recipe.data.classes))
    assert np.isfinite(clean.logits).all()
    assert run.read_json("figures-hard.json")["selection"] > 0.5
    assert set(run.read_json("figures-report.json")["clean"]["classes"]) == set(recipe.data.classes)
