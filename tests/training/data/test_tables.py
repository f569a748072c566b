from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest

from app.errors import ConfigurationError
from tests.training.phantom_data import TABLE, write_data
from training.data.collect import collect
from training.data.films import Film
from training.data.spec import Columns, DataPart, TableSource
from training.data.tables import age_of, sex_of, view_of

NIH = {"Pneumonia": "pneumonia", "No Finding": "normal"}
CHEXPERT = Columns(path="Path", findings=None, patient=None, age="Age", sex="Sex", view="AP/PA")
LABELS = ("Pneumonia", "Effusion", "No Finding")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_data(tmp_path_factory.mktemp("data"), patients=4)
    rows: list[dict[str, object]] = []
    for n, values in enumerate(["100", "1.0-0", "-01", "0b0", "bbb", "010"]):
        told = [{"b": "", "-": "-1.0"}.get(v, v) for v in values.replace("1.0", "1")]
        row: dict[str, object] = {
            "Path": f"images/{n // 2:08}_{n % 2:03}.png",
            "Sex": "Female",
            "Age": 40 + n,
            "AP/PA": "PA",
        }
        rows.append(row | dict(zip(LABELS, told, strict=True)))
    with (root / TABLE / "chexpert.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root


def _films(data: Path, task: str, classes: tuple[str, ...], **source: Any) -> list[Film]:
    one = TableSource(folder=TABLE, **source)
    part = DataPart.model_validate({"task": task, "classes": classes, "sources": [one.model_dump()]})
    return collect(part.sources, data, part)


def test_nih_s_own_table(data: Path) -> None:
    films = _films(data, "binary", ("normal", "pneumonia"), table="Data_Entry_2017.csv", labels=NIH)
    assert len(films) == 12
    first, second = films[:2]
    assert (first.path, first.label, first.patient) == (f"{TABLE}/images/00000000_000.png", "pneumonia", f"{TABLE}:0")
    assert (second.label, second.patient) == ("normal", f"{TABLE}:0")
    assert (first.age_years, first.age_group, first.sex, first.view) == (30.0, "adult", "M", "PA")
    assert dict(first.facts) == {"Follow-up #": "0"}


def test_many_names_in_one_column(data: Path) -> None:
    classes = ("no_finding", "effusion", "pneumonia", "hernia")
    films = _films(data, "multilabel", classes, table="Data_Entry_2017.csv")
    assert films[0].findings == (("no_finding", 0), ("effusion", 0), ("pneumonia", 1))  # the table never says hernia
    assert films[1].findings == (("no_finding", 1), ("effusion", 0), ("pneumonia", 0), ("hernia", 0))
    assert films[2].findings == (("no_finding", 0), ("effusion", 1), ("pneumonia", 1))
    unsaid = _films(data, "multilabel", classes, table="Data_Entry_2017.csv", blank_is_negative=False)
    assert unsaid[0].findings == (("no_finding", 0), ("pneumonia", 1))


@pytest.mark.parametrize(
    ("uncertain", "blank_is_negative", "expected"),
    [
        ("ignore", True, ["100", "1u0", "u01", "000", "000", "010"]),
        ("negative", True, ["100", "100", "001", "000", "000", "010"]),
        ("positive", True, ["100", "110", "101", "000", "000", "010"]),
        ("ignore", False, ["100", "1u0", "u01", "0.0", None, "010"]),
    ],
)
def test_a_column_for_each_name(
    data: Path, *, uncertain: str, blank_is_negative: bool, expected: list[str | None]
) -> None:
    films = _films(
        data,
        "multilabel",
        ("pneumonia", "effusion", "no_finding"),
        table="chexpert.csv",
        columns=CHEXPERT,
        uncertain=uncertain,
        blank_is_negative=blank_is_negative,
        side="train",
    )
    shown = {1: "1", 0: "0", -1: "u"}
    found = {
        f.path[-14:-4]: "".join(
            shown.get(dict(f.findings).get(name, 9), ".") for name in ("pneumonia", "effusion", "no_finding")
        )
        for f in films
    }
    names = [f"{n // 2:06}_{n % 2:03}" for n in range(6)]
    assert [found.get(name) for name in names] == expected
    assert (films[0].sex, films[0].age_years, films[0].patient, films[0].side) == ("F", 40.0, "", "train")


def test_one_positive_column_makes_a_binary_set(data: Path) -> None:
    arguments = {"table": "chexpert.csv", "columns": CHEXPERT, "side": "train", "labels": {"Effusion": "effusion"}}
    films = _films(data, "binary", ("no_effusion", "effusion"), **arguments)
    assert [f.label for f in films] == [
        "no_effusion",
        "no_effusion",
        "no_effusion",
        "no_effusion",
        "effusion",
    ]  # the unsure one is out


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"labels": {"Mass": "normal"}, "columns": CHEXPERT}, "unknown_column", "Mass"),
        ({"labels": {"Sex": "normal"}, "columns": CHEXPERT}, "unknown_label", "Sex"),
        ({"columns": Columns()}, "unknown_column", "Image Index"),
    ],
)
def test_what_is_wrong_is_said(data: Path, change: dict[str, Any], code: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        _films(data, "binary", ("normal", "pneumonia"), **{"table": "chexpert.csv"} | change)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("column", "classes"),
    [
        ("Pneumonia", ("pneumonia", "effusion")),
        ("No Finding", ("no_finding", "effusion")),
        ("No Finding", ("normal", "effusion")),
    ],
)
def test_an_odd_cell_does_not_take_a_class_away(data: Path, column: str, classes: tuple[str, ...]) -> None:
    rows = [f"images/{n // 2:08}_{n % 2:03}.png,{value},0,a note" for n, value in enumerate(("1", "yes", "0"))]
    (data / TABLE / "odd.csv").write_text("\n".join([f"Path,{column},Effusion,Remark", *rows]))
    columns = Columns(path="Path", findings=None, patient=None, age=None, sex=None, view=None)
    with pytest.raises(ConfigurationError, match=f"column '{column}' holds 'yes'") as caught:
        _films(data, "multilabel", classes, table="odd.csv", columns=columns, side="train")
    assert caught.value.code == "unknown_label"
    films = _films(data, "multilabel", ("effusion", "hernia"), table="odd.csv", columns=columns, side="train")
    assert [film.findings for film in films] == [
        (("effusion", 0),)
    ] * 3  # a remark is no label, nor is what no class is called


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("images/none.png", "data_missing"),
        ("../rsna_normal/Normal-0.jpg", "unknown_path"),
        ("/etc/passwd", "unknown_path"),
    ],
)
def test_paths_stay_below_the_source(data: Path, path: str, code: str) -> None:
    (data / TABLE / "paths.csv").write_text(f"image,names\n{path},Pneumonia\n")
    columns = Columns(path="image", findings="names", patient=None, age=None, sex=None, view=None)
    with pytest.raises(ConfigurationError) as caught:
        _films(data, "binary", ("normal", "pneumonia"), table="paths.csv", columns=columns)
    assert caught.value.code == code


HEADER = "Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position"
ROW = "images\\00000000_000.png,Pneumonia,7,058Y,F,PA"


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}\r\n{ROW}\r\n,,,,,\r\n",
        f"{HEADER}\n{ROW}\n".replace(",", ";"),
        f"{HEADER}\n{ROW}\n".replace(",", "\t"),
        f"{HEADER},,\n{ROW},,\n",
    ],
)
def test_tables_as_spreadsheets_write_them(data: Path, text: str) -> None:
    (data / TABLE / "sheet.csv").write_text(text, encoding="utf-8-sig")
    (one,) = _films(data, "binary", ("normal", "pneumonia"), table="sheet.csv")
    assert (one.path, one.label, one.patient) == (f"{TABLE}/images/00000000_000.png", "pneumonia", f"{TABLE}:7")
    assert (one.age_years, one.sex, one.view) == (58.0, "F", "PA")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"{HEADER}\n{ROW}\n".replace("7", "M\u00fcller").encode("cp1252"), "UTF-8"),
        (f"{HEADER}\n{ROW}\n".encode("utf-16"), "UTF-8"),
        (f"{HEADER}\n{ROW.replace('Pneumonia', 'Pneumonia, left')}\n".encode(), "line 2"),
        (f"{HEADER},Patient ID\n{ROW},8\n".encode(), "Patient ID.* twice"),
    ],
)
def test_a_table_that_would_be_misread_is_refused(data: Path, content: bytes, words: str) -> None:
    (data / TABLE / "sheet.csv").write_bytes(content)
    with pytest.raises(ConfigurationError, match=words) as caught:
        _films(data, "binary", ("normal", "pneumonia"), table="sheet.csv")
    assert caught.value.code == "unreadable_table"


def test_a_bare_file_name_is_found_below_the_folder_if_it_is_one_film(data: Path) -> None:
    for batch in ("images_001", "images_002"):
        (data / TABLE / "batches" / batch).mkdir(parents=True, exist_ok=True)
        (data / TABLE / "batches" / batch / "twice.png").write_bytes(b"")
    (data / TABLE / "batches" / "images_002" / "once.png").write_bytes(b"")
    (data / TABLE / "bare.csv").write_text(f"{HEADER}\n{ROW}\n".replace("images\\00000000_000", "once"))
    (one,) = _films(data, "binary", ("normal", "pneumonia"), table="bare.csv")
    assert one.path == f"{TABLE}/batches/images_002/once.png"
    (data / TABLE / "bare.csv").write_text(f"{HEADER}\n{ROW}\n".replace("images\\00000000_000", "twice"))
    with pytest.raises(ConfigurationError, match=r"twice\.png") as caught:
        _films(data, "binary", ("normal", "pneumonia"), table="bare.csv")
    assert caught.value.code == "data_missing"


def test_columns_that_are_not_there_can_be_said_in_toml(data: Path) -> None:
    columns = {"path": "Path", "findings": "", "patient": "", "age": "Age", "sex": "Sex", "view": "AP/PA"}
    assert Columns.model_validate(columns) == CHEXPERT
    films = _films(data, "multilabel", ("effusion", "pneumonia"), table="chexpert.csv", columns=columns, side="train")
    assert films


def test_parquet_says_the_same(data: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")

    with (data / TABLE / "chexpert.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in rows[0]}
    for name in ("Pneumonia", "Effusion", "No Finding"):
        columns[name] = [float(value) if value else None for value in columns[name]]
    columns["Age"] = [int(value) for value in columns["Age"]]
    parquet.write_table(pyarrow.table(columns), data / TABLE / "chexpert.parquet")
    arguments: dict[str, Any] = {"columns": CHEXPERT, "side": "train"}
    classes = ("pneumonia", "effusion", "no_finding")
    from_csv = _films(data, "multilabel", classes, table="chexpert.csv", **arguments)
    assert _films(data, "multilabel", classes, table="chexpert.parquet", **arguments) == from_csv


def test_parquet_without_its_package_says_what_to_install(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / TABLE / "some.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigurationError, match="pip install pyarrow") as caught:
        _films(data, "binary", ("normal", "pneumonia"), table="some.parquet")
    assert caught.value.code == "package_missing"


def test_a_damaged_parquet_table_is_named(data: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (data / TABLE / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigurationError, match=r"cut\.parquet") as caught:
        _films(data, "binary", ("normal", "pneumonia"), table="cut.parquet")
    assert caught.value.code == "unreadable_table"


def test_ages_sexes_and_views_as_they_come() -> None:
    assert [age_of(text) for text in ("058Y", "58", "58.0", "018M", "003W", "414", "-1", "", "x")] == [
        58.0,
        58.0,
        58.0,
        1.0,
        pytest.approx(21 / 365.25),
        None,
        None,
        None,
        None,
    ]
    assert [sex_of(text) for text in ("M", "female", "O", "")] == ["M", "F", "", ""]
    assert [view_of(text) for text in ("pa", "LAT", "AP Supine", "")] == ["PA", "LATERAL", "AP SUPINE", ""]
