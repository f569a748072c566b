"""From the names that a source gives its films to the classes of a recipe."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from training.data.films import Film
from training.data.spec import DataPart, Source

NO_FINDING = "no_finding"
HEALTHY = frozenset({"normal", NO_FINDING})
"""Names of a film that shows nothing: each stands for the other where a recipe has only one of them."""


@dataclass(frozen=True)
class Record:
    """A film as its source describes it.

    film: `label` is the one name that the source sorts it under, "" where it may have several. names: upstream name -> 1 present,
    0 absent, -1 uncertain; what is missing is not known. by_column: every name has a column of its own in the source.
    """

    film: Film
    names: Mapping[str, int]
    by_column: bool = False


def plain_name(name: str) -> str:
    """Lower case; what is neither letter nor digit becomes one underscore: `Pleural_Thickening`, `No Finding` -> `no_finding`."""
    return re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")


def named(records: Iterable[Record], source: Source, part: DataPart | None) -> Iterator[Film]:
    """The films that the recipe has a name for, with their `label` (single-label tasks) or `findings` (multilabel).

    Single-label: by the one name that the source sorts the film under, else films of which exactly one class of the recipe is said;
    films of which none, several or an uncertain one is said are not used. Binary, one column per name, none for the negative class:
    a film whose positive class is absent is negative. Multilabel: films with at least one known class; a healthy film shows none of
    the findings, and a film with any finding is not healthy.

    part None: nothing is left out; label and findings are the source's own.
    """
    for record in records:
        if part is None:
            yield replace(record.film, findings=tuple(sorted(record.names.items())))
        elif part.task == "multilabel":
            findings = _findings(record, source, part)
            if any(value in {0, 1} for _, value in findings):
                yield replace(record.film, label="", findings=findings)
        else:
            label = _label(record, source, part)
            if label:
                yield replace(record.film, label=label, findings=())


def class_of(name: str, source: Source, part: DataPart) -> str | None:
    """The recipe's class for an upstream name: by the source's table, else by the name itself; None where there is none."""
    if source.labels:
        return source.labels.get(name)
    plain = plain_name(name)
    if plain in part.classes:
        return plain
    return next((c for c in part.classes if c in HEALTHY), None) if plain in HEALTHY else None


def _said(names: Mapping[str, int], source: Source, part: DataPart) -> dict[str, int]:
    """Class -> 1, 0, -1. Of several names for one class the one that says most counts: present, then uncertain, then absent."""
    said: dict[str, int] = {}
    for name, value in names.items():
        one = class_of(name, source, part)
        if one is not None:
            said[one] = max((said.get(one, 0), value), key=(0, -1, 1).index)
    return said


def _label(record: Record, source: Source, part: DataPart) -> str:
    if record.film.label:
        return class_of(record.film.label, source, part) or ""
    said = _said(record.names, source, part)
    present = [name for name, value in said.items() if value]
    if len(present) == 1 and said[present[0]] == 1:
        return present[0]
    negative, positive = part.classes[0], part.classes[-1]
    absent = part.task == "binary" and record.by_column and said == {positive: 0}
    return negative if absent else ""


def _findings(record: Record, source: Source, part: DataPart) -> tuple[tuple[str, int], ...]:
    """In the order of the recipe's classes; a class of which nothing is known is missing."""
    said = _said(record.names, source, part)
    present = {plain_name(name) in HEALTHY for name, value in record.names.items() if value == 1}
    healthy, ill = present == {True}, False in present
    found = []
    for name in part.outputs:
        implied = (name in HEALTHY and ill) or (name not in HEALTHY and healthy)
        value = said.get(name, 0 if implied else None)
        if value is not None:
            found.append((name, value))
    return tuple(found)
