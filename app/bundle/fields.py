"""What all parts of a manifest are made of: their base class and the plain types of their fields."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Axis = Annotated[int, Field(ge=1, le=8192)]


class BundleModel(BaseModel):
    """Unknown keys are errors; nothing changes after construction."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)
