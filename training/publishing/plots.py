"""The report's figures as PNG, inline. Curves are drawn from the logits that a run kept, never from films.

One panel per class (one against the rest); a binary run has one panel. Sets are told apart by colour and named in the legend.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from app.bundle.manifest import NoCalibration
from training.judging.decide import Fixed
from training.judging.figures import Judged
from training.judging.scored import Scored
from training.judging.weighted import BINS

mpl.use("Agg")

COLUMNS = 3
PANEL = (3.7, 3.2)  # inches
MARKERS = "os^Dv*"
LEAST = 20  # films in a bin of a reliability curve: a share of six says nothing
BEYOND = 1e5  # thresholds that no margin reaches are not drawn
Draw = Callable[[Axes, int], None]


def inline(figure: Figure, title: str) -> str:
    """An <img> element that holds the picture."""
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=90, bbox_inches="tight")
    return (
        f'<img alt="{html.escape(title)}" src="data:image/png;base64,{base64.b64encode(target.getvalue()).decode()}">'
    )


def roc(sets: Mapping[str, Scored], fixed: Fixed) -> str:
    """ROC of each class, the operating points of the last set on it."""

    def draw(axes: Axes, output: int) -> None:
        for name, films in sets.items():
            judged = films.judged(fixed.calibration, output)
            if len(np.unique(judged.labels)) < 2:
                continue
            alarms, hits, _ = roc_curve(judged.labels, judged.margins)
            axes.plot(alarms, hits, label=name, linewidth=1.2)
        last = list(sets.values())[-1]
        judged = last.judged(fixed.calibration, output)
        for i, (point, threshold) in enumerate(_thresholds(fixed, last.outputs[output])):
            positive = judged.margins >= threshold
            if 0 < judged.labels.sum() < len(judged):
                place = positive[judged.labels == 0].mean(), positive[judged.labels == 1].mean()
                axes.plot(*place, MARKERS[i % len(MARKERS)], color="black", markersize=4, label=point)
        axes.plot((0, 1), (0, 1), color="0.8", linewidth=0.8)
        _words(axes, "1 - specificity", "sensitivity")

    return _panels(sets, draw, "ROC")


def precision_recall(sets: Mapping[str, Scored], fixed: Fixed) -> str:
    """Precision against recall of each class; the dashed line is the share of positives of the last set."""

    def draw(axes: Axes, output: int) -> None:
        for name, films in sets.items():
            judged = films.judged(fixed.calibration, output)
            if judged.labels.sum():
                precision, recall, _ = precision_recall_curve(judged.labels, judged.margins)
                axes.plot(recall, precision, label=name, linewidth=1.2, drawstyle="steps-post")
        last = list(sets.values())[-1].judged(fixed.calibration, output)
        if len(last):
            axes.axhline(last.labels.mean(), color="0.6", linewidth=0.8, linestyle="--")
        axes.set_ylim(0, 1.02)
        _words(axes, "recall", "precision")

    return _panels(sets, draw, "precision and recall")


def reliability(sets: Mapping[str, Scored], fixed: Fixed) -> str:
    """Share of positive films against shown probability, in equal-mass bins: before calibration dashed, after it solid."""

    def draw(axes: Axes, output: int) -> None:
        axes.plot((0, 1), (0, 1), color="0.8", linewidth=0.8)
        for i, (name, films) in enumerate(sets.items()):
            before, after = (films.judged(c, output) for c in (NoCalibration(method="none"), fixed.calibration))
            for judged, style, word in ((before, "--", "before"), (after, "-", "after")):
                axes.plot(*_bins(judged), style, marker=".", color=f"C{i}", linewidth=1, label=f"{name}, {word}")
        _words(axes, "shown probability", "share of positive films")

    return _panels(sets, draw, "reliability")


def histograms(films: Scored, fixed: Fixed) -> str:
    """Margins of films with and without each class, with the thresholds."""

    def draw(axes: Axes, output: int) -> None:
        judged = films.judged(fixed.calibration, output)
        edges = np.histogram_bin_edges(
            judged.margins, bins=40
        )  # the same for both, or their heights could not be compared
        for value, label in ((0, "without it"), (1, "with it")):
            axes.hist(judged.margins[judged.labels == value], bins=list(edges), alpha=0.6, label=label)
        for point, threshold in _thresholds(fixed, films.outputs[output]):
            axes.axvline(threshold, color="black", linewidth=0.8)
            axes.text(threshold, axes.get_ylim()[1], point, rotation=90, va="top", fontsize=6)
        _words(axes, "margin (logit)", "films")

    return _panels({films.name: films}, draw, "margins")


def severities(kinds: Mapping[str, Mapping[str, Any]], clean: Mapping[str, Any], names: Sequence[str]) -> str:
    """Figures of a corruption suite by severity: one panel per figure, one line per kind, clean films at 0."""
    figure = Figure(figsize=(PANEL[0] * len(names), PANEL[1]))
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        for i, (kind, rows) in enumerate(kinds.items()):
            known = [(int(s), row[name]["value"]) for s, row in rows.items() if name in row]
            start = [(0, clean[name]["value"])] if name in clean else []
            points = sorted([*start, *known])
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=kind, color=f"C{i}", linewidth=1)
        axes.set_title(name.replace("_", " "), fontsize=9)
        _words(axes, "severity", "")
    _legend(figure)
    return inline(figure, "corruption suite by severity")


def learning(history: Sequence[Mapping[str, Any]]) -> str:
    """What was kept of every epoch: loss, learning rate, and the validation's figures where it was watched."""
    keys = ["loss", "learning_rate", *sorted({k for h in history for k in h if k.startswith("val_")})]
    shown = [key for key in keys if any(key in h for h in history)]
    figure = Figure(figsize=(PANEL[0] * len(shown), PANEL[1]))
    for axes, key in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        points = [(h["epoch"], h[key]) for h in history if h.get(key) is not None]
        axes.plot(*zip(*points, strict=True), marker=".")
        axes.set_xlabel("epoch", fontsize=8)
        axes.set_title(key.replace("_", " "), fontsize=9)
        axes.tick_params(labelsize=7)
    figure.tight_layout()
    return inline(figure, "learning curves")


def _panels(sets: Mapping[str, Scored], draw: Draw, title: str) -> str:
    """A grid with one panel for each output of the first set."""
    outputs = next(iter(sets.values())).outputs
    columns = min(COLUMNS, len(outputs))
    rows = -(-len(outputs) // columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows))
    grid = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for output, axes in enumerate(grid):
        if output >= len(outputs):
            axes.set_visible(False)
            continue
        draw(axes, output)
        axes.set_title(f"{title}: {outputs[output]}", fontsize=9)
    _legend(figure)
    return inline(figure, title)


def _legend(figure: Figure) -> None:
    """One for all panels, to the right of them, so that it covers no curve."""
    entries = {word: line for axes in figure.axes for line, word in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.tight_layout()
    if entries:
        figure.legend(list(entries.values()), list(entries), fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 0.98))


def _thresholds(fixed: Fixed, name: str) -> list[tuple[str, float]]:
    """Operating points with a threshold for the class that some film could reach; prediction sets are no points on a curve."""
    points = [p for p in fixed.operating_points if p.rule != "conformal" and name in p.thresholds]
    found = [(p.name, p.thresholds[name]) for p in points]
    return [(point, threshold) for point, threshold in found if abs(threshold) < BEYOND]


def _bins(judged: Judged) -> tuple[list[float], list[float]]:
    """Mean probability and share of positives of equal-mass bins: at most `BINS`, of at least `LEAST` films where there are as many."""
    order = np.argsort(judged.probability, kind="stable")
    parts = [part for part in np.array_split(order, min(BINS, max(1, len(order) // LEAST))) if len(part)]
    return (
        [float(judged.probability[part].mean()) for part in parts],
        [float(judged.labels[part].mean()) for part in parts],
    )


def _words(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=7)
