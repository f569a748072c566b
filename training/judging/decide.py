"""What turns a run's logits into decisions: calibration, operating points, review margin, quality limits.

Everything here is fixed from the validation halves and the training films before the test split is opened:

- calibrators are fitted on the fit-half and chosen on the report-half (`training.judging.calibrate`);
- thresholds are derived on the fit-half; a sensitivity or specificity target must hold under every single corruption, so that
  `rule-in` stays a strict point where films are exposed or framed unlike the films at hand;
- the borderline margin is a quantile of the report-half's distances to the default threshold;
- quality limits are percentiles of the training films' gray levels.

Where nothing else is said a half enters as a mix: every film clean and under every corruption of the hard validation, all
counting alike, because the films to come are exposed differently from the films at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from app.bundle.manifest import Calibration, OperatingPoint, QualityRule, ReviewRule
from app.domain import InputStatistics
from training.judging.calibrate import choose, fit_calibrators
from training.judging.figures import Judged
from training.judging.judge import CLEAN, Scored
from training.judging.thresholds import for_sensitivity, for_specificity, youden
from training.recipe import Recipe

UNDER, OVER = 0.5, 99.5  # percentiles of the training films outside which a film's quality is doubted


class Fixed(BaseModel):
    """The decision part of the manifest to be, as stored in a run's decision.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calibration: Calibration
    calibration_chosen_by: str
    candidates_nll: dict[str, float]
    operating_points: tuple[OperatingPoint, ...]
    default_operating_point: str
    review: ReviewRule
    quality: QualityRule

    def threshold(self, point: str) -> float:
        """The positive class's threshold, a margin."""
        return next(next(iter(p.thresholds.values())) for p in self.operating_points if p.name == point)


@dataclass(frozen=True)
class Halves:
    """Both halves of the validation: lists of sets, the clean one first, then one per corruption and severity."""

    fit: Sequence[Scored]
    report: Sequence[Scored]


def mix(sets: Sequence[Scored]) -> Scored:
    """All sets in one, films of the same patient kept recognisable."""
    return Scored(
        name="mix",
        labels=np.concatenate([s.labels for s in sets]),
        logits=np.concatenate([s.logits for s in sets]),
        patients=np.concatenate([s.patients for s in sets]),
        folders=np.concatenate([s.folders for s in sets]),
    )


def fix(recipe: Recipe, halves: Halves, statistics: Sequence[InputStatistics]) -> Fixed:
    """Everything that decides, from the validation halves and the training films' `statistics`."""
    part = recipe.decision
    fitting, reporting = mix(halves.fit), mix(halves.report)
    candidates = fit_calibrators(fitting.logits, fitting.labels)
    choice = choose(candidates, reporting, bootstraps=part.bootstraps, seed=recipe.seed)
    points = _points(recipe, [s.judged(choice.calibration) for s in (fitting, *halves.fit)])
    default = next(p for p in points if p.name == part.default_operating_point)
    clean = next(s for s in halves.report if s.name == CLEAN).judged(choice.calibration)
    distance = np.abs(clean.margins - default.thresholds[recipe.data.positive])
    means, stds = (np.array([getattr(s, name) for s in statistics]) for name in ("mean", "std"))
    return Fixed(
        calibration=choice.calibration,
        calibration_chosen_by=f"{choice.why}; fitted on the fit-half, compared on the report-half, both clean and corrupted",
        candidates_nll=choice.scores,
        operating_points=points,
        default_operating_point=default.name,
        review=ReviewRule(borderline_margin=float(np.quantile(distance, part.borderline_share))),
        quality=QualityRule(
            under_exposed_mean_below=float(np.percentile(means, UNDER)),
            over_exposed_mean_above=float(np.percentile(means, OVER)),
            low_contrast_std_below=float(np.percentile(stds, UNDER)),
        ),
    )


def _points(recipe: Recipe, sets: Sequence[Judged]) -> tuple[OperatingPoint, ...]:
    """`sets`: the mix, then clean and each corruption by itself, all of the fit-half."""
    part, positive = recipe.decision, recipe.data.positive
    everything, *single = sets
    sensitive = min(for_sensitivity(s.labels, s.margins, part.sensitivity_target) for s in single)
    specific = max(for_specificity(s.labels, s.margins, part.specificity_target) for s in single)
    found = (
        ("screening", "largest Youden J on all of them together", youden(everything.labels, everything.margins)),
        (
            f"sensitivity-{round(100 * part.sensitivity_target)}",
            f"highest threshold with sensitivity >= {part.sensitivity_target:.2f} on each of them",
            sensitive,
        ),
        ("rule-in", f"lowest threshold with specificity >= {part.specificity_target:.2f} on each of them", specific),
    )
    return tuple(
        OperatingPoint(
            name=name,
            rule="threshold",
            target=f"{target} (fit-half of the validation, clean and under each corruption)",
            thresholds={positive: threshold},
        )
        for name, target, threshold in found
    )
