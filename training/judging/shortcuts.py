"""Can a film's folder, or its label, be told without looking at a lung? Probes that a report must show.

Each probe is a logistic regression fitted on one set of patients and measured as AUROC on another. A folder that can be told
matters only as far as folder and label go together, so the table of both stands beside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.data.cache import Pixels, load_pixels
from training.data.films import Film
from training.fitting.augment import standardise
from training.fitting.fit import labels_of, recipe_splits
from training.judging.figures import auroc
from training.judging.judge import BATCH, plain_pixels, std_floor
from training.networks.network import TriageNetwork
from training.places import Places
from training.runs import Run

THUMBNAIL = 32
Floats = NDArray[np.float64]


def probe_shortcuts(run: Run, places: Places) -> dict[str, Any]:
    """Folder x label counts of the training films and the AUROC of every probe; also written to figures-shortcuts.json."""
    recipe, splits = run.recipe, recipe_splits(run.recipe, places)
    validation = [*splits.fit, *splits.report]
    shown = plain_pixels(validation, recipe, places)
    trained = load_pixels(
        places.data, splits.train, recipe.input, places.cache, copies=recipe.data.cached_copies, seed=recipe.seed
    )
    label_train = labels_of(splits.train, recipe.data.positive)
    label_shown = labels_of(tuple(validation), recipe.data.positive)
    probes = {
        "label from 32 x 32 thumbnails": _probe(
            _thumbnails(trained.plain), label_train, _thumbnails(shown.plain), label_shown
        )
    }
    if len(recipe.data.folders) == 2:
        probes |= _folder_probes(run, trained, shown, len(splits.fit))
    figures = {
        "folder_by_label": _table(splits.train),
        "probes": probes,
        "aspect": _aspect(shown, label_shown, _features(run.network(), shown, std_floor(recipe))[1]),
    }
    run.write_json("figures-shortcuts.json", figures)
    return figures


def _folder_probes(run: Run, trained: Pixels, shown: Pixels, half: int) -> dict[str, float]:
    """How well the first folder is told from the second: on films as decoded, on their recompressed copies, by the network."""
    first = run.recipe.data.folders[0]
    folder_train = np.array([f.folder == first for f in trained.films], dtype=np.int64)
    folder_shown = np.array([f.folder == first for f in shown.films], dtype=np.int64)
    sharp_train, sharp_shown = (np.array([[s.sharpness] for s in p.statistics]) for p in (trained, shown))
    features, _ = _features(run.network(), shown, std_floor(run.recipe))
    return {
        "folder from 32 x 32 thumbnails": _probe(
            _thumbnails(trained.plain), folder_train, _thumbnails(shown.plain), folder_shown
        ),
        "folder from sharpness": _probe(sharp_train, folder_train, sharp_shown, folder_shown),
        "folder from the network's pooled features": _probe(
            features[:half], folder_shown[:half], features[half:], folder_shown[half:]
        ),
    }


def _probe(x: Floats, y: NDArray[np.int64], x_other: Floats, y_other: NDArray[np.int64]) -> float:
    if len(np.unique(y)) < 2:
        return float("nan")
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000)).fit(x, y)
    return auroc(y_other, np.asarray(model.decision_function(x_other), dtype=np.float64))


def _thumbnails(films: NDArray[np.uint8]) -> Floats:
    """float64 [N, 1024], each film standardised."""
    small = np.stack([cv2.resize(film, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA) for film in films])
    flat = small.reshape(len(small), -1).astype(np.float64)
    return np.asarray((flat - flat.mean(1, keepdims=True)) / np.maximum(flat.std(1, keepdims=True), 1.0))


@torch.inference_mode()
def _features(network: TriageNetwork, pixels: Pixels, floor: float) -> tuple[Floats, Floats]:
    """Pooled features [N, C] and logits [N]."""
    pooled, logits = [], []
    for start in range(0, len(pixels.films), BATCH):
        gray = torch.from_numpy(np.array(pixels.plain[start : start + BATCH])).float()[:, None]
        out, features = network(standardise(gray, floor))
        pooled.append(features.mean(dim=(2, 3)).double().numpy())
        logits.append(out[:, 0].double().numpy())
    return np.concatenate(pooled), np.concatenate(logits)


def _aspect(shown: Pixels, labels: NDArray[np.int64], logits: Floats) -> dict[str, float]:
    """Aspect ratio against label, and against the logit within each label (Spearman), on films that kept their frame."""
    aspect = np.array([s.aspect for s in shown.statistics])
    kept = aspect != 1.0
    figures = {"label from the aspect ratio alone": auroc(labels[kept], aspect[kept]), "films": float(kept.sum())}
    for value, name in ((0, "negative"), (1, "positive")):
        chosen = kept & (labels == value)
        if chosen.sum() > 2 and np.ptp(aspect[chosen]) > 0:
            figures[f"rank correlation of aspect ratio and logit, {name} films"] = float(
                spearmanr(aspect[chosen], logits[chosen]).statistic
            )
    return figures


def _table(films: Sequence[Film]) -> dict[str, dict[str, int]]:
    counts = Counter((film.folder, film.label) for film in films)
    return {
        folder: {lb: n for (f, lb), n in sorted(counts.items()) if f == folder}
        for folder in sorted({f for f, _ in counts})
    }
