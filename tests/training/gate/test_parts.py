"""Nobody is in two parts, and nobody is fitted on whose films may not be used."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.training.phantom_data import TINY, write_data
from training.data.splits import Splits, recipe_splits
from training.gate.parts import Parts, deal, not_frontal_paths, original_paths
from training.places import Places
from training.recipe import load_recipe


def _splits(root: Path) -> Splits:
    (root / "tiny.toml").write_text(TINY)
    return recipe_splits(load_recipe(root / "tiny.toml"), Places(data=root / "data"))


def _as_folder(data: Path, folder: str, licence: str) -> None:
    """The NIH phantoms' manifest once more, as that of another folder."""
    with (data / "nih_chestxray14" / "manifest.csv").open(newline="") as source:
        rows = list(csv.DictReader(source))
    (data / folder).mkdir(exist_ok=True)
    with (data / folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=rows[0])
        writer.writeheader()
        for row in rows:
            changed = {
                "path": row["path"].replace("nih_chestxray14", folder),
                "patient_id": f"{folder}{row['patient_id']}",
            }
            writer.writerow(row | changed | {"licence": licence})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    write_data(root / "data", patients=60)
    _as_folder(root / "data", "tbx11k", "non-commercial")
    return root


@pytest.fixture(scope="module")
def parts(root: Path) -> Parts:
    return deal(root / "data", _splits(root))


def test_no_patient_is_in_two_parts(parts: Parts) -> None:
    patients = [{film.patient for film in films} for films in vars(parts).values()]
    assert sum(len(found) for found in patients) == len(set.union(*patients))
    assert all(patients)


def test_the_official_test_split_is_in_no_part(root: Path, parts: Parts) -> None:
    tested = {film.patient for film in _splits(root).test}
    assert tested
    assert not tested & {film.patient for film in parts.every}


def test_the_classifiers_training_films_set_no_threshold(root: Path, parts: Parts) -> None:
    trained = {film.path for film in _splits(root).train}
    assert trained & {film.path for film in parts.fit}
    assert not trained & {film.path for film in parts.threshold}


def test_sources_without_commercial_use_are_held_out_whole(parts: Parts) -> None:
    assert {film.folder for film in parts.held_out} >= {"tbx11k"}
    assert not [film for film in (*parts.fit, *parts.threshold) if film.folder == "tbx11k"]


def test_a_source_to_fit_on_must_allow_commercial_use(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    _as_folder(tmp_path / "data", "hannover_covid19", "CC BY-NC-SA 4.0")
    with pytest.raises(ValueError, match="commercial"):
        deal(tmp_path / "data", _splits(tmp_path))


def test_patients_of_the_originals_are_held_out(root: Path, parts: Parts) -> None:
    assert len(original_paths(root / "data")) == 2
    assert len(not_frontal_paths(root / "data")) == 1
    stems = {Path(path).stem for path in original_paths(root / "data")}
    everywhere = {Path(film.path).stem for film in parts.every} & stems
    assert everywhere
    assert everywhere <= {Path(film.path).stem for film in parts.held_out}
