from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import ConfigurationError
from tests.training.phantom_data import TINY
from training.recipe import Recipe, load_recipe


def _load(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "r.toml"
    path.write_text(text)
    return load_recipe(path)


def test_the_shipped_recipe_loads_by_name() -> None:
    recipe = load_recipe("pneumonia-resnet18")
    assert recipe.network.architecture == "resnet18"
    assert (recipe.input.size, recipe.input.channels, recipe.input.resize) == (224, 1, "stretch")
    assert recipe.run_name == f"pneumonia-resnet18-{recipe.digest[:8]}"


@pytest.mark.parametrize("place", ["", "[data]\n", "[training]\n", "[augmentation]\n", "[decision]\n"])
def test_an_unknown_key_is_an_error_and_named(tmp_path: Path, place: str) -> None:
    text = TINY.replace("[augmentation]\n", "")
    text = (
        f"colour = 1\n{text}"
        if not place
        else text.replace(place, f"{place}colour = 1\n")
        if place in text
        else (f"{text}{place}colour = 1\n")
    )
    with pytest.raises(ConfigurationError, match="colour") as caught:
        _load(tmp_path, text)
    assert caught.value.code == "invalid_recipe"


def test_the_digest_is_of_the_meaning_not_of_the_text(tmp_path: Path) -> None:
    spelled_out = TINY.replace("batch = 8", "# a remark\nweight_decay = 0.05\nbatch = 8")  # the default
    changed = TINY.replace("batch = 8", "weight_decay = 0.04\nbatch = 8")
    digest = _load(tmp_path, TINY).digest
    assert _load(tmp_path, spelled_out).digest == digest
    assert _load(tmp_path, changed).digest != digest


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('resize = "stretch"', 'resize = "pad"', "stretch"),
        ("size = 64 }]", "size = 48 }]", "last training stage"),
        ("channels = 1", "channels = 3", "one channel"),
        ("validation_each = 0.2", "validation_each = 1.5", "validation_each"),
    ],
)
def test_what_training_cannot_do_is_refused(tmp_path: Path, old: str, new: str, why: str) -> None:
    assert old in TINY
    with pytest.raises(ConfigurationError, match=why):
        _load(tmp_path, TINY.replace(old, new))


def test_broken_toml_and_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as broken:
        _load(tmp_path, "name = ")
    assert broken.value.code == "invalid_recipe"
    with pytest.raises(ConfigurationError, match="pneumonia-resnet18") as unknown:
        load_recipe("no-such-recipe")
    assert unknown.value.code == "unknown_recipe"


def test_stages_follow_each_other(tmp_path: Path) -> None:
    part = _load(tmp_path, TINY.replace("{ epochs = 1, size = 32 }", "{ epochs = 2, size = 32 }")).training
    assert part.epochs == 3
    assert [part.size_of(e) for e in range(3)] == [32, 32, 64]
    with pytest.raises(ValueError, match="beyond"):
        part.size_of(3)
