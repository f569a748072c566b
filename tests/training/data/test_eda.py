"""The page on phantoms: what is planted is on it, and no test film is opened for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

from app.imaging.phantom import encode_jpeg
from tests.training.phantom_data import TINY, TINY_MULTICLASS, TINY_MULTILABEL, write_data
from training.data.collect import read_manifest
from training.data.eda import write_eda
from training.places import Places
from training.recipe import load_recipe


def _eda(root: Path, text: str) -> tuple[dict[str, Any], str]:
    (root / "r.toml").write_text(text)
    recipe = load_recipe(root / "r.toml")
    places = Places(data=root / "data", cache=root / "cache", runs=root / "runs")
    path = write_eda(recipe, places, Console(quiet=True))
    assert path == root / "runs" / f"eda-{recipe.run_name}" / "eda.html"
    return json.loads((path.parent / "eda.json").read_text()), path.read_text()


def _tag(data: Path, folder: str, label: str) -> None:
    """A bright letter in the upper left corner of every film of the class."""
    for film in read_manifest(data, folder):
        if film.label == label:
            path = data / film.path
            pixels = np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), dtype=np.uint8)
            pixels[:8, :8] = 255
            path.write_bytes(encode_jpeg(pixels, 88))


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    root = tmp_path_factory.mktemp("eda")
    write_data(root / "data")
    for folder in ("kermany_hires", "kermany_224"):
        shutil.rmtree(root / "data" / folder / "test")  # reading one of its films would fail
    return _eda(root, TINY)


def test_everything_is_counted_and_only_training_films_are_opened(binary: tuple[dict[str, Any], str]) -> None:
    content, _ = binary
    assert content["parts"]["test"]["all"] == {"films": 24, "patients": 24, "normal": 12, "pneumonia": 12}
    assert content["parts"]["train"]["kermany_hires"]["films"] == 24
    assert sum(e["films"] for e in content["exposure"].values()) == 80
    assert content["fingerprint"]["films"] == 104
    assert content["files"]["kermany_224"]["formats"] == {"jpeg": 40}
    assert content["files"]["kermany_224"]["jpeg_quality"] == pytest.approx(75, abs=1)
    assert content["files"]["kermany_hires"]["jpeg_quality"] == pytest.approx(88, abs=1)
    assert content["duplicates"] == []


def test_wide_pneumonia_frames_are_a_suspect_where_they_are_not_squashed(binary: tuple[dict[str, Any], str]) -> None:
    found = {(s["fact"], s["scope"]): s for s in binary[0]["suspects"]}
    aspect = found["aspect ratio", "kermany_hires"]
    assert (aspect["auroc"], aspect["mark"], aspect["direction"]) == (1.0, "strong", 1)
    assert ("aspect ratio", "kermany_224") not in found  # all square
    assert ("JPEG quality", "kermany_224") not in found
    assert ("source (which)", "all") not in found  # both have as many of each class
    ranked = [s["ci"][0] for s in binary[0]["suspects"]]
    assert ranked == sorted(ranked, reverse=True)


def test_a_planted_corner_tag_is_found(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    _tag(data, "nih_chestxray14", "pneumonia")
    content, page = _eda(tmp_path, TINY_MULTICLASS)
    marks = {(s["fact"], s["target"]): s["mark"] for s in content["suspects"] if s["scope"] == "nih_chestxray14"}
    assert marks["brightest corner", "pneumonia"] == "strong"
    assert "brightest corner" in page
    every = {(s["fact"], s["target"]): s["mark"] for s in content["suspects"] if s["scope"] == "all"}
    assert every["source (which)", "tuberculosis"] == "strong"  # all of them come from one source


def test_labels_and_their_parts(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    content, page = _eda(tmp_path, TINY_MULTILABEL)
    assert content["parts"]["train"]["all"]["effusion"] > 0
    assert set(content["exposure"]) == {"no_finding", "effusion", "pneumonia", "hernia"}
    assert {s["target"] for s in content["suspects"]} <= set(content["outputs"])
    assert "hernia" in page


def test_the_page_loads_nothing_and_escapes(binary: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    _, page = binary
    assert page.count("data:image/png;base64,") == 9
    assert "http" not in page
    for heading in ("Films", "Mean film", "Exposure", "Texture and edges", "Shortcut suspects", "Within kermany_224"):
        assert f">{heading}<" in page
    data = write_data(tmp_path / "data")
    (data / "nih_chestxray14").rename(data / "a<b")
    for name in ("manifest.csv", "labels14.csv"):
        path = data / "a<b" / name
        path.write_text(path.read_text().replace("nih_chestxray14/", "a<b/"))
    _, odd = _eda(tmp_path, TINY_MULTICLASS.replace("nih_chestxray14", "a<b"))
    assert "a&lt;b" in odd
    assert "a<b" not in odd
