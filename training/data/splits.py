"""Who is trained on, who validates, who tests: by patient, never by film.

    official test              -> test, whole: loaded by `evaluate --split test` alone
    official train             -> pool, less every film of a patient id that also occurs in the official test split
    official val (16 films)    -> left out: too few to report on, and not part of the official training split
    pool, by patient           -> train | fit (calibrator, thresholds) | report (what is reported)

Films that share a patient id or a duplicate group stay together. Dealing out is stratified by label and folder, and depends
on the seed and the patient ids only.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.errors import ConfigurationError
from training.data.films import Film
from training.recipe import DataPart


@dataclass(frozen=True)
class Splits:
    """Disjoint lists of films, each in path order. `crossing`: training films dropped because their patient is in the test."""

    train: tuple[Film, ...]
    fit: tuple[Film, ...]
    report: tuple[Film, ...]
    test: tuple[Film, ...]
    crossing: tuple[Film, ...]
    left_out: tuple[Film, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over the paths of every part."""
        parts = {name: [f.path for f in films] for name, films in vars(self).items()}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def make_splits(films: Sequence[Film], part: DataPart, seed: int) -> Splits:
    """Deal out the films of the recipe's folders. Raises ConfigurationError for a leak or an unknown upstream split."""
    unknown = {f.upstream_split for f in films} - {"train", "val", "test"}
    if unknown:
        raise ConfigurationError("unknown_split", f"upstream splits {sorted(unknown)} are not known")
    films = [f for f in films if f.label in {part.positive, part.negative}]
    group = _groups(films)
    test = [f for f in films if f.upstream_split == "test"]
    left_out = [f for f in films if f.upstream_split == "val"]
    tested = {group[f.path] for f in test}
    official = [f for f in films if f.upstream_split == "train"]
    pool = [f for f in official if group[f.path] not in tested]
    crossing = [f for f in official if group[f.path] in tested]
    held_back = {group[f.path] for f in left_out}
    left_out += [f for f in pool if group[f.path] in held_back]
    pool = [f for f in pool if group[f.path] not in held_back]
    train, fit, report = _deal(pool, group, part.validation_each, seed)
    splits = Splits(*(_sorted(p) for p in (train, fit, report, test, crossing, left_out)))
    check_no_leak(splits)
    return splits


def check_no_leak(splits: Splits) -> None:
    """Raises ConfigurationError("leak") where a path, patient or duplicate group stands in two of train, fit, report, test."""
    seen: dict[tuple[str, str], str] = {}
    for name in ("train", "fit", "report", "test"):
        films: tuple[Film, ...] = getattr(splits, name)
        for film in films:
            if not film.patient:
                raise ConfigurationError("leak", f"{film.path} has no patient id, so it cannot be split")
            for key in _keys(film):
                other = seen.setdefault(key, name)
                if other != name:
                    raise ConfigurationError("leak", f"{key[0]} {key[1]} stands in both {other} and {name}")


def _keys(film: Film) -> list[tuple[str, str]]:
    keys = [("film", film.path), ("patient", film.patient)]
    if film.duplicate_group:
        keys.append(("duplicate group", film.duplicate_group))
    return keys


def _groups(films: Iterable[Film]) -> dict[str, str]:
    """Path -> name of its group: films joined by patient id or duplicate group, transitively (union-find)."""
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def find(key: tuple[str, str]) -> tuple[str, str]:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    films = list(films)
    for film in films:
        first, *rest = _keys(film)[1:]
        for key in rest:
            a, b = sorted((find(first), find(key)))
            parent[b] = a
    return {film.path: "/".join(find(_keys(film)[1])) for film in films}


def _deal(
    pool: Sequence[Film], group: dict[str, str], each: float, seed: int
) -> tuple[list[Film], list[Film], list[Film]]:
    """Groups in a seeded random order within their stratum; a group goes where its middle film falls on the share axis."""
    members: dict[str, list[Film]] = defaultdict(list)
    for film in pool:
        members[group[film.path]].append(film)
    strata: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, films in members.items():
        key = (min(f.label for f in films), *sorted({f.folder for f in films}))
        strata[key].append(name)
    dealt: tuple[list[Film], list[Film], list[Film]] = ([], [], [])
    for names in strata.values():
        order = sorted(names, key=lambda n: hashlib.sha256(f"{seed}:{n}".encode()).digest())
        total = sum(len(members[n]) for n in order)
        done = 0
        for name in order:
            middle = (done + len(members[name]) / 2) / total
            done += len(members[name])
            dealt[0 if middle >= 2 * each else (1 if middle < each else 2)].extend(members[name])
    return dealt


def _sorted(films: Iterable[Film]) -> tuple[Film, ...]:
    return tuple(sorted(films, key=lambda film: film.path))
