"""One figure changed at a time: exactly its line fails, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.bundle.manifest import Promotion
from app.errors import ConfigurationError
from tests.training.publishing.figure_files import change, estimate, good_run, recipe_of
from training.judging.evaluate import decision_digest
from training.publishing.policy import load_policy, parse_policy
from training.publishing.promotion import GOLDEN, promote, with_golden
from training.runs import Run

CHECKS, SHORTCUTS = "figures-checks.json", "figures-shortcuts.json"
HARD, REPORT = "figures-hard.json", "figures-report.json"
SCORES = ("mix", "classes", "pneumonia", "scores")
POINT = ("mix", "points", "screening", "classes", "pneumonia")


def test_a_good_run_passes_and_is_written_down(tmp_path: Path) -> None:
    run = good_run(tmp_path)
    found = promote(run)
    assert found.failed == ()
    assert found.passed
    assert found.label == "passed"
    assert found.policy_digest == load_policy("default").digest
    assert Promotion.model_validate(run.read_json("promotion.json")) == found


CASES: list[tuple[str, tuple[str | int, ...], Any, str]] = [
    (REPORT, (*SCORES, "auroc"), estimate(0.905, 0.01), "discrimination: auroc of pneumonia, mix"),
    (REPORT, (*SCORES, "auroc"), {"value": 0.99, "ci": None}, "discrimination: auroc of pneumonia, mix"),
    (REPORT, (*SCORES, "auroc"), None, "discrimination: auroc of pneumonia, mix"),
    (REPORT, (*SCORES, "auprc"), estimate(0.7), "discrimination: auprc of pneumonia, mix"),
    (
        REPORT,
        (*POINT, "sensitivity"),
        estimate(0.85, 0.06),
        "operating point: sensitivity of pneumonia at screening, mix",
    ),
    (REPORT, (*POINT, "specificity"), None, "operating point: specificity of pneumonia at screening, mix"),
    (REPORT, (*SCORES, "ece"), estimate(0.08, 0.03), "calibration: ece of pneumonia, mix"),
    (REPORT, (*SCORES, "brier"), None, "calibration: brier of pneumonia, mix"),
    (REPORT, ("clean", "classes", "pneumonia", "positives"), 29, "films: pneumonia"),
    (REPORT, ("clean", "classes", "pneumonia", "positives"), 380, "films: pneumonia"),
    (HARD, ("halves_auroc", "report", "blur-2"), 0.90, "robustness: AUROC under the worst corruption of severity 2"),
    (HARD, ("halves_auroc", "report", "blur-2"), None, "robustness: AUROC under the worst corruption of severity 2"),
    (
        HARD,
        ("halves_auroc", "report", "blur-2"),
        float("nan"),
        "robustness: AUROC under the worst corruption of severity 2",
    ),
    (HARD, ("halves_auroc", "report", "clean"), None, "robustness: AUROC under the worst corruption of severity 2"),
    (CHECKS, ("slices", "exposure", "dark", "gaps", "auroc", "value"), -0.12, "slices: exposure"),
    (CHECKS, ("slices", "exposure"), None, "slices: any fact"),
    (CHECKS, ("explanations", "randomisation", "passed"), False, "explanations: maps of randomised weights differ"),
    (CHECKS, ("explanations", "randomisation"), None, "explanations: maps of randomised weights differ"),
    (CHECKS, ("explanations", "border_mass"), estimate(0.4), "explanations: share of the map's mass in the border"),
    (CHECKS, ("explanations", "border_mass"), None, "explanations: share of the map's mass in the border"),
    (SHORTCUTS, ("verdict", 0, "passed"), False, "source shortcut: source, pneumonia"),
    (
        SHORTCUTS,
        ("verdict", 0),
        {"name": "marks, x", "wanted": "", "measured": "", "passed": False},
        "edge shortcut: marks, x",
    ),
    (SHORTCUTS, ("verdict",), None, "source shortcut: verdict of the probes"),
    (SHORTCUTS, ("verdict",), [], "source shortcut: verdict of the probes"),
]


@pytest.mark.parametrize(("file", "path", "to", "line"), CASES)
def test_each_fault_fails_its_own_line(
    tmp_path: Path, file: str, path: tuple[str | int, ...], to: Any, line: str
) -> None:
    run = good_run(tmp_path)
    change(run, file, *path, to=to)
    found = promote(run)
    assert found.failed == (line,)
    assert not found.passed
    assert found.label == f"research-only, gate failed: {line.partition(':')[0]}"


def test_a_step_that_was_not_taken_fails_all_its_lines(tmp_path: Path) -> None:
    run = good_run(tmp_path)
    (run.path / CHECKS).unlink()
    (run.path / SHORTCUTS).unlink()
    found = promote(run)
    assert set(found.failed) == {
        "source shortcut: verdict of the probes",
        "slices: any fact",
        "explanations: maps of randomised weights differ",
        "explanations: share of the map's mass in the border",
        "model card: source attributes",
    }
    assert {line.measured for line in found.lines if not line.passed} >= {"not measured"}
    assert found.label == "research-only, gate failed: source shortcut, slices, explanations, model card"


def test_slices_too_small_to_be_compared_are_no_pass(tmp_path: Path) -> None:
    run = good_run(tmp_path)
    for value in ("dark", "bright"):
        change(run, CHECKS, "slices", "exposure", value, "n", to=49)
    assert promote(run).failed == ("slices: any fact",)


def test_figures_of_other_weights_are_refused(tmp_path: Path) -> None:
    for file in (HARD, CHECKS, SHORTCUTS, "figures-test.json"):
        run = good_run(tmp_path / file)
        change(run, file, "weights_digest", to="0" * 64)
        with pytest.raises(ConfigurationError, match=f"stale_step.*{file}"):
            promote(run)


def test_figures_of_other_thresholds_are_refused(tmp_path: Path) -> None:
    for file in ("figures-report.json", "figures-external.json", "figures-test.json"):
        run = good_run(tmp_path / file)
        run.write_json("decision.json", {"calibration": "one"})
        change(run, file, "decision_digest", to=decision_digest(run))
        promote(run)
        run.write_json("decision.json", {"calibration": "another"})
        with pytest.raises(ConfigurationError, match=f"stale_step.*{file}.*thresholds"):
            promote(run)


def test_before_the_hard_validation_there_is_nothing_to_promote(tmp_path: Path) -> None:
    run = good_run(tmp_path)
    (run.path / HARD).unlink()
    with pytest.raises(ConfigurationError, match="step_missing"):
        promote(run)


def _multiclass(root: Path) -> Run:
    return good_run(root, recipe_of("multiclass"))


def test_every_class_has_its_own_line_and_level(tmp_path: Path) -> None:
    run = _multiclass(tmp_path)
    found = promote(run)
    assert found.passed
    assert found.label == "research-only: research policy passed"
    assert sum(line.name.startswith("discrimination: auroc of") for line in found.lines) == 3
    point = ("mix", "points", "risk-prioritised", "classes")
    for name, value, fails in (("tuberculosis", 0.84, True), ("normal", 0.84, False), ("normal", 0.55, True)):
        run = _multiclass(tmp_path / f"{name}{value}")
        change(run, REPORT, *point, name, "sensitivity", to=estimate(value, 0.0))
        line = f"operating point: sensitivity of {name} at risk-prioritised, mix"
        assert promote(run).failed == ((line,) if fails else ())


def test_a_missing_class_is_no_pass(tmp_path: Path) -> None:
    run = _multiclass(tmp_path)
    change(run, REPORT, "mix", "classes", "tuberculosis", to=None)
    failed = promote(run).failed
    assert "discrimination: auroc of tuberculosis, mix" in failed
    assert "calibration: brier of tuberculosis, mix" in failed
    assert all("tuberculosis" in line for line in failed if not line.startswith("model card"))


def test_a_long_label_says_how_many_more() -> None:
    policy = load_policy("demonstration")
    passed = with_golden(Promotion.model_validate(_failing(12)), policy, "8 phantoms")
    assert len(passed.label) <= 120
    assert passed.label.startswith("research-only, gate failed: subject number 00, ")
    assert passed.label.endswith(" more")


def _failing(n: int) -> dict[str, Any]:
    lines = [{"name": f"subject number {i:02}: x", "wanted": "", "measured": "", "passed": False} for i in range(n)]
    return {"policy": "demonstration", "policy_digest": "0" * 64, "passed": False, "label": "x", "lines": lines}


def test_the_golden_test_is_one_line_however_often_it_is_added(tmp_path: Path) -> None:
    policy = load_policy("default")
    once = with_golden(promote(good_run(tmp_path)), policy, "8 phantoms")
    assert [line.name for line in once.lines].count(GOLDEN) == 1
    assert with_golden(once, policy, "8 phantoms") == once
    assert once.passed


def test_a_blank_statement_is_a_missing_attribute(tmp_path: Path) -> None:
    content = load_policy("default").model_dump()
    content["statements"]["funding"] = ""
    found = promote(good_run(tmp_path), parse_policy(content, "p"))
    assert found.failed == ("model card: source attributes",)
    assert "1.ii funding of the development" in found.lines[-1].measured


@pytest.mark.parametrize("order", [("blur-2", "noise-2"), ("noise-2", "blur-2")])
def test_one_corruption_that_could_not_be_measured_fails_the_line(tmp_path: Path, order: tuple[str, str]) -> None:
    run = good_run(tmp_path)
    values = {"blur-2": 0.95, "noise-2": float("nan")}
    change(run, HARD, "halves_auroc", "report", to={"clean": 0.97} | {name: values[name] for name in order})
    assert promote(run).failed == ("robustness: AUROC under the worst corruption of severity 2",)


@pytest.mark.parametrize(
    ("part", "line"),
    [
        (
            {"minimum": [{"figure": "auroc", "at_least": 0.5, "per_class": {"normal": 0.97}}]},
            "discrimination: auroc of normal, mix",
        ),
        (
            {"rate": [{"figure": "ppv", "point": "argmax", "at_least": 0.5, "per_class": {"normal": 0.9}}]},
            "operating point: ppv of normal at argmax, mix",
        ),
        (
            {"ceiling": [{"figure": "brier", "at_most": 0.5, "per_class": {"normal": 0.05}}]},
            "calibration: brier of normal, mix",
        ),
    ],
)
def test_a_class_may_have_a_level_of_its_own(tmp_path: Path, part: dict[str, Any], line: str) -> None:
    policy = parse_policy({"name": "p", "title": "", "shortcuts": False, "card": False, **part}, "p")
    assert promote(_multiclass(tmp_path), policy).failed == (line,)
