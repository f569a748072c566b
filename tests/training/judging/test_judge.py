from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.training.phantom_data import TINY, film, write_data
from training.judging.judge import nih_clean, nih_films, plain_pixels, run_network, score, score_corrupted
from training.networks.network import build_network
from training.places import DEFAULT_DATA, Places
from training.recipe import Recipe, load_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "r.toml").write_text(TINY)
    return load_recipe(tmp_path / "r.toml")


def test_which_nih_labels_nobody_contradicts(recipe: Recipe, tmp_path: Path) -> None:
    cases = [  # label, rsna_class, google opacity, kept
        ("pneumonia", "Lung Opacity", "", True),
        ("pneumonia", "", "YES", True),
        ("pneumonia", "", "", False),
        ("pneumonia", "Normal", "", False),
        ("pneumonia", "No Lung Opacity / Not Normal", "", False),
        ("normal", "", "", True),
        ("normal", "Normal", "NO", True),
        ("normal", "Lung Opacity", "", False),
        ("normal", "", "YES", False),
        ("normal", "No Lung Opacity / Not Normal", "", False),
    ]
    films = [film(f"nih_chestxray14/{i}.jpg", label=case[0]) for i, case in enumerate(cases)]
    (tmp_path / "nih_chestxray14").mkdir()
    with (tmp_path / "nih_chestxray14" / "labels14.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "rsna_class", "google2019_airspace_opacity"))
        writer.writerows((f.path, case[1], case[2]) for f, case in zip(films, cases, strict=True))
    kept = nih_clean(films, recipe, Places(data=tmp_path))
    assert kept.tolist() == [case[3] for case in cases]


def test_logits_do_not_depend_on_the_batch(recipe: Recipe, tmp_path: Path) -> None:
    places = Places(data=write_data(tmp_path / "data", patients=4), cache=tmp_path / "cache")
    pixels = plain_pixels(nih_films(recipe, places), recipe, places)
    network = build_network(recipe.network, 1)
    many = np.repeat(pixels.plain, 4, axis=0)  # 48 films: two batches
    logits = run_network(network, many, 8.0)
    np.testing.assert_allclose(logits, np.repeat(run_network(network, pixels.plain, 8.0), 4), rtol=0, atol=1e-5)
    scored = score("nih", network, pixels, recipe)
    assert scored.labels.tolist() == [1, 0] * 6
    corrupted = list(score_corrupted(network, pixels, recipe, "fit"))
    assert len(corrupted) == 10  # five kinds at the two severities of the recipe
    assert len({s.name for s in corrupted}) == 10
    assert all(not np.array_equal(s.logits, scored.logits) for s in corrupted)


@pytest.mark.real_data
def test_the_real_nih_subset() -> None:
    if not DEFAULT_DATA.is_dir():
        pytest.skip("../shared/data is not here")
    recipe, places = load_recipe("pneumonia-resnet18"), Places()
    films = nih_films(recipe, places)
    kept = nih_clean(films, recipe, places)
    positive = np.array([f.label == "pneumonia" for f in films])
    assert len(films) == 884
    assert (int((kept & positive).sum()), int((kept & ~positive).sum())) == (99, 411)
