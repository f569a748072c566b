"""Recipes as TOML, exactly."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ConfigurationError
from tests.training.tracking.made_runs import recipe
from training.recipe import RECIPES, load_recipe
from training.tracking.toml import recipe_toml, to_toml

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
LEAVES = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(TEXT, VALUES))
def test_what_is_written_reads_back_the_same(content: dict[str, object]) -> None:
    assert tomllib.loads(to_toml(content)) == content


@pytest.mark.parametrize("name", sorted(p.stem for p in RECIPES.glob("*.toml")))
def test_every_recipe_reads_back_the_same(name: str, tmp_path: Path) -> None:
    chosen = load_recipe(name)
    path = tmp_path / "again.toml"
    path.write_text(recipe_toml(chosen, ["said\nin one line"]), encoding="utf-8")
    again = load_recipe(path)
    assert (again.digest, again.title) == (chosen.digest, chosen.title)
    assert path.read_text().startswith("# said in one line\n")


def test_values_stand_before_tables() -> None:
    assert to_toml({"t": {"x": 1}, "a": 1.5e-05, "l": [{"k": "v"}]}) == 'a = 1.5e-05\nl = [{ k = "v" }]\n\n[t]\nx = 1\n'


def test_none_is_left_out() -> None:
    assert tomllib.loads(to_toml({"a": None, "b": {"c": None}, "l": [{"d": None}]})) == {"b": {}, "l": [{}]}


def test_a_none_that_is_no_default_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="TOML has no null"):
        recipe_toml(recipe(training__gradient_clip=None))


def test_what_toml_has_no_form_for() -> None:
    with pytest.raises(TypeError, match="set"):
        to_toml({"a": {1}})
