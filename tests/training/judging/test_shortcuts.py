from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.training.judging.made import network, pixels, scored, tagged, truth
from tests.training.phantom_data import TINY
from training.data.cache import Pixels
from training.data.films import Film
from training.judging.edges import edge_masks, edge_reading, exchanged
from training.judging.sampling import Limits
from training.judging.shortcuts import joined, label_probes, pair_figures, source_figures, source_table
from training.judging.verdict import shortcut_lines
from training.recipe import Recipe, load_recipe

LIMITS = Limits(bootstraps=50)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("recipe") / "r.toml"
    path.write_text(TINY)
    return load_recipe(path)


@pytest.fixture(scope="module")
def halves() -> tuple[Pixels, Pixels]:
    return pixels(160), pixels(80, first=1000)


def _figures(recipe: Recipe, train: Pixels, shown: Pixels, *, reads_corner: bool) -> dict[str, Any]:
    """As `probe_shortcuts` puts them together, for a network that reads the lungs or the corner."""
    lungs, corner = _lung_network, network(lambda film: float(film[:10, :10].max()) / 10)
    read = corner if reads_corner else lungs
    films = scored(read(shown.plain).logits[:, 0], truth(shown))
    probed = label_probes(train, shown, recipe, LIMITS)
    edges = edge_reading(shown.plain, films, read, bootstraps=50)
    by_class = source_figures(train.films, films, recipe, LIMITS)
    figures = {"outputs": ["pneumonia"], "network": {"pneumonia": edges["corners"]["pneumonia"]["plain"]}}
    return {**figures, **probed, "edges": edges, "sources": {"by_class": by_class}}


# The brightest soft patch in the lungs beside the lungs' own gray: good, not perfect.
_lung_network = network(lambda film: float(np.percentile(film[20:44, 8:56], 60)) / 10)


def test_a_tag_on_one_class_is_found_and_fails(recipe: Recipe, halves: tuple[Pixels, Pixels]) -> None:
    train, shown = (tagged(part) for part in halves)
    figures = _figures(recipe, train, shown, reads_corner=True)
    assert figures["labels"]["corners"]["pneumonia"]["value"] == 1.0
    assert figures["labels"]["border"]["pneumonia"]["value"] > 0.99
    lines = {line["name"].split(",")[0]: line for line in shortcut_lines(figures)}
    assert not lines["marks"]["passed"]
    assert "corners alone tell the class" in lines["marks"]["measured"]
    assert not lines["edge read"]["passed"]
    assert figures["edges"]["corners"]["pneumonia"]["read"]["value"] > 0.9


def test_without_the_tag_nothing_fails(recipe: Recipe, halves: tuple[Pixels, Pixels]) -> None:
    figures = _figures(recipe, *halves, reads_corner=False)
    assert figures["labels"]["corners"]["pneumonia"]["value"] < 0.7
    assert all(line["passed"] for line in shortcut_lines(figures))


def test_a_network_that_ignores_the_tag_reads_no_corner(recipe: Recipe, halves: tuple[Pixels, Pixels]) -> None:
    train, shown = (tagged(part) for part in halves)
    figures = _figures(recipe, train, shown, reads_corner=False)
    assert abs(figures["edges"]["corners"]["pneumonia"]["read"]["value"]) < 1e-9
    lines = {line["name"].split(",")[0]: line for line in shortcut_lines(figures)}
    assert lines["edge read"]["passed"]
    assert not lines["marks"]["passed"]  # the data still give the class away


def test_classes_from_sources_of_their_own_fail(recipe: Recipe, halves: tuple[Pixels, Pixels]) -> None:
    """One source for each class, the second one scanned brighter at the rim."""

    def apart(part: Pixels) -> Pixels:
        films = tuple(replace(f, folder="there" if f.label == "pneumonia" else "here") for f in part.films)
        images = part.images.copy()
        for i, film in enumerate(films):
            if film.folder == "there":
                images[i] = np.clip(images[i].astype(np.int64) + 25, 0, 255)
        return Pixels(films, images, part.sha256, part.statistics)

    train, shown = (apart(part) for part in halves)
    films = scored(_lung_network(shown.plain).logits[:, 0], truth(shown))
    films = replace(films, sources=np.array([f.folder for f in shown.films]))
    by_class = source_figures(train.films, films, recipe, LIMITS)
    assert by_class["pneumonia"]["told"] == 1.0
    assert by_class["pneumonia"]["exclusive"] == 1.0
    assert "within" not in by_class["pneumonia"]
    figures = _figures(recipe, train, shown, reads_corner=False) | {"sources": {"by_class": by_class}}
    lines = {line["name"]: line for line in shortcut_lines(figures)}
    assert not lines["source, pneumonia"]["passed"]
    assert "class and source go together" in lines["source, pneumonia"]["why"]


def _made(told: float, *, probe: float = 0.98, net: float = 0.99, **more: Any) -> dict[str, Any]:
    """Figures of a class with clean edges."""

    def figure(value: float) -> dict[str, Any]:
        return {"value": value, "ci": [value - 0.02, min(1.0, value + 0.02)]}

    labels = {n: {"pneumonia": figure(probe)} for n in ("32 x 32 thumbnail", "8 x 8 thumbnail")}
    labels |= {n: {"pneumonia": figure(0.7)} for n in ("border", "corners")}
    edge = {"own": figure(0.9), "other": figure(0.9), "read": figure(0.0)}
    source = {"told": told} | {n: figure(v) for n, v in more.items() if n in {"within", "across"}}
    held = {"held_out": {"pneumonia": figure(more["held"])}} if "held" in more else {}
    return {
        "outputs": ["pneumonia"],
        "network": {"pneumonia": figure(net)},
        "labels": labels,
        "edge_gain": {"pneumonia": {"corners": figure(-0.2), "border": figure(-0.2)}},
        "edges": {"corners": {"pneumonia": edge}, "border": {"pneumonia": edge}},
        "sources": {"by_class": {"pneumonia": source}},
    } | held


@pytest.mark.parametrize(
    ("figures", "passed"),
    [
        (_made(0.5), True),  # one source: a thumbnail may see the disease (Kermany, 0.98)
        (_made(0.6, within=0.99, across=0.99), True),
        (_made(1.0), False),  # its own source, and a thumbnail is enough
        (_made(1.0, probe=0.85), False),  # its own source, no other to compare with: nothing can clear it
        (_made(1.0, probe=0.85, within=0.97), True),  # films of one source show that the source is not enough
        (_made(0.85), False),  # together in part, and no source with both sides
        (_made(1.0, probe=0.85, net=0.88), False),  # no more than a thumbnail's
        (_made(1.0, probe=0.85, within=0.60), False),
        (_made(1.0, held=0.98), True),  # a held-out source clears it
        (_made(1.0, probe=0.85, held=0.70), False),
        (_made(0.85, within=0.95), True),
        (_made(0.85, within=0.70), False),  # together in part, and within a source it falls
        (_made(0.85, held=0.70), False),
        (_made(0.5, held=0.70), True),  # a fall elsewhere that the source cannot explain is no shortcut
    ],
)
def test_the_source_rule(figures: dict[str, Any], passed: bool) -> None:
    line = shortcut_lines(figures)[0]
    assert line["name"] == "source, pneumonia"
    assert line["passed"] is passed
    assert line["wanted"] == line["limit"]


def test_what_was_not_measured_does_not_pass() -> None:
    figures = _made(0.5) | {"network": {}, "labels": {}, "edges": {}}
    assert [line["passed"] for line in shortcut_lines(figures)] == [False, False, False]


def test_pairs_within_and_across_sources() -> None:
    """Source b scores 10 higher, and holds most positives: across sources everything is right, within a source nothing."""
    y = np.array([1] * 10 + [0] * 30 + [1] * 30 + [0] * 10)
    source = np.array(["a"] * 40 + ["b"] * 40)
    rng = np.random.default_rng(0)
    scores = rng.permutation(80) / 80 + np.where(source == "b", 10.0, 0.0)
    found = pair_figures(y, scores, source, np.arange(80).astype(str), bootstraps=20, seed=0)
    positive, negative = scores[y == 1], scores[y == 0]
    same = source[y == 1][:, None] == source[y == 0][None]
    right = positive[:, None] > negative[None]
    assert found["within"]["value"] == pytest.approx(right[same].mean(), abs=1e-12)
    assert found["across"]["value"] == pytest.approx(right[~same].mean(), abs=1e-12)
    one = pair_figures(y, scores, np.array(["a"] * 80), np.arange(80).astype(str), bootstraps=5, seed=0)
    assert "across" not in one


def test_an_exchanged_edge_is_a_donors(halves: tuple[Pixels, Pixels]) -> None:
    shown = halves[1]
    y, films = np.array(truth(shown)), np.array(shown.plain)
    films[:, 0, 0] = np.arange(len(films))  # names each film in its corner
    mask = edge_masks(64)["corners"]
    for other in (False, True):
        made = exchanged(films, y, mask, other=other, seed=3)
        donors = made[:, 0, 0]
        assert np.all((y[donors] != y) if other else (y[donors] == y))
        assert np.all(donors != np.arange(len(films)))
        np.testing.assert_array_equal(made[:, ~mask], films[:, ~mask])
        np.testing.assert_array_equal(made[:, mask], films[donors][:, mask])


def test_tables_and_joined_sets() -> None:
    films = [Film(f"a/{i}", "a", "", "normal", str(i)) for i in range(2)]
    films.append(Film("b/0", "b", "", "", "9", findings=(("hernia", 1), ("mass", 0))))
    films.append(Film("b/1", "b", "", "", "9", findings=(("hernia", 0),)))
    assert source_table(films) == {"a": {"normal": 2}, "b": {"hernia": 1, "none": 1}}
    both = joined([pixels(2), pixels(3, first=50)])
    assert both.plain.shape == (5, 64, 64)
    assert [f.path for f in both.films] == ["here/0.png", "here/1.png", "here/50.png", "here/51.png", "here/52.png"]
