"""`make readme`: the parts of README.md that are made from code: settings, error codes, recipes, and the first request's real answer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from app.errors import ERROR_TABLE
from app.imaging.phantom import encode_jpeg, phantom
from app.settings import PROJECT_ROOT, Settings
from benchmarks.server import serving
from training.recipe import RECIPES, load_recipe

README = PROJECT_ROOT / "README.md"


def write_block(name: str, text: str, readme: Path = README) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: the markers are not there.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    content = readme.read_text(encoding="utf-8")
    if not pattern.search(content):
        raise ValueError(f"{readme.name} has no {begin} ... {end}")
    readme.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", content), encoding="utf-8")


def shown_default(value: object) -> str:
    """A setting's default as the table shows it: paths relative to the checkout, `-` for none."""
    return "-" if value is None else str(value).removeprefix(f"{PROJECT_ROOT}/")


def settings_table() -> str:
    rows = [
        f"| `CXR_{name.upper()}` | `{shown_default(field.default)}` | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| variable | default | what |", "|---|---|---|", *rows])


def errors_table() -> str:
    rows = [f"| `{code}` | {spec.status} | {spec.title} | {spec.detail} |" for code, spec in ERROR_TABLE.items()]
    return "\n".join(["| code | status | title | detail |", "|---|---|---|---|", *rows])


def recipes_table() -> str:
    recipes = [load_recipe(path.stem) for path in sorted(RECIPES.glob("*.toml"))]
    rows = [f"| `{recipe.name}` | {recipe.title} |" for recipe in recipes]
    return "\n".join(["| recipe | what it is |", "|---|---|", *rows])


def first_answer() -> str:
    """What `cxr phantom` and the README's curl really answer with the demo bundle (times and ids are this run's)."""
    film = encode_jpeg(phantom(1))
    with serving(bundle="phantom-demo/1.0.0") as server:
        key = server.key("technician")
        answer: dict[str, Any] = server.request(
            "POST", "/predict", key=key, body=film, Content_Type="image/jpeg"
        ).json()
    answer["timing_ms"] = {name: round(value, 1) for name, value in answer["timing_ms"].items()}
    return f"```json\n{json.dumps(answer, indent=2)}\n```"


def main() -> None:
    tables = {"settings": settings_table(), "errors": errors_table(), "recipes": recipes_table()}
    for name, text in (*tables.items(), ("first-answer", first_answer())):
        write_block(name, text)


if __name__ == "__main__":
    main()
