"""What turns a run's logits into decisions: calibration, operating points, review margin, quality limits.

Everything here is fixed from the validation halves and the training films before the test split is opened:

- calibrators are fitted on the fit-half and chosen on the report-half (`training.judging.calibrate`);
- thresholds are derived on the fit-half (`training.judging.points`); where the recipe is robust, a sensitivity or specificity target
  must hold under every single corruption, so that `rule-in` stays a strict point where films are exposed or framed unlike the
  films at hand;
- the borderline margin is a quantile of the clean report-half's distances to the default point's nearest threshold;
- quality limits are percentiles of the training films' gray levels.

A half enters the calibration as a mix: every film clean and under every corruption of the hard validation, all counting alike,
because the films to come are exposed differently from the films at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from app.bundle.manifest import Calibration, OperatingPoint, QualityRule, ReviewRule
from app.domain import InputStatistics
from training.judging.calibrate import Candidate, choose, fit_calibrators
from training.judging.judge import CLEAN
from training.judging.points import operating_points
from training.judging.predict import decide_all
from training.judging.scored import Scored, mix
from training.judging.spec import Calibrator
from training.recipe import Recipe

UNDER, OVER = 0.5, 99.5  # percentiles of the training films outside which a film's quality is doubted


class Fixed(BaseModel):
    """The decision part of the manifest to be, as stored in a run's decision.json.

    candidates: every calibrator with its figures on the report-half. notes: labels for which no threshold could be derived.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    calibration: Calibration
    calibration_chosen_by: str
    candidates: dict[Calibrator, Candidate]
    operating_points: tuple[OperatingPoint, ...]
    default_operating_point: str
    review: ReviewRule
    quality: QualityRule
    notes: tuple[str, ...] = ()

    def point(self, name: str) -> OperatingPoint:
        """Raises KeyError for an unknown name."""
        found = {point.name: point for point in self.operating_points}
        return found[name]

    def threshold(self, name: str) -> float:
        """The positive class's threshold at a point of a binary run, a margin."""
        return next(iter(self.point(name).thresholds.values()))


@dataclass(frozen=True)
class Halves:
    """Both halves of the validation: lists of sets, the clean one first, then one per corruption and severity."""

    fit: Sequence[Scored]
    report: Sequence[Scored]


def fix(recipe: Recipe, halves: Halves, statistics: Sequence[InputStatistics]) -> Fixed:
    """Everything that decides, from the validation halves and the training films' `statistics`."""
    part = recipe.decision
    candidates = fit_calibrators(mix(halves.fit), part.calibrators)
    choice = choose(
        candidates, mix(halves.report), by=part.calibrator_score, bootstraps=part.bootstraps, seed=recipe.seed
    )
    points, notes = operating_points(recipe, halves.fit, choice.calibration)
    default = next(p for p in points if p.name == part.default_operating_point)
    clean = next(s for s in halves.report if s.name == CLEAN)
    gap = decide_all(clean, choice.calibration, default, recipe.data.classes).gap
    means, stds = (np.array([getattr(s, name) for s in statistics]) for name in ("mean", "std"))
    return Fixed(
        calibration=choice.calibration,
        calibration_chosen_by=f"{choice.why}; fitted on the fit-half, compared on the report-half, both clean and corrupted",
        candidates=choice.candidates,
        operating_points=points,
        default_operating_point=default.name,
        review=ReviewRule(borderline_margin=float(np.quantile(gap, part.borderline_share))),
        quality=QualityRule(
            under_exposed_mean_below=float(np.percentile(means, UNDER)),
            over_exposed_mean_above=float(np.percentile(means, OVER)),
            low_contrast_std_below=float(np.percentile(stds, UNDER)),
        ),
        notes=notes,
    )
