"""Small linear classifiers that see too little to diagnose: what they can tell, a network may have told in the same way.

Each is a logistic regression on standardised values, fitted on the training films and measured on the validation, whose patients are
others. `REGIONS` are parts of the picture, `FACTS` are numbers about it; none of them needs a lung to be seen sharply.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.data.cache import Pixels
from training.judging.answers import Figure, Index, intervals
from training.judging.figures import auroc

Gray = NDArray[np.uint8]
Floats = NDArray[np.float64]

THUMBNAIL = 32  # px
BLURRED = 8  # px
BORDER = 0.10  # share of the side: the frame that holds collimation, markers and skin, and hardly any lung
CORNER = 0.15  # share of the side
PATCH = 6  # px a corner is reduced to, and the blocks along the frame
REGULARISATION = 0.01  # C of the logistic regression

View = Callable[[Pixels], Floats]


def thumbnails(pixels: Pixels) -> Floats:
    """float64 [N, 1024]: 32 x 32 px, each film standardised."""
    return standardised(shrunk(pixels.plain, THUMBNAIL))


def blurred(pixels: Pixels) -> Floats:
    """float64 [N, 64]: 8 x 8 px, each film standardised."""
    return standardised(shrunk(pixels.plain, BLURRED))


def border(pixels: Pixels) -> Floats:
    """float64 [N, D]: gray levels of the outer 10 % alone, block by block, mean and maximum of each block."""
    frame = frame_mask(pixels.plain.shape[1], BORDER)
    return np.array([_blocks(np.where(frame, film, 0)) for film in pixels.plain], dtype=np.float64)


def corners(pixels: Pixels) -> Floats:
    """float64 [N, 288]: gray levels of the four corner squares of 15 % alone, 6 x 6 blocks each, mean and maximum."""
    side = max(PATCH, round(CORNER * pixels.plain.shape[1]))
    rows = []
    for film in pixels.plain:
        parts = (film[:side, :side], film[:side, -side:], film[-side:, :side], film[-side:, -side:])
        rows.append(np.concatenate([_reduced(part) for part in parts]))
    return np.array(rows, dtype=np.float64)


def inside(pixels: Pixels) -> Floats:
    """float64 [N, D]: the 32 x 32 thumbnail without its frame, standardised: what the film shows where the lungs are."""
    cut = round(CORNER * THUMBNAIL)
    small = shrunk(pixels.plain, THUMBNAIL)[:, cut:-cut, cut:-cut]
    return standardised(small)


def exposure(pixels: Pixels) -> Floats:
    """float64 [N, 4]: mean, standard deviation, dark and bright share of the film."""
    return np.array([[s.mean, s.std, s.dark_fraction, s.bright_fraction] for s in pixels.statistics])


def aspect(pixels: Pixels) -> Floats:
    """float64 [N, 1]: width / height."""
    return np.array([[s.aspect] for s in pixels.statistics])


def sharpness(pixels: Pixels) -> Floats:
    """float64 [N, 1]."""
    return np.array([[s.sharpness] for s in pixels.statistics])


def file_facts(pixels: Pixels) -> Floats:
    """float64 [N, 8]: sides in px here and upstream, their ratios, and whether the file is PNG or DICOM."""
    rows = []
    for film, s in zip(pixels.films, pixels.statistics, strict=True):
        suffix = PurePosixPath(film.path).suffix.lower()
        sides = (s.width, s.height, film.width, film.height)
        ratios = (s.width / s.height, film.width / film.height if film.height else 0.0)
        rows.append([*sides, *ratios, suffix == ".png", suffix in {".dcm", ""}])
    return np.array(rows, dtype=np.float64)


REGIONS: dict[str, View] = {
    "32 x 32 thumbnail": thumbnails,
    "8 x 8 thumbnail": blurred,
    "inside of the thumbnail": inside,
    "border": border,
    "corners": corners,
}
FACTS: dict[str, View] = {"exposure": exposure, "aspect": aspect, "sharpness": sharpness, "file facts": file_facts}
LUNGLESS = ("border", "corners")


def fitted(x: Floats, truth: NDArray[np.float64]) -> Callable[[Floats], Floats]:
    """One logistic regression per output, on its known films.

    Args:
        x: [N, D]. truth: [N, K], 1, 0 or nan.

    Returns:
        [M, D] -> decision function [M, K]; nan for an output with one side only.
    """
    models: list[Any] = []
    for k in range(truth.shape[1]):
        known = np.isfinite(truth[:, k])
        y = truth[known, k].astype(np.int64)
        if len(np.unique(y)) < 2:
            models.append(None)
            continue
        model = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=2000))
        models.append(model.fit(x[known], y))
    return lambda other: np.stack(
        [np.full(len(other), np.nan) if m is None else np.asarray(m.decision_function(other)) for m in models], axis=1
    )


def measured(
    scores: Floats, truth: Floats, patients: NDArray[np.str_], outputs: tuple[str, ...], *, bootstraps: int, seed: int
) -> dict[str, Figure]:
    """AUROC per output with its interval by patients. scores, truth: [N, K]; outputs without both sides are left out."""

    def figures(chosen: Index) -> dict[str, float]:
        return {name: _auroc(truth[chosen, k], scores[chosen, k]) for k, name in enumerate(outputs)}

    return intervals(figures, patients, bootstraps=bootstraps, seed=seed)


def shrunk(films: Gray, side: int) -> Floats:
    """float64 [N, side, side], by area."""
    small = [cv2.resize(film, (side, side), interpolation=cv2.INTER_AREA) for film in films]
    return np.array(small, dtype=np.float64).reshape(-1, side, side)


def standardised(films: Floats) -> Floats:
    """float64 [N, D]: each film with mean 0 and standard deviation 1 (a flat one stays flat)."""
    flat = films.reshape(len(films), -1)
    return np.asarray((flat - flat.mean(1, keepdims=True)) / np.maximum(flat.std(1, keepdims=True), 1.0))


def frame_mask(size: int, share: float) -> NDArray[np.bool_]:
    """bool [S, S], True in the outer `share` of every side."""
    width = max(1, round(size * share))
    mask = np.ones((size, size), dtype=np.bool_)
    mask[width:-width, width:-width] = False
    return mask


def _blocks(film: Gray) -> Floats:
    """Mean and maximum of each block of a 20 x 20 grid that lies in the frame; the film is 0 elsewhere."""
    side = 20  # blocks along a side: two rows of them make the frame
    mean = cv2.resize(film, (side, side), interpolation=cv2.INTER_AREA)
    step = -(-film.shape[0] // side)
    highest = cv2.resize(cv2.dilate(film, np.ones((step, step), np.uint8)), (side, side), interpolation=cv2.INTER_AREA)
    kept = frame_mask(side, BORDER)
    return np.concatenate([mean[kept], highest[kept]]).astype(np.float64)


def _reduced(part: Gray) -> Floats:
    mean = cv2.resize(part, (PATCH, PATCH), interpolation=cv2.INTER_AREA)
    step = -(-part.shape[0] // PATCH)
    highest = cv2.resize(
        cv2.dilate(part, np.ones((step, step), np.uint8)), (PATCH, PATCH), interpolation=cv2.INTER_AREA
    )
    return np.concatenate([mean.ravel(), highest.ravel()]).astype(np.float64)


def _auroc(truth: Floats, scores: Floats) -> float:
    known = np.isfinite(truth) & np.isfinite(scores)
    return auroc(truth[known].astype(np.int64), scores[known]) if known.any() else float("nan")
