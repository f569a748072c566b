"""Folders of films named after classes, as Kermany and TBX11K come."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from app.errors import ConfigurationError
from training.data.films import Film
from training.data.labels import Record
from training.data.spec import TreeSource

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".dcm"})
"""What counts as a film here; what it really is, its content says when it is decoded."""


def tree_records(source: TreeSource, root: Path, *, labelled: bool = True) -> Iterator[Record]:
    """The films in path order. Hidden files and files of other kinds are passed over.

    labelled: a film in no folder of a class is an error; without, it has no label (pre-training needs none).

    A film whose name the patient pattern does not fit has no patient id, which is an error wherever it would have to be split. Without a
    pattern each film is a patient, which is said as a warning where films are dealt out.

    Raises ConfigurationError where the folder is not there, a folder stands where a split should, or the pattern is none or fits the
    name of no film.
    """
    folder = root / source.folder
    if not folder.is_dir():
        raise ConfigurationError("data_missing", f"no folder {source.folder} in {root}; pass the folder with --data")
    pattern = _pattern(source)
    matched = 0
    for path in films_below(folder):
        parts = path.relative_to(folder).parts
        split, rest = (parts[0], parts[1:]) if source.splits else ("", parts)
        if source.splits and split not in source.splits:
            raise ConfigurationError(
                "unknown_split", f"{source.folder}/{split} is none of the splits {sorted(source.splits)} of the recipe"
            )
        if len(rest) < 2 and labelled:
            raise ConfigurationError("unknown_label", f"{source.folder}/{'/'.join(parts)} is in no folder of a class")
        match = pattern.search(path.name) if pattern else None
        matched += match is not None
        label = rest[0] if len(rest) > 1 else ""
        film = Film(
            path=path.relative_to(root).as_posix(),
            folder=source.folder,
            upstream_split=source.splits.get(split, ""),
            label=label,
            patient=_patient(source, path, match),
            licence=source.origin.licence if source.origin else "",
            side=source.side,
        )
        yield Record(film, {label: 1} if label else {})
    if pattern is not None and not matched:
        raise ConfigurationError(
            "no_patient",
            f"patient pattern {source.patient!r} of {source.folder} fits the name of no film: each would be a patient",
        )
    if pattern is None and labelled:
        warnings.warn(
            f"{source.folder} has no patient pattern: each film counts as a patient of its own, and one who has several may stand in "
            "training and test; give the source `patient`",
            stacklevel=2,
        )


def _patient(source: TreeSource, path: Path, match: re.Match[str] | None) -> str:
    """What the pattern finds in the name, "" where it finds nothing: half of a patient's films under their own names would be a leak that
    nothing sees. Without a pattern: the stem."""
    name = path.stem if source.patient is None else match["patient"] if match else ""
    return f"{source.folder}:{name}" if name else ""


def films_below(folder: Path, suffixes: frozenset[str] = SUFFIXES) -> list[Path]:
    """Files below `folder` with one of the suffixes (any file where there are none), in path order, hidden ones left out."""
    found = (p for p in folder.rglob("*") if not suffixes or p.suffix.lower() in suffixes)
    hidden = (p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))
    return sorted(p for p in hidden if p.is_file())


def _pattern(source: TreeSource) -> re.Pattern[str] | None:
    if source.patient is None:
        return None
    try:
        pattern = re.compile(source.patient)
    except re.error as error:
        raise ConfigurationError("invalid_recipe", f"{source.folder}: patient pattern: {error}") from error
    if "patient" not in pattern.groupindex:
        raise ConfigurationError(
            "invalid_recipe", f"{source.folder}: the patient pattern has no group (?P<patient>...)"
        )
    return pattern
