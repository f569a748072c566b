"""DICOM folders: what the header says reaches the film, whose film it is does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import MediaStorageDirectoryStorage

from app.errors import ConfigurationError
from tests.support.dicom_bytes import DEFLATED, film, with_body
from tests.support.dicom_films import CANARY, as_bytes, dicom_film, file_dataset
from training.data.collect import collect
from training.data.dicoms import pseudonym
from training.data.films import Film
from training.data.spec import Columns, DataPart, DicomSource

UID = "1.2.826.0.1.3680043.10.1000"
SMALL: dict[str, Any] = {"size": (96, 80)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for seed, label in ((1, "normal"), (2, "pneumonia"), (3, "pneumonia"), (4, "unsure")):
        path = tmp_path / "pacs" / label / f"IM{seed}"  # archives often write no suffix
        path.parent.mkdir(parents=True, exist_ok=True)
        other: dict[str, Any] = (
            {"PatientID": "SECOND", "PatientSex": "M", "PatientAge": "061Y", "ViewPosition": "AP"} if seed == 3 else {}
        )
        path.write_bytes(dicom_film(seed, **SMALL, **other))
    (tmp_path / "pacs" / "readme.txt").write_text("no film")
    return tmp_path


def _films(data: Path, **source: Any) -> list[Film]:
    one = DicomSource(folder="pacs", **source)
    part = DataPart(sources=(one,))
    return collect([one], data, part)


def test_the_parent_folder_is_the_label(data: Path) -> None:
    films = _films(data)
    assert [(f.path, f.label) for f in films] == [
        ("pacs/normal/IM1", "normal"),
        ("pacs/pneumonia/IM2", "pneumonia"),
        ("pacs/pneumonia/IM3", "pneumonia"),
    ]
    first, _, third = films
    assert (first.age_years, first.age_group, first.sex, first.view) == (4.0, "paediatric", "F", "PA")
    assert (third.age_years, third.age_group, third.sex, third.view) == (61.0, "adult", "M", "AP")
    assert (first.width, first.height) == (80, 96)
    assert dict(first.facts) == {"body_part": "CHEST", "modality": "CR"}


def test_a_patient_is_a_hash_and_nothing_else_is_kept(data: Path) -> None:
    films = _films(data)
    assert films[0].patient == films[1].patient != films[2].patient  # two films of one patient, one of another
    assert films[0].patient == pseudonym(f"{CANARY}-ID-4711", f"{CANARY}ISSUER")
    assert len(films[0].patient) == len("dicom:") + 20
    assert CANARY not in repr(films)
    assert "SECOND" not in repr(films)
    assert pseudonym("a", "") != pseudonym("", "a") == ""
    (data / "pacs" / "normal" / "IM1").write_bytes(dicom_film(1, **SMALL, PatientID=""))
    assert _films(data)[0].patient == ""


@pytest.mark.parametrize("key", ["sop_instance_uid", "path"])
def test_a_table_says_the_labels(data: Path, key: str) -> None:
    names = [f"{UID}.{n}.3" for n in (1, 3)] if key == "sop_instance_uid" else ["normal/IM1", "pneumonia/IM3"]
    (data / "pacs" / "labels.csv").write_text(f"film,label\n{names[0]},Pneumonia|Effusion\n{names[1]},No Finding\n")
    columns = Columns(path="film", findings="label", patient=None, age=None, sex=None, view=None)
    films = _films(data, table="labels.csv", key=key, columns=columns)
    assert [(f.path, f.label) for f in films] == [("pacs/normal/IM1", "pneumonia"), ("pacs/pneumonia/IM3", "normal")]
    (data / "pacs" / "labels.csv").write_text("film,label\nelsewhere,Pneumonia\n")
    with pytest.raises(ConfigurationError, match="elsewhere") as caught:
        _films(data, table="labels.csv", key=key, columns=columns)
    assert caught.value.code == "data_missing"
    (data / "pacs" / "labels.csv").write_text("film,label\na,Pneumonia\na,Normal\n")
    with pytest.raises(ConfigurationError, match="twice"):
        _films(data, table="labels.csv", key=key, columns=columns)


def test_reports_are_passed_over_and_damage_is_named(data: Path) -> None:
    without = file_dataset(9, **SMALL)
    del without.PixelData
    (data / "pacs" / "normal" / "report").write_bytes(as_bytes(without))
    assert len(_films(data)) == 3
    (data / "pacs" / "normal" / "cut").write_bytes(dicom_film(9, **SMALL)[:700])
    with pytest.raises(ConfigurationError, match="pacs/normal/cut") as caught:
        _films(data)
    assert caught.value.code == "unreadable_film"
    assert CANARY not in caught.value.message


def test_the_directory_of_a_cd_is_passed_over(data: Path) -> None:
    directory = file_dataset(9, **SMALL)
    del directory.PixelData
    directory.file_meta.MediaStorageSOPClassUID = directory.SOPClassUID = MediaStorageDirectoryStorage
    (data / "pacs" / "DICOMDIR").write_bytes(as_bytes(directory))
    assert len(_films(data)) == 3


def test_columns_that_a_recipe_leaves_out_are_not_those_of_nih(data: Path) -> None:
    (data / "pacs" / "labels.csv").write_text("uid;label\nnormal\\IM1;No Finding\n")
    films = _films(data, table="labels.csv", key="path", columns={"path": "uid"})
    assert [(f.path, f.label) for f in films] == [("pacs/normal/IM1", "normal")]
    (data / "pacs" / "labels.csv").write_text("uid,Pneumonia\nnormal/IM1,0\n")
    films = _films(data, table="labels.csv", key="path", columns={"path": "uid", "findings": ""})
    assert [(f.path, f.label) for f in films] == [("pacs/normal/IM1", "normal")]
    (data / "pacs" / "labels.csv").write_text("uid,Pneumonia\nnormal/IM1,yes\n")
    with pytest.raises(ConfigurationError, match="column 'Pneumonia' holds 'yes'"):
        _films(data, table="labels.csv", key="path", columns={"path": "uid", "findings": ""})


def test_a_deflated_bomb_is_refused_at_its_limit(data: Path) -> None:
    (data / "pacs" / "normal" / "small").write_bytes(film(DEFLATED))
    assert len(_films(data)) == 4
    (data / "pacs" / "normal" / "bomb").write_bytes(with_body(bytes(200_000_000), DEFLATED))
    with pytest.raises(ConfigurationError, match="larger than 64000000") as caught:
        _films(data)
    assert caught.value.code == "unreadable_film"
