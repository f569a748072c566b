"""The vectorised decisions are the service's, film by film."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bundle.manifest import (
    Calibration,
    IsotonicCalibration,
    IsotonicCurve,
    NoCalibration,
    OperatingPoint,
    PlattCalibration,
    TemperatureCalibration,
    VectorTemperatureCalibration,
)
from app.decision import decide
from app.domain import ReviewReason, Task
from tests.support.decisions import manifest, unhurried
from training.judging.predict import class_margins, decide_all, true_class
from training.judging.scored import Scored

SEVERAL = ("normal", "pneumonia", "tuberculosis")
LABELS = ("no_finding", "effusion", "mass")
TASKS: dict[str, tuple[Task, tuple[str, ...]]] = {
    "threshold": ("binary", ("normal", "pneumonia")),
    "binary conformal": ("binary", ("normal", "pneumonia")),
    "argmax": ("multiclass", SEVERAL),
    "hierarchical": ("multiclass", SEVERAL),
    "conformal": ("multiclass", SEVERAL),
    "per_label": ("multilabel", LABELS),
}
numbers = st.integers(-6, 6).map(lambda n: n / 2)  # coarse: ties and margins on thresholds happen


def _films(task: Task, classes: tuple[str, ...], logits: np.ndarray) -> Scored:
    n = len(logits)
    outputs = classes[1:] if task == "binary" else classes
    strings = np.array([str(i) for i in range(n)])
    targets = np.eye(len(outputs))[np.zeros(n, dtype=int)]
    return Scored("x", task, outputs, targets, logits, strings, strings, strings)


def _point(rule: str, classes: tuple[str, ...], thresholds: list[float]) -> OperatingPoint:
    every = dict(zip(classes, thresholds, strict=False))
    values: dict[str, dict[str, Any]] = {
        "threshold": {"rule": "threshold", "thresholds": {classes[1]: thresholds[0]}},
        "binary conformal": {"rule": "conformal", "thresholds": every},
        "argmax": {"rule": "argmax"},
        "hierarchical": {
            "rule": "hierarchical",
            "thresholds": {k: every[k] for k in classes[1:]},
            "priority": classes[:0:-1],
            "fallback": classes[0],
        },
        "conformal": {"rule": "conformal", "thresholds": every},
        "per_label": {"rule": "per_label", "thresholds": every},
    }
    return OperatingPoint(name="p", target="", **values[rule])


def _calibrations(k: int) -> list[Calibration]:
    curve = IsotonicCurve(margins=(-1.0, 0.0, 1.0), probabilities=(0.1, 0.1, 0.9))
    return [
        NoCalibration(method="none"),
        TemperatureCalibration(method="temperature", temperature=2.0),
        VectorTemperatureCalibration(method="vector_temperature", temperatures=tuple(0.5 + i for i in range(k))),
        PlattCalibration(method="platt", slope=(0.5,) * k, intercept=(1.0,) * k),
        IsotonicCalibration(method="isotonic", curves=(curve,) * k),
    ]


@pytest.mark.parametrize("rule", TASKS)
@unhurried
@given(data=st.data())
def test_the_decisions_are_those_of_the_service(rule: str, data: st.DataObject) -> None:
    task, classes = TASKS[rule]
    k = 1 if task == "binary" else len(classes)
    rows = data.draw(st.lists(st.lists(numbers, min_size=k, max_size=k), min_size=1, max_size=6))
    calibration = data.draw(st.sampled_from(_calibrations(k)))
    point = _point(rule, classes, data.draw(st.lists(numbers, min_size=3, max_size=3)))
    bundle = manifest(task, classes, point, calibration=calibration, borderline=0.75)
    found = decide_all(_films(task, classes, np.array(rows)), calibration, point, classes)
    for i, row in enumerate(rows):
        one = decide(np.array(row, dtype=np.float32), bundle, point)
        assert found.labels[i] == one.label
        held = (
            tuple(c for c, inside in zip(classes, found.held[i], strict=True) if inside)
            if found.held is not None
            else None
        )
        assert held == one.prediction_set
        answers = {c for c, said in zip(classes, found.answers[i], strict=True) if said}
        expected = set(one.positive) if task == "multilabel" else {one.label}
        assert answers == (expected or {"no_finding"})
        assert (found.gap[i] <= 0.75) == (ReviewReason.BORDERLINE in one.review_reasons)


def test_the_negative_class_comes_first_with_the_opposite_margin() -> None:
    films = _films("binary", ("normal", "pneumonia"), np.array([[2.0], [-1.0]]))
    assert class_margins(films, NoCalibration(method="none")).tolist() == [[-2.0, 2.0], [1.0, -1.0]]
    assert true_class(films).tolist() == [1, 1]
