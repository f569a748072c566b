"""The report's figures as PNG, inline. Curves are drawn from the logits that a run kept, never from films."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.judging.decide import Fixed
from training.judging.figures import BINS, Judged
from training.judging.judge import Scored
from training.judging.thresholds import curve

mpl.use("Agg")


def inline(figure: Figure) -> str:
    """An <img> element that holds the picture."""
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=90, bbox_inches="tight")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(target.getvalue()).decode()}">'


def curves(sets: Mapping[str, Judged], fixed: Fixed) -> str:
    """ROC and precision-recall of each set, with the operating points on the last one."""
    figure = Figure(figsize=(11, 5))
    roc, pr = figure.subplots(1, 2)
    for name, films in sets.items():
        thresholds, sensitivity, specificity = curve(films.labels, films.margins)
        positives = films.labels.sum()
        hits, alarms = sensitivity * positives, (1 - specificity) * (len(films) - positives)
        shown = hits + alarms > 0
        roc.plot(1 - specificity, sensitivity, label=name)
        pr.plot(sensitivity[shown], (hits / np.maximum(hits + alarms, 1e-12))[shown], label=name)
        if name == list(sets)[-1]:
            for point in fixed.operating_points:
                i = int(np.argmin(np.abs(thresholds - fixed.threshold(point.name))))
                roc.plot(1 - specificity[i], sensitivity[i], "o", label=f"{point.name}, {name}")
    _label(roc, "1 - specificity", "sensitivity", "ROC")
    _label(pr, "recall", "precision", "precision-recall")
    return inline(figure)


def reliability(sets: Mapping[str, tuple[Judged, Judged]]) -> str:
    """Per set: reliability before and after calibration, in equal-mass bins."""
    figure = Figure(figsize=(5.5 * len(sets), 5))
    for axes, (name, pair) in zip(np.atleast_1d(figure.subplots(1, len(sets))), sets.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        for films, label in zip(pair, ("before", "after"), strict=True):
            parts = np.array_split(np.argsort(films.probability, kind="stable"), BINS)
            points = [(films.probability[p].mean(), films.labels[p].mean()) for p in parts if len(p)]
            axes.plot(*zip(*points, strict=True), marker="o", label=label)
        _label(axes, "shown probability", "share of positive films", f"reliability, {name}")
    return inline(figure)


def histograms(sets: Mapping[str, Judged], fixed: Fixed) -> str:
    """Margins by class, with the thresholds."""
    figure = Figure(figsize=(5.5 * len(sets), 4))
    for axes, (name, films) in zip(np.atleast_1d(figure.subplots(1, len(sets))), sets.items(), strict=True):
        for value, label in ((0, "negative"), (1, "positive")):
            axes.hist(films.margins[films.labels == value], bins=40, alpha=0.6, label=label)
        for point in fixed.operating_points:
            axes.axvline(fixed.threshold(point.name), color="black", linewidth=0.8)
            axes.text(fixed.threshold(point.name), axes.get_ylim()[1], point.name, rotation=90, va="top", fontsize=7)
        _label(axes, "margin (logit)", "films", f"margins, {name}")
    return inline(figure)


def learning(history: Sequence[Mapping[str, Any]]) -> str:
    """Loss, training accuracy and learning rate by epoch."""
    figure = Figure(figsize=(11, 3.5))
    epochs = [h["epoch"] for h in history]
    for axes, key in zip(figure.subplots(1, 3), ("loss", "accuracy", "learning_rate"), strict=True):
        axes.plot(epochs, [h[key] for h in history], marker="o")
        axes.set_xlabel("epoch")
        axes.set_title(key.replace("_", " "), fontsize=10)
    return inline(figure)


def uncalibrated(films: Scored, judged: Judged) -> Judged:
    """The same films with the probability that the bare logit says."""
    return Judged(judged.labels, judged.margins, 1 / (1 + np.exp(-films.logits)), judged.patients)


def _label(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=7)
