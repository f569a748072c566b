"""Pictures the gate must not take for upright chest films, for measuring only: no fit and no threshold sees them. Noise and blocks
are of kinds that the fit knows (`training.gate.exposure`); text, charts, cells, phantoms, photographs and scans are of none.

Drawn from a seed: pages of text, charts, checkerboards, cells, noise, the service's own phantoms. Found on this machine: photographs
that come with scikit-learn and matplotlib, the films that are none in `originals/`, and DICOM files of other things, those of the
data folder and those that come with pydicom. What is not there is left out and not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from app.domain import Radiograph
from app.errors import CxrError
from app.imaging.decode import decode
from app.imaging.dicom.frame import FrameDecoder
from app.imaging.phantom import phantom
from training.data.cache import LIMITS
from training.gate.parts import not_frontal_paths
from training.gate.poses import Gray, window

Random = np.random.Generator

# Files of `dicom/` that show a frontal chest; the rest shows other things or nothing.
CHEST_DICOM = ("udacity_test", "rsna_16d7f894", "RG1_J2KI", "gdcm-CR-MONO1")
_PHOTOGRAPHS = (
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)
_LETTERS = list("abcdefghijklmnopqrstuvwxyz   ABCDEFG 0123456789.,")


def generated(seed: int, count: int) -> dict[str, list[Gray]]:
    """Kind -> pictures, uint8 [H, W] of many sizes."""
    found = {name: [draw(np.random.default_rng([seed, i])) for i in range(count)] for name, draw in _GENERATED.items()}
    found["phantoms of the service"] = [phantom(i, opacity=i % 2 == 0) for i in range(count)]
    return found


def photographs(seed: int, count: int) -> list[Gray]:
    """The photographs and random parts of them; empty where there are none."""
    whole = [np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), np.uint8) for path in _photograph_paths()]
    rng = np.random.default_rng([seed, 1])
    parts = [window(whole[i % len(whole)], rng, (0.3, 1.0)) for i in range(count)] if whole else []
    return [*whole, *parts]


def not_frontal(data: Path) -> dict[str, list[Radiograph]]:
    """Lateral films and CT slices of `originals/`."""
    found: dict[str, list[Radiograph]] = {}
    for path, note in not_frontal_paths(data):
        kind = "lateral chest films" if "lateral" in note else "CT slices of the chest"
        found.setdefault(kind, []).append(decode((data / path).read_bytes(), LIMITS))
    return found


def other_dicom(data: Path, decoder: FrameDecoder | None) -> list[Radiograph]:
    """DICOM pictures of other things that this service decodes, whatever their headers say; each picture once."""
    found: dict[bytes, Radiograph] = {}
    for path in _dicom_paths(data):
        if path.name.startswith(CHEST_DICOM):
            continue
        with suppress(CxrError):  # refused before the gate sees it
            radiograph = decode(path.read_bytes(), LIMITS, decoder)
            found.setdefault(radiograph.pixels.tobytes(), radiograph)
    return list(found.values())


def chest_dicom(data: Path, decoder: FrameDecoder | None) -> dict[str, Radiograph]:
    """Frontal chest films among the DICOM files, by file name; the one whose tag inverts it is left out, and so are repeats."""
    found: dict[str, Radiograph] = {}
    for path in sorted((data / "dicom").glob("*.dcm")):
        if path.name.startswith(CHEST_DICOM) and not any(
            word in path.name for word in ("tag_only", "test4", "test5", "test6")
        ):
            with suppress(CxrError):
                found[path.name] = decode(path.read_bytes(), LIMITS, decoder)
    return found


def _dicom_paths(data: Path) -> Iterator[Path]:
    yield from sorted((data / "dicom").glob("*.dcm"))
    package = _package("pydicom")
    if package is not None:
        yield from sorted((package / "data" / "test_files").glob("*.dcm"))


def _photograph_paths() -> list[Path]:
    paths = [(_package(name), inside) for name, inside in _PHOTOGRAPHS]
    return [base / inside for base, inside in paths if base is not None and (base / inside).is_file()]


def _package(name: str) -> Path | None:
    spec = find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _size(rng: Random) -> tuple[int, int]:
    return int(rng.integers(200, 900)), int(rng.integers(200, 900))


def _text(rng: Random) -> Gray:
    height, width = (int(v) for v in rng.integers(400, 1200, 2))
    dark = bool(rng.random() < 0.3)
    page = np.full((height, width), 20 if dark else 250, np.uint8)
    size = rng.uniform(0.4, 2.2)
    y = int(30 * size)
    while y < height - 10:
        if rng.random() < 0.85:
            line = "".join(rng.choice(_LETTERS, int(rng.integers(5, int(width / (18 * size)) + 6))))
            start, font, thick = (int(rng.integers(5, 40)), y), int(rng.integers(8)), int(rng.integers(1, 3))
            cv2.putText(page, line, start, font, size, 235 if dark else 10, thick, cv2.LINE_AA)
        y += int(rng.uniform(25, 50) * size)
    return page


def _chart(rng: Random) -> Gray:
    page = np.full((500, 700), 255, np.uint8)
    cv2.line(page, (60, 440), (680, 440), 0, 2)
    cv2.line(page, (60, 20), (60, 440), 0, 2)
    for i in range(int(rng.integers(0, 8))):
        top, gray = int(rng.integers(40, 430)), int(rng.integers(60, 220))
        cv2.rectangle(page, (80 + i * 70, 440), (120 + i * 70, top), gray, -1)
    for _ in range(int(rng.integers(2, 6))):
        heights = 440 - 400 * np.abs(np.cumsum(rng.standard_normal(40)) / 12) % 400
        points = np.stack([np.linspace(60, 680, 40), heights], axis=1).astype(np.int32)
        cv2.polylines(page, [points], False, int(rng.integers(160)), 2, cv2.LINE_AA)
    cv2.putText(page, f"Figure {rng.integers(9)}", (250, 30), 0, 1, 0, 2)
    return page


def _checkerboard(rng: Random) -> Gray:
    (height, width), count = _size(rng), int(rng.integers(2, 40))
    y, x = np.mgrid[:height, :width]
    one, other = rng.choice(256, 2, replace=False)
    return np.asarray(np.where((y * count // height + x * count // width) % 2 == 0, one, other), np.uint8)


def _cells(rng: Random) -> Gray:
    """Voronoi cells: each of one gray, or bright where two meet."""
    points, grays = rng.random((int(rng.integers(8, 120)), 2)) * 300, rng.integers(0, 256, 120)
    y, x = np.mgrid[:300, :300]
    distances = np.hypot(y[..., None] - points[:, 0], x[..., None] - points[:, 1])
    if rng.random() < 0.5:
        return np.asarray(grays[distances.argmin(axis=2)], np.uint8)
    nearest = np.partition(distances, 1, axis=2)
    gap = nearest[..., 1] - nearest[..., 0]
    return np.asarray(np.rint(gap / gap.max() * 255), np.uint8)


def _white_noise(rng: Random) -> Gray:
    return rng.integers(0, 256, _size(rng), dtype=np.uint8)


def _gaussian_noise(rng: Random) -> Gray:
    return np.clip(128 + rng.uniform(10, 80) * rng.standard_normal(_size(rng)), 0, 255).astype(np.uint8)


_GENERATED: dict[str, Callable[[Random], Gray]] = {
    "pages of text": _text,
    "charts": _chart,
    "checkerboards": _checkerboard,
    "Voronoi cells": _cells,
    "white noise": _white_noise,
    "Gaussian noise": _gaussian_noise,
}
