"""What the README and the conformance statement must say: settings, error codes, routes, and what the code reads and writes."""

from __future__ import annotations

import re

from app.api.policy import POLICIES
from app.cli.conformance import statement
from app.errors import ERROR_TABLE
from app.settings import PROJECT_ROOT, Settings
from benchmarks.readme import shown_default
from training.recipe import RECIPES, load_recipe

README = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")


def test_every_setting_stands_in_the_readme_with_its_default_and_sentence() -> None:
    rows = dict(re.findall(r"^\| `(CXR_\w+)` \| (.+?) \|$", README, re.MULTILINE))
    wanted = {
        f"CXR_{name.upper()}": f"`{shown_default(field.default)}` | {field.description}"
        for name, field in Settings.model_fields.items()
    }
    assert rows == wanted


def test_every_error_code_stands_in_the_readme_with_its_status() -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| (\d{3}) \|", README, re.MULTILINE))
    assert rows == {code: str(spec.status) for code, spec in ERROR_TABLE.items()}


def test_every_guarded_route_stands_in_the_readme() -> None:
    for method, path in POLICIES:
        assert f"`{method} {path}`" in README, f"{method} {path}"


def test_the_conformance_statement_is_what_the_code_says() -> None:
    """`cxr conformance > deploy/CONFORMANCE.md` brings it up to date."""
    assert (PROJECT_ROOT / "deploy" / "CONFORMANCE.md").read_text(encoding="utf-8") == statement()


def test_every_recipe_stands_in_the_readme_with_its_title() -> None:
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.+?) \|$", README, re.MULTILINE))
    for path in sorted(RECIPES.glob("*.toml")):
        assert rows.get(path.stem) == load_recipe(path.stem).title, "run `make readme`"
