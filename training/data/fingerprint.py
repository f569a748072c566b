"""Which films went into the weights: what the provenance of a bundle says, and one digest for a whole data set."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from app.bundle.manifest import DataSource
from training.data.cache import Pixels
from training.data.films import Film
from training.data.sources import folder_origin
from training.data.spec import DataPart, Source


def data_sources(pixels: Pixels, sources: Sequence[Source] = (), role: str = "training films") -> list[DataSource]:
    """One entry per folder, in folder order; digest = SHA-256 over the sorted list of (path, file sha256).

    Args:
        sources: the recipe's, for what it says about folders that `training.data.sources` does not know.
        role: what the films were used for; completes "<folder>, ".

    Raises:
        ConfigurationError: `unknown_source`.
    """
    licences: dict[str, set[str]] = defaultdict(set)
    for film in pixels.films:
        licences[film.folder].add(film.licence)
    return [
        DataSource(
            name=f"{folder}, {role}",
            images=images,
            digest=digest,
            licence=", ".join(sorted(licences[folder] - {""})) or folder_origin(folder, sources).licence,
            attribution=folder_origin(folder, sources).attribution,
        )
        for folder, (images, digest) in folder_digests(pixels.films, pixels.sha256).items()
    ]


def folder_digests(films: Sequence[Film], sha256: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Films of each folder, and the SHA-256 over their sorted list of (path, file sha256); by folder name, in its order.

    sha256: of each film's file.
    """
    pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for film, sha in zip(films, sha256, strict=True):
        pairs[film.folder].append((film.path, sha))
    return {
        folder: (len(found), hashlib.sha256(json.dumps(sorted(found)).encode()).hexdigest())
        for folder, found in sorted(pairs.items())
    }


def fingerprint(films: Iterable[Film], part: DataPart) -> dict[str, Any]:
    """What a data set is, from what its sources say and without opening a film; goes into a run's `splits.json`.

    digest: SHA-256 over the sorted list of (path, patient, label, findings, upstream split, duplicate group), so that a changed label or
    patient shows, as `Pixels.digest` shows a changed file. films, patients: in all and per folder; labels: films per class.
    """
    films = list(films)
    rows = sorted((f.path, f.patient, f.label, f.findings, f.upstream_split, f.duplicate_group) for f in films)
    folders = sorted({f.folder for f in films})
    return {
        "digest": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
        "films": len(films),
        "patients": patients(films),
        "folders": {name: _counts([f for f in films if f.folder == name], part) for name in folders},
    }


def patients(films: Iterable[Film]) -> int:
    """How many there are; films without a patient id count as one each."""
    return len({f.patient or f.path for f in films})


def shown(film: Film) -> tuple[str, ...]:
    """The classes that a film shows."""
    return (film.label,) if film.label else tuple(name for name, value in film.findings if value == 1)


def _counts(films: Sequence[Film], part: DataPart) -> dict[str, Any]:
    labels = {name: sum(name in shown(f) for f in films) for name in part.classes}
    return {"films": len(films), "patients": patients(films), "labels": labels}
