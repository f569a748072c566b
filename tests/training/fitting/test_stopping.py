from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from app.errors import ConfigurationError
from training.fitting.spec import EarlyStopping, SchedulePart
from training.fitting.stopping import Watch, macro_auroc, macro_f1, watched

PLATEAU = SchedulePart(kind="plateau", patience=2)


def _run(values: list[float], part: EarlyStopping, schedule: SchedulePart = PLATEAU) -> tuple[Watch, list[bool]]:
    watch, stopped = Watch(), []
    for epoch, value in enumerate(values, 1):
        watch.take(part, schedule, value, epoch, {"w": torch.tensor(float(epoch))})
        stopped.append(watch.stops(part))
    return watch, stopped


def test_the_first_best_epoch_is_kept_and_patience_counts_from_it() -> None:
    watch, stopped = _run([0.5, 0.8, 0.8, 0.7, 0.79], EarlyStopping(metric="auroc", patience=3))
    assert (watch.best_epoch, watch.best_value) == (2, 0.8)
    assert float(watch.best["w"]) == 2
    assert stopped == [False, False, False, False, True]


def test_a_loss_is_better_where_it_is_smaller() -> None:
    watch, stopped = _run([0.5, 0.4, 0.45], EarlyStopping(metric="val_loss", patience=1))
    assert watch.best_epoch == 2
    assert stopped == [False, False, True]


def test_the_best_weights_are_a_copy() -> None:
    watch, weight = Watch(), torch.tensor(1.0)
    watch.take(EarlyStopping(), PLATEAU, 0.5, 1, {"w": weight})
    weight.fill_(9)
    assert float(watch.best["w"]) == 1


def test_a_plateau_lowers_the_rate_each_time_its_patience_ends() -> None:
    part = EarlyStopping(metric="auroc", patience=10)
    counts = [_run([0.9, *[0.5] * n], part)[0].reductions for n in range(6)]
    assert counts == [0, 0, 1, 1, 2, 2]
    assert _run([0.9, 0.5, 0.95, 0.5], part)[0].reductions == 0
    assert _run([0.9, *[0.5] * 5], part, SchedulePart())[0].reductions == 0


def test_auroc_of_each_task() -> None:
    y = np.array([[1], [0], [1], [0]], dtype=np.float32)
    assert macro_auroc(y, np.array([[2.0], [1], [0.5], [0]]), "binary") == 0.75
    labels = np.array([[1, 0], [0, np.nan], [np.nan, 0], [1, 0]], dtype=np.float32)
    logits = np.array([[1.0, 0], [2, 0], [0, 0], [3, 0]])
    assert macro_auroc(labels, logits, "multilabel") == 0.5  # the second label has one answer only
    assert math.isnan(macro_auroc(labels[:, 1:], logits[:, 1:], "multilabel"))


def test_multiclass_auroc_ranks_by_the_class_against_the_rest() -> None:
    """A common offset of a film's logits says nothing: ranked by the bare logit, this would not be perfect."""
    target = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]
    logits = target.astype(np.float64) * 2 + np.array([0, 10, -10, 20, -20, 5])[:, None]
    assert macro_auroc(target, logits, "multiclass") == 1.0


def test_f1_of_each_task() -> None:
    y = np.array([[1], [1], [0], [0]], dtype=np.float32)
    z = np.array([[1.0], [-1], [-1], [-1]])
    assert macro_f1(y, z, "binary") == pytest.approx((2 / 3 + 4 / 5) / 2)
    target = np.eye(3, dtype=np.float32)[[0, 1, 2]]
    assert macro_f1(target, np.array([[3.0, 0, 0], [3, 0, 0], [0, 0, 1]]), "multiclass") == pytest.approx(
        (2 / 3 + 0 + 1) / 3
    )
    labels = np.array([[1, np.nan], [0, 0], [np.nan, 0]], dtype=np.float32)
    assert macro_f1(labels, np.array([[1.0, 1], [-1, 1], [1, 1]]), "multilabel") == 1.0


def test_a_figure_that_cannot_be_had_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="fit half"):
        watched({"val_auroc": math.nan, "val_loss": 1.0}, EarlyStopping(metric="auroc"))
    assert watched({"val_auroc": math.nan, "val_loss": 1.0}, EarlyStopping(metric="val_loss")) == 1.0
