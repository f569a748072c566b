"""A data folder of phantoms, laid out like the real one, and recipes that train on it in seconds."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from app.imaging.phantom import encode_jpeg, encode_png, phantom
from training.data.films import Film
from training.publishing import policy

HEADER = ["path", "source", "upstream_split", "label", "patient_id", "orig_width", "orig_height", "sha256_of_original"]
HEADER += ["licence", "finding_detail", "view", "age_group", "dup_group", "via"]
NIH_FINDINGS = ["Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia"]
NIH_FINDINGS += ["Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"]
TABLE = "nih_table"  # films with a label table instead of a manifest
_NIH_LICENCE = "NIH Clinical Center: no restrictions on use, attribution required"
_TBX_LICENCE = "TBX11K: non-commercial research (authors publish under CC BY-NC-SA 4.0)"

_BODY = """
[input]
size = 64
channels = 1
resize = "stretch"
sixteen_bit = "significant_bits"
antialias_sigma = 0.5
normalisation = { kind = "per_image", std_floor = 8.0 }
[network]
architecture = "tiny_cnn"
head = { kind = "linear", dropout = [0.1] }
"""

TINY = f"""
name = "tiny"
title = "a tiny network on phantoms"
seed = 7
[data]
task = "binary"
classes = ["normal", "pneumonia"]
sources = [{{ kind = "manifest", folder = "kermany_hires" }}, {{ kind = "manifest", folder = "kermany_224" }}]
test = "upstream"
crossing = "leave_out"
validation_each = 0.2
cached_copies = 2
duplicate_bits = 8  # phantoms resemble each other more than people do
{_BODY}
[training]
stages = [{{ epochs = 1, size = 32 }}, {{ epochs = 1, size = 64 }}]
batch = 8
learning_rate = 3e-3
autocast = "none"
[decision]
default_operating_point = "screening"
bootstraps = 20
points = [
  {{ kind = "youden", name = "screening" }},
  {{ kind = "sensitivity", name = "sensitivity-90", target = 0.90 }},
  {{ kind = "specificity", name = "rule-in", target = 0.90 }},
]
[evaluation]
severities = [1, 3]
explanations = 4
[[evaluation.external]]
name = "nih-clean"
selects = true
sources = [{{ kind = "manifest", folder = "nih_chestxray14", keep = {{ label_agreement = ["agreed"] }} }}]
[[evaluation.external]]
name = "nih-all"
sources = [{{ kind = "manifest", folder = "nih_chestxray14" }}]
"""

TINY_MULTICLASS = f"""
name = "tiny-multiclass"
title = "three classes of phantoms"
seed = 7
policy = "research"
[data]
task = "multiclass"
classes = ["normal", "pneumonia", "tuberculosis"]
sources = [
  {{ kind = "manifest", folder = "nih_chestxray14", keep = {{ age_group = ["adult"] }} }},
  {{ kind = "manifest", folder = "tbx11k" }},
  {{ kind = "manifest", folder = "rsna_normal", side = "test" }},
]
test = 0.25
validation_each = 0.2
cached_copies = 2
duplicate_bits = 8  # phantoms resemble each other more than people do
{_BODY}
[training]
stages = [{{ epochs = 1, size = 32 }}, {{ epochs = 1, size = 64 }}]
batch = 8
learning_rate = 3e-3
autocast = "none"
loss = {{ kind = "cross_entropy", label_smoothing = 0.05, class_weights = "balanced" }}
balance_sources = true
[decision]
default_operating_point = "risk-prioritised"
calibrators = ["none", "temperature", "vector_temperature"]
bootstraps = 20
[[decision.points]]
kind = "hierarchical"
name = "risk-prioritised"
priority = ["tuberculosis", "pneumonia"]
fallback = "normal"
targets = {{ tuberculosis = 0.90, pneumonia = 0.85 }}
[[decision.points]]
kind = "argmax"
name = "argmax"
[[decision.points]]
kind = "conformal"
name = "conformal-90"
coverage = 0.90
[evaluation]
severities = [1, 3]
explanations = 4
"""

TINY_MULTILABEL = f"""
name = "tiny-multilabel"
title = "four labels of phantoms"
seed = 7
policy = "research"
[data]
task = "multilabel"
classes = ["no_finding", "effusion", "pneumonia", "hernia"]
sources = [{{ kind = "manifest", folder = "nih_chestxray14" }}]
test = 0.2
validation_each = 0.2
cached_copies = 1
duplicate_bits = 8  # phantoms resemble each other more than people do
{_BODY}
[training]
stages = [{{ epochs = 1, size = 32 }}, {{ epochs = 1, size = 64 }}]
batch = 8
learning_rate = 3e-3
autocast = "none"
loss = {{ kind = "focal", gamma = 2.0, class_weights = "balanced" }}
oversample_to = 8
[augmentation]
kind = "torchvision"
rotation = 10.0
brightness = 0.1
[decision]
default_operating_point = "max-f1"
calibrators = ["none", "temperature", "vector_temperature", "platt"]
robust = false
bootstraps = 20
points = [
  {{ kind = "max_f1", name = "max-f1" }},
  {{ kind = "sensitivity", name = "sensitivity-80", target = 0.80 }},
]
[evaluation]
severities = [1, 3]
explanations = 0
"""


@dataclass(frozen=True)
class _Shot:
    """One phantom film to be written. label: normal, pneumonia or tuberculosis; columns: of its manifest row."""

    path: str
    patient: str
    label: str
    split: str = ""
    columns: tuple[tuple[str, str], ...] = ()


def write_lenient_policy(folder: Path) -> Path:
    """Policies that a tiny network can meet: `default` without minima."""
    folder.mkdir(parents=True)
    shutil.copy(policy.POLICIES / f"{policy.STATEMENTS}.toml", folder)
    (folder / "default.toml").write_text('name = "default"\ntitle = "no minima"\nshortcuts = false\n')
    return folder


def film(  # a builder with one argument per column that tests care about
    path: str, *, split: str = "train", label: str = "normal", patient: str = "p", group: str = ""
) -> Film:
    return Film(path, path.split("/", maxsplit=1)[0], split, label, patient, group, "CC BY 4.0", "paediatric")


def write_data(root: Path, *, patients: int = 40) -> Path:
    """The folders of the real data, with phantoms.

    kermany_hires and kermany_224: `patients` training films each, one per patient, two of three pneumonia; 12 test films; one patient
    in both the training and the test split; one film upstream calls val. nih_chestxray14 (with labels14.csv): 48 films, half of
    them pneumonia, the last four of children. tbx11k: 24 films, all tuberculosis. rsna_normal: 8 normal films without patient ids.
    nih_table: 12 films and Data_Entry_2017.csv. originals: three.
    """
    for i, folder in enumerate(("kermany_hires", "kermany_224")):
        rows = [(f"{folder}-{n}", "train", n % 3 != 0) for n in range(patients)]
        rows += [(f"{folder}-test{n}", "test", n % 2 == 0) for n in range(12)]
        rows += [(f"{folder}-test0", "train", True), (f"{folder}-val", "val", False)]
        shots = [
            _Shot(f"{folder}/{split}/{patient}_{n}.jpg", patient, "pneumonia" if positive else "normal", split)
            for n, (patient, split, positive) in enumerate(rows)
        ]
        _write_folder(root, folder, shots, first_seed=1000 * i, squashed=folder == "kermany_224")
    _write_nih(root)
    adult = (("age_group", "unknown"), ("licence", _TBX_LICENCE))
    shots = [_Shot(f"tbx11k/tb{n:02}.jpg", f"tbx11k:tb{n:02}", "tuberculosis", columns=adult) for n in range(24)]
    _write_folder(root, "tbx11k", shots, first_seed=6000)
    shots = [_Shot(f"rsna_normal/Normal-{n}.jpg", "", "normal", columns=adult) for n in range(8)]
    _write_folder(root, "rsna_normal", shots, first_seed=7000)
    _write_table(root)
    _write_originals(root)
    return root


def write_held_out(root: Path) -> None:
    """hannover_covid19: 6 films, all pneumonia, one patient each; cohen_covid_chestxray: 6, two of them normal."""
    labels = {"hannover_covid19": ["pneumonia"] * 6, "cohen_covid_chestxray": ["pneumonia"] * 4 + ["normal"] * 2}
    for i, (folder, each) in enumerate(labels.items()):
        shots = [_Shot(f"{folder}/{n}.jpg", f"{folder}:{n}", label) for n, label in enumerate(each)]
        _write_folder(root, folder, shots, first_seed=8000 + 1000 * i)


def draw(seed: int, label: str) -> NDArray[np.uint8]:
    """uint8 [96, W]: wider with pneumonia; tuberculosis has a dense patch at an apex."""
    pixels = phantom(seed, height=96, width=112 if label == "pneumonia" else 88, opacity=label == "pneumonia")
    if label == "tuberculosis":
        patch = cv2.circle(np.zeros_like(pixels), (26, 26), 9, 70.0, -1)
        pixels = np.asarray(cv2.add(pixels, cv2.GaussianBlur(patch, (0, 0), 2)), dtype=np.uint8)
    return pixels


def _write_nih(root: Path) -> None:
    shots = []
    for n in range(48):
        age = "adult" if n < 44 else "paediatric"
        columns = (("age_group", age), ("licence", _NIH_LICENCE), ("view", "PA" if n % 3 else "AP"))
        label = "normal" if n % 2 else "pneumonia"
        shots.append(_Shot(f"nih_chestxray14/n{n:02}.jpg", f"nih:{n}", label, columns=columns))
    _write_folder(root, "nih_chestxray14", shots, first_seed=5000)
    rows: list[dict[str, str]] = []
    for n, shot in enumerate(shots):
        ill = shot.label == "pneumonia"
        found = {"Pneumonia"} if ill else set()
        found |= {"Effusion"} if ill and n % 4 == 0 else set()
        found |= {"Hernia"} if n in {0, 8, 16, 24} else set()
        row = {"path": shot.path, "patient_id": shot.patient, "age": str(20 + n if n < 44 else 10)}
        row |= {"sex": "MF"[n // 2 % 2], "view": dict(shot.columns)["view"], "no_finding": str(int(not ill))}
        row |= {name: str(int(name in found)) for name in NIH_FINDINGS}
        row["rsna_class"] = ("Lung Opacity" if n % 8 else "") if ill else "Normal"  # every fourth one nobody re-read
        rows.append(row | {"google2019_airspace_opacity": ""})
    _write_csv(root / "nih_chestxray14" / "labels14.csv", rows)


def _write_table(root: Path) -> None:
    """Films with the table that NIH published: findings joined by bars, ages as they came in 2017."""
    rows = []
    for n in range(12):
        label = "normal" if n % 2 else "pneumonia"
        path = root / TABLE / "images" / f"{n // 2:08}_{n % 2:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(draw(8000 + n, label)))
        row = {"Image Index": f"images/{path.name}", "Follow-up #": str(n % 2), "Patient ID": str(n // 2)}
        row["Finding Labels"] = "No Finding" if n % 2 else "Effusion|Pneumonia" if n % 4 else "Pneumonia"
        row |= {"Patient Age": f"{30 + n:03}Y", "Patient Gender": "MF"[n // 2 % 2], "View Position": "PA"}
        rows.append(row)
    _write_csv(root / TABLE / "Data_Entry_2017.csv", rows)


def _write_folder(root: Path, folder: str, shots: Sequence[_Shot], *, first_seed: int, squashed: bool = False) -> None:
    rows = []
    for n, shot in enumerate(shots):
        pixels = draw(first_seed + n, shot.label)
        if squashed:
            pixels = np.asarray(cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA), dtype=np.uint8)
        (root / shot.path).parent.mkdir(parents=True, exist_ok=True)
        (root / shot.path).write_bytes(encode_jpeg(pixels, 75 if squashed else 88))
        row = dict.fromkeys(HEADER, "")
        row |= {"path": shot.path, "source": folder, "upstream_split": shot.split, "patient_id": shot.patient}
        row |= {"label": shot.label, "licence": "CC BY 4.0", "age_group": "paediatric", "view": "AP"}
        row |= {"orig_height": str(pixels.shape[0]), "orig_width": str(pixels.shape[1])}
        rows.append(row | dict(shot.columns))
    _write_csv(root / folder / "manifest.csv", rows)


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
    _write_csv(root / "originals" / "manifest.csv", rows)


def _write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
