from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import ConfigurationError
from tests.training.phantom_data import TINY, TINY_MULTICLASS
from training.recipe import RECIPES, Recipe, load_recipe


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
        ('kind = "youden"', 'kind = "argmax"', "does not fit a binary recipe"),
        ("learning_rate = 3e-3", 'loss = { kind = "cross_entropy" }', "does not fit a binary recipe"),
        ("validation_each = 0.2", "validation_each = 1.5", "validation_each"),
        ("[training]", "frozen = true\nunfreezing = [{ epoch = 2 }]\n[training]", "unfreezing from epoch 2"),
    ],
)
def test_what_training_cannot_do_is_refused(tmp_path: Path, old: str, new: str, why: str) -> None:
    assert old in TINY
    with pytest.raises(ConfigurationError, match=why):
        _load(tmp_path, TINY.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('fallback = "normal"', 'fallback = "healthy"', "fallback 'healthy' are not the classes of the recipe"),
        (
            '["tuberculosis", "pneumonia"]\nfallback = "normal"\ntargets = { tuberculosis',
            '["tb", "pneumonia"]\nfallback = "normal"\ntargets = { tb',
            "are not the classes of the recipe",
        ),
        (
            '["tuberculosis", "pneumonia"]\nfallback = "normal"\ntargets = { tuberculosis = 0.90, pneumonia = 0.85 }',
            '["tuberculosis"]\nfallback = "normal"\ntargets = { tuberculosis = 0.90 }',
            "are not the classes of the recipe",
        ),
        ('["tuberculosis", "pneumonia"]', '["tuberculosis", "pneumonia", "tuberculosis"]', "name each class once"),
        ('fallback = "normal"', 'fallback = "pneumonia"', "name each class once"),
        ("targets = { tuberculosis", "targets = { tb", "one target sensitivity per class"),
    ],
)
def test_a_hierarchical_point_names_the_classes_of_the_recipe(tmp_path: Path, old: str, new: str, why: str) -> None:
    assert TINY_MULTICLASS.count(old) == 1
    with pytest.raises(ConfigurationError, match=why):
        _load(tmp_path, TINY_MULTICLASS.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("severities = [1, 3]", "severities = [1, 4]", r"severities \[4\] are not among"),
        ("severities = [1, 3]", "severities = [0]", r"severities \[0\] are not among"),
        ("severities = [1, 3]", "severities = [1, 1]", "a severity stands twice"),
        ('name = "nih-all"', 'name = "nih-clean"', r"different names; twice: \['nih-clean'\]"),
        (
            'folder = "nih_chestxray14" }',
            'folder = "nih_chestxray14", limit = 5 }',
            "nih-all: nih_chestxray14 has a limit",
        ),
        (
            'folder = "nih_chestxray14" }',
            'folder = "nih_chestxray14", labels = { ill = "pneumoni" } }',
            r"external set nih-all, nih_chestxray14: labels \['pneumoni'\]",
        ),
    ],
)
def test_what_judging_cannot_do_is_refused_before_the_fit(tmp_path: Path, old: str, new: str, why: str) -> None:
    assert TINY.count(old) == 1
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


def test_a_recipe_lies_over_its_base(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "child.toml").write_text(
        f'base = "{tmp_path}/tiny.toml"\nname = "child"\n[training]\nbatch = 4\n[augmentation]\nkind = "torchvision"\n'
    )
    base, child = load_recipe(tmp_path / "tiny.toml"), load_recipe(tmp_path / "child.toml")
    (tmp_path / "beside.toml").write_text('base = "tiny.toml"\nname = "beside"\n', encoding="utf-8-sig")
    assert load_recipe(tmp_path / "beside.toml").data == base.data
    assert child.training.batch == 4
    assert child.training.stages == base.training.stages
    assert child.data == base.data
    assert child.augmentation.kind == "torchvision"  # a table of another kind replaces, it does not mix
    (tmp_path / "child.toml").write_text(f'base = "{tmp_path}/child.toml"\nname = "child"\n')
    with pytest.raises(ConfigurationError, match="its own base"):
        load_recipe(tmp_path / "child.toml")


def test_a_gradient_that_is_not_clipped_can_be_said_in_toml(tmp_path: Path) -> None:
    assert _load(tmp_path, TINY).training.gradient_clip == 1.0
    assert _load(tmp_path, TINY.replace("batch = 8", "gradient_clip = 0\nbatch = 8")).training.gradient_clip is None


def test_values_are_changed_by_their_path(tmp_path: Path) -> None:
    recipe = _load(tmp_path, TINY)
    changed = recipe.changed({"training.stages.0.epochs": 3, "seed": 8, "data.sources.1.limit": 5})
    assert (changed.training.epochs, changed.seed, changed.data.sources[1].limit) == (4, 8, 5)
    assert changed.digest != recipe.digest
    for path in ("training.rate", "training.stages.7.epochs", "seed.what"):
        with pytest.raises(ConfigurationError, match="has no value"):
            recipe.changed({path: 1})


def test_what_does_not_shape_the_weights_is_not_in_the_digest(tmp_path: Path) -> None:
    recipe = _load(tmp_path, TINY)
    search = {"space": {"training.learning_rate": {"kind": "float", "low": 1e-4, "high": 1e-2}}}
    assert recipe.changed({"title": "another", "search": search}).digest == recipe.digest
    assert recipe.changed({"data.split_seed": 3}).digest != recipe.digest


def test_recipes_of_recorded_runs_keep_their_digests() -> None:
    """What recipes learned since must not send a finished run back to its start, or its line in the ledger into nowhere."""
    recorded = (RECIPES.parent / "reported.json").read_text(encoding="utf-8")
    s2 = load_recipe("s2-paediatric-resnet18")
    assert s2.run_name in recorded
    assert load_recipe("s4-nih14-efficientnet-b0").run_name in recorded
    assert s2.changed({"input.reduced_decode": True, "input.border_crop": None}).run_name not in recorded
