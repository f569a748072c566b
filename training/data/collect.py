"""The films of a recipe's sources, each with the recipe's name for what it shows. No image is opened; of DICOM the headers are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from app.errors import ConfigurationError
from training.data.dicoms import dicom_records
from training.data.films import Film
from training.data.labels import Record, named
from training.data.manifests import manifest_records
from training.data.spec import DataPart, DicomSource, ManifestSource, Source, TableSource, TreeSource
from training.data.tables import table_records
from training.data.trees import tree_records

_COLUMNS = ("label", "view", "sex", "age_group", "upstream_split", "licence")  # of every film, beside its facts


def collect(sources: Iterable[Source], root: Path, part: DataPart | None = None) -> list[Film]:
    """The films of the sources, in source and path order.

    Args:
        root: the data folder.
        part: whose classes name the films (`training.data.labels.named`): films that it has no name for are left out. Without it,
            as for pre-training, all films are there under their source's own names.

    Raises:
        ConfigurationError: a folder, table or column is missing; a source has no film that the recipe can use; a path stands twice.
    """
    films: list[Film] = []
    for source in sources:
        found = list(named((r for r in _records(source, root, part) if _kept(source, r.film)), source, part))
        if not found:
            raise ConfigurationError(
                "no_films", f"{source.folder} has no film that is wanted{_wanted(source, part, root)}"
            )
        films += found
    seen: set[str] = set()
    for film in films:
        if film.path in seen:
            raise ConfigurationError("film_twice", f"{film.path} stands twice in the sources")
        seen.add(film.path)
    return films


def read_manifest(data: Path, folder: str) -> list[Film]:
    """Every film of a folder with a manifest, under its upstream label, in path order. Raises ConfigurationError without a manifest."""
    return collect((ManifestSource(folder=folder),), data)


def _records(source: Source, root: Path, part: DataPart | None) -> Iterator[Record]:
    match source:
        case ManifestSource():
            return manifest_records(source, root)
        case TreeSource():
            return tree_records(source, root, labelled=part is not None)
        case TableSource():
            return table_records(source, root, part)
        case DicomSource():
            return dicom_records(source, root, part)


def _kept(source: Source, film: Film) -> bool:
    """Whether `source.keep` lets the film pass. Raises ConfigurationError for a column that the film has not."""
    columns = dict(film.facts) | {name: str(getattr(film, name)) for name in _COLUMNS}
    for column, accepted in source.keep.items():
        if column not in columns:
            raise ConfigurationError(
                "unknown_column", f"{source.folder}: no column {column!r}; there are: {', '.join(sorted(columns))}"
            )
        if columns[column] not in accepted:
            return False
    return True


def _wanted(source: Source, part: DataPart | None, root: Path) -> str:
    """What the source has and what was looked for, for the error."""
    names = sorted({name for record in _records(source, root, part) for name in record.names})
    wanted = list(source.labels) or (list(part.classes) if part else [])
    return f": it names {names[:20]}, the recipe knows {wanted}"
