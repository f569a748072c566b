"""A recipe as the TOML that `load_recipe` reads: every value written exactly, defaults filled in.

Python's standard library reads TOML and does not write it. TOML has no null, so a value that is None is left out, which means the
default; `recipe_toml` reads its own text back and refuses a recipe that would come out another.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from app.errors import ConfigurationError
from training.recipe import Recipe, parse_recipe

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def recipe_toml(recipe: Recipe, remarks: Sequence[str] = ()) -> str:
    """The recipe without its `[search]`, after one comment line per remark.

    Raises ConfigurationError where TOML cannot say it (a None in the place of another default).
    """
    content = recipe.model_dump(mode="json", exclude={"search"})
    text = "".join(f"# {' '.join(line.split())}\n" for line in remarks) + to_toml(content)
    if parse_recipe(tomllib.loads(text), recipe.name).digest != recipe.digest:
        raise ConfigurationError(
            "not_in_toml", f"{recipe.name}: a value is None where the default is not; TOML has no null to say so"
        )
    return text


def to_toml(content: Mapping[str, Any]) -> str:
    """Tables, arrays, strings, numbers and booleans as TOML 1.0; None is left out. Reading it back gives an equal mapping.

    Tables within arrays are written inline. Raises TypeError for a value that TOML has no form for.
    """
    return "\n".join(_table(content, ())) + "\n"


def _table(content: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """Plain values first: after a [header] they would belong to that table."""
    kept = {key: value for key, value in content.items() if value is not None}
    inner = {key: value for key, value in kept.items() if isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in kept.items() if key not in inner]
    for key, value in inner.items():
        below = (*path, key)
        lines += ["", f"[{'.'.join(map(_key, below))}]", *_table(value, below)]
    return lines


def _key(text: str) -> str:
    return text if _BARE.fullmatch(text) else _string(text)


def _string(text: str) -> str:
    """A basic string. JSON's escapes are TOML's; DEL, which JSON leaves as it is, TOML does not allow."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)  # repr: the shortest text that reads back the same
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Mapping):
        pairs = (f"{_key(key)} = {_value(item)}" for key, item in value.items() if item is not None)
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    raise TypeError(f"TOML has no form for {type(value).__name__}")
