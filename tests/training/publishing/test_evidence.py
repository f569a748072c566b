from __future__ import annotations

from pathlib import Path

from tests.training.publishing.figure_files import BASELINE, change, good_run, recipe_of
from training.publishing.evidence import load_figures, metrics


def test_a_binary_runs_figures_keep_their_plain_names(tmp_path: Path) -> None:
    found = {(m.data, m.name): m for m in metrics(load_figures(good_run(tmp_path)))}
    assert len(found) == len(metrics(load_figures(good_run(tmp_path / "again"))))
    assert found["official test", "auroc"].value == 0.98
    assert found["official test", "sensitivity@rule-in"].value == 0.93
    assert found["hard validation", "selection"].n == 800
    assert ("official test, kermany_224", "ece") in found
    assert ("official test, kermany_224", "sensitivity@rule-in") not in found


def test_every_figure_has_the_thumbnails_beside_it_where_they_were_measured(tmp_path: Path) -> None:
    found = {(m.data, m.name): m.baseline for m in metrics(load_figures(good_run(tmp_path)))}
    test, clean = found["official test", "auroc"], found["validation, report half", "auroc"]
    assert test is not None
    assert clean is not None
    assert (test.name, test.value, clean.value) == (BASELINE, 0.85, 0.9)
    assert found["official test", "f1@screening"] is not None
    assert found["validation, report half, clean and corrupted", "auroc"] is None
    assert found["external: nih-clean", "auroc"] is None


def test_classes_are_named_where_there_are_several(tmp_path: Path) -> None:
    run = good_run(tmp_path, recipe_of("multiclass"))
    change(run, "figures-report.json", "clean", "classes", "pneumonia", to=None)
    found = {(m.data, m.name): m for m in metrics(load_figures(run))}
    assert found["test patients", "auroc[tuberculosis]"].value == 0.98
    assert found["test patients", "sensitivity[normal]@risk-prioritised"].value == 0.93
    assert found["test patients", "coverage@conformal-90"].value == 0.9
    assert found["test patients", "coverage[normal]@conformal-90"].value == 0.9
    assert ("validation, report half", "auroc[pneumonia]") not in found


def test_the_coverage_of_a_binary_run_is_not_that_of_one_class(tmp_path: Path) -> None:
    points = [{"kind": "conformal", "name": "sets"}, {"kind": "youden", "name": "screening"}]
    run = good_run(tmp_path, recipe_of("binary", decision__points=points))
    change(run, "figures-report.json", "clean", "points", "sets", "classes", "normal", "coverage", "value", to=0.7)
    change(run, "figures-report.json", "clean", "points", "sets", "overall", "coverage", "value", to=0.8)
    found = {m.name: m.value for m in metrics(load_figures(run)) if m.data == "validation, report half"}
    assert found["coverage@sets"] == 0.8
    assert found["coverage[normal]@sets"] == 0.7
    assert found["coverage[pneumonia]@sets"] == 0.9


def test_a_set_without_films_gives_no_figures(tmp_path: Path) -> None:
    run = good_run(tmp_path)
    empty = {"n": 0, "patients": 0, "classes": {}, "macro": {}, "calibration": {}, "points": {}}
    run.write_json("figures-external.json", {"nih-clean": empty})
    assert not [m for m in metrics(load_figures(run)) if m.data.startswith("external")]


def test_steps_that_were_not_taken_give_nothing(tmp_path: Path) -> None:
    run = good_run(tmp_path)
    for path in run.path.glob("figures-*.json"):
        path.unlink()
    assert metrics(load_figures(run)) == []
