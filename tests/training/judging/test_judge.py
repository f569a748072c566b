from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from app.imaging.decode import decode
from app.preprocessing import prepare
from tests.training.phantom_data import TINY, TINY_MULTICLASS, TINY_MULTILABEL, film, write_data
from training.data.cache import LIMITS
from training.data.collect import collect
from training.data.splits import recipe_splits
from training.judging.judge import (
    SELECTION_KINDS,
    plain_pixels,
    score,
    score_corrupted,
    score_external,
    scored_films,
)
from training.judging.reading import reader, torch_reader
from training.networks.network import TriageNetwork, build_network
from training.places import DEFAULT_DATA, Places
from training.recipe import Recipe, load_recipe


def _recipe(text: str, folder: Path) -> Recipe:
    (folder / "r.toml").write_text(text)
    return load_recipe(folder / "r.toml")


def _network(recipe: Recipe, seed: int = 1) -> TriageNetwork:
    outputs = len(recipe.data.outputs)
    return build_network(recipe.network, outputs=outputs, channels=recipe.input.channels, seed=seed).eval()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    root = tmp_path_factory.mktemp("judge")
    return Places(data=write_data(root / "data", patients=4), cache=root / "cache")


@pytest.mark.parametrize(("text", "k"), [(TINY, 1), (TINY_MULTICLASS, 3), (TINY_MULTILABEL, 4)])
@pytest.mark.parametrize("by", ["engine", "torch"])
def test_logits_are_the_networks_own_on_the_services_input(
    text: str, k: int, by: str, places: Places, tmp_path: Path
) -> None:
    recipe = _recipe(text, tmp_path)
    pixels = plain_pixels(collect(recipe.data.sources, places.data, recipe.data)[:5], recipe, places)
    network = _network(recipe)
    read = {"engine": reader, "torch": torch_reader}[by](network, recipe)
    logits = read(pixels.plain).logits
    assert logits.shape == (5, k)
    assert logits.dtype == np.float64
    for shot, row in zip(pixels.films, logits, strict=True):
        prepared = prepare(decode((places.data / shot.path).read_bytes(), LIMITS), recipe.input)
        with torch.inference_mode():
            alone = network(torch.from_numpy(prepared.tensor.copy())[None])[0]
        np.testing.assert_allclose(row, alone[0].numpy(), atol=1e-5)
    assert read(pixels.plain[:0]).logits.shape == (0, k)


def test_logits_do_not_depend_on_the_batch(places: Places, tmp_path: Path) -> None:
    recipe = _recipe(TINY, tmp_path)
    pixels = plain_pixels(collect(recipe.data.sources, places.data, recipe.data)[:16], recipe, places)
    read = reader(_network(recipe), recipe)
    many = np.repeat(pixels.plain, 3, axis=0)  # 48 films: two batches
    logits = read(many).logits
    np.testing.assert_allclose(logits, np.repeat(read(pixels.plain).logits, 3, axis=0), rtol=0, atol=1e-5)
    scored = score("x", read, pixels, recipe)
    corrupted = list(score_corrupted(read, pixels, recipe, "fit"))
    assert len(corrupted) == 2 * len(SELECTION_KINDS)  # the two severities of the recipe
    assert len({s.name for s in corrupted}) == len(corrupted)
    assert all(not np.array_equal(s.logits, scored.logits) for s in corrupted)


def test_the_corruptions_that_choose_between_runs_are_fixed() -> None:
    """Others may be measured; these five make the selection figure, and every figure ever reported."""
    assert SELECTION_KINDS == ("exposure", "contrast", "gamma", "crop", "blur")


def test_a_film_without_a_patient_is_a_patient_of_its_own(tmp_path: Path) -> None:
    recipe = _recipe(TINY, tmp_path)
    films = [film("a/1.png", patient=""), film("a/2.png", patient=""), film("b/3.png", patient="p", label="pneumonia")]
    scored = scored_films("x", films, np.zeros((3, 1)), recipe)
    assert scored.patients.tolist() == ["a/1.png", "a/2.png", "p"]
    assert scored.sources.tolist() == ["a", "a", "b"]
    assert scored.targets[:, 0].tolist() == [0.0, 0.0, 1.0]


def test_external_sets_share_logits_and_keep_their_films(places: Places, tmp_path: Path) -> None:
    recipe = _recipe(TINY, tmp_path)
    read = reader(_network(recipe), recipe)
    sets = score_external(read, recipe, places)
    assert list(sets) == ["nih-clean", "nih-all"]
    assert 0 < len(sets["nih-clean"]) < len(sets["nih-all"]) == 48
    row = {path: i for i, path in enumerate(sets["nih-all"].paths)}
    same = [row[path] for path in sets["nih-clean"].paths]
    np.testing.assert_array_equal(sets["nih-clean"].logits, sets["nih-all"].logits[same])
    films = collect(recipe.evaluation.external[0].sources, places.data, recipe.data)
    alone = score("alone", read, plain_pixels(films, recipe, places), recipe)
    np.testing.assert_allclose(alone.logits, sets["nih-clean"].logits, atol=1e-5)
    np.testing.assert_array_equal(alone.targets, sets["nih-clean"].targets)
    assert score_external(read, recipe.changed({"evaluation.external": []}), places) == {}


def test_held_out_sources_are_part_of_the_test_set_alone(places: Places, tmp_path: Path) -> None:
    recipe = _recipe(TINY_MULTICLASS, tmp_path)
    splits = recipe_splits(recipe, places)
    assert {f.folder for f in splits.test} == {"nih_chestxray14", "tbx11k", "rsna_normal"}
    scored = scored_films("test", splits.test, np.zeros((len(splits.test), 3)), recipe)
    assert scored.targets.sum() == len(splits.test)


@pytest.mark.real_data
def test_the_real_nih_subset() -> None:
    if not DEFAULT_DATA.is_dir():
        pytest.skip("../shared/data is not here")
    recipe, places = load_recipe("pneumonia-resnet18"), Places()
    sets = {part.name: collect(part.sources, places.data, recipe.data) for part in recipe.evaluation.external}
    positive = {name: sum(f.label == "pneumonia" for f in films) for name, films in sets.items()}
    assert (len(sets["nih-all"]), positive["nih-all"]) == (884, 439)
    assert (positive["nih-clean"], len(sets["nih-clean"]) - positive["nih-clean"]) == (99, 411)
