"""Who is trained on, who validates, who tests: by patient, never by film.

    test = "upstream"                                        test = a share
      upstream test -> test, whole                             a share of the patients, stratified -> test
      upstream val  -> left out (16 films of Kermany)          upstream splits are not looked at
    films of sources with side = "test"   -> test, on top
    the others, less every film of a patient or duplicate group that is also in the test -> pool
    films of sources with side = "train"  -> train; their patients' other films with them
    the rest of the pool, by patient      -> train | fit (calibrator, thresholds) | report (what is reported)

The test split is loaded by `evaluate --split test` alone. Films that share a patient id or a duplicate group stay together. Dealing out
is stratified by label (multilabel: by the rarest finding) and folder, and depends on `split_seed` and the patient ids only.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from app.errors import ConfigurationError
from training.data.collect import collect
from training.data.films import Film
from training.data.spec import DataPart
from training.places import Places
from training.recipe import Recipe

PARTS = ("train", "fit", "report", "test")
_UPSTREAM = frozenset({"train", "val", "test", ""})


@dataclass(frozen=True)
class Splits:
    """Disjoint lists of films, each in path order.

    crossing: films of patients in the test that are not test films themselves; left_out: what upstream calls val, and training films
    beyond a source's limit.
    """

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


def recipe_splits(recipe: Recipe, places: Places) -> Splits:
    """The recipe's splits; no image is opened.

    Raises ConfigurationError for missing data, a leak, a part without films, or one that is learnt or chosen from without a film of
    some class (a label of a multilabel recipe may be missing).
    """
    splits = make_splits(collect(recipe.data.sources, places.data, recipe.data), recipe.data)
    empty = [name for name in PARTS if not getattr(splits, name)]
    if empty:
        raise ConfigurationError(
            "empty_split",
            f"{recipe.name}: no film is dealt to {', '.join(empty)}: too few patients, or no upstream test (then data.test = 0.2)",
        )
    for name in ("train", "fit", "report"):
        lost = set(recipe.data.classes) - {film.label for film in getattr(splits, name)}
        if lost and recipe.data.task != "multilabel":
            raise ConfigurationError(
                "class_missing",
                f"{recipe.name}: {name} has no film of {', '.join(sorted(lost))}: too few patients, or `labels` names it otherwise",
            )
    return splits


def make_splits(films: Sequence[Film], part: DataPart) -> Splits:
    """Deal out the films of the recipe's sources.

    Raises ConfigurationError: `unknown_split`, `no_patient` (a film that only a source with a side may have), `leak` (also for films
    of a test patient outside the test, unless the recipe leaves them out).
    """
    _check(films, part)
    group, stratum = _groups(films), _strata(films, part)
    test, left_out = _first_look(films, part, group, stratum)
    taken = {f.path for f in (*test, *left_out)}
    tested = {group[f.path] for f in test}
    others = [f for f in films if f.path not in taken]
    crossing = [f for f in others if group[f.path] in tested]
    if crossing and part.crossing == "stop":
        raise _leak_of(crossing)
    pool = [f for f in others if group[f.path] not in tested]
    held_back = {group[f.path] for f in left_out}
    left_out += [f for f in pool if group[f.path] in held_back]
    pool = [f for f in pool if group[f.path] not in held_back]
    bound = {group[f.path] for f in pool if f.side == "train"}
    train = [f for f in pool if group[f.path] in bound]
    free = [f for f in pool if group[f.path] not in bound]
    fit, report, rest = _deal(free, group, stratum, (part.validation_each, part.validation_each), str(part.split_seed))
    train, beyond = _limited([*train, *rest], part, stratum)
    splits = Splits(*(_sorted(p) for p in (train, fit, report, test, crossing, [*left_out, *beyond])))
    check_no_leak(splits)
    return splits


def _leak_of(crossing: Sequence[Film]) -> ConfigurationError:
    patients = sorted({film.patient or film.path for film in crossing})
    return ConfigurationError(
        "leak",
        f"{len(crossing)} films outside the test are of patients or pictures in it, {crossing[0].path} first "
        f"({len(patients)} patients: {', '.join(patients[:3])}{', ...' if len(patients) > 3 else ''}). "
        'To use these films for nothing: data.crossing = "leave_out"',
    )


def check_no_leak(splits: Splits) -> None:
    """Raises ConfigurationError("leak") where a path, patient or duplicate group stands in two of train, fit, report, test."""
    seen: dict[tuple[str, str], str] = {}
    for name in PARTS:
        films: tuple[Film, ...] = getattr(splits, name)
        for film in films:
            if not film.patient and film.side == "any":
                raise ConfigurationError("leak", f"{film.path} has no patient id, so it cannot be split")
            for key in (("film", film.path), *_keys(film)):
                other = seen.setdefault(key, name)
                if other != name:
                    raise ConfigurationError("leak", f"{key[0]} {key[1]} stands in both {other} and {name}")


def _check(films: Sequence[Film], part: DataPart) -> None:
    unknown = {f.upstream_split for f in films} - _UPSTREAM
    if unknown and part.test == "upstream":
        raise ConfigurationError(
            "unknown_split",
            f"upstream splits {sorted(unknown)} are none of train, val, test: rename them, or deal out anew (data.test = 0.2)",
        )
    nobody = next((f for f in films if not f.patient and f.side == "any"), None)
    if nobody is not None:
        raise ConfigurationError(
            "no_patient", f"{nobody.path} has no patient id: give its source {nobody.folder} a side (train or test)"
        )


def _first_look(
    films: Sequence[Film], part: DataPart, group: Mapping[str, str], stratum: Mapping[str, str]
) -> tuple[list[Film], list[Film]]:
    """Test films, and films that are used for nothing."""
    test = [f for f in films if f.side == "test"]
    if part.test == "upstream":
        official = [f for f in films if f.side != "test" and f.upstream_split in {"test", "val"}]
        test += [f for f in official if f.upstream_split == "test" and f.side == "any"]
        return test, [f for f in official if f.upstream_split == "val" or f.side == "train"]
    bound = {group[f.path] for f in films if f.side != "any"}
    free = [f for f in films if group[f.path] not in bound]
    return test + _deal(free, group, stratum, (part.test,), f"{part.split_seed}:test")[0], []


def _keys(film: Film) -> list[tuple[str, str]]:
    """What binds films together; a film without patient id is its own patient."""
    keys = [("patient", film.patient) if film.patient else ("film", film.path)]
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
        first, *rest = _keys(film)
        for key in rest:
            a, b = sorted((find(first), find(key)))
            parent[b] = a
    return {film.path: "/".join(find(_keys(film)[0])) for film in films}


def _strata(films: Sequence[Film], part: DataPart) -> dict[str, str]:
    """Path -> the label that its film is dealt out by; multilabel: its rarest finding."""
    if part.task != "multilabel":
        return {f.path: f.label for f in films}
    positives = {f.path: [name for name, value in f.findings if value == 1] for f in films}
    count = Counter(name for names in positives.values() for name in names)
    rank = {
        name: f"{i:03}:{name}" for i, (name, _) in enumerate(sorted(count.items(), key=lambda item: (item[1], item[0])))
    }
    return {path: min((rank[name] for name in names), default="none") for path, names in positives.items()}


def _deal(
    pool: Sequence[Film], group: Mapping[str, str], stratum: Mapping[str, str], shares: tuple[float, ...], seed: str
) -> list[list[Film]]:
    """One list per share, and the rest. Groups in a seeded random order within their stratum; a group goes where its middle film falls
    on the share axis."""
    members: dict[str, list[Film]] = defaultdict(list)
    for film in pool:
        members[group[film.path]].append(film)
    strata: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, films in members.items():
        key = (min(stratum[f.path] for f in films), *sorted({f.folder for f in films}))
        strata[key].append(name)
    ends = [sum(shares[: i + 1]) for i in range(len(shares))]
    dealt: list[list[Film]] = [[] for _ in (*shares, "rest")]
    for names in strata.values():
        order = sorted(names, key=lambda n: hashlib.sha256(f"{seed}:{n}".encode()).digest())
        total = sum(len(members[n]) for n in order)
        done = 0
        for name in order:
            middle = (done + len(members[name]) / 2) / total
            done += len(members[name])
            dealt[sum(middle >= end for end in ends)].extend(members[name])
    return dealt


def _limited(train: Sequence[Film], part: DataPart, stratum: Mapping[str, str]) -> tuple[list[Film], list[Film]]:
    """Training films within the limits of their sources, and those beyond, by a seeded hash of the path."""
    limits = {source.folder: source.limit for source in part.sources}
    order = sorted(train, key=lambda f: hashlib.sha256(f"{part.split_seed}:{f.path}".encode()).digest())
    kept: list[Film] = []
    beyond: list[Film] = []
    count: Counter[tuple[str, str]] = Counter()
    for film in order:
        limit, key = limits.get(film.folder), (film.folder, stratum[film.path])
        count[key] += 1
        (kept if limit is None or count[key] <= limit else beyond).append(film)
    return kept, beyond


def _sorted(films: Iterable[Film]) -> tuple[Film, ...]:
    return tuple(sorted(films, key=lambda film: film.path))
