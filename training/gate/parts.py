"""Whose films teach the gate, whose set its thresholds, whose measure it: by patient, never by film.

    the bundle's folders       train -> fit, fit-half -> threshold, report-half -> held out: the classifier's features of a film
                               it was trained on would flatter the second score. The official test split is not opened.
    NIH, Hannover              (where they are not the bundle's own) 65 % fit, 20 % threshold, 15 % held out
    RSNA normals, TBX11K,      held out, whole: weights made from them would not be free for commercial use. So their figures say
    Cohen                      how the gate fares on sources it has never seen.
    patients of `originals/`   held out, so that films are measured at their full size too

RSNA normals are NIH images without patient ids: some of their patients may be among NIH's.
"""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from training.data.collect import read_manifest
from training.data.films import Film
from training.data.sources import COMMERCIAL
from training.data.splits import Splits
from training.judging.reduced import ORIGINALS

OTHERS = ("nih_chestxray14", "hannover_covid19")
UNSEEN = ("rsna_normal", "tbx11k", "cohen_covid_chestxray")
_FIT, _THRESHOLD = 0.65, 0.85  # where the shares end on [0, 1)


@dataclass(frozen=True)
class Parts:
    """Disjoint lists of films, each in path order; no patient with an id stands in two of them."""

    fit: tuple[Film, ...]
    threshold: tuple[Film, ...]
    held_out: tuple[Film, ...]

    @property
    def every(self) -> tuple[Film, ...]:
        return (*self.fit, *self.threshold, *self.held_out)


def deal(data: Path, splits: Splits) -> Parts:
    """The parts. Of the other folders, those that the data folder has.

    Raises:
        ValueError: a folder that would be fitted on allows no commercial use of weights.
    """
    dealt: dict[str, list[Film]] = defaultdict(list)
    dealt["fit"] += splits.train
    dealt["threshold"] += splits.fit
    dealt["held_out"] += splits.report
    own = {film.folder for films in vars(splits).values() for film in films}
    for folder in _present(data, OTHERS, own):
        for film in read_manifest(data, folder):
            if film.licence not in COMMERCIAL:
                raise ValueError(f"{film.path}: {film.licence} does not allow commercial use")
            dealt[_place(film)].append(film)
    for folder in _present(data, UNSEEN, own):
        dealt["held_out"] += read_manifest(data, folder)
    shown = _patients_of_originals(data, [film for films in dealt.values() for film in films])
    for name in ("fit", "threshold"):
        dealt["held_out"] += [film for film in dealt[name] if film.patient in shown]
        dealt[name] = [film for film in dealt[name] if film.patient not in shown]
    return Parts(
        **{name: tuple(sorted(dealt[name], key=lambda f: f.path)) for name in ("fit", "threshold", "held_out")}
    )


def original_paths(data: Path) -> tuple[str, ...]:
    """The frontal films of `originals/`, as found upstream."""
    return tuple(row["path"] for row in _originals(data) if row["label"] != "not_applicable")


def not_frontal_paths(data: Path) -> tuple[tuple[str, str], ...]:
    """(path, note) of the pictures in `originals/` that are no frontal chest films."""
    return tuple((row["path"], row["note"]) for row in _originals(data) if row["label"] == "not_applicable")


def _originals(data: Path) -> list[dict[str, str]]:
    path = data / ORIGINALS / "manifest.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _patients_of_originals(data: Path, films: list[Film]) -> set[str]:
    stems = {Path(path).stem for path in original_paths(data)}
    return {film.patient for film in films if Path(film.path).stem in stems and film.patient}


def _present(data: Path, folders: tuple[str, ...], own: set[str]) -> list[str]:
    return [folder for folder in folders if folder not in own and (data / folder / "manifest.csv").is_file()]


def _place(film: Film) -> str:
    position = int.from_bytes(hashlib.sha256(f"gate:{film.patient}".encode()).digest()[:8], "big") / 2**64
    return "fit" if position < _FIT else "threshold" if position < _THRESHOLD else "held_out"
