from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from app.imaging.phantom import _lungs, phantom
from tests.training.judging.made import pixels, scored, truth
from tests.training.phantom_data import TINY
from training.judging import explanations
from training.judging.explanations import (
    STEPS,
    Explained,
    changed_films,
    class_maps,
    explanation_report,
    faithfulness,
    groups_of,
    mass_figures,
)
from training.judging.lungs import lung_field
from training.judging.reading import reader
from training.networks.network import TriageNetwork, build_network
from training.recipe import Recipe, load_recipe

Gray = NDArray[np.uint8]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("recipe") / "r.toml"
    path.write_text(TINY)
    return load_recipe(path)


class _Bright(nn.Module):
    """Features: how far each of 8 x 8 cells is above 1.5 standard deviations of the film; and the same below -0.5."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        cells = nn.functional.avg_pool2d(image, 8)
        return torch.cat([torch.relu(cells - 1.5), torch.relu(-0.5 - cells)], dim=1)


def _bright_network(recipe: Recipe) -> TriageNetwork:
    """A network that says `pneumonia` where something is bright, in closed form."""
    network = build_network(recipe.network, outputs=1, channels=1, seed=0)
    network.body = _Bright()
    head = nn.Linear(2, 1)
    with torch.no_grad():
        head.weight[:] = torch.tensor([[30.0, -1.0]])
        head.bias[:] = -1.0
    network.head = head
    return network.eval()


def _spots(places: list[tuple[int, int]]) -> Gray:
    rng = np.random.default_rng(0)
    films = np.clip(90 + 12 * rng.standard_normal((len(places), 64, 64)), 0, 255).astype(np.uint8)
    for film, (row, column) in zip(films, places, strict=True):
        film[row : row + 8, column : column + 8] = 250
    return films


def _group(films: Gray) -> Explained:
    n = len(films)
    return Explained(
        "pneumonia", films, tuple(f"f{i}" for i in range(n)), np.array([f"p{i}" for i in range(n)]), 0, negated=False
    )


def test_mass_in_the_border_is_measured(recipe: Recipe) -> None:
    network = _bright_network(recipe)
    for places, low, high in (
        ([(0, 0), (0, 32), (56, 24)] * 3, 0.6, 1.0),
        ([(24, 24), (32, 16), (40, 32)] * 3, 0.0, 0.05),
    ):
        group = _group(_spots(places))
        found, share = mass_figures(group, class_maps(network, group, recipe), bootstraps=10, seed=0)
        assert low <= found["border"]["value"] <= high
        assert share.shape == (9,)
        assert found["border"]["ratio"] == pytest.approx(found["border"]["value"] / (1 - (52 / 64) ** 2))
        assert found["outside_lung"]["usable"] <= 2  # noise is no lung, or hardly ever


def test_mass_outside_the_lungs_is_measured(recipe: Recipe) -> None:
    part = pixels(6, size=128)
    group = _group(np.array(part.plain))
    masks = [lung_field(film) for film in group.films]
    assert all(mask is not None for mask in masks)
    inside = np.stack([np.asarray(m, dtype=np.float32) for m in masks])
    found, _ = mass_figures(group, inside, bootstraps=10, seed=0)
    assert found["outside_lung"]["value"] == 0.0
    found, _ = mass_figures(group, 1 - inside, bootstraps=10, seed=0)
    assert found["outside_lung"]["value"] == 1.0
    assert found["outside_lung"]["usable"] == 6
    even, _ = mass_figures(group, np.ones_like(inside), bootstraps=10, seed=0)
    assert even["outside_lung"]["ratio"] == pytest.approx(1.0, abs=1e-6)


def test_the_series_delete_and_show_the_hottest_first() -> None:
    film = _spots([(24, 24)])[0]
    heat = np.zeros((8, 8), np.float32)
    heat[3, 3] = 1.0
    deleted, shown = changed_films(film, heat)
    assert deleted.shape == shown.shape == (STEPS + 1, 64, 64)
    np.testing.assert_array_equal(deleted[0], film)
    np.testing.assert_array_equal(shown[-1], film)
    np.testing.assert_array_equal(deleted[-1], shown[0])
    np.testing.assert_array_equal(shown[1][28, 28], film[28, 28])
    assert deleted[1][28, 28] < 150 < film[28, 28]
    np.testing.assert_array_equal(deleted[1][0], film[0])


def test_a_true_map_beats_random_ones_and_a_false_one_does_not(recipe: Recipe) -> None:
    network = _bright_network(recipe)
    group = _group(_spots([(24, 24), (32, 16), (40, 32), (16, 40)] * 2))
    maps = class_maps(network, group, recipe)
    read = reader(network, recipe)
    good = faithfulness(group, maps, read, "binary", bootstraps=20, seed=0)
    assert good["deletion_gain"]["ci"][0] > 0
    assert good["insertion_gain"]["ci"][0] > 0
    bad = faithfulness(group, 1 - maps, read, "binary", bootstraps=20, seed=0)
    assert bad["deletion_gain"]["value"] < 0
    assert bad["insertion_gain"]["value"] < 0


def test_maps_that_do_not_depend_on_the_weights_are_found(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    network = _bright_network(recipe)
    group = _group(_spots([(24, 24), (0, 16), (40, 32), (16, 40)]))
    read = reader(network, recipe)
    honest = explanation_report(network, recipe, read, [group], bootstraps=20)
    assert honest["randomisation"]["passed"]
    assert honest["randomisation"]["limit"] == 0.5
    assert set(honest["border_mass"]) == {"value", "ci"}
    monkeypatch.setattr(explanations, "build_network", lambda *args, **more: network)  # "re-initialised", and the same
    stuck = explanation_report(network, recipe, read, [group], bootstraps=20)
    assert stuck["randomisation"]["value"] == pytest.approx(1.0)
    assert not stuck["randomisation"]["passed"]
    assert "maps stay alike when the weights are randomised" in stuck["warnings"]


def test_films_without_evidence_are_counted(recipe: Recipe) -> None:
    network = _bright_network(recipe)
    flat = np.full((3, 64, 64), 90, np.uint8)
    report = explanation_report(network, recipe, reader(network, recipe), [_group(flat)], bootstraps=5)
    assert report["classes"]["pneumonia"] == {"n": 3, "without_evidence": 3}
    assert "border_mass" not in report


def test_groups_are_the_true_class(recipe: Recipe) -> None:
    part = pixels(10)
    films = scored(np.zeros(10), truth(part))
    negative, positive = groups_of(recipe, part.plain, films, 3)
    assert (negative.name, negative.negated, len(negative.films)) == ("normal", True, 3)
    assert (positive.name, positive.negated) == ("pneumonia", False)
    assert all(int(path.split("/")[1].removesuffix(".png")) % 2 for path in positive.paths)
    assert groups_of(recipe, part.plain, replace(films, targets=np.zeros((10, 1))), 3)[0].name == "normal"


def test_the_lung_field_of_phantoms() -> None:
    """Against the phantom's own lungs: most of the estimate lies in them, and most of them is covered."""
    for seed in range(8):
        film = phantom(seed, height=256, width=224)
        mask = lung_field(film)
        assert mask is not None
        rng = np.random.default_rng(seed)
        y, x = np.meshgrid((np.arange(256) + 0.5) / 256, (np.arange(224) + 0.5) / 224, indexing="ij")
        shift = -0.02 + 0.04 * float(rng.random())
        rng.random()  # the body's width
        lungs = _lungs(rng, x - 0.5 - shift, y)[0] > 0.5
        assert (mask & lungs).sum() / mask.sum() > 0.75
        assert (mask & lungs).sum() / lungs.sum() > 0.5


def _air_beside_a_body() -> Gray:
    """Two dark upright strips of a lung's size that reach the film's frame."""
    film = np.full((128, 128), 160, np.uint8)
    film[20:108, :20] = film[20:108, 108:] = 20
    return film


@pytest.mark.parametrize(
    "film",
    [
        np.zeros((64, 64), np.uint8),
        np.full((64, 64), 255, np.uint8),
        np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1)),
        _air_beside_a_body(),
    ],
)
def test_no_lungs_no_field(film: Gray) -> None:
    assert lung_field(film) is None
