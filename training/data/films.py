"""The films of the data folders, as their manifests describe them. Reading a manifest opens no image."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from app.errors import ConfigurationError


@dataclass(frozen=True)
class Film:
    """One manifest row. path: relative to the data folder; patient: split on this, never on files ("" = not known).

    upstream_split: train, val, test or "". duplicate_group: films with the same non-empty value are the same picture.
    """

    path: str
    folder: str
    upstream_split: str
    label: str
    patient: str
    duplicate_group: str
    licence: str
    age_group: str


def read_manifest(data: Path, folder: str) -> list[Film]:
    """The films of `folder`, in path order. Raises ConfigurationError where the manifest is not there."""
    path = data / folder / "manifest.csv"
    if not path.is_file():
        raise ConfigurationError("data_missing", f"no {folder}/manifest.csv in {data}; pass the folder with --data")
    with path.open(newline="", encoding="utf-8") as stream:
        films = [
            Film(
                path=row["path"],
                folder=folder,
                upstream_split=row["upstream_split"],
                label=row["label"],
                patient=row["patient_id"],
                duplicate_group=row["dup_group"],
                licence=row["licence"],
                age_group=row["age_group"],
            )
            for row in csv.DictReader(stream)
        ]
    return sorted(films, key=lambda film: film.path)


def read_manifests(data: Path, folders: Iterable[str]) -> list[Film]:
    """The films of several folders, in folder and path order."""
    return [film for folder in folders for film in read_manifest(data, folder)]


@dataclass(frozen=True)
class NihClass:
    """Second opinions on an NIH film: "" where there is none."""

    rsna: str
    google_opacity: str


def read_nih_classes(data: Path, folder: str) -> dict[str, NihClass]:
    """Second opinions by film path, from labels14.csv."""
    with (data / folder / "labels14.csv").open(newline="", encoding="utf-8") as stream:
        return {
            row["path"]: NihClass(row["rsna_class"], row["google2019_airspace_opacity"])
            for row in csv.DictReader(stream)
        }
