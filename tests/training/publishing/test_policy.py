from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import ConfigurationError
from training.publishing import policy
from training.publishing.policy import POLICIES, STATEMENTS, load_policy, parse_policy
from training.recipe import RECIPES, load_recipe

NAMES = sorted(p.stem for p in POLICIES.glob("*.toml") if p.stem != STATEMENTS)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_policy_is_complete(name: str) -> None:
    found = load_policy(name)
    assert found.name == name
    assert found.card
    assert all(found.statements.model_dump().values()), "a statement is blank"
    assert name == "demonstration" or found.shortcuts


def test_every_recipe_names_a_policy_that_is_there() -> None:
    for path in RECIPES.glob("*.toml"):
        assert load_recipe(path).policy in NAMES


def test_research_is_not_for_service_and_default_is() -> None:
    assert load_policy("research").research_only
    assert load_policy("demonstration").research_only
    assert not load_policy("default").research_only


@pytest.mark.parametrize(
    "content",
    [
        {"name": "p", "title": "", "minimal": 1},
        {"name": "p", "title": "", "minimum": [{"figure": "auroc", "at_least": 0.9, "above": 1}]},
        {"name": "p", "title": "", "minimum": [{"figure": "accuracy", "at_least": 0.9}]},
        {"name": "p", "title": "", "minimum": [{"figure": "auroc", "at_least": 90}]},
        {"name": "p", "title": "", "statements": {"develper": "x"}},
    ],
)
def test_an_unknown_key_or_value_is_an_error(content: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="invalid_policy"):
        parse_policy(content, "p.toml")


def test_the_digest_is_that_of_the_meaning() -> None:
    short = parse_policy({"name": "p", "title": ""}, "p")
    spelled = parse_policy({"title": "", "name": "p", "shortcuts": True}, "p")
    other = parse_policy({"name": "p", "title": "", "shortcuts": False}, "p")
    assert short.digest == spelled.digest != other.digest


def test_files_that_do_not_fit_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "POLICIES", tmp_path)
    (tmp_path / "mine.toml").write_text('name = "other"\ntitle = ""\n')
    (tmp_path / "broken.toml").write_text("name = \n")
    (tmp_path / "statements.toml").write_text('developer = "us"\n')
    with pytest.raises(ConfigurationError, match="calls itself 'other'"):
        load_policy("mine")
    with pytest.raises(ConfigurationError, match=r"broken\.toml"):
        load_policy("broken")
    for name in ("nowhere", STATEMENTS):
        with pytest.raises(ConfigurationError, match=r"there are: broken, mine$"):
            load_policy(name)


def test_statements_are_the_folders_or_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "POLICIES", tmp_path)
    (tmp_path / "statements.toml").write_text('developer = "us"\n')
    (tmp_path / "a.toml").write_text('name = "a"\ntitle = ""\n')
    (tmp_path / "b.toml").write_text('name = "b"\ntitle = ""\n[statements]\nfunding = "none"\n')
    assert load_policy("a").statements.developer == "us"
    assert load_policy("b").statements.developer == ""
