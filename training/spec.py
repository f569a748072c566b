"""What every part of a recipe is: frozen, and closed to unknown keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(gt=0, lt=1)]


class Part(BaseModel):
    """A table of a recipe. Unknown keys are errors; defaults are filled in before the digest is taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)
