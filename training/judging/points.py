"""Operating points: the thresholds that a recipe asks for, derived on the fit-half of the validation.

    youden, max_f1, cost       the best threshold on all films together; multilabel: of each label
    sensitivity, specificity   the target must hold on every set by itself
    hierarchical               tuberculosis if its margin reaches its threshold, else the next class ..., else the fallback; each
                               threshold is the highest that reaches the class's target one against the rest (S1-26). A class that
                               stands later loses films to those before it, so its sensitivity under the rule can be lower: the
                               figures of a point (`training.judging.describe`) are those under the rule
    argmax                     no threshold
    conformal                  one threshold per class, on clean films: the guarantee is for films like them

"All films" are the clean fit-half and its copies under each corruption of the selection, all counting alike, if the recipe is
`robust`, else the clean fit-half alone; "every set" is each of them by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from app.bundle.manifest import Calibration, OperatingPoint
from app.errors import ConfigurationError
from training.judging import thresholds
from training.judging.conformal import ALWAYS, lac_threshold
from training.judging.figures import Judged
from training.judging.predict import class_margins, true_class
from training.judging.scored import Scored, mix
from training.judging.spec import (
    ArgmaxPoint,
    ConformalPoint,
    CostPoint,
    HierarchicalPoint,
    MaxF1Point,
    Point,
    SensitivityPoint,
    SpecificityPoint,
    YoudenPoint,
)
from training.judging.weighted import Floats, Labels
from training.recipe import Recipe

NEVER = 1e6  # a threshold above any margin: the label is never said
_LONGEST = 200  # characters of OperatingPoint.target

Threshold = Callable[[Labels, Floats], float]


@dataclass(frozen=True)
class Material:
    """What thresholds are derived from. together: all films in one set; each: the sets by themselves; clean: as they are."""

    together: Scored
    each: tuple[Scored, ...]
    clean: Scored
    calibration: Calibration
    classes: tuple[str, ...]
    words: str


def operating_points(
    recipe: Recipe, sets: Sequence[Scored], calibration: Calibration
) -> tuple[tuple[OperatingPoint, ...], tuple[str, ...]]:
    """The recipe's points, and notes on labels for which none could be derived.

    sets: of the fit-half, the clean one first, then each corruption. Raises ConfigurationError where a class has no films to derive a
    threshold from (multilabel: the label is then never said, and a note says so).
    """
    robust = recipe.decision.robust and len(sets) > 1
    material = Material(
        together=mix(sets) if robust else sets[0],
        each=tuple(sets) if robust else (sets[0],),
        clean=sets[0],
        calibration=calibration,
        classes=recipe.data.classes,
        words=f"fit-half of the validation, clean{' and under each corruption' if robust else ''}",
    )
    notes: list[str] = []
    points = tuple(_point(part, material, notes) for part in recipe.decision.points)
    return points, tuple(notes)


def _point(part: Point, material: Material, notes: list[str]) -> OperatingPoint:
    if isinstance(part, ArgmaxPoint):
        return OperatingPoint(name=part.name, rule="argmax", target="the class with the largest probability")
    if isinstance(part, HierarchicalPoint):
        return _hierarchical(part, material)
    if isinstance(part, ConformalPoint):
        return _conformal(part, material, notes)
    threshold, sets, pick, words = _plan(part, material)
    found = {}
    for k, name in enumerate(material.together.outputs):
        judged = [films.judged(material.calibration, k) for films in sets]
        thin = _thin(name, judged)
        if thin and material.together.task != "multilabel":
            raise ConfigurationError("one_class", f"operating point {part.name}: {thin}")
        if thin:
            notes.append(f"{part.name}: {name} is never said: {thin}")
        found[name] = NEVER if thin else pick([threshold(films.labels, films.margins) for films in judged])
    return OperatingPoint(
        name=part.name,
        rule="per_label" if material.together.task == "multilabel" else "threshold",
        target=f"{words} ({material.words})"[:_LONGEST],
        thresholds=found,
    )


def _plan(
    part: YoudenPoint | SensitivityPoint | SpecificityPoint | MaxF1Point | CostPoint, material: Material
) -> tuple[Threshold, tuple[Scored, ...], Callable[[Sequence[float]], float], str]:
    """How one threshold is found, on which sets, how those of several sets become one, and all that in words."""
    together = (material.together,)
    if isinstance(part, SensitivityPoint):
        words = f"highest threshold with sensitivity >= {part.target:.2f} on each of them"
        return lambda y, m: thresholds.for_sensitivity(y, m, part.target), material.each, min, words
    if isinstance(part, SpecificityPoint):
        words = f"lowest threshold with specificity >= {part.target:.2f} on each of them"
        return lambda y, m: thresholds.for_specificity(y, m, part.target), material.each, max, words
    if isinstance(part, CostPoint):
        rate = "as found" if part.prevalence is None else f"{part.prevalence:g}"
        words = f"smallest cost, missed {part.missed:g} : false alarm {part.false_alarm:g}, prevalence {rate}"
        return (
            lambda y, m: thresholds.least_cost(
                y, m, missed=part.missed, false_alarm=part.false_alarm, prevalence=part.prevalence
            ),
            together,
            min,
            words,
        )
    if isinstance(part, MaxF1Point):
        return thresholds.max_f1, together, min, "largest F1 on all of them together"
    return thresholds.youden, together, min, "largest Youden J on all of them together"


def _thin(name: str, sets: Sequence[Judged]) -> str:
    """Why nothing can be derived for a label; empty where it can."""
    films = sets[0]
    positives = int(films.labels.sum())
    if 0 < positives < len(films):
        return ""
    return f"the fit-half holds {positives} films with {name} and {len(films) - positives} without"


def _hierarchical(part: HierarchicalPoint, material: Material) -> OperatingPoint:
    found = {}
    for name in part.priority:
        if name not in material.classes:
            raise ConfigurationError("unknown_class", f"operating point {part.name}: {name} is no class of the recipe")
        judged = material.together.judged(material.calibration, material.classes.index(name))
        if thin := _thin(name, [judged]):
            raise ConfigurationError("one_class", f"operating point {part.name}: {thin}")
        found[name] = thresholds.for_sensitivity(judged.labels, judged.margins, part.targets[name])
    wanted = ", ".join(f"{name} >= {part.targets[name]:.2f}" for name in part.priority)
    return OperatingPoint(
        name=part.name,
        rule="hierarchical",
        target=f"sensitivity one against the rest: {wanted} ({material.words})"[:_LONGEST],
        thresholds=found,
        priority=part.priority,
        fallback=part.fallback,
    )


def _conformal(part: ConformalPoint, material: Material, notes: list[str]) -> OperatingPoint:
    margins, truth = class_margins(material.clean, material.calibration), true_class(material.clean)
    found = {name: lac_threshold(margins[truth == k, k], part.coverage) for k, name in enumerate(material.classes)}
    for k, name in enumerate(material.classes):
        if found[name] == ALWAYS:
            films = int(np.sum(truth == k))
            notes.append(
                f"{part.name}: {name} is in every set: {films} films are too few for a coverage of {part.coverage}"
            )
    return OperatingPoint(
        name=part.name,
        rule="conformal",
        target=f"coverage >= {part.coverage:.2f} of each class, split conformal (LAC; clean fit-half of the validation)",
        thresholds=found,
    )
