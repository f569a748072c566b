"""Views of one film for test-time augmentation: the same film as it might have been taken a moment later.

Small rotations and exposures, as training varies them. No mirror image: it puts the heart on the other side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Gray: TypeAlias = NDArray[np.uint8]
View: TypeAlias = Callable[[Gray], Gray]  # uint8 [S, S] -> uint8 [S, S]

PLAIN: Final = "identity"
ROTATION: Final = 5.0  # degrees
STOPS: Final = 0.15  # exposure factor 2^+-0.15


def rotated(film: Gray, degrees: float) -> Gray:
    """uint8 [S, S] about its centre, counter-clockwise, bilinear; what comes from outside is black."""
    size = film.shape[0]
    centre = ((size - 1) / 2, (size - 1) / 2)
    turn = cv2.getRotationMatrix2D(centre, float(degrees), 1.0)
    return np.asarray(cv2.warpAffine(film, turn, (size, size), flags=cv2.INTER_LINEAR), dtype=np.uint8)


def exposed(film: Gray, stops: float) -> Gray:
    """Gray levels times 2^stops, clipped to 0..255."""
    return np.asarray(np.clip(np.rint(film * 2.0**stops), 0, 255), dtype=np.uint8)


def rotations(degrees: float) -> dict[str, View]:
    """Both ways. degrees: > 0."""
    return {f"rotation {s:+g}": partial(rotated, degrees=s) for s in (degrees, -degrees)}


def exposures(stops: float) -> dict[str, View]:
    """Brighter and darker. stops: > 0."""
    return {f"brightness {s:+g} stops": partial(exposed, stops=s) for s in (stops, -stops)}


# what `tta=true` shows the network beside the plain film; of the square before normalisation
FURTHER_VIEWS: Final[Mapping[str, View]] = MappingProxyType({**rotations(ROTATION), **exposures(STOPS)})
