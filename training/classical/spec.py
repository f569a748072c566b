"""The `[classical]` table of a recipe: the baselines without a network that stand beside it on the leaderboard."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from training.spec import Part

Model = Literal["hog-logistic", "hog-mlp", "hog-forest", "hog-boosting", "thumbnail-logistic"]


class HogPart(Part):
    """Histograms of oriented gradients (Dalal and Triggs 2005). Lengths in px of the film resized to `size`.

    cell: side of a cell; block: side of a block in cells, blocks overlap by all but one cell; bins: orientations over 180 degrees.
    """

    size: int = Field(default=128, ge=16)
    cell: int = Field(default=16, ge=4)
    block: int = Field(default=2, ge=1)
    bins: int = Field(default=9, ge=2)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.size % self.cell or self.size // self.cell < self.block:
            raise ValueError("hog: size must be a multiple of cell and hold at least one block")
        return self


class ClassicalPart(Part):
    """models: what is fitted; `thumbnail-logistic` sees 32 x 32 px thumbnails, which hold no lung texture: what it reaches is reached
    without it. seed: of the models that draw."""

    features: HogPart = HogPart()
    models: tuple[Model, ...] = Field(
        default=("hog-logistic", "hog-mlp", "hog-forest", "hog-boosting", "thumbnail-logistic"), min_length=1
    )
    seed: int = Field(default=0, ge=0)
