"""What another way to run a network costs: its logits, decisions and AUROC beside those of the reference, film by film."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.bundle.manifest import Calibration, Estimate, Manifest, OperatingPoint, VariantMeasured
from app.errors import ConfigurationError
from training.judging.calibrate import fit_calibrators
from training.judging.figures import paired_difference
from training.judging.points import operating_points
from training.judging.predict import Bools, decide_all
from training.judging.scored import Scored, mix
from training.recipe import Recipe


@dataclass(frozen=True)
class Deciding:
    """What turns logits into decisions."""

    calibration: Calibration
    points: tuple[OperatingPoint, ...]

    @classmethod
    def of(cls, manifest: Manifest) -> Deciding:
        """The manifest's own."""
        return cls(manifest.calibration, manifest.operating_points)

    @property
    def thresholds(self) -> dict[str, dict[str, float]]:
        """By operating point and class, margins."""
        return {point.name: dict(point.thresholds) for point in self.points}


def refitted(
    recipe: Recipe, manifest: Manifest, sets: Sequence[Scored], *, keep: Calibration | None = None
) -> Deciding:
    """Calibrator and thresholds fitted on other logits by the recipe's rules; which calibrator it is stays the bundle's choice.

    sets: of the fit-half, the clean one first, then each corruption. keep: a calibrator to take as it is; thresholds are fitted on its
    margins. Raises ConfigurationError: `no_calibrator` where the films do not bear it (a slope that is not positive, a flat curve),
    `one_class`.
    """
    method = manifest.calibration.method
    calibration = keep or fit_calibrators(mix(sets), (method,)).get(method)
    if calibration is None:
        raise ConfigurationError(
            "no_calibrator", f"{method} cannot be fitted on {len(sets[0])} films; take more of them"
        )
    points, _ = operating_points(recipe, sets, calibration)
    return Deciding(calibration, points)


def threshold_gap(a: Deciding, b: Deciding) -> float:
    """Largest difference of a threshold between two that have the same points and classes, margins."""
    first, second = a.thresholds, b.thresholds
    return max((abs(first[p][name] - second[p][name]) for p in first for name in first[p]), default=0.0)


def probability_gap(films: Scored, a: Calibration, b: Calibration) -> float:
    """Largest difference of a shown probability on the films."""
    return float(np.abs(films.probability(a) - films.probability(b)).max())


def beside(
    reference: Scored, variant: Scored, by: tuple[Deciding, Deciding], recipe: Recipe, data: str
) -> VariantMeasured:
    """The variant's figures on films that both have scored, each deciding by its own (reference first).

    data: what the films are, in words. A class whose films are all of one truth has no AUROC. Raises ConfigurationError: `no_figure`
    where none has.
    """
    shift = np.abs(variant.logits - reference.logits)
    own, other = by
    flips = {
        a.name: int(flipped(reference, variant, by, (a, b), recipe.data.classes).sum())
        for a, b in zip(own.points, other.points, strict=True)
    }
    change = _auroc_change(reference, variant, by, recipe)
    if not change:
        raise ConfigurationError("no_figure", f"no class has films of both truths among {len(reference)} films")
    return VariantMeasured(
        data=data,
        n=len(reference),
        logit_shift_max=float(shift.max()),
        logit_shift_mean=float(shift.mean()),
        flips=flips,
        auroc_change=change,
    )


def flipped(
    reference: Scored,
    variant: Scored,
    by: tuple[Deciding, Deciding],
    points: tuple[OperatingPoint, OperatingPoint],
    classes: Sequence[str],
) -> Bools:
    """Which films are answered differently at one operating point: another label, other findings or another prediction set. bool [N]."""
    a = decide_all(reference, by[0].calibration, points[0], classes)
    b = decide_all(variant, by[1].calibration, points[1], classes)
    differs = (a.labels != b.labels) | (a.answers != b.answers).any(axis=1)
    if a.held is not None and b.held is not None:
        differs |= (a.held != b.held).any(axis=1)
    return np.asarray(differs, dtype=np.bool_)


def _auroc_change(
    reference: Scored, variant: Scored, by: tuple[Deciding, Deciding], recipe: Recipe
) -> dict[str, Estimate]:
    """AUROC of the variant less that of the reference, by class; both resampled alike, by patients."""
    calibrations = (by[1].calibration, by[0].calibration)
    found = {}
    for k, name in enumerate(reference.outputs):
        known = reference.targets[np.isfinite(reference.targets[:, k]), k]
        if len(np.unique(known)) == 2:
            found[name] = paired_difference(
                variant,
                reference,
                f"{name}/auroc",
                calibrations=calibrations,
                bootstraps=recipe.decision.bootstraps,
                seed=recipe.seed,
            )
    return found
