"""A data folder of phantoms, laid out like the real one, and a recipe that trains on it in seconds."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from app.imaging.phantom import encode_jpeg, encode_png, phantom
from training.data.films import Film

HEADER = ["path", "source", "upstream_split", "label", "patient_id", "orig_width", "orig_height", "sha256_of_original"]
HEADER += ["licence", "finding_detail", "view", "age_group", "dup_group", "via"]

TINY = """
name = "tiny"
seed = 7
[data]
validation_each = 0.2
cached_copies = 2
[input]
size = 64
channels = 1
resize = "stretch"
sixteen_bit = "significant_bits"
antialias_sigma = 0.5
normalisation = { kind = "per_image", std_floor = 8.0 }
[network]
architecture = "tiny_cnn"
dropout = 0.1
[training]
stages = [{ epochs = 1, size = 32 }, { epochs = 1, size = 64 }]
batch = 8
learning_rate = 3e-3
bfloat16 = false
[hard_validation]
severities = [1, 3]
[decision]
bootstraps = 20
"""


def film(  # a builder with one argument per column that tests care about
    path: str, *, split: str = "train", label: str = "normal", patient: str = "p", group: str = ""
) -> Film:
    return Film(path, path.split("/", maxsplit=1)[0], split, label, patient, group, "CC BY 4.0", "paediatric")


def write_data(root: Path, *, patients: int = 40) -> Path:
    """kermany_hires and kermany_224 with `patients` each (plus test and val films), nih_chestxray14 and originals."""
    for i, folder in enumerate(("kermany_hires", "kermany_224")):
        rows = [(f"{folder}-{n}", "train", n % 3 != 0) for n in range(patients)]
        rows += [(f"{folder}-test{n}", "test", n % 2 == 0) for n in range(12)]
        rows += [(f"{folder}-test0", "train", True), (f"{folder}-val", "val", False)]
        films = [
            (f"{folder}/{split}/{patient}_{n}.jpg", patient, split, positive)
            for n, (patient, split, positive) in enumerate(rows)
        ]
        _write_folder(root, folder, films, first_seed=1000 * i, squashed=folder == "kermany_224")
    films = [(f"nih_chestxray14/n{n:02}.jpg", f"nih{n}", "", n % 2 == 0) for n in range(12)]
    _write_folder(root, "nih_chestxray14", films, first_seed=5000, squashed=False)
    with (root / "nih_chestxray14" / "labels14.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "rsna_class", "google2019_airspace_opacity"))
        writer.writerows((path, "Lung Opacity" if positive else "Normal", "") for path, _, _, positive in films)
    _write_originals(root)
    return root


def _write_folder(
    root: Path, folder: str, films: Sequence[tuple[str, str, str, bool]], *, first_seed: int, squashed: bool
) -> None:
    rows = []
    for n, (path, patient, split, positive) in enumerate(films):
        pixels = phantom(first_seed + n, height=96, width=112 if positive else 88, opacity=positive)
        if squashed:
            pixels = np.asarray(cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA), dtype=np.uint8)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(encode_jpeg(pixels, 75 if squashed else 88))
        row = dict.fromkeys(HEADER, "")
        row |= {"path": path, "source": folder, "upstream_split": split, "patient_id": patient, "licence": "CC BY 4.0"}
        row |= {"label": "pneumonia" if positive else "normal", "age_group": "paediatric"}
        rows.append(row)
    _write_manifest(root / folder / "manifest.csv", rows)


def _write_originals(root: Path) -> None:
    """Two films as found, whose reduced copies are the first of kermany_hires; and one that has none."""
    rows = []
    for n, stem in enumerate(("kermany_hires-0_0", "kermany_hires-1_1")):
        positive = n == 1
        pixels = phantom(n, height=192, width=224 if positive else 176, opacity=positive)
        row = dict.fromkeys(HEADER, "") | {
            "path": f"originals/kermany/{stem}.png",
            "source": "kermany",
            "label": "normal",
        }
        rows.append(row)
        (root / row["path"]).parent.mkdir(parents=True, exist_ok=True)
        (root / row["path"]).write_bytes(encode_png(pixels))
    rows.append(rows[0] | {"path": "originals/not_frontal_cxr/slice.png", "label": "not_applicable"})
    (root / rows[-1]["path"]).parent.mkdir(parents=True, exist_ok=True)
    (root / rows[-1]["path"]).write_bytes(encode_png(np.rot90(phantom(9, height=128, width=150)).copy()))
    rows = [row | {"note": "a slice" if row["label"] == "not_applicable" else ""} for row in rows]
    _write_manifest(root / "originals" / "manifest.csv", rows)


def _write_manifest(path: Path, rows: Sequence[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=rows[0])
        writer.writeheader()
        writer.writerows(rows)
