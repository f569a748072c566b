"""Fitting the gate: which pose is it, and is it a chest film at all. Seeded, minutes on one core, watched by a progress bar.

Every batch holds films in random poses and pictures that are none (`training.gate.exposure`). Films are changed as in the
classifier's training, and in two ways that bedside films need: cables and letters across the picture, and a film that fills only
part of its frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from app.bundle.input_spec import InputSpec, PerImageNormalisation
from training.data.films import Film
from training.fitting.augment import augment, standardise
from training.fitting.spec import RadiographAugmentation
from training.gate.exposure import drawn, made_of
from training.gate.network import SIZE, GateNetwork, build_gate
from training.gate.poses import CROPPED, POSES, Gray, resized, turned, window

_NORMALISATION = PerImageNormalisation(kind="per_image", std_floor=8.0)
# what the service shows the network; the low-pass evens out the sharpness of copies at different sizes
INPUT = InputSpec(
    size=SIZE,
    channels=1,
    resize="stretch",
    sixteen_bit="significant_bits",
    antialias_sigma=1.0,
    normalisation=_NORMALISATION,
)
# what the fit starts from: larger, so that a window of a film is as sharp as a film, and without the low-pass
SOURCE = INPUT.model_copy(update={"size": 160, "antialias_sigma": None})
AUGMENTATION = RadiographAugmentation(
    gamma=2.2, window=0.15, curve=0.6, rotation=8, scale=1.15, aspect=1.3, shift=0.05,
    illumination=0.25, sharpness=0.7, noise=5, erase=0.15,
)  # fmt: skip
_UPRIGHT_SHARE = 0.3


@dataclass(frozen=True)
class GateFit:
    """Every choice of a fit. films, others: in a batch; drawn: generated pictures in all; decay: of the weights' average.

    weights: how often a film of a folder is shown, relative to one of the classifier's own.
    """

    seed: int = 20261121
    steps: int = 1000
    films: int = 72
    others: int = 36
    drawn: int = 3000
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.02
    decay: float = 0.995
    weights: tuple[tuple[str, float], ...] = (("nih_chestxray14", 2.5), ("hannover_covid19", 8.0))


def fit_gate(films: Sequence[Film], pixels: NDArray[np.uint8], part: GateFit, console: Console) -> GateNetwork:
    """The fitted network, in evaluation mode.

    Args:
        films, pixels: the fit part; uint8 [N, 160, 160] after `SOURCE`.
    """
    network: GateNetwork = build_gate(part.seed).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimiser = torch.optim.AdamW(network.parameters(), lr=part.learning_rate, weight_decay=part.weight_decay)
    chances = _chances(films, part)
    others = np.stack([drawn(part.seed + i, SOURCE.size) for i in range(part.drawn)])
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    network.train()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("fitting the gate", total=part.steps)
        for step in range(part.steps):
            image, poses = _batch(pixels, chances, others, part, step)
            for group in optimiser.param_groups:
                group["lr"] = part.learning_rate * _rate(step, part.steps)
            loss = _loss(network, image, poses, part)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
            optimiser.step()
            _average(average, network, min(part.decay, (1 + step) / (10 + step)))
            progress.advance(task)
            if (step + 1) % 100 == 0:
                console.print(f"gate, step {step + 1}/{part.steps}  loss {loss.item():.3f}")
    network.load_state_dict(average)
    network.eval()
    return network


def _chances(films: Sequence[Film], part: GateFit) -> NDArray[np.float64]:
    weights = dict(part.weights)
    raw = np.array([weights.get(film.folder, 1.0) for film in films], dtype=np.float64)
    return np.asarray(raw / raw.sum(), np.float64)


def _batch(
    pixels: NDArray[np.uint8], chances: NDArray[np.float64], others: NDArray[np.uint8], part: GateFit, step: int
) -> tuple[Tensor, Tensor]:
    """Standardised image [films + others, 1, S, S], and the poses [films] of its first films."""
    rng = np.random.default_rng([part.seed, step])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    rest = (1 - _UPRIGHT_SHARE) / (len(POSES) - 1)
    poses = rng.choice(len(POSES), part.films, p=[_UPRIGHT_SHARE, *[rest] * (len(POSES) - 1)])
    chosen = rng.choice(len(pixels), part.films, p=chances)
    films = [_shown(np.array(pixels[i]), int(pose), rng) for i, pose in zip(chosen, poses, strict=True)]
    generated = part.others // 2
    pictures = [others[i] for i in rng.integers(len(others), size=generated)]
    pictures += [made_of(np.array(pixels[i]), rng) for i in rng.choice(len(pixels), part.others - generated)]
    x = augment(torch.from_numpy(np.stack([*films, *pictures])), AUGMENTATION, INPUT.size, generator)
    ways = torch.from_numpy(np.concatenate([poses, rng.integers(CROPPED, size=part.others)]))
    x = standardise(_low_pass(turned(x, ways)), _NORMALISATION.std_floor)
    return x.contiguous(memory_format=torch.channels_last), torch.from_numpy(poses)


def _shown(film: Gray, pose: int, rng: np.random.Generator) -> Gray:
    """The film as it may come: a window of it, with cables and letters, in a frame; uint8 of the same shape."""
    if pose == CROPPED:
        film = resized(window(film, rng), film.shape[0])
    if rng.random() < 0.3:
        film = _with_cables(film, rng)
    return _framed(film, rng) if pose != CROPPED and rng.random() < 0.25 else film


def _with_cables(film: Gray, rng: np.random.Generator) -> Gray:
    film, size = film.copy(), film.shape[0]
    for _ in range(int(rng.integers(1, 7))):
        start, end = rng.uniform(-0.1, 1.1, (2, 2))
        bend = (start + end) / 2 + rng.normal(0, 0.25, 2)
        t = np.linspace(0, 1, 24)[:, None]
        line = ((1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end) * size
        gray = int(rng.integers(150, 256))
        cv2.polylines(
            film,
            [line.astype(np.int32)],
            isClosed=False,
            color=gray,
            thickness=int(rng.integers(1, 3)),
            lineType=cv2.LINE_AA,
        )
    if rng.random() < 0.5:
        place = tuple(int(v) for v in rng.uniform(0.02, 0.9, 2) * size)
        cv2.putText(
            film, str(rng.choice(["L", "R", "AP", "12"])), place, 0, rng.uniform(0.3, 0.9), 255, int(rng.integers(1, 3))
        )
    return film


def _framed(film: Gray, rng: np.random.Generator) -> Gray:
    """The film smaller, askew and off the centre of a black or white frame, as collimated films are."""
    size = film.shape[0]
    gray = 0 if rng.random() < 0.75 else 255
    matrix = cv2.getRotationMatrix2D((size / 2, size / 2), rng.normal(0, 4), 1.0)
    scale = rng.uniform(0.5, 1.0, 2)
    matrix[:, 2] -= size / 2
    matrix = matrix * scale[:, None]
    matrix[:, 2] += size / 2 + rng.uniform(-0.5, 0.5, 2) * (1 - scale) * size
    return np.asarray(cv2.warpAffine(film, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=gray), np.uint8)


def _low_pass(x: Tensor) -> Tensor:
    """The Gaussian of `InputSpec.antialias_sigma`, 7 taps per axis."""
    sigma = INPUT.antialias_sigma or 1.0
    taps = torch.exp(-0.5 * (torch.arange(-3, 4) / sigma) ** 2)
    taps = taps / taps.sum()
    x = F.conv2d(F.pad(x, (3, 3, 0, 0), mode="reflect"), taps.view(1, 1, 1, 7))
    return F.conv2d(F.pad(x, (0, 0, 3, 3), mode="reflect"), taps.view(1, 1, 7, 1))


def _loss(network: GateNetwork, image: Tensor, poses: Tensor, part: GateFit) -> Tensor:
    logits, evidence = network.scores(image)
    film = (torch.arange(len(evidence)) < len(poses)).float()
    pose = F.cross_entropy(logits[: len(poses)], poses, label_smoothing=part.label_smoothing)
    return pose + F.binary_cross_entropy_with_logits(evidence, film)


def _rate(step: int, steps: int) -> float:
    """Fifty steps of warm-up, and a cosine to zero."""
    return min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def _average(average: dict[str, Tensor], network: GateNetwork, decay: float) -> None:
    for name, value in network.state_dict().items():
        if value.dtype.is_floating_point:
            average[name].lerp_(value, 1 - decay)
        else:
            average[name].copy_(value)
