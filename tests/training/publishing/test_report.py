"""The page from hand-made figures and logits, for every task; nothing is fitted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from app.bundle.manifest import NoCalibration, OperatingPoint, QualityRule, ReviewRule
from app.errors import ConfigurationError
from tests.training.publishing.figure_files import change, estimate, good_run, recipe_of
from training.judging.decide import Fixed
from training.judging.figures import Judged
from training.publishing import plots
from training.publishing.promotion import promote
from training.publishing.report import write_report
from training.recipe import Recipe
from training.runs import Run

SECTIONS = [
    "Summary", "Scores", "Curves", "Calibration", "Operating points", "Confusion", "Conformal sets", "Per source", "Hard validation",
    "Corruption suite", "Slices", "Embedding shift", "Test-time augmentation", "Explanations", "Shortcuts", "Worklists and galleries",
    "Learning curves", "Source designs", "Original and reduced copies", "Calibration, operating points, limits", "Recipe", "Made with",
]  # fmt: skip


def _fixed(recipe: Recipe) -> Fixed:
    rules = {"binary": "threshold", "multiclass": "hierarchical", "multilabel": "per_label"}
    points = []
    for part in recipe.decision.points:
        rule = part.kind if part.kind in {"argmax", "conformal"} else rules[recipe.data.task]
        names = {"argmax": (), "conformal": recipe.data.classes}.get(rule, recipe.data.outputs)
        content = {"name": part.name, "rule": rule, "target": "t", "thresholds": dict.fromkeys(names, 0.1)}
        points.append(OperatingPoint.model_validate(content))
    return Fixed(
        calibration=NoCalibration(method="none"),
        calibration_chosen_by="there is no other",
        candidates={},
        operating_points=tuple(points),
        default_operating_point=recipe.decision.default_operating_point,
        review=ReviewRule(borderline_margin=0.1),
        quality=QualityRule(under_exposed_mean_below=1, over_exposed_mean_above=254, low_contrast_std_below=1),
    )


def _logits(run: Run, step: str, names: tuple[str, ...], n: int = 60) -> None:
    rng, outputs = np.random.default_rng(3), len(run.recipe.data.outputs)
    truth = rng.integers(0, max(2, outputs), n)
    targets = (truth[:, None] == np.arange(outputs)).astype(float) if outputs > 1 else truth[:, None].astype(float)
    arrays: dict[str, np.ndarray] = {}
    for name in names:
        parts = {"targets": targets, "logits": 2 * targets - 1 + rng.normal(size=targets.shape)}
        parts |= {f: np.array([f"{f}{i}" for i in range(n)]) for f in ("patients", "sources", "paths")}
        arrays |= {f"{name}:{field}": values for field, values in parts.items()}
    np.savez_compressed(run.path / f"logits-{step}.npz", allow_pickle=False, **arrays)


def _run(root: Path, task: str = "binary") -> Run:
    run = good_run(root, recipe_of(task))
    run.write_json("decision.json", _fixed(run.recipe).model_dump(mode="json"))
    _logits(run, "hard", ("report/clean", "report/blur-1"))
    _logits(run, "test", ("test",))
    lines = [{"epoch": e, "loss": 1 / (e + 1), "learning_rate": 0.1, "val_auroc": 0.5 + e / 10} for e in range(3)]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def _section(page: str, title: str) -> str:
    start = page.index(f">{title}</h2>")
    return page[start : page.find("<h2", start) if page.find("<h2", start) > 0 else None]


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_the_page_is_whole_and_loads_nothing(tmp_path: Path, task: str) -> None:
    run = _run(tmp_path, task)
    promote(run)
    page = write_report(run).read_text()
    assert re.findall(r"<h2 id='[^']+'>([^<]+)</h2>", page) == SECTIONS
    assert page.count("data:image/png;base64,") == 5
    assert not re.search(r"(src|href)=[\"']?(https?:|//|file:|/)", page)
    assert "<script" not in page
    for target in re.findall(r"href='([^'#]+)'", page):
        assert (run.path / target).is_file()
    for anchor in re.findall(r"href='#([^']+)'", page):
        assert f"id='{anchor}'" in page


def test_failed_lines_are_red_and_named_at_the_top(tmp_path: Path) -> None:
    run = _run(tmp_path)
    promote(run)
    good = _section(write_report(run).read_text(), "Summary")
    assert "class='failed'" not in good
    change(run, "figures-shortcuts.json", "verdict", 0, "passed", to=False)
    promote(run)
    summary = _section(write_report(run).read_text(), "Summary")
    assert summary.count("<tr class='failed'><td>FAILED</td><td>source shortcut: source, pneumonia</td>") == 1
    assert "lines failed: source shortcut: source, pneumonia." in summary
    assert "<p class=failed-label>" in summary


def test_a_mean_over_fewer_classes_says_so(tmp_path: Path) -> None:
    run = _run(tmp_path, "multilabel")
    assert "(AUROC: of" not in write_report(run).read_text()
    missing, *others = run.recipe.data.outputs
    change(run, "figures-test.json", "test", "classes", missing, "scores", "auroc", to=None)
    page = _section(write_report(run).read_text(), "Scores")
    assert page.count(f"test: mean of classes (AUROC: of {len(others)} of {len(others) + 1})") == 1


def test_margins_of_both_truths_are_counted_in_the_same_bins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _run(tmp_path)
    drawn: list[list[float]] = []
    kept = Axes.hist

    def noted(self: Axes, x: Any, bins: list[float], **more: Any) -> Any:
        drawn.append(bins)
        return kept(self, x, bins, **more)

    monkeypatch.setattr(Axes, "hist", noted)
    write_report(run)
    assert len(drawn) == 2
    assert drawn[0] == drawn[1]


def test_what_the_verdict_rests_on_is_shown(tmp_path: Path) -> None:
    run = _run(tmp_path)
    before = _section(write_report(run).read_text(), "Shortcuts")
    assert "edges of the other side" not in before
    content = run.read_json("figures-shortcuts.json")
    edge = {name: estimate(value) for name, value in {"plain": 0.91, "own": 0.9, "other": 0.6, "read": 0.3}.items()}
    content["edges"] = {"corners": {"pneumonia": edge}}
    content["sources"] = {"by_class": {"pneumonia": {"told": 0.97, "exclusive": 1.0}}}
    content["held_out"] = {"pneumonia": estimate(0.71) | {"n": 50, "sources": ["there"]}}
    run.write_json("figures-shortcuts.json", content)
    after = _section(write_report(run).read_text(), "Shortcuts")
    assert "<td>corners: pneumonia</td>" in after
    assert "0.3000 (0.2900 to 0.3100)" in after
    assert "0.7100 (0.7000 to 0.7200)" in after


def test_a_point_of_a_reliability_curve_stands_for_enough_films() -> None:
    for n, bins in ((10, 1), (88, 4), (154, 7), (4000, 15)):
        p = np.linspace(0, 1, n)
        shown, share = plots._bins(Judged((p > 0.5).astype(np.int64), p, p, np.arange(n).astype(str)))
        assert len(shown) == len(share) == bins


def test_what_was_not_done_is_said_to_be_missing(tmp_path: Path) -> None:
    run = _run(tmp_path)
    full = write_report(run).read_text()
    for name in ("checks", "shortcuts", "test", "external"):
        (run.path / f"figures-{name}.json").unlink()
    (run.path / "metrics.jsonl").unlink()
    page = write_report(run).read_text()
    found = {title for title in SECTIONS if "class=missing" in _section(page, title)}
    before = {title for title in SECTIONS if "class=missing" in _section(full, title)}
    assert found - before == {
        "Scores", "Per source", "Slices", "Explanations", "Shortcuts", "Learning curves",
    } - before  # fmt: skip
    assert {"Corruption suite", "Test-time augmentation", "Worklists and galleries"} <= found
    assert "test</td>" not in _section(page, "Scores")
    assert page.count("<h2") == full.count("<h2")


def test_a_run_before_the_report_step_has_no_page(tmp_path: Path) -> None:
    run = _run(tmp_path)
    (run.path / "figures-report.json").unlink()
    with pytest.raises(ConfigurationError, match="step_missing"):
        write_report(run)


def test_what_stands_in_a_file_is_not_taken_for_html(tmp_path: Path) -> None:
    run = _run(tmp_path)
    change(run, "figures-shortcuts.json", "verdict", 0, "measured", to="<img src=http://x>")
    promote(run)
    page = write_report(run).read_text()
    assert "<img src=http" not in page
    assert "&lt;img src=http://x&gt;" in page


def test_the_price_and_the_sets_of_three_classes_are_shown(tmp_path: Path) -> None:
    page = write_report(_run(tmp_path, "multiclass")).read_text()
    assert "recall under the policy" in _section(page, "Operating points")
    assert "coverage of tuberculosis" in _section(page, "Conformal sets")
    assert "truth \\ answer" in _section(page, "Confusion")
    assert "no conformal operating point" in _section(write_report(_run(tmp_path / "b")).read_text(), "Conformal sets")
