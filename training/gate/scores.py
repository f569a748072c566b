"""From what the gate's network and the classifier see of known films to the numbers that serving compares with.

Everything is looked at as the service does it: `app.preprocessing`, the engine, `app.gate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.bundle.input_spec import InputSpec
from app.domain import Radiograph
from app.explain import pooled
from app.gate import PictureReference, mahalanobis, network_distance, pose_distance, pose_probabilities
from app.inference.engine import Engine
from app.preprocessing import prepare
from training.gate.poses import Gray

Floats = NDArray[np.float64]

SHRINKAGE = 0.003  # of a covariance: this share of the mean variance is added to every direction
REFUSED = 0.01  # of each source's threshold films, by each of the two distances, at most
PASSED = 0.05  # of the pictures that are no films: the rest is farther off than the distance that counts
MISTAKEN_POSES = 0.002  # of all upright threshold films
_LEAST_CERTAIN = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
_DOUBTED = 0.004  # of the upright threshold films: their doubt alone, or their layout alone, makes the distance of the threshold


@dataclass(frozen=True)
class Eye:
    """A network as the service runs it."""

    spec: InputSpec
    engine: Engine

    def see(self, radiograph: Radiograph) -> tuple[Floats, Floats]:
        """Logits [K] and pooled features [C], float64."""
        output = self.engine.run(prepare(radiograph, self.spec).tensor)
        return output.logits.astype(np.float64), pooled(output.features)

    def see_all(self, films: Sequence[Gray]) -> Seen:
        """uint8 [H, W] each."""
        seen = [self.see(Radiograph(pixels=film, sha256="", format="png")) for film in films]
        return Seen(np.stack([logits for logits, _ in seen]), np.stack([features for _, features in seen]))


@dataclass(frozen=True)
class Seen:
    """logits [N, K]; features [N, C], pooled."""

    logits: Floats
    features: Floats

    def __getitem__(self, chosen: NDArray[np.bool_]) -> Seen:
        return Seen(self.logits[chosen], self.features[chosen])


@dataclass(frozen=True)
class Upright:
    """The upright films of the threshold part: what the gate sees of them, the classifier's pooled features, their sources."""

    gate: Seen
    network: Floats
    folders: Sequence[str]


@dataclass(frozen=True)
class Limits:
    """What a picture's scores are held against: fields of `PictureGate`."""

    temperature: float
    pose_probability_at_least: float
    distance_above: float
    network_distance_above: float


def whitening(residuals: Floats) -> Floats:
    """W [C, C] with W cov W' = 1 but for the shrinkage, from residuals [N, C] about their means."""
    variance, axes = np.linalg.eigh(residuals.T @ residuals / len(residuals))
    whitened: Floats = (axes / np.sqrt(np.maximum(variance, 0) + SHRINKAGE * variance.mean())).T
    return whitened


def reference(poses: Sequence[Floats], network: Floats, upright: Floats) -> PictureReference:
    """Means and whitenings.

    Args:
        poses: features [N, C] of the fit part in every pose; the last channel is the doubt.
        network: the classifier's pooled features of the fit part, [N, C2].
        upright: features of the threshold part, which weigh the doubt against the layout.
    """
    layouts = [features[:, :-1] for features in poses]
    means = np.stack([layout.mean(axis=0) for layout in layouts])
    layout_whitening = whitening(np.concatenate([x - m for x, m in zip(layouts, means, strict=True)]))
    c = means.shape[1] + 1
    rows = np.zeros((c, c))
    rows[:-1, :-1] = layout_whitening
    rows[-1, -1] = _weight_of_doubt(upright, means, layout_whitening)
    center = network.mean(axis=0)
    return PictureReference(
        pose_means=np.c_[means, np.zeros(len(means))],  # no doubt: an ordinary film has none
        pose_whitening=rows,
        network_mean=center,
        network_whitening=whitening(network - center),
    )


def _weight_of_doubt(upright: Floats, means: Floats, layout_whitening: Floats) -> float:
    """Such that a film of median layout is as far away by its doubt as another by its layout, both at the same small share."""
    distances = np.min([mahalanobis(upright[:, :-1], mean, layout_whitening) for mean in means], axis=0)
    far, doubt = np.quantile(distances, 1 - _DOUBTED), np.quantile(upright[:, -1], 1 - _DOUBTED)
    squared = means.shape[1] * (far**2 - np.median(distances) ** 2) / max(float(doubt), 1e-3) ** 2
    return float(np.sqrt(squared))


def limits(poses: Sequence[Floats], upright: Upright, others: Floats, known: PictureReference) -> Limits:
    """Thresholds from the threshold part: its logits in every pose, what is seen of its upright films, and the features of
    pictures that are none (`training.gate.exposure`, other ones than in the fit).

    A distance is such that of each source at most `REFUSED` are beyond it: bedside films are few and look least like the others.
    The gate's own is moved on towards the other pictures, to the geometric mean of that limit and of the distance that all but
    `PASSED` of them exceed, if it lies farther: the threshold part is small, and what is drawn here lies farther off than films do.
    """
    temperature = _temperature(poses)
    films = _limit(pose_distance(upright.gate.features, known), upright.folders)
    far = float(np.quantile(pose_distance(others, known), PASSED))
    return Limits(
        temperature=temperature,
        pose_probability_at_least=_certainty(upright.gate.logits, temperature),
        distance_above=float(np.sqrt(films * max(films, far))),
        network_distance_above=_limit(network_distance(upright.network, known), upright.folders),
    )


def _limit(distances: Floats, folders: Sequence[str]) -> float:
    names = np.array(folders)
    worst = [np.quantile(distances[names == name], 1 - REFUSED, method="higher") for name in sorted(set(folders))]
    return float(max(worst))


def _certainty(upright: Floats, temperature: float) -> float:
    """The lowest probability at which hardly an upright film is taken for a turned one."""
    probabilities = pose_probabilities(upright, temperature)
    turned = probabilities.argmax(axis=1) != 0
    for least in _LEAST_CERTAIN:
        if (turned & (probabilities.max(axis=1) >= least)).mean() <= MISTAKEN_POSES:
            return least
    return _LEAST_CERTAIN[-1]


def _temperature(poses: Sequence[Floats]) -> float:
    """argmin over T of the mean negative log-likelihood of logits / T (Guo et al. 2017), by golden-section search on log T."""
    low, high, golden = np.log(0.05), np.log(20.0), (np.sqrt(5) - 1) / 2
    for _ in range(60):
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if _nll(poses, float(np.exp(a))) < _nll(poses, float(np.exp(b))) else (a, high)
    return float(np.exp((low + high) / 2))


def _nll(poses: Sequence[Floats], temperature: float) -> float:
    losses = []
    for truth, logits in enumerate(poses):
        scaled = logits / temperature
        top = scaled.max(axis=1)
        losses.append(top + np.log(np.exp(scaled - top[:, None]).sum(axis=1)) - scaled[:, truth])
    return float(np.concatenate(losses).mean())
