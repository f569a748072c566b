"""The thumbnail classifier as if it were a run: a linear model on 32 x 32 px, calibrated and thresholded by the same recipe on the same
half, and described on the same films. What it reaches can be had without seeing a lung sharply, and stands beside the network's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from app.bundle.manifest import NoCalibration, QualityRule, ReviewRule
from training.data.cache import Pixels
from training.data.targets import targets
from training.judging.answers import Figure, Index, Rule, answer, intervals
from training.judging.calibrate import choose, fit_calibrators
from training.judging.decide import Fixed
from training.judging.describe import describe
from training.judging.judge import scored_films
from training.judging.points import operating_points
from training.judging.predict import true_class
from training.judging.probes import REGULARISATION, fitted, thumbnails
from training.judging.scored import Scored
from training.recipe import Recipe

NAME = "linear classifier on 32 x 32 thumbnails"
Floats = NDArray[np.float64]
SURE = 1e3  # logits are kept within this


@dataclass(frozen=True)
class Baseline:
    """The classifier and its decisions. logits: thumbnails [N, 1024] -> float64 [N, K]."""

    logits: Callable[[Floats], Floats]
    fixed: Fixed

    def score(self, name: str, pixels: Pixels, recipe: Recipe) -> Scored:
        return scored_films(name, pixels.films, self.logits(thumbnails(pixels)), recipe)


def fit_baseline(train: Pixels, fit: Pixels, report: Pixels, recipe: Recipe) -> Baseline:
    """Fitted on the training films; calibrator and points from the clean halves as the recipe says. Raises as `operating_points` does."""
    logits = _classifier(thumbnails(train), targets(train.films, recipe.data).astype(np.float64), recipe)
    part = recipe.decision
    halves = [scored_films(n, p.films, logits(thumbnails(p)), recipe) for n, p in (("fit", fit), ("report", report))]
    candidates = fit_calibrators(halves[0], part.calibrators)
    choice = choose(
        candidates, halves[1], by=part.calibrator_score, bootstraps=min(200, part.bootstraps), seed=recipe.seed
    )
    points, notes = operating_points(recipe, halves[:1], choice.calibration)
    fixed = Fixed(
        calibration=choice.calibration,
        calibration_chosen_by=choice.why,
        candidates=choice.candidates,
        operating_points=points,
        default_operating_point=part.default_operating_point,
        review=ReviewRule(borderline_margin=0.0),
        quality=QualityRule(under_exposed_mean_below=0, over_exposed_mean_above=255, low_contrast_std_below=0),
        notes=notes,
    )
    return Baseline(logits, fixed)


def baseline_figures(
    baseline: Baseline, pixels: Pixels, network: Scored | None, run_fixed: Fixed, recipe: Recipe
) -> dict[str, Any]:
    """`describe` of the baseline on a set, and where the network's logits of the same films are given `matched`: its sensitivity per
    class at the network's own recall of the first class (`normal`), point by point."""
    scored = baseline.score("baseline", pixels, recipe)
    found = describe(recipe, baseline.fixed, scored)
    if network is not None and recipe.data.task != "multilabel":
        found["matched"] = {
            point.name: matched(scored, network, Rule(recipe.data.classes, run_fixed.calibration, point), recipe)
            for point in run_fixed.operating_points
        }
    return found


def matched(baseline: Scored, network: Scored, rule: Rule, recipe: Recipe) -> dict[str, Any]:
    """At equal recall of the first class: a film counts as abnormal where the first class's margin is lowest, exactly as many of the
    first class's films as the network calls abnormal being so called (fewer only where margins are equal). Of each other class, the
    share called abnormal by the baseline, and by the network (whatever class it names)."""
    answers, truth = answer(network, rule), true_class(network)
    first = _normal_margin(baseline)

    def figures(chosen: Index) -> dict[str, float]:
        decided, known, margin = answers.decided[chosen], truth[chosen], first[chosen]
        normal = known == 0
        if not normal.any():
            return {}
        recall = float(np.mean(decided[normal] == 0))
        alarms = int(np.sum(decided[normal] != 0))
        limit = float(np.append(np.sort(margin[normal]), np.inf)[alarms])
        found = {"recall": recall}
        for k, name in enumerate(rule.classes[1:], start=1):
            if (known == k).any():
                found[f"baseline|{name}"] = float(np.mean(margin[known == k] < limit))
                found[f"network|{name}"] = float(np.mean(decided[known == k] != 0))
        return found

    every = figures(np.arange(len(truth)))
    drawn: dict[str, Figure] = intervals(
        lambda chosen: dict.fromkeys(every, float("nan")) | figures(chosen),
        network.patients,
        bootstraps=min(200, recipe.decision.bootstraps),
        seed=recipe.seed,
    )
    result: dict[str, Any] = {"recall": drawn.pop("recall")} if "recall" in drawn else {}
    for key, value in drawn.items():
        who, name = key.split("|")
        result.setdefault(who, {})[name] = value
    return result


def _normal_margin(scored: Scored) -> Floats:
    margins = scored.margins(NoCalibration(method="none"))
    return -margins[:, 0] if scored.task == "binary" else margins[:, 0]


def _classifier(x: Floats, truth: Floats, recipe: Recipe) -> Callable[[Floats], Floats]:
    """Multinomial for multiclass, one regression per logit else; a label with one side only is never said."""
    if recipe.data.task == "multiclass":
        model = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=2000))
        model.fit(x, truth.argmax(axis=1))
        known = [int(k) for k in model.classes_]

        def multinomial(other: Floats) -> Floats:
            logits = np.full((len(other), truth.shape[1]), -SURE)
            scores = np.asarray(model.decision_function(other), dtype=np.float64)
            logits[:, known] = np.stack([-scores / 2, scores / 2], axis=1) if scores.ndim == 1 else scores
            return logits

        return multinomial
    scores = fitted(x, truth)
    return lambda other: np.nan_to_num(scores(other), nan=-SURE)
