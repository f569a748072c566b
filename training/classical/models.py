"""Classifiers on feature vectors that answer in logits, as a network does.

    binary      logits [N, 1]: log odds of the positive class (a linear model's decision function)
    multiclass  logits [N, K]: log probabilities, so that their softmax is the model's own answer
    multilabel  logits [N, K]: log odds of each label, one model per label on the films whose truth for it is known

Every class weighs the same in the fit: a film counts N / (K * films of its class). Probabilities of forests and boosting are kept
`_EDGE` away from 0 and 1. Nothing is stored but the answers: a pickle is no format to keep, and none of these is ever exported.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from app.domain import Task
from app.errors import ConfigurationError
from training.classical.features import Features

Floats = NDArray[np.float64]
_EDGE = 1e-4


@dataclass(frozen=True)
class Classifier:
    """Fitted models: one, or one for each label. An int stands for a label that training showed with one truth only."""

    task: Task
    models: tuple[Any, ...]

    def logits(self, features: Features) -> Floats:
        """float64 [N, K] of float32 [N, F] (binary: K = 1)."""
        if self.task == "multiclass":
            return np.log(np.clip(self._probability(0, features), _EDGE, 1 - _EDGE))
        return np.stack([self._log_odds(k, features) for k in range(len(self.models))], axis=1)

    def _probability(self, k: int, features: Features) -> Floats:
        return np.asarray(self.models[k].predict_proba(features), dtype=np.float64)

    def _log_odds(self, k: int, features: Features) -> Floats:
        model = self.models[k]
        if isinstance(model, int):
            return np.full(len(features), np.log((1 - _EDGE) / _EDGE) * (1 if model else -1))
        if hasattr(model, "decision_function"):
            return np.asarray(model.decision_function(features), dtype=np.float64)
        p = np.clip(self._probability(k, features)[:, 1], _EDGE, 1 - _EDGE)
        return np.asarray(np.log(p / (1 - p)), dtype=np.float64)


def fit_classifier(kind: str, task: Task, features: Features, targets: NDArray[np.float32], seed: int) -> Classifier:
    """Fit one kind of model.

    Args:
        kind: the second word of a model's name: logistic, mlp, forest, boosting.
        features: float32 [N, F].
        targets: float32 [N, K] as `training.data.targets` makes them.
        seed: of the models that draw.

    Raises ConfigurationError where a class of a binary or multiclass recipe has no training film, or a package is missing.
    """
    if task == "multilabel":
        return Classifier(task, tuple(_label(kind, features, column, seed) for column in targets.T))
    truth = targets[:, 0].astype(np.int64) if task == "binary" else targets.argmax(axis=1)
    classes = 2 if task == "binary" else targets.shape[1]
    if len(np.unique(truth)) < classes:
        raise ConfigurationError("class_missing", "a class of the recipe has no training film; a classifier needs one")
    return Classifier(task, (_fitted(kind, features, truth, seed),))


def _label(kind: str, features: Features, column: NDArray[np.float32], seed: int) -> Any:
    known = np.isfinite(column)
    truth = column[known].astype(np.int64)
    if len(np.unique(truth)) < 2:
        return int(truth[0]) if len(truth) else 0
    return _fitted(kind, features[known], truth, seed)


def _fitted(kind: str, features: Features, truth: NDArray[np.int64], seed: int) -> Any:
    counts = np.bincount(truth)
    weights = len(truth) / (len(counts) * counts[truth])
    model = _MODELS[kind](seed)
    if isinstance(model, RandomForestClassifier):
        model.fit(features, truth, sample_weight=weights)
        return model.set_params(n_jobs=1)  # threads would add up the trees' answers in any order
    if not isinstance(model, Pipeline):
        return model.fit(features, truth, sample_weight=weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the passes of the mlp are counted out on purpose
        return model.fit(features, truth, model__sample_weight=weights)


def _logistic(seed: int) -> Any:
    """L2-penalised; 0.01 of the default strength, since there are as many features as films."""
    return Pipeline(
        [("scale", StandardScaler()), ("model", LogisticRegression(C=0.01, max_iter=500, random_state=seed))]
    )


def _mlp(seed: int) -> Any:
    """One hidden layer of 128; a fixed number of passes, since stopping on a random share of films would split patients."""
    model = MLPClassifier(
        (128,), alpha=1e-2, batch_size=64, max_iter=30, n_iter_no_change=30, tol=0.0, random_state=seed
    )
    return Pipeline([("scale", StandardScaler()), ("model", model)])


def _forest(seed: int) -> Any:
    return RandomForestClassifier(300, min_samples_leaf=2, max_features="sqrt", n_jobs=-1, random_state=seed)


def _boosting(seed: int) -> Any:
    try:
        from xgboost import XGBClassifier  # noqa: PLC0415  only boosting needs it
    except ImportError as error:
        raise ConfigurationError(
            "missing_package", "gradient boosting needs xgboost: install cxr-triage[train]"
        ) from error
    return XGBClassifier(
        n_estimators=200,
        max_depth=4,
        learning_rate=0.1,
        subsample=0.8,
        colsample_bytree=0.3,
        tree_method="hist",
        device="cpu",
        random_state=seed,
    )


_MODELS: dict[str, Callable[[int], Any]] = {
    "logistic": _logistic,
    "mlp": _mlp,
    "forest": _forest,
    "boosting": _boosting,
}
