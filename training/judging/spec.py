"""The `[decision]` and `[evaluation]` tables of a recipe: how a run is judged and how its answers are decided."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from app.bundle.manifest import ClassName, Name
from training.data.spec import Source
from training.judging.corruptions import SEVERITIES
from training.spec import Part, Share

Calibrator = Literal["none", "temperature", "vector_temperature", "platt", "isotonic"]


class YoudenPoint(Part):
    """Largest sensitivity + specificity - 1 (Youden 1950). Binary: of the positive class; multilabel: of each label."""

    kind: Literal["youden"] = "youden"
    name: Name = "screening"


class SensitivityPoint(Part):
    """The highest threshold that reaches the sensitivity (binary; multilabel: per label)."""

    kind: Literal["sensitivity"] = "sensitivity"
    name: Name
    target: Share = 0.90


class SpecificityPoint(Part):
    """The lowest threshold that reaches the specificity (binary; multilabel: per label)."""

    kind: Literal["specificity"] = "specificity"
    name: Name
    target: Share = 0.90


class MaxF1Point(Part):
    """The threshold with the largest F1, per label."""

    kind: Literal["max_f1"] = "max_f1"
    name: Name = "max-f1"


class CostPoint(Part):
    """The threshold with the smallest cost: missed * misses + false_alarm * false alarms, at the prevalence of the fit-half or at
    `prevalence`."""

    kind: Literal["cost"] = "cost"
    name: Name = "cost"
    missed: float = Field(gt=0)
    false_alarm: float = Field(gt=0)
    prevalence: Share | None = None


class ArgmaxPoint(Part):
    """The class with the largest probability (multiclass)."""

    kind: Literal["argmax"] = "argmax"
    name: Name = "argmax"


class HierarchicalPoint(Part):
    """Risk-prioritised (S1-26..29): first class in `priority` whose margin reaches its threshold, else `fallback` (multiclass).

    targets: sensitivity wanted per class of `priority`, measured one against the rest.
    """

    kind: Literal["hierarchical"] = "hierarchical"
    name: Name = "risk-prioritised"
    priority: tuple[ClassName, ...]
    fallback: ClassName
    targets: dict[ClassName, Share]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if set(self.targets) != set(self.priority):
            raise ValueError("a hierarchical point needs one target sensitivity per class of its priority order")
        if len(set(self.priority)) != len(self.priority) or self.fallback in self.priority:
            raise ValueError(f"operating point {self.name}: priority and fallback name each class once")
        return self


class ConformalPoint(Part):
    """Split-conformal prediction sets (Vovk; LAC score 1 - p of the true class, class-conditional quantiles) with this coverage
    (binary, multiclass)."""

    kind: Literal["conformal"] = "conformal"
    name: Name = "conformal"
    coverage: Share = 0.90


Point = Annotated[
    YoudenPoint
    | SensitivityPoint
    | SpecificityPoint
    | MaxF1Point
    | CostPoint
    | ArgmaxPoint
    | HierarchicalPoint
    | ConformalPoint,
    Field(discriminator="kind"),
]


class DecisionPart(Part):
    """How the shown probability and the operating points are made from the fit-half of the validation.

    calibrators: candidates, simple to complex; fitted on the fit-half, chosen on the report-half. robust: thresholds must hold under
    every corruption of the hard validation, not only on clean films. calibrator_score: the proper score that chooses.
    """

    calibrators: tuple[Calibrator, ...] = ("none", "temperature", "platt", "isotonic")
    calibrator_score: Literal["nll", "brier"] = "nll"
    points: tuple[Point, ...] = Field(min_length=1)
    default_operating_point: Name
    robust: bool = True
    borderline_share: Share = 0.10
    bootstraps: int = Field(default=1000, ge=20)

    @model_validator(mode="after")
    def _default_exists(self) -> Self:
        names = [point.name for point in self.points]
        if len(set(names)) != len(names) or self.default_operating_point not in names:
            raise ValueError("operating points need different names, the default one among them")
        return self


class ExternalSet(Part):
    """Films from elsewhere that the run is judged on and never trained, calibrated or chosen on, unless `selects`.

    selects: its AUROC (macro over the classes it has both sides of) is half of the selection figure. Its sources take no `limit`: every
    film counts.
    """

    name: Name
    sources: tuple[Source, ...] = Field(min_length=1)
    selects: bool = False

    @model_validator(mode="after")
    def _whole(self) -> Self:
        limited = [source.folder for source in self.sources if source.limit is not None]
        if limited:
            raise ValueError(
                f"external set {self.name}: {limited[0]} has a limit, which is for training films; choose films with `keep`"
            )
        return self


class EvaluationPart(Part):
    """The hard validation that chooses between runs, fixed before training, and what else is measured.

    severities: levels of every corruption of the selection (`training.judging.corruptions`); none: it is of clean films alone.
    external: sets from elsewhere.
    selection = mean (macro) AUROC over corruptions and severities of the validation, averaged with the selecting external sets' mean.
    tta: views whose mean logit is compared with the single view. explanations: films per class for the explanation checks, 0 = none.
    """

    severities: tuple[int, ...] = (1, 2, 3)
    external: tuple[ExternalSet, ...] = ()
    tta: bool = True
    explanations: int = Field(default=40, ge=0)

    @model_validator(mode="after")
    def _known_once(self) -> Self:
        strange = sorted(set(self.severities) - set(SEVERITIES))
        if strange:
            raise ValueError(f"severities {strange} are not among those of the corruptions, {list(SEVERITIES)}")
        if len(set(self.severities)) != len(self.severities):
            raise ValueError(f"a severity stands twice in {list(self.severities)}: its films would count twice")
        names = [part.name for part in self.external]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"external sets need different names; twice: {twice}")
        return self
