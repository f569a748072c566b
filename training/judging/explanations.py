"""Are the heat maps about the film? Four checks of the closed-form maps that the service shows (`app.explain`), by true class.

- border: share of a map's mass in the outer 10 % of the film. An even map has 36 % there; `ratio` is the share over that.
- outside the lung field: share of the mass outside `training.judging.lungs.lung_field`, where that estimate is usable; an even map has
  the share of the area. `usable` says on how many films.
- deletion and insertion (Petsiuk et al. 2018): probability of the explained class while the hottest parts are blurred away one after
  another, or are shown first on a blurred film; area under each curve, beside the mean of random maps of the same grid. A map that
  finds what counts has a smaller deletion and a larger insertion area than chance.
- weight randomisation (Adebayo et al. 2018): rank correlation of the map with that of the same network freshly initialised. A map that
  stays alike does not show what was learned.

Films without positive evidence have no map; they are counted. The class explained is the true one: what the map shows for it is what a
reader would be shown beside a right answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from scipy.stats import spearmanr

from app.decision import margins, sigmoid
from app.domain import Task
from app.explain import Head, activation_map, logit_of
from training.judging.answers import Figure, above, below, intervals
from training.judging.lungs import lung_field
from training.judging.probes import BORDER, frame_mask
from training.judging.reading import Read, feature_maps
from training.judging.scored import Scored
from training.networks.network import TriageNetwork, build_network
from training.networks.onnx_export import explanation_kind, head_tensors
from training.recipe import Recipe

Gray = NDArray[np.uint8]
Floats = NDArray[np.float64]
Maps = NDArray[np.float32]  # [N, h, w], 0..1, the maximum 1; all zeros without positive evidence

STEPS = 10  # parts in which a film is blurred away or shown
RANDOM_MAPS = 2  # random orders a film
REINITIALISED = 3  # freshly initialised networks
ALIKE = 0.5  # mean rank correlation with a fresh network from which maps count as alike
NEAR = 0.25  # sigma of that nearness, share of the side
BLUR = 0.08  # sigma of the blur that stands for "nothing to see", share of the side


@dataclass(frozen=True)
class Explained:
    """Films of one true class and the maps of that class. logit_index, negated: of the explained logit (`app.explain.logit_of`)."""

    name: str
    films: Gray
    paths: tuple[str, ...]
    patients: NDArray[np.str_]
    logit_index: int
    negated: bool


def explanation_report(
    network: TriageNetwork,
    recipe: Recipe,
    read: Read,
    groups: Sequence[Explained],
    *,
    bootstraps: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """All checks of every class.

    Returns:
        classes: class -> figures; border_mass: {value, ci} over all classes' films; randomisation: {value, ci, passed, limit};
        warnings: in words.
    """
    classes: dict[str, Any] = {}
    mass: list[tuple[str, float]] = []
    alike: list[tuple[str, float]] = []
    fresh = [
        build_network(
            recipe.network, outputs=len(recipe.data.outputs), channels=recipe.input.channels, seed=recipe.seed + 1 + i
        )
        for i in range(REINITIALISED)
    ]
    for group in track(list(groups), description="explanation checks", transient=True):
        maps = class_maps(network, group, recipe)
        shown = np.asarray(maps.any(axis=(1, 2)), dtype=np.bool_)
        row: dict[str, Any] = {"n": len(maps), "without_evidence": int((~shown).sum())}
        if shown.any():
            kept = _take(group, shown)
            places, border_share = mass_figures(kept, maps[shown], bootstraps=bootstraps, seed=seed)
            same = np.mean([_correlations(maps[shown], class_maps(f, kept, recipe)) for f in fresh], axis=0)
            row |= places | faithfulness(kept, maps[shown], read, recipe.data.task, bootstraps=bootstraps, seed=seed)
            row["randomisation"] = _mean_of({"correlation": same}, kept.patients, bootstraps, seed)["correlation"]
            mass += zip(kept.patients.tolist(), border_share.tolist(), strict=True)
            alike += zip(kept.patients.tolist(), same.tolist(), strict=True)
        classes[group.name] = row
    result: dict[str, Any] = {"classes": classes, "border_area": float(frame_mask(100, BORDER).mean())}
    if mass:
        result["border_mass"] = _pooled(mass, bootstraps, seed)
        correlation = _pooled(alike, bootstraps, seed)
        result["randomisation"] = correlation | {"limit": ALIKE, "passed": below(correlation, ALIKE)}
    result["warnings"] = warnings(result)
    return result


def class_maps(network: TriageNetwork, group: Explained, recipe: Recipe) -> Maps:
    """Grad-CAM of the group's class for each of its films, float32 [N, h, w]."""
    head = Head.from_tensors(explanation_kind(network), head_tensors(network))
    features = feature_maps(network, group.films, recipe)
    return np.stack(
        [
            activation_map(
                f, head, target=group.name, logit_index=group.logit_index, negated=group.negated, method="gradcam"
            ).values
            for f in features
        ]
    )


def groups_of(recipe: Recipe, films: Gray, scored: Scored, most: int) -> list[Explained]:
    """Up to `most` films of each true class, chosen by a hash of their path. films: uint8 [N, S, S], in the order of `scored`."""
    found = []
    targets, paths, patients = scored.targets, scored.paths.tolist(), scored.patients
    task: Task = recipe.data.task
    for name in recipe.data.classes:
        index, negated = logit_of(task, recipe.data.classes, name)
        rows = np.flatnonzero(targets[:, index] == (0 if negated else 1))
        chosen = sorted(rows.tolist(), key=lambda i: hashlib.sha256(f"explained:{paths[i]}".encode()).digest())[:most]
        if chosen:
            names = tuple(paths[i] for i in chosen)
            found.append(Explained(name, np.array(films[chosen]), names, patients[chosen], index, negated))
    return found


def mass_figures(group: Explained, maps: Maps, *, bootstraps: int, seed: int) -> tuple[dict[str, Any], Floats]:
    """Where the mass lies: `border` and `outside_lung` figures; and the border share of each film [N]."""
    size = group.films.shape[1]
    heat = np.stack([enlarged(m, size) for m in maps])
    total = heat.sum(axis=(1, 2))
    frame = frame_mask(size, BORDER)
    border_share = np.asarray((heat * frame).sum(axis=(1, 2)) / total, dtype=np.float64)
    found: dict[str, Any] = {"border": _mean_of({"share": border_share}, group.patients, bootstraps, seed)["share"]}
    found["border"]["ratio"] = float(border_share.mean() / frame.mean())
    fields = [lung_field(film) for film in group.films]
    rows = np.array([i for i, field in enumerate(fields) if field is not None], dtype=np.intp)
    lung: dict[str, Any] = {"usable": len(rows), "n": len(fields)}
    if len(rows):
        outside = np.stack([~field for field in fields if field is not None])
        share = np.asarray((heat[rows] * outside).sum(axis=(1, 2)) / total[rows], dtype=np.float64)
        area = float(outside.mean())
        lung |= _mean_of({"share": share}, group.patients[rows], bootstraps, seed)["share"]
        lung |= {"area": area, "ratio": float(share.mean() / area)}
    return found | {"outside_lung": lung}, border_share


def faithfulness(group: Explained, maps: Maps, read: Read, task: Task, *, bootstraps: int, seed: int) -> dict[str, Any]:
    """Areas under the deletion and insertion curves of the maps and of random maps, and the paired gains (positive = better)."""
    areas: dict[str, list[float]] = {"deletion": [], "insertion": [], "deletion_random": [], "insertion_random": []}
    score = _scorer(group, read, task)
    for film, path, heat in zip(group.films, group.paths, maps, strict=True):
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}:{path}".encode()).digest()[:8], "big"))
        orders = [heat, *(rng.random(heat.shape).astype(np.float32) for _ in range(RANDOM_MAPS))]
        curves = np.stack([area for order in orders for area in (changed_films(film, order))])
        scores = score(curves.reshape(-1, *film.shape)).reshape(len(orders), 2, STEPS + 1)
        under = np.asarray(np.trapezoid(scores, dx=1 / STEPS, axis=2), dtype=np.float64)  # [orders, 2]
        deleted, inserted = under[:, 0], under[:, 1]
        areas["deletion"].append(float(deleted[0]))
        areas["insertion"].append(float(inserted[0]))
        areas["deletion_random"].append(float(deleted[1:].mean()))
        areas["insertion_random"].append(float(inserted[1:].mean()))
    values = {name: np.array(v) for name, v in areas.items()}
    values["deletion_gain"] = values["deletion_random"] - values["deletion"]
    values["insertion_gain"] = values["insertion"] - values["insertion_random"]
    return _mean_of(values, group.patients, bootstraps, seed)


def changed_films(film: Gray, heat: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Deletion and insertion series, uint8 [STEPS + 1, S, S] each: the hottest share 0, 1/STEPS ... 1 of the pixels blurred away, or
    shown on the blurred film."""
    size = film.shape[0]
    blurred = np.asarray(cv2.GaussianBlur(film, (0, 0), BLUR * size), dtype=np.uint8)
    warm = enlarged(heat, size)
    near = cv2.GaussianBlur(warm, (0, 0), NEAR * size)  # equal heat, zero above all, goes by how near the heat is
    order = np.lexsort((-near.ravel(), -warm.ravel()))
    rank = np.empty(order.size, dtype=np.int64)
    rank[order] = np.arange(order.size)
    limits = np.rint(np.linspace(0, 1, STEPS + 1) * order.size)
    hot = (rank[None] < limits[:, None]).reshape(STEPS + 1, size, size)
    return np.where(hot, blurred, film), np.where(hot, film, blurred)


def enlarged(heat: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """A map on the film's grid, bilinear, float32 [S, S]."""
    return np.asarray(cv2.resize(heat, (size, size), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def warnings(report: dict[str, Any]) -> list[str]:
    """What the figures say against the maps; only where an interval allows it."""
    found = []
    for name, row in report["classes"].items():
        if "border" in row and above(row["border"], report["border_area"]):
            found.append(f"{name}: more of the map lies in the border than of an even map")
        lung = row.get("outside_lung", {})
        if "area" in lung and above(lung, lung["area"]):
            found.append(f"{name}: more of the map lies outside the lung field than of an even map")
        found += [
            f"{name}: {kind} is not better than with random maps"
            for kind in ("deletion", "insertion")
            if f"{kind}_gain" in row and not above(row[f"{kind}_gain"], 0.0)
        ]
    if "randomisation" in report and not report["randomisation"]["passed"]:
        found.append("maps stay alike when the weights are randomised")
    return found


def _scorer(group: Explained, read: Read, task: Task) -> Callable[[Gray], Floats]:
    """Uncalibrated probability of the explained class, [N] of films [N, S, S]."""

    def score(films: Gray) -> Floats:
        margin = margins(task, read(films).logits)[:, group.logit_index]
        return sigmoid(-margin if group.negated else margin)

    return score


def _correlations(maps: Maps, others: Maps) -> Floats:
    """Spearman's rank correlation of each pair of maps; 0 where a map is flat, since nothing can be alike in it."""
    values = []
    for a, b in zip(maps, others, strict=True):
        flat = np.ptp(a) == 0 or np.ptp(b) == 0
        values.append(0.0 if flat else float(spearmanr(a.ravel(), b.ravel()).statistic))
    return np.array(values)


def _mean_of(values: dict[str, Floats], patients: NDArray[np.str_], bootstraps: int, seed: int) -> dict[str, Figure]:
    return intervals(
        lambda chosen: {name: float(v[chosen].mean()) for name, v in values.items()},
        patients,
        bootstraps=bootstraps,
        seed=seed,
    )


def _pooled(rows: Sequence[tuple[str, float]], bootstraps: int, seed: int) -> Figure:
    patients, values = np.array([p for p, _ in rows]), np.array([v for _, v in rows])
    return _mean_of({"value": values}, patients, bootstraps, seed)["value"]


def _take(group: Explained, kept: NDArray[np.bool_]) -> Explained:
    paths = tuple(path for path, keep in zip(group.paths, kept, strict=True) if keep)
    return Explained(group.name, group.films[kept], paths, group.patients[kept], group.logit_index, group.negated)
