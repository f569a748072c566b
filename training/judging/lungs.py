"""A simple estimate of the lung field of a frontal film, for measuring where heat lies. It fails on some films, and says so.

A lung is dark, lies inside the body and on its own side. Thresholds are tried from dark to bright: at each, the dark parts that do
not touch the frame are opened a little, and the largest on either side of the film's middle is kept. Of all thresholds whose two
parts look like lungs (`_plausible`), the one with the largest compact area wins, and the convex hulls of its parts are the field:
heart and ribs cut into a lung, and opacities darken its edge. Where no threshold gives such a pair the film is not usable. A lung that
is white with disease often gives none, so shares are always reported beside the share of usable films.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Gray = NDArray[np.uint8]
Mask = NDArray[np.bool_]

SIDE = 128  # px at which the estimate is made
LEVELS = 24  # thresholds tried, between the 5 and 70 % quantiles of the film's middle
AREA = (0.03, 0.30)  # of one lung, share of the film
RATIO = 3.0  # between the two lungs' areas at most
HEIGHT = (0.25, 0.75)  # where the centre of a lung may lie, share of the film from the top
APART = 0.15  # how far the two centres may differ in height, share of the film
SOLIDITY = 0.65  # part over hull, at least
UPRIGHT = 0.8  # height over width of a lung, at least


@dataclass(frozen=True)
class _Part:
    hull: Mask
    area: float
    solidity: float
    centre: float
    upright: float


def lung_field(film: Gray) -> Mask | None:
    """bool [S, S], True inside the estimated lung field of a uint8 [S, S] film; None where the estimate is not usable."""
    small = np.asarray(cv2.resize(film, (SIDE, SIDE), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    small = np.asarray(cv2.medianBlur(small, 5), dtype=np.uint8)
    middle = small[SIDE // 6 : -SIDE // 6, SIDE // 8 : -SIDE // 8]
    best: tuple[float, Mask] | None = None
    for level in np.unique(np.quantile(middle, np.linspace(0.05, 0.70, LEVELS)).astype(np.uint8)):
        dark = (small <= level).astype(np.uint8)
        dark = np.asarray(cv2.morphologyEx(dark, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)), dtype=np.uint8)
        left, right = _largest(dark, slice(0, SIDE // 2)), _largest(dark, slice(SIDE // 2, SIDE))
        if left is None or right is None or not _plausible(left, right):
            continue
        score = left.area * left.solidity + right.area * right.solidity
        if best is None or score > best[0]:
            best = score, left.hull | right.hull
    if best is None:
        return None
    whole = cv2.resize(best[1].astype(np.uint8), (film.shape[1], film.shape[0]), interpolation=cv2.INTER_NEAREST)
    return np.asarray(whole, dtype=np.bool_)


def _largest(dark: Gray, columns: slice) -> _Part | None:
    """The largest dark part of one half that does not reach the film's frame."""
    part = np.zeros_like(dark)
    part[:, columns] = dark[:, columns]
    count, labels, statistics, centres = cv2.connectedComponentsWithStats(part, connectivity=4)
    inside = [label for label in range(1, count) if not _framed(statistics[label])]
    if not inside:
        return None
    label = max(inside, key=lambda found: int(statistics[found, cv2.CC_STAT_AREA]))
    points = np.argwhere(labels == label)[:, ::-1].astype(np.int32)
    hull = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(points), 1)
    width, height, size = (int(statistics[label, i]) for i in (cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_AREA))
    return _Part(
        hull=hull.astype(np.bool_),
        area=float(hull.mean()),
        solidity=size / float(hull.sum()),
        centre=float(centres[label][1]) / SIDE,
        upright=height / width,
    )


def _framed(box: NDArray[np.int32]) -> bool:
    left, top, width, height = (int(v) for v in box[:4])
    return top == 0 or left == 0 or top + height == SIDE or left + width == SIDE


def _plausible(left: _Part, right: _Part) -> bool:
    areas = (left.area, right.area)
    each = all(
        AREA[0] <= lung.area <= AREA[1]
        and HEIGHT[0] <= lung.centre <= HEIGHT[1]
        and lung.solidity >= SOLIDITY
        and lung.upright >= UPRIGHT
        for lung in (left, right)
    )
    return each and max(areas) <= RATIO * min(areas) and abs(left.centre - right.centre) <= APART
