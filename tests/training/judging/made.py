"""Films, truth and stand-ins for a network, for the tests of the checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import NoCalibration, OperatingPoint
from app.domain import InputStatistics, Task
from app.imaging.phantom import phantom
from training.data.cache import Pixels
from training.data.films import Film
from training.judging.answers import Rule
from training.judging.reading import Read, Reading
from training.judging.scored import Scored

Gray = NDArray[np.uint8]
Floats = NDArray[np.float64]
NONE = NoCalibration(method="none")


def scored(logits: Sequence[float] | Floats, truth: Sequence[int], *, films_each: int = 1) -> Scored:
    """A binary set. films_each: films of one patient."""
    n = len(truth)
    return Scored(
        name="made",
        task="binary",
        outputs=("pneumonia",),
        targets=np.array(truth, dtype=np.float64)[:, None],
        logits=np.array(logits, dtype=np.float64)[:, None],
        patients=np.array([f"p{i // films_each}" for i in range(n)]),
        sources=np.array(["here"] * n),
        paths=np.array([f"here/{i}.png" for i in range(n)]),
    )


def many(task: Task, outputs: tuple[str, ...], logits: Floats, targets: Floats) -> Scored:
    n = len(logits)
    return Scored(
        name="made",
        task=task,
        outputs=outputs,
        targets=targets,
        logits=logits,
        patients=np.array([f"p{i}" for i in range(n)]),
        sources=np.array(["here"] * n),
        paths=np.array([f"here/{i}.png" for i in range(n)]),
    )


def threshold_rule(threshold: float = 0.0) -> Rule:
    point = OperatingPoint(name="screening", rule="threshold", target="made", thresholds={"pneumonia": threshold})
    return Rule(("normal", "pneumonia"), NONE, point)


def network(logit: Callable[[Gray], float]) -> Read:
    """A binary network that says `logit` of each film, uint8 [S, S]; its features are an 8 x 8 thumbnail."""

    def read(films: Gray) -> Reading:
        small = [cv2.resize(film, (8, 8), interpolation=cv2.INTER_AREA).ravel() for film in films]
        return Reading(np.array([[logit(film)] for film in films]), np.array(small, dtype=np.float64))

    return read


def pixels(n: int, *, first: int = 0, size: int = 64, source: str = "here") -> Pixels:
    """n phantoms, every second one with an opacity, each a patient of its own."""
    films, images, statistics = [], [], []
    for i in range(first, first + n):
        whole = phantom(i, height=2 * size, width=2 * size, opacity=i % 2 == 1)
        small = np.asarray(cv2.resize(whole, (size, size), interpolation=cv2.INTER_AREA), dtype=np.uint8)
        label = "pneumonia" if i % 2 else "normal"
        films.append(Film(f"{source}/{i}.png", source, "train", label, f"{source}:{i}", width=448, height=512))
        images.append(small)
        statistics.append(InputStatistics(float(small.mean()), float(small.std()), 1.0, 0.0, 0.0, 5.0, 512, 448))
    return Pixels(tuple(films), np.stack(images)[:, None], ("0" * 64,) * n, tuple(statistics))


def tagged(part: Pixels, label: str = "pneumonia") -> Pixels:
    """The same films with a bright tag in the upper left corner of one class."""
    images = part.images.copy()
    for i, film in enumerate(part.films):
        if film.label == label:
            images[i, :, 2:8, 2:10] = 255
    return Pixels(part.films, images, part.sha256, part.statistics)


def truth(part: Pixels) -> list[int]:
    return [int(film.label == "pneumonia") for film in part.films]
