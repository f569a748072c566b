"""The `[search]` table of a recipe: which of its values a study may change."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from training.spec import Part


class FloatRange(Part):
    """A number in [low, high], drawn on a log scale if `log`."""

    kind: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False


class IntRange(Part):
    kind: Literal["int"] = "int"
    low: int
    high: int


class Choice(Part):
    kind: Literal["choice"] = "choice"
    values: tuple[str | int | float | bool, ...] = Field(min_length=1)


Range = Annotated[FloatRange | IntRange | Choice, Field(discriminator="kind")]


class SearchPart(Part):
    """space: dotted path into the recipe -> range ("training.learning_rate"). Each trial is a run of the changed recipe, judged by its
    selection figure; the sampler (TPE) is seeded with the recipe's seed. trials: in all, over every process that shares the storage."""

    trials: int = Field(default=15, ge=1)
    space: dict[str, Range] = Field(min_length=1)
    pruning: bool = True
