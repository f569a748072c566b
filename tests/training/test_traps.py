"""What must stop a run, planted: a patient and a picture in two parts, and a mark that gives the class away."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console

from app.errors import ConfigurationError
from app.imaging.decode import decode
from app.imaging.phantom import encode_jpeg
from tests.training.phantom_data import TINY, write_data
from training.data.cache import LIMITS
from training.fitting.fit import fit
from training.judging.checks import run_checks
from training.judging.evaluate import evaluate
from training.places import Places
from training.publishing.promotion import promote
from training.recipe import Recipe, load_recipe
from training.runs import find_run

FOLDER = "kermany_hires"


def places(root: Path) -> Places:
    return Places(root / "data", root / "cache", root / "runs", root / "bundles", root / "ledger.csv")


def tiny(root: Path, text: str = TINY) -> Recipe:
    (root / "tiny.toml").write_text(text)
    return load_recipe(root / "tiny.toml")


def gray(path: Path) -> NDArray[np.uint8]:
    return np.array(decode(path.read_bytes(), LIMITS).pixels, dtype=np.uint8)


def rows_of(root: Path) -> list[dict[str, str]]:
    with (root / "data" / FOLDER / "manifest.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def write_rows(root: Path, rows: list[dict[str, str]]) -> None:
    with (root / "data" / FOLDER / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_a_duplicated_picture_under_another_name_stops_the_run(tmp_path: Path) -> None:
    """A training film, saved again at another quality, as a new patient of the official test."""
    write_data(tmp_path / "data")
    rows = rows_of(tmp_path)
    first = next(row for row in rows if row["upstream_split"] == "train" and row["label"] == "pneumonia")
    pixels = gray(tmp_path / "data" / first["path"])
    copy = f"{FOLDER}/test/somebody_else.jpg"
    (tmp_path / "data" / copy).write_bytes(encode_jpeg(pixels, 60))
    write_rows(tmp_path, [*rows, first | {"path": copy, "patient_id": "somebody-else", "upstream_split": "test"}])
    with pytest.raises(ConfigurationError, match="somebody_else") as caught:
        fit(tiny(tmp_path), places(tmp_path), Console(quiet=True))
    assert caught.value.code == "leak"
    assert not find_run("tiny", places(tmp_path)).complete


def test_a_patient_of_the_test_among_the_training_films_stops_the_run(tmp_path: Path) -> None:
    """As the phantoms have one, and the recipe does not say that their films are left out."""
    write_data(tmp_path / "data")
    rows = rows_of(tmp_path)
    tested = {row["patient_id"] for row in rows if row["upstream_split"] == "test"}
    (first,) = (row for row in rows if row["upstream_split"] == "train" and row["patient_id"] in tested)
    recipe = tiny(tmp_path, TINY.replace('crossing = "leave_out"\n', ""))
    with pytest.raises(ConfigurationError, match=first["path"]) as caught:
        fit(recipe, places(tmp_path), Console(quiet=True))
    assert caught.value.code == "leak"


def test_without_the_copy_the_same_films_are_fitted(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    torch.set_num_threads(1)
    assert fit(tiny(tmp_path), places(tmp_path), Console(quiet=True)).complete


def _tag(pixels: NDArray[np.uint8]) -> None:
    pixels[2:14, 2:22] = 250


def _nothing(pixels: NDArray[np.uint8]) -> None:
    del pixels


@pytest.mark.parametrize(("mark", "found"), [(_tag, True), (_nothing, False)])
def test_a_bright_corner_tag_on_one_class_stops_the_promotion(
    tmp_path: Path,
    mark: Callable[[NDArray[np.uint8]], None],
    found: bool,
) -> None:
    write_data(tmp_path / "data", patients=150)
    for folder in (FOLDER, "kermany_224"):
        for path in sorted((tmp_path / "data" / folder).rglob("*.jpg")):
            film = gray(path)
            if _label(tmp_path / "data" / folder, path) == "pneumonia":
                mark(film)
            path.write_bytes(encode_jpeg(film, 88))
    torch.set_num_threads(1)
    recipe = tiny(tmp_path)
    run = fit(recipe, places(tmp_path), Console(quiet=True))
    for step in ("hard", "report"):
        evaluate(run, places(tmp_path), step)
    run_checks(run, places(tmp_path), Console(quiet=True))
    decided = promote(run)
    marks = [line for line in decided.lines if line.name.startswith("edge shortcut: marks")]
    assert marks
    assert [line.passed for line in marks] == [not found] * len(marks)
    assert ("edge shortcut" in decided.label) == found
    shutil.rmtree(tmp_path / "cache")


def _label(folder: Path, film: Path) -> str:
    with (folder / "manifest.csv").open(newline="") as stream:
        return next(
            row["label"] for row in csv.DictReader(stream) if row["path"].endswith(f"/{film.parent.name}/{film.name}")
        )
