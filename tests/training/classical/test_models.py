"""Classical models answer in logits."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.domain import Task
from app.errors import ConfigurationError
from training.classical.models import Classifier, fit_classifier
from training.judging.figures import auroc

KINDS = ("logistic", "mlp", "forest", "boosting")
Data = tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture(scope="module")
def data() -> Data:
    """120 films of three classes; the class raises one feature in ten."""
    rng = np.random.default_rng(0)
    truth = np.arange(120) % 3
    features = rng.normal(size=(120, 30)).astype(np.float32)
    for k in range(3):
        features[truth == k, k * 10] += 4
    return features, truth


def encoded(task: Task, truth: NDArray[np.int64]) -> NDArray[np.float32]:
    return (truth == 1).astype(np.float32)[:, None] if task == "binary" else np.eye(3, dtype=np.float32)[truth]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_what_is_plain_is_learned(kind: str, task: Task, data: Data) -> None:
    features, truth = data
    targets = encoded(task, truth)
    model = fit_classifier(kind, task, features[:90], targets[:90], 1)
    logits = model.logits(features[90:])
    assert logits.shape == (30, targets.shape[1])
    assert logits.dtype == np.float64
    assert np.isfinite(logits).all()
    for k in range(targets.shape[1]):
        assert auroc(targets[90:, k].astype(np.int64), logits[:, k]) > 0.9
    again = fit_classifier(kind, task, features[:90], targets[:90], 1)
    np.testing.assert_array_equal(again.logits(features[90:]), logits)


@pytest.mark.parametrize("kind", ["logistic", "boosting"])
def test_multiclass_logits_are_the_models_own_probabilities(kind: str, data: Data) -> None:
    features, truth = data
    model = fit_classifier(kind, "multiclass", features, encoded("multiclass", truth), 1)
    logits = model.logits(features)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax, model.models[0].predict_proba(features), atol=1e-3)


def test_binary_logits_are_log_odds(data: Data) -> None:
    features, truth = data
    for kind in ("logistic", "forest"):
        model = fit_classifier(kind, "binary", features, encoded("binary", truth), 1)
        p = np.clip(model.models[0].predict_proba(features)[:, 1], 1e-4, 1 - 1e-4)
        np.testing.assert_allclose(
            1 / (1 + np.exp(-np.clip(model.logits(features)[:, 0], -9.21024, 9.21024))), p, atol=1e-4
        )


def test_rare_classes_weigh_as_much_as_common_ones() -> None:
    """Ten positives among two hundred, no signal: the model says even odds, not one in twenty."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(200, 2)).astype(np.float32) * 1e-3
    targets = (np.arange(200) < 10).astype(np.float32)[:, None]
    logits = fit_classifier("logistic", "binary", features, targets, 1).logits(features)
    assert abs(float(logits.mean())) < 0.3


def test_labels_that_are_not_known_are_not_used(data: Data) -> None:
    """Half of the films say the opposite, as unknown: they change nothing."""
    features, truth = data
    known = encoded("multilabel", truth)
    doubled = np.vstack([known, np.full_like(known, np.nan)])
    whole = fit_classifier("logistic", "multilabel", np.vstack([features, -features]), doubled, 1)
    half = fit_classifier("logistic", "multilabel", features, known, 1)
    np.testing.assert_allclose(whole.logits(features), half.logits(features))


def test_a_label_seen_with_one_truth_only_is_said_always(data: Data) -> None:
    features, truth = data
    targets = encoded("multilabel", truth)
    targets[:, 0], targets[:, 1], targets[:, 2] = 0, 1, np.nan
    logits = fit_classifier("logistic", "multilabel", features, targets, 1).logits(features)
    assert np.unique(logits, axis=0).shape[0] == 1
    assert logits[0, 0] == -logits[0, 1] == logits[0, 2] < -9


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_a_class_without_films_is_refused(task: Task, data: Data) -> None:
    features, truth = data
    with pytest.raises(ConfigurationError, match="no training film"):
        fit_classifier("logistic", task, features[truth == 0], encoded(task, truth)[truth == 0], 1)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, data: Data) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name == "xgboost":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.delitem(sys.modules, "xgboost", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=r"install cxr-triage\[train\]"):
        fit_classifier("boosting", "binary", data[0], encoded("binary", data[1]), 1)


def test_logits_of_no_films() -> None:
    assert Classifier("multilabel", (0, 1)).logits(np.empty((0, 3), dtype=np.float32)).shape == (0, 2)
