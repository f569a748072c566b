"""What every part of a recipe is: frozen, and closed to unknown keys; and what of an input specification names runs and caches."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app.bundle.input_spec import InputSpec

Share = Annotated[float, Field(gt=0, lt=1)]


class Part(BaseModel):
    """A table of a recipe. Unknown keys are errors; defaults are filled in before the digest is taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def input_content(spec: InputSpec) -> dict[str, Any]:
    """What digests of recipes and keys of caches take from an input specification, JSON.

    `reduced_decode` counts only where it is set: runs and caches made before there was such a thing keep their names.
    """
    content = spec.model_dump(mode="json")
    if not spec.reduced_decode:
        del content["reduced_decode"]
    return content
