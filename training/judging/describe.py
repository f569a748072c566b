"""Every figure of one set of films, with its interval, as JSON.

    {"n", "patients",
     "classes": {class: {"n", "positives", "scores": {figure: estimate}, "uncalibrated": {figure: number}}},
     "macro":   {figure: estimate},            means over the classes that have a value
     "joint":   {figure: estimate},            of the whole distribution over the classes (not multilabel)
     "calibration": {figure: {"before", "after", "difference": estimate}},
     "points":  {point: {"classes": {class: {figure: estimate}}, "overall": {figure: estimate}, "confusion", ...}}}

An estimate is {"value", "ci": [low, high] or null}; a figure that cannot be computed is absent. All intervals are 95 % percentile
intervals over the same resampled patients, so that differences are paired. No resample of a rate of 0 or 1 differs from it: there the
interval is the exact one (Clopper & Pearson 1934) for as many draws as there are patients in the rate's denominator.

`classes` and `macro` are one against the rest, on the shown probabilities. `joint` is of the probabilities divided by their sum
(softmax; Platt and isotonic do not sum to one): brier = mean over films of the sum over classes of squared errors (Brier 1950, at
most 2), nll of the true class, ece_top_label of the highest probability against whether its class is the true one.

Under `points`, `classes` are all classes of the recipe, for binary the negative one too; `overall` is accuracy, balanced_accuracy (mean
sensitivity over the classes; multilabel: mean of sensitivity and specificity over the labels), macro_f1, and of more than two classes
macro_ppv and macro_sensitivity, means over those that have a value on the films as they are. Multilabel accuracy is the share of right
answers among all known pairs of film and label. A hierarchical point also has its `price`: recall of the fallback class, beside that of
argmax. A conformal point has coverage, mean_set_size, singleton_share, empty_share and `sets` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Calibration, Estimate, OperatingPoint
from training.judging import weighted
from training.judging.calibrate import NONE
from training.judging.conformal import named_sets, set_figures
from training.judging.decide import Fixed
from training.judging.figures import READ_OFF, SCORES, Replicated, class_scores, estimates
from training.judging.predict import Decided, decide_all, true_class
from training.judging.scored import Floats, Scored
from training.recipe import Recipe

INTERVALS = (
    "95 % percentile intervals over resampled patients; rates of 0 and 1: exact (Clopper-Pearson) for the number of patients; "
    "calibration errors: replicates moved to have the figure as their mean"
)
CALIBRATION = ("brier", "nll", "ece", "ece_equal_width")
_ARGMAX = OperatingPoint(name="argmax", rule="argmax", target="")


def describe(recipe: Recipe, fixed: Fixed, films: Scored) -> dict[str, Any]:
    """All figures of the set (module docstring)."""
    if not len(films):
        return {"n": 0, "patients": 0, "classes": {}, "macro": {}, "calibration": {}, "points": {}}
    names = (*SCORES, "ece_top_label", READ_OFF) if films.task == "binary" else SCORES
    parts = {} if films.task == "multilabel" else {"joint": joint_scores(films, fixed.calibration)}
    decided = {p.name: decide_all(films, fixed.calibration, p, recipe.data.classes) for p in fixed.operating_points}
    for point in fixed.operating_points:
        parts[f"point {point.name}"] = _point_figures(films, fixed, point, decided[point.name])
    found = _all_estimates(_scores(films, fixed.calibration, names), parts, films, recipe)
    raw = class_scores(films, NONE, names)(np.ones((1, len(films))))
    plain = {key: float(value[0]) for key, value in raw.items()}
    shown = _nested(found["scores"], "/")
    return {
        "n": len(films),
        "patients": len(np.unique(films.patients)),
        "classes": {
            name: {
                **_counts(films, k),
                "scores": shown.get(name, {}),
                "uncalibrated": {
                    n: plain[f"{name}/{n}"] for n in names if np.isfinite(plain.get(f"{name}/{n}", np.nan))
                },
            }
            for k, name in enumerate(films.outputs)
        },
        "macro": shown.get("macro", {}),
        "joint": _nested(found.get("joint", {}), "/").get("joint", {}),
        "calibration": _nested(found["calibration"], "|"),
        "points": {p.name: _point(films, p, decided[p.name], found[f"point {p.name}"]) for p in fixed.operating_points},
    }


def joint_scores(films: Scored, calibration: Calibration) -> Replicated:
    """`joint/brier`, `joint/nll`, `joint/ece_top_label` and `joint/ece_top_label_equal_width` of films with one true class each."""
    p = films.probability(calibration)
    p = np.hstack([1 - p, p]) if films.task == "binary" else p
    p = p / np.maximum(p.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    truth = true_class(films)
    square = np.asarray(((p - np.eye(p.shape[1])[truth]) ** 2).sum(axis=1))
    loss = weighted.log_losses(np.ones(len(p), dtype=np.int64), p[np.arange(len(p)), truth])
    right, confidence = (np.argmax(p, axis=1) == truth).astype(np.int64), p.max(axis=1)
    return lambda weights: {
        "joint/brier": weighted.mean(weights, square),
        "joint/nll": weighted.mean(weights, loss),
        "joint/ece_top_label": weighted.ece_equal_mass(weights, right, confidence),
        "joint/ece_top_label_equal_width": weighted.ece_equal_width(weights, right, confidence),
    }


def _scores(films: Scored, calibration: Calibration, names: Sequence[str]) -> Replicated:
    """`scores :: ` figures of the classes; `calibration :: <figure>|before`, `|after` and `|difference`, after less before."""
    shown, raw = class_scores(films, calibration, names), class_scores(films, NONE, CALIBRATION)

    def figures(weights: Floats) -> dict[str, Floats]:
        new = shown(weights)
        old = new if calibration == NONE else raw(weights)
        found = {f"scores :: {name}": value for name, value in new.items()}
        for name in CALIBRATION:
            before, after = old[f"macro/{name}"], new[f"macro/{name}"]
            found |= {f"calibration :: {name}|before": before, f"calibration :: {name}|after": after}
            found[f"calibration :: {name}|difference"] = after - before
        return found

    return figures


def _point_figures(films: Scored, fixed: Fixed, point: OperatingPoint, decided: Decided) -> Replicated:
    """`<class>|<figure>` and `overall|<figure>`; of a hierarchical point also `price|<figure>`."""
    if decided.held is not None:
        return set_figures(decided.held, true_class(films), decided.classes)
    if films.task == "multilabel":
        return _label_figures(films, decided)
    if point.rule == "hierarchical":
        argmax = decide_all(films, fixed.calibration, _ARGMAX, decided.classes)
        return _joined(_class_figures(films, decided), _price(films, str(point.fallback), decided, argmax))
    return _class_figures(films, decided)


def _class_figures(films: Scored, decided: Decided) -> Replicated:
    """Of a rule that gives each film one label."""
    truth = true_class(films)
    right = decided.answers[np.arange(len(truth)), truth].astype(np.float64)

    def rates(weights: Floats) -> dict[str, dict[str, Floats]]:
        return {
            name: weighted.rates(**weighted.counts(weights, truth == k, decided.answers[:, k]))
            for k, name in enumerate(decided.classes)
        }

    mean = _means(rates(np.ones((1, len(films)))))

    def figures(weights: Floats) -> dict[str, Floats]:
        by_class = rates(weights)
        found = {f"{name}|{rate}": value for name, f in by_class.items() for rate, value in f.items()}
        found["overall|accuracy"] = weighted.mean(weights, right)
        found["overall|balanced_accuracy"] = _mean([f["sensitivity"] for f in by_class.values()])
        found["overall|macro_f1"] = _mean([f["f1"] for f in by_class.values()])
        if films.task != "binary":
            found["overall|macro_ppv"] = mean(by_class, "ppv")
            found["overall|macro_sensitivity"] = mean(by_class, "sensitivity")
        return found

    return figures


def _label_figures(films: Scored, decided: Decided) -> Replicated:
    """Of a multilabel rule, on the films whose truth for the label is known; means over the labels that have a value here."""
    known = np.isfinite(films.targets)
    truth = films.targets == 1
    right = ((decided.answers == truth) & known).sum(axis=1).astype(np.float64)
    pairs = known.sum(axis=1).astype(np.float64)

    def rates(weights: Floats) -> dict[str, dict[str, Floats]]:
        cells = {
            name: weighted.counts(weights[:, known[:, k]], truth[known[:, k], k], decided.answers[known[:, k], k])
            for k, name in enumerate(decided.classes)
        }
        return {name: weighted.rates(**cell) for name, cell in cells.items()}

    mean = _means(rates(np.ones((1, len(films)))))

    def figures(weights: Floats) -> dict[str, Floats]:
        by_label = rates(weights)
        found = {f"{label}|{rate}": value for label, f in by_label.items() for rate, value in f.items()}
        found["overall|accuracy"] = weighted.divided(weights @ right, weights @ pairs)
        found["overall|balanced_accuracy"] = mean(by_label, "sensitivity", "specificity")
        found["overall|macro_f1"] = mean(by_label, "f1")
        found["overall|macro_ppv"] = mean(by_label, "ppv")
        found["overall|macro_sensitivity"] = mean(by_label, "sensitivity")
        return found

    return figures


def _means(plain: Mapping[str, Mapping[str, Floats]]) -> Callable[..., Floats]:
    """What takes the mean of rates over the classes that have all of them in `plain`, the films as they are; nan without such a class."""

    def mean(found: Mapping[str, Mapping[str, Floats]], *names: str) -> Floats:
        having = [f for name, f in found.items() if all(np.isfinite(plain[name][n][0]) for n in names)]
        return _mean([f[n] for f in having for n in names]) if having else np.array([np.nan])

    return mean


def _price(films: Scored, fallback: str, decided: Decided, argmax: Decided) -> Replicated:
    """What the priority costs: recall of the fallback class under the rule, under argmax, and the rule's less argmax's."""
    k = decided.classes.index(fallback)
    own = (true_class(films) == k).astype(np.float64)

    def figures(weights: Floats) -> dict[str, Floats]:
        here, there = (weighted.divided(weights @ (own * d.answers[:, k]), weights @ own) for d in (decided, argmax))
        return {"price|recall": here, "price|argmax_recall": there, "price|difference": here - there}

    return figures


def _joined(*parts: Replicated) -> Replicated:
    return lambda weights: {name: value for part in parts for name, value in part(weights).items()}


def _mean(values: list[Floats]) -> Floats:
    """Mean of several figures [B]; nan where one of them is."""
    return np.asarray(np.mean(values, axis=0))


def _all_estimates(
    scores: Replicated, parts: Mapping[str, Replicated], films: Scored, recipe: Recipe
) -> dict[str, dict[str, Estimate]]:
    """The figures by part, all from the same resamples: `scores`, `calibration` and those of `parts`."""

    def figures(weights: Floats) -> dict[str, Floats]:
        rest = {f"{part} :: {name}": v for part, f in parts.items() for name, v in f(weights).items()}
        return {**scores(weights), **rest}

    found: dict[str, dict[str, Estimate]] = {part: {} for part in ("scores", "calibration", *parts)}
    every = estimates(films.patients, figures, bootstraps=recipe.decision.bootstraps, seed=recipe.seed)
    for key, estimate in every.items():
        part, name = key.split(" :: ")
        found[part][name] = estimate
    return found


def _nested(figures: Mapping[str, Estimate], separator: str) -> dict[str, Any]:
    """`a|b` -> {a: {b: estimate as JSON}}."""
    found: dict[str, Any] = {}
    for key, estimate in figures.items():
        group, name = key.split(separator)
        found.setdefault(group, {})[name] = estimate.model_dump(mode="json")
    return found


def _counts(films: Scored, output: int) -> dict[str, int]:
    """Films whose truth for the class is known, and those that show it."""
    truth = films.targets[:, output]
    return {"n": int(np.isfinite(truth).sum()), "positives": int(np.nansum(truth))}


def _point(films: Scored, point: OperatingPoint, decided: Decided, found: Mapping[str, Estimate]) -> dict[str, Any]:
    films_of = _denominators(films, decided)
    exact = {
        name: _at_the_edge(e, films.patients[films_of[name]]) if name in films_of else e for name, e in found.items()
    }
    nested = _nested(exact, "|")
    body: dict[str, Any] = {"rule": point.rule, "overall": nested.pop("overall", {})}
    if "price" in nested:
        body["price"] = nested.pop("price")
    body["classes"] = nested
    if decided.held is not None:
        return body | {"sets": named_sets(decided.held, true_class(films), decided.classes)}
    return body | {
        "confusion": _label_confusion(films, decided) if films.task == "multilabel" else _confusion(films, decided)
    }


def _denominators(films: Scored, decided: Decided) -> dict[str, NDArray[np.bool_]]:
    """Which films a rate is a share of, by its name: bool [N] each."""
    single = films.task != "multilabel"
    every = np.ones(len(films), dtype=np.bool_)
    found = {"overall|accuracy": every, "overall|coverage": every} if single else {}
    for k, name in enumerate(decided.classes):
        known = every if single else np.isfinite(films.targets[:, k])
        shows = true_class(films) == k if single else films.targets[:, k] == 1
        said = decided.answers[:, k]
        found |= {f"{name}|sensitivity": known & shows, f"{name}|coverage": known & shows}
        found |= {f"{name}|specificity": known & ~shows, f"{name}|ppv": known & said, f"{name}|npv": known & ~said}
    return found


def _at_the_edge(estimate: Estimate, patients: NDArray[np.str_]) -> Estimate:
    """A rate of 0 or 1 with its exact interval for this many patients; any other as it is."""
    if estimate.value not in {0.0, 1.0}:
        return estimate
    reach = 0.025 ** (1 / len(np.unique(patients)))
    return Estimate(value=estimate.value, ci=(reach, 1.0) if estimate.value == 1.0 else (0.0, 1 - reach))


def _confusion(films: Scored, decided: Decided) -> dict[str, dict[str, int]]:
    """True class -> answered class -> films."""
    truth = true_class(films)
    return {
        name: {other: int(decided.answers[truth == k, j].sum()) for j, other in enumerate(decided.classes)}
        for k, name in enumerate(decided.classes)
    }


def _label_confusion(films: Scored, decided: Decided) -> dict[str, dict[str, int]]:
    """Label -> tp, fp, tn, fn, of the films whose truth for it is known."""
    found = {}
    for k, name in enumerate(decided.classes):
        known: NDArray[np.bool_] = np.isfinite(films.targets[:, k])
        cells = weighted.counts(np.ones((1, int(known.sum()))), films.targets[known, k] == 1, decided.answers[known, k])
        found[name] = {cell: int(value[0]) for cell, value in cells.items()}
    return found
