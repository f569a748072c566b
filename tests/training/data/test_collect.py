"""Films of manifests and trees, and what goes wrong with sources of any kind."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from app.errors import ConfigurationError
from app.imaging.phantom import encode_png
from tests.training.phantom_data import TABLE, draw, write_data
from training.data.collect import collect, read_manifest
from training.data.manifests import label_agreement
from training.data.spec import DataPart, ManifestSource, Origin, Source, TableSource, TreeSource
from training.data.splits import make_splits
from training.places import DEFAULT_DATA

ORIGIN = Origin(licence="CC0", attribution="us", commercial_use=True, population="phantoms")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_data(tmp_path_factory.mktemp("data"), patients=4)
    for path in (
        "train/NORMAL/IM-0001-0001.png",
        "train/PNEUMONIA/person7_virus_1.png",
        "test/PNEUMONIA/person8_bacteria_1.png",
    ):
        for n, name in enumerate((path, path.replace("0001.png", "0002.png").replace("_1.png", "_2.png"))):
            (root / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "tree" / name).write_bytes(encode_png(draw(n, "normal")))
    (root / "tree" / "train" / "NORMAL" / ".hidden.png").write_bytes(b"")
    (root / "tree" / "notes.txt").write_text("")
    return root


def _part(*sources: Source, task: str = "binary", classes: tuple[str, ...] = ("normal", "pneumonia")) -> DataPart:
    return DataPart.model_validate({"task": task, "classes": classes, "sources": [s.model_dump() for s in sources]})


def test_a_manifest_row_becomes_a_film(data: Path) -> None:
    film = read_manifest(data, "nih_chestxray14")[4]
    assert (film.path, film.folder, film.label) == ("nih_chestxray14/n04.jpg", "nih_chestxray14", "pneumonia")
    assert (film.patient, film.age_years, film.sex, film.view) == ("nih:4", 24.0, "M", "PA")
    assert (film.width, film.height, film.age_group, film.side) == (112, 96, "adult", "any")
    facts = dict(film.facts)
    assert facts["rsna_class"] == "Lung Opacity"
    assert facts["label_agreement"] == "agreed"
    assert dict(film.findings)["Effusion"] == 1
    plain = read_manifest(data, "kermany_hires")
    assert [f.path for f in plain] == sorted(f.path for f in plain)
    assert "label_agreement" not in dict(plain[0].facts)
    assert plain[0].age_years is None


def test_keep_chooses_by_any_column(data: Path) -> None:
    def kept(**keep: tuple[str, ...]) -> list[str]:
        films = collect([ManifestSource(folder="nih_chestxray14", keep=keep)], data)
        return [Path(f.path).stem for f in films]

    assert kept(age_group=("paediatric",)) == ["n44", "n45", "n46", "n47"]
    assert kept(age_group=("paediatric",), label=("normal",)) == ["n45", "n47"]
    assert kept(label_agreement=("unread",)) == ["n00", "n08", "n16", "n24", "n32", "n40"]
    assert kept(rsna_class=("Normal",), sex=("F",), view=("AP",)) == ["n03", "n15", "n27", "n39"]
    with pytest.raises(ConfigurationError, match=r"'weight'.*age_group") as caught:
        kept(weight=("1",))
    assert caught.value.code == "unknown_column"


@pytest.mark.parametrize(
    ("healthy", "rsna", "google", "agreement"),
    [
        (False, "Lung Opacity", "", "agreed"),
        (False, "", "YES", "agreed"),
        (False, "", "", "unread"),
        (False, "", "NO", "contradicted"),
        (False, "Normal", "", "contradicted"),
        (False, "No Lung Opacity / Not Normal", "", "contradicted"),
        (True, "", "", "agreed"),
        (True, "Normal", "NO", "agreed"),
        (True, "Lung Opacity", "", "contradicted"),
        (True, "", "YES", "contradicted"),
        (True, "No Lung Opacity / Not Normal", "", "contradicted"),
    ],
)
def test_which_nih_labels_nobody_contradicts(*, healthy: bool, rsna: str, google: str, agreement: str) -> None:
    assert label_agreement(healthy=healthy, rsna_class=rsna, google_opacity=google) == agreement


def test_labels_rename_and_leave_out(data: Path) -> None:
    source = ManifestSource(folder="nih_chestxray14", labels={"pneumonia": "opacity", "normal": "clear"})
    part = _part(source, classes=("clear", "opacity"))
    assert {f.label for f in collect(part.sources, data, part)} == {"clear", "opacity"}
    some = ManifestSource(folder="nih_chestxray14", labels={"pneumonia": "pneumonia"})
    assert len(collect([some], data, _part(some))) == 24
    wrong = _part(ManifestSource(folder="tbx11k"))
    with pytest.raises(ConfigurationError, match=r"tuberculosis.*normal") as caught:
        collect(wrong.sources, data, wrong)
    assert caught.value.code == "no_films"


def test_multilabel_findings_come_from_the_14_columns(data: Path) -> None:
    part = _part(
        ManifestSource(folder="nih_chestxray14"),
        ManifestSource(folder="tbx11k"),
        task="multilabel",
        classes=("no_finding", "effusion", "pneumonia", "tuberculosis"),
    )
    films = {Path(f.path).stem: f for f in collect(part.sources, data, part)}
    assert films["n04"].findings == (
        ("no_finding", 0),
        ("effusion", 1),
        ("pneumonia", 1),
    )  # nobody looked for the fourth
    assert films["n01"].findings == (("no_finding", 1), ("effusion", 0), ("pneumonia", 0), ("tuberculosis", 0))
    assert films["tb00"].findings == (("no_finding", 0), ("tuberculosis", 1))
    assert {f.label for f in films.values()} == {""}


def test_a_tree_names_class_split_and_patient(data: Path) -> None:
    source = TreeSource(
        folder="tree",
        splits={"train": "train", "test": "test"},
        patient=r"^(?P<patient>person\d+|IM-\d+)",
        origin=ORIGIN,
    )
    films = collect([source], data, _part(source))
    assert [(f.path, f.label, f.upstream_split, f.patient) for f in films] == [
        ("tree/test/PNEUMONIA/person8_bacteria_1.png", "pneumonia", "test", "tree:person8"),
        ("tree/test/PNEUMONIA/person8_bacteria_2.png", "pneumonia", "test", "tree:person8"),
        ("tree/train/NORMAL/IM-0001-0001.png", "normal", "train", "tree:IM-0001"),
        ("tree/train/NORMAL/IM-0001-0002.png", "normal", "train", "tree:IM-0001"),
        ("tree/train/PNEUMONIA/person7_virus_1.png", "pneumonia", "train", "tree:person7"),
        ("tree/train/PNEUMONIA/person7_virus_2.png", "pneumonia", "train", "tree:person7"),
    ]
    assert {f.licence for f in films} == {"CC0"}


def test_a_film_that_the_pattern_does_not_fit_cannot_be_split(data: Path) -> None:
    source = TreeSource(folder="tree", splits={"train": "train", "test": "test"}, patient=r"^(?P<patient>person\d+)")
    part = _part(source)
    films = collect([source], data, part)
    assert [film.patient for film in films] == ["tree:person8"] * 2 + [""] * 2 + ["tree:person7"] * 2
    with pytest.raises(
        ConfigurationError, match=r"IM-0001-0001\.png has no patient id: give its source tree a side"
    ) as caught:
        make_splits(films, part)
    assert caught.value.code == "no_patient"
    sided = source.model_copy(update={"side": "train", "splits": {"train": "train", "test": ""}})
    assert [film.patient for film in collect([sided], data, part)].count("") == 2


def test_without_a_pattern_each_film_is_a_patient_and_it_is_said(data: Path) -> None:
    source = TreeSource(folder="tree", splits={"train": "train", "test": "test"})
    with pytest.warns(UserWarning, match="tree has no patient pattern: each film counts as a patient of its own"):
        films = collect([source], data, _part(source))
    assert films[0].patient == "tree:person8_bacteria_1"
    assert len({film.patient for film in films}) == len(films)


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        (ManifestSource(folder="nowhere"), "data_missing", "nowhere"),
        (TreeSource(folder="nowhere"), "data_missing", "nowhere"),
        (TreeSource(folder="tree", splits={"train": "train"}), "unknown_split", "tree/test"),
        (TreeSource(folder="tree", patient="(person"), "invalid_recipe", "pattern"),
        (TreeSource(folder="tree", patient=r"person\d+"), "invalid_recipe", "patient"),
        (TreeSource(folder="tree", patient=r"^(?P<patient>case\d+)"), "no_patient", r"case.*fits the name of no film"),
        (TableSource(folder=TABLE, table="no.csv"), "data_missing", "no.csv"),
    ],
)
def test_what_is_wrong_is_said(data: Path, source: Source, code: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        collect([source], data)
    assert caught.value.code == code


def test_films_in_no_folder_of_a_class_are_for_pretraining_alone(data: Path) -> None:
    source = TreeSource(folder="rsna_normal", origin=ORIGIN)
    assert {film.label for film in collect([source], data)} == {""}
    with pytest.raises(ConfigurationError, match="Normal-0") as caught:
        collect([source], data, _part(source))
    assert caught.value.code == "unknown_label"


def test_a_manifest_of_ones_own(data: Path, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    text = (data / "rsna_normal" / "manifest.csv").read_text()
    table = tmp_path / "f" / "manifest.csv"
    table.write_text(text, encoding="utf-8-sig")
    assert len(read_manifest(tmp_path, "f")) == len(read_manifest(data, "rsna_normal"))
    table.write_text(text.replace("dup_group", "group", 1))
    with pytest.raises(ConfigurationError, match=r"f/manifest\.csv has no column \['dup_group'\]") as caught:
        read_manifest(tmp_path, "f")
    assert caught.value.code == "unknown_column"
    table.write_text(text.replace(",96,", ",wide,").replace(",112,", ",wide,"))
    with pytest.raises(ConfigurationError, match="'wide' is no number"):
        read_manifest(tmp_path, "f")


def test_a_path_stands_once(data: Path, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with (data / "rsna_normal" / "manifest.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    with (tmp_path / "f" / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([*rows, rows[-1]])
    with pytest.raises(ConfigurationError) as caught:
        read_manifest(tmp_path, "f")
    assert caught.value.code == "film_twice"


@pytest.mark.real_data
def test_the_real_nih_subset() -> None:
    """As counted when the hard validation was first fixed: 99 pneumonia and 411 normal films are not contradicted."""
    if not DEFAULT_DATA.is_dir():
        pytest.skip("../shared/data is not here")
    source = ManifestSource(folder="nih_chestxray14", keep={"label_agreement": ("agreed",)})
    assert len(read_manifest(DEFAULT_DATA, "nih_chestxray14")) == 884
    agreed = collect([source], DEFAULT_DATA, _part(source))
    assert [sum(f.label == name for f in agreed) for name in ("pneumonia", "normal")] == [99, 411]
    many = _part(
        ManifestSource(folder="nih_chestxray14"), task="multilabel", classes=("no_finding", "infiltration", "hernia")
    )
    found = [dict(f.findings) for f in collect(many.sources, DEFAULT_DATA, many)]
    counts = [sum(f[name] == 1 for f in found) for name in many.classes]
    assert counts == [445, 159, 3]  # as the data folder's README says
