from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.bundle.manifest import OperatingPoint, ReviewRule
from tests.training.judging.made import NONE, many, scored, threshold_rule
from tests.training.phantom_data import TINY
from training.data.films import Film
from training.judging.answers import Rule, answer
from training.judging.gallery import write_gallery
from training.judging.worklists import LISTS, Row, gravest, worklists, write_worklists
from training.networks.network import build_network
from training.recipe import load_recipe

REVIEW = ReviewRule(borderline_margin=0.3, low_confidence_below=0.7)
CLASSES = ("normal", "pneumonia", "tuberculosis")


def _paths(rows: list[Row]) -> list[str]:
    return [row.path.split("/")[1].removesuffix(".png") for row in rows]


def test_binary_films_on_their_lists() -> None:
    #       0 missed   1 false  2 borderline  3 surely missed  4 surely right  5 unsure normal
    logits = [-2.0, 2.0, 0.2, -4.0, 4.0, -0.5]
    lists = worklists(answer(scored(logits, [1, 0, 1, 1, 1, 0]), threshold_rule()), threshold_rule(), REVIEW, {})
    assert list(lists) == list(LISTS)
    assert _paths(lists["false-negatives"]) == ["3", "0"]  # the surest miss first
    assert _paths(lists["false-positives"]) == ["1"]
    assert _paths(lists["borderline"]) == ["2"]
    assert _paths(lists["high-risk"]) == ["0", "3", "3", "5"]
    assert [row.action for row in lists["high-risk"]] == [
        "mandatory audit",
        "mandatory audit",
        "failure analysis, then retraining",
        "mandatory audit",
    ]
    assert _paths(lists["high-confidence-correct"]) == ["4"]
    missed = lists["false-negatives"][0]
    assert (missed.truth, missed.decision, missed.about) == ("pneumonia", "normal", "pneumonia")
    assert missed.margin == -4.0
    assert missed.probability == pytest.approx(1 / (1 + np.exp(4.0)), abs=1e-6)


def test_the_first_class_of_a_binary_recipe_is_no_finding_whatever_its_name() -> None:
    names = ("healthy", "pneumonia")
    rule = replace(threshold_rule(), classes=names)
    assert gravest("binary", rule) == "pneumonia"
    films = scored([-2.0, 2.0, 0.2, -4.0, 4.0, -0.5], [1, 0, 1, 1, 1, 0])
    lists = worklists(answer(films, rule), rule, REVIEW, {})
    usual = worklists(answer(films, threshold_rule()), threshold_rule(), REVIEW, {})
    assert {name: _paths(rows) for name, rows in lists.items()} == {name: _paths(rows) for name, rows in usual.items()}
    assert {row.about for row in lists["false-negatives"] + lists["false-positives"]} == {"pneumonia"}
    assert [row.reason for row in lists["high-risk"]] == [row.reason for row in usual["high-risk"]]


def test_missed_tuberculosis_comes_first() -> None:
    logits = np.array([[3.0, 0, 0], [0, 4.0, 0], [0.4, 0.0, 0.0], [0, 0, 6.0]])
    films = many("multiclass", CLASSES, logits, np.eye(3)[[1, 2, 0, 2]])
    point = OperatingPoint(name="p", rule="argmax", target="made")
    rule = Rule(CLASSES, NONE, point)
    assert gravest("multiclass", rule) == "tuberculosis"
    lists = worklists(
        answer(films, rule), rule, REVIEW, {"here/1.png": Film("here/1.png", "here", "", "", "", view="PA", sex="F")}
    )
    assert _paths(lists["high-risk"]) == ["1", "1", "2"]  # TB called pneumonia, with p > 0.95; then an unsure normal
    assert (lists["high-risk"][0].view, lists["high-risk"][0].sex) == ("PA", "F")
    assert lists["high-risk"][0].reason == "tuberculosis missed"
    assert _paths(lists["false-negatives"]) == ["1", "0"] or _paths(lists["false-negatives"]) == ["0", "1"]
    assert _paths(lists["false-positives"]) == ["1"]
    assert _paths(lists["high-confidence-correct"]) == ["3"]
    first = replace(point, rule="hierarchical") if False else point.model_copy(update={"priority": ("pneumonia",)})
    assert gravest("multiclass", Rule(CLASSES, NONE, first)) == "pneumonia"


def test_multilabel_films_count_label_by_label() -> None:
    outputs = ("no_finding", "mass", "hernia")
    targets = np.array([[0, 1, np.nan], [1, 0, 0]])
    films = many("multilabel", outputs, np.array([[-3.0, -2, 3], [-3, 2.0, -3]]), targets)
    point = OperatingPoint(name="p", rule="per_label", target="made", thresholds=dict.fromkeys(outputs, 0.0))
    rule = Rule(outputs, NONE, point)
    lists = worklists(answer(films, rule), rule, REVIEW, {})
    assert [(r.path, r.about) for r in lists["false-negatives"]] == [("here/0.png", "mass")]
    assert [(r.path, r.about) for r in lists["false-positives"]] == [
        ("here/1.png", "mass")
    ]  # hernia of film 0 is unknown


def test_the_files_say_the_same(tmp_path: Path) -> None:
    lists = worklists(answer(scored([-2.0, 2.0], [1, 0]), threshold_rule()), threshold_rule(), REVIEW, {})
    write_worklists(lists, tmp_path, "screening")
    stored = json.loads((tmp_path / "worklists.json").read_text())
    assert stored["operating_point"] == "screening"
    for name in LISTS:
        with (tmp_path / f"{name}.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        assert [row["path"] for row in rows] == [row["path"] for row in stored["lists"][name]]
        assert {"path", "source", "truth", "decision", "probability", "margin", "action"} <= set(
            Row.__dataclass_fields__
        )
    assert (tmp_path / "false-negatives.csv").read_text().count("\n") == 2


def test_the_gallery_shows_films_and_maps(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(TINY)
    recipe = load_recipe(tmp_path / "r.toml")
    network = build_network(recipe.network, outputs=1, channels=1, seed=0).eval()
    lists = worklists(answer(scored([-2.0, 2.0, 3.0], [1, 0, 0]), threshold_rule()), threshold_rule(), REVIEW, {})
    lists["false-positives"] = [replace(row, source="<b>x") for row in lists["false-positives"]]
    film = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    films = {f"here/{i}.png": film for i in range(3)}
    page = write_gallery(tmp_path / "checks" / "gallery.html", lists, films, network, recipe, each=1).read_text()
    assert "Missed findings (1)" in page
    assert "Findings that are not there (2)" in page
    assert page.count("<figure>") == 4 - page.count("<p>none</p>") + 1  # one of each list that is not empty
    assert page.count("data:image/jpeg;base64,") == 2 * page.count("<figure>")
    assert "&lt;b&gt;x" in page
    assert "<b>x" not in page
