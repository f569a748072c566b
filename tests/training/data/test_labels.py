from __future__ import annotations

import pytest

from tests.training.phantom_data import film
from training.data.labels import Record, named, plain_name
from training.data.spec import DataPart, ManifestSource, TableSource

SOURCE = ManifestSource(folder="f")
BINARY = DataPart(sources=(SOURCE,))
THREE = DataPart(task="multiclass", classes=("normal", "pneumonia", "tuberculosis"), sources=(SOURCE,))
MANY = DataPart(task="multilabel", classes=("no_finding", "pneumonia", "effusion", "hernia"), sources=(SOURCE,))


def _label(part: DataPart, names: dict[str, int], *, label: str = "", by_column: bool = False, **labels: str) -> str:
    record = Record(film("f/a.jpg", label=label), names, by_column)
    found = list(named([record], TableSource(folder="f", table="t", labels=labels), part))
    return found[0].label if found else "not used"


def _findings(names: dict[str, int], **labels: str) -> dict[str, int] | None:
    record = Record(film("f/a.jpg", label=""), names)
    found = list(named([record], TableSource(folder="f", table="t", labels=labels), MANY))
    return dict(found[0].findings) if found else None


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Pleural_Thickening", "pleural_thickening"),
        ("No Finding", "no_finding"),
        (" Lung  Opacity/x ", "lung_opacity_x"),
    ],
)
def test_plain_names(text: str, plain: str) -> None:
    assert plain_name(text) == plain


def test_one_class_names_a_film() -> None:
    assert _label(BINARY, {"Pneumonia": 1, "Effusion": 1}) == "pneumonia"
    assert _label(BINARY, {"No Finding": 1}) == "normal"  # normal and no_finding stand for each other
    assert _label(THREE, {"PNEUMONIA": 1, "Tuberculosis": 1}) == "not used"  # two of the recipe's classes
    assert _label(THREE, {"Pneumonia": 1, "Tuberculosis": -1}) == "not used"  # perhaps two
    assert _label(BINARY, {"Pneumonia": -1}) == "not used"
    assert _label(BINARY, {"Effusion": 1}) == "not used"


def test_the_name_that_a_source_sorts_by_counts_alone() -> None:
    assert _label(THREE, {"pneumonia": 1, "Tuberculosis": 1}, label="pneumonia") == "pneumonia"
    assert _label(THREE, {"covid": 1}, label="covid") == "not used"
    assert _label(THREE, {"covid": 1}, label="covid", covid="pneumonia") == "pneumonia"
    assert _label(BINARY, {"pneumonia": 1}, label="pneumonia", covid="pneumonia") == "not used"  # a table says all


def test_a_positive_column_alone_says_both_classes() -> None:
    assert _label(BINARY, {"Pneumonia": 0}, by_column=True, Pneumonia="pneumonia") == "normal"
    assert _label(BINARY, {"Pneumonia": 0}, Pneumonia="pneumonia") == "not used"
    assert _label(BINARY, {"Pneumonia": 0, "N": 0}, by_column=True, Pneumonia="pneumonia", N="normal") == "not used"
    assert _label(THREE, {"Pneumonia": 0}, by_column=True, Pneumonia="pneumonia") == "not used"


def test_findings_of_a_film() -> None:
    assert _findings({"Pneumonia": 1, "Effusion": 0}) == {"no_finding": 0, "pneumonia": 1, "effusion": 0}
    assert _findings({"No Finding": 1}) == {"no_finding": 1, "pneumonia": 0, "effusion": 0, "hernia": 0}
    assert _findings({"Pneumonia": 0, "Effusion": -1}) == {"pneumonia": 0, "effusion": -1}
    assert _findings({"Effusion": -1}) is None  # nothing is known of it
    assert _findings({"Fracture": 1}) == {"no_finding": 0}
    assert _findings({"normal": 1, "Hernia": 1}) == {"no_finding": 1, "hernia": 1}  # contradicts itself: as it stands


def test_of_two_names_for_one_class_the_one_that_says_most_counts() -> None:
    labels = {"Mass": "hernia", "Nodule": "hernia"}
    assert _findings({"Mass": 0, "Nodule": 1}, **labels) == {"no_finding": 0, "hernia": 1}
    assert _findings({"Mass": 0, "Nodule": -1, "x": 0}, **labels | {"x": "effusion"}) == {"effusion": 0, "hernia": -1}
    assert _findings({"Mass": -1, "Nodule": 1}, **labels) == {"no_finding": 0, "hernia": 1}


def test_without_a_recipe_the_sources_own_names_stay() -> None:
    record = Record(film("f/a.jpg", label="COVID"), {"COVID": 1, "Effusion": 0})
    (found,) = named([record], SOURCE, None)
    assert (found.label, found.findings) == ("COVID", (("COVID", 1), ("Effusion", 0)))
