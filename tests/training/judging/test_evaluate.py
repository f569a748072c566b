"""The steps in their order, on phantoms and networks of random weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.bundle.manifest import OperatingPoint
from app.errors import ConfigurationError
from tests.training.judging.synthetic import scored, softmax_films
from tests.training.phantom_data import TINY, TINY_MULTICLASS, TINY_MULTILABEL, write_data
from training.data.splits import recipe_splits
from training.judging import evaluate as module
from training.judging import ledger
from training.judging.evaluate import decision_digest, evaluate, fixed_decision, load_logits, selection, summary
from training.judging.figures import auroc
from training.judging.scored import Scored, mix
from training.networks.network import build_network
from training.places import CHECKOUT, Places
from training.recipe import Recipe, load_recipe
from training.runs import Run, open_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("evaluate") / "data", patients=30)


def _recipe(text: str, folder: Path) -> Recipe:
    (folder / "r.toml").write_text(text)
    return load_recipe(folder / "r.toml")


def _run(text: str, data: Path, tmp_path: Path) -> tuple[Run, Places]:
    """A run as `fit` leaves it, but never trained."""
    places = Places(data, data.parent / "cache", tmp_path / "runs", tmp_path / "bundles", tmp_path / "test_ledger.csv")
    recipe = _recipe(text, tmp_path)
    run = open_run(recipe, places)
    network = build_network(recipe.network, outputs=len(recipe.data.outputs), channels=1, seed=3)
    torch.save(network.state_dict(), run.weights_file)
    run.write_json("splits.json", {"digest": recipe_splits(recipe, places).digest})
    return run, places


def _all_steps(run: Run, places: Places) -> dict[str, dict[str, Any]]:
    found = {}
    for step in ("hard", "report", "external", "test"):
        found[step] = evaluate(run, places, step)
        assert run.read_json(f"figures-{step}.json") == json.loads(json.dumps(found[step], allow_nan=False))
        assert all(isinstance(line, str) for line in summary(found[step], step))
    return found


def test_a_binary_run_from_validation_to_the_ledger(data: Path, tmp_path: Path) -> None:
    run, places = _run(TINY, data, tmp_path)
    found = _all_steps(run, places)
    sets = load_logits(run, "hard")
    assert len(sets) == 2 * (1 + 5 * 2)
    assert next(iter(load_logits(run, "report"))) == "clean"
    corrupted = []
    for name in load_logits(run, "report"):
        both = mix([sets[f"fit/{name}"], sets[f"report/{name}"]])
        value = auroc(both.targets[:, 0].astype(np.int64), both.logits[:, 0])
        assert found["hard"]["auroc"][name] == pytest.approx(value, abs=1e-15)
        corrupted += [value] if name != "clean" else []
    outside = load_logits(run, "external")["nih-clean"]
    external = auroc(outside.targets[:, 0].astype(np.int64), outside.logits[:, 0])
    assert found["hard"]["selection"] == pytest.approx((np.mean(corrupted) + external) / 2, abs=1e-15)
    assert set(found["hard"]["external_auroc"]) == {"nih-clean", "nih-all"}
    test = found["test"]
    assert (test["test"]["n"], test["ledger"], test["ledger_rows"]) == (24, "test_ledger.csv", 1)
    assert set(test["sources"]) == {"kermany_hires", "kermany_224"}
    [row] = ledger.read(places.ledger)
    assert row["auroc"] == f"{test['test']['classes']['pneumonia']['scores']['auroc']['value']:.5f}"
    assert (
        row["rule-in_specificity"]
        == f"{test['test']['points']['rule-in']['classes']['normal']['sensitivity']['value']:.5f}"
    )
    assert evaluate(run, places, "test")["ledger_rows"] == 2
    assert not ledger.looks_beside(places.ledger).exists()
    assert set(found["external"]) == {"nih-clean", "nih-all", "weights_digest", "decision_digest"}


def test_the_standing_ledger_keeps_its_columns() -> None:
    """The committed file was begun before recipes could choose their points; it is never rewritten."""
    with (CHECKOUT / "training" / "test_ledger.csv").open() as stream:
        assert stream.readline().strip().split(",") == ledger.columns(ledger.POINTS)


def test_three_classes_from_validation_to_the_looks(data: Path, tmp_path: Path) -> None:
    run, places = _run(TINY_MULTICLASS, data, tmp_path)
    found = _all_steps(run, places)
    assert not places.ledger.exists()
    [look] = ledger.read_looks(ledger.looks_beside(places.ledger))
    assert (look["seed"], look["task"], look["classes"]) == (7, "multiclass", list(run.recipe.data.classes))
    body = found["test"]["test"]
    assert look["test"]["n"] == body["n"]
    assert set(look["test"]["sources"]) == {"nih_chestxray14", "rsna_normal", "tbx11k"}
    assert look["macro"] == body["macro"]
    assert set(look["points"]) == {"risk-prioritised", "argmax", "conformal-90"}
    assert set(body["classes"]) == set(run.recipe.data.classes)
    assert found["hard"]["selection"] == found["hard"]["corrupted_auroc"]  # no external set selects
    assert set(found["external"]) == {"weights_digest", "decision_digest"}  # no external set
    fixed = fixed_decision(run)
    assert isinstance(fixed.point("conformal-90"), OperatingPoint)
    rsna = found["test"]["sources"]["rsna_normal"]
    assert "auroc" not in rsna["macro"]
    assert "sensitivity" in rsna["points"]["argmax"]["classes"]["normal"]


def test_labels_from_validation_to_the_looks(data: Path, tmp_path: Path) -> None:
    run, places = _run(TINY_MULTILABEL, data, tmp_path)
    found = _all_steps(run, places)
    assert set(found["report"]["clean"]["classes"]) == set(run.recipe.data.classes)
    point = found["test"]["test"]["points"]["max-f1"]
    assert set(point["confusion"]) == set(run.recipe.data.classes)
    assert ledger.append_look(ledger.looks_beside(places.ledger), {}) == 2
    ledger.check_looks(ledger.looks_beside(places.ledger))


def test_binary_recipes_that_do_not_fit_the_ledger_go_elsewhere(data: Path, tmp_path: Path) -> None:
    one = TINY.replace(', { kind = "manifest", folder = "kermany_224" }', "")
    run, places = _run(one, data, tmp_path)
    for step in ("hard", "report", "test"):
        found = evaluate(run, places, step)
    assert found["ledger"] == "test_looks.jsonl"
    assert not places.ledger.exists()


def test_steps_are_taken_in_order(data: Path, tmp_path: Path) -> None:
    run, places = _run(TINY, data, tmp_path)
    for step in ("report", "external", "test"):
        with pytest.raises(ConfigurationError, match="run the earlier step first"):
            evaluate(run, places, step)
    evaluate(run, places, "hard")
    with pytest.raises(ConfigurationError, match=r"figures-report.json is not in"):
        evaluate(run, places, "test")
    with pytest.raises(ConfigurationError, match="no step 'tset'"):
        evaluate(run, places, "tset")
    assert not places.ledger.exists()


def test_other_weights_or_films_than_those_judged_are_refused(data: Path, tmp_path: Path) -> None:
    run, places = _run(TINY, data, tmp_path)
    evaluate(run, places, "hard")
    evaluate(run, places, "report")
    splits = run.read_json("splits.json")
    run.write_json("splits.json", {"digest": "0" * 64})
    with pytest.raises(ConfigurationError, match="films have changed"):
        evaluate(run, places, "test")
    run.write_json("splits.json", splits)
    state = torch.load(run.weights_file, weights_only=True)
    torch.save({name: value + 1 for name, value in state.items()}, run.weights_file)
    with pytest.raises(ConfigurationError, match="weights changed"):
        evaluate(run, places, "test")
    assert not places.ledger.exists()


def test_thresholds_derived_anew_after_the_report_step_do_not_meet_the_test(data: Path, tmp_path: Path) -> None:
    run, places = _run(TINY, data, tmp_path)
    evaluate(run, places, "hard")
    evaluate(run, places, "report")
    decision = run.read_json("decision.json")
    run.write_json("decision.json", decision | {"review": {**decision["review"], "borderline_margin": 0.123}})
    with pytest.raises(ConfigurationError, match="thresholds were derived anew"):
        evaluate(run, places, "test")
    assert not places.ledger.exists()
    evaluate(run, places, "report")
    figures = evaluate(run, places, "test")
    assert figures["decision_digest"] == run.read_json("figures-report.json")["decision_digest"] == decision_digest(run)


@pytest.mark.parametrize(("text", "name"), [(TINY, "x.csv"), (TINY_MULTICLASS, "test_looks.jsonl")])
def test_no_test_film_is_opened_where_the_look_cannot_be_written_down(
    text: str, name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, places = _run(text, data, tmp_path)
    evaluate(run, places, "hard")
    evaluate(run, places, "report")
    places = replace(places, ledger=tmp_path / "new" / "dir" / "x.csv")
    path = places.ledger.with_name(name)
    path.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(module, "plain_pixels", None)
        with pytest.raises(ConfigurationError, match=f"{name} cannot be written"):
            evaluate(run, places, "test")
    shutil.rmtree(tmp_path / "new")
    assert evaluate(run, places, "test")["ledger_rows"] == 1
    assert path.is_file()


def test_hard_validation_of_clean_films_alone(data: Path, tmp_path: Path) -> None:
    run, places = _run(TINY.replace("severities = [1, 3]", "severities = []"), data, tmp_path)
    found = _all_steps(run, places)
    assert found["hard"]["corrupted_auroc"] == found["hard"]["clean_auroc"]
    assert list(found["report"]["corruptions"]) == ["clean"]


def _halves(films: Scored) -> dict[str, list[Scored]]:
    return {half: [films] for half in ("fit", "report")}


def test_a_selection_without_corruptions_is_of_clean_films(tmp_path: Path) -> None:
    recipe = _recipe(TINY_MULTICLASS, tmp_path)
    films = softmax_films(200, seed=0)
    found = selection(recipe, _halves(films), {})
    assert found["selection"] == found["clean_auroc"] == found["auroc"]["clean"]


def test_an_external_set_of_one_class_cannot_select(tmp_path: Path) -> None:
    recipe = _recipe(TINY, tmp_path)
    films = scored([[0.0], [1.0]], [[0], [1]])
    one = scored([[0.0], [1.0]], [[1], [1]], name="nih-clean")
    with pytest.raises(ConfigurationError, match="nih-clean"):
        selection(recipe, _halves(films), {"nih-clean": one, "nih-all": films})
    assert selection(recipe, _halves(films), {"nih-clean": films, "nih-all": one})["external_auroc"]["nih-all"] is None
