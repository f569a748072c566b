"""Original and reduced copies of the same film: how far their logits lie apart.

The data folder holds some films both as found and as reduced to 384 px. Both go through the service's own decoding, preprocessing
and engine; a model that hangs on fine texture or on JPEG blocks shows it here.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.bundle.input_spec import InputSpec
from app.bundle.store import BundleRef, BundleStore
from app.errors import BundleError, ConfigurationError
from app.imaging.decode import decode
from app.inference.engine import Engine, OnnxRuntimeEngine
from app.preprocessing import prepare
from training.data.cache import LIMITS
from training.data.collect import read_manifest
from training.networks.onnx_export import onnx_bytes
from training.places import Places
from training.runs import find_run

ORIGINALS = "originals"
_NEEDED = ("path", "source", "label")  # of originals/manifest.csv
LIMIT = 0.15  # logit; the bar of a shipped bundle


@dataclass(frozen=True)
class Pair:
    """One film in two sizes. Paths are relative to the data folder; logits are uncalibrated, those that differ most."""

    original: str
    reduced: str
    logit_original: float
    logit_reduced: float

    @property
    def difference(self) -> float:
        return abs(self.logit_original - self.logit_reduced)


def compare_copies(data: Path, spec: InputSpec, engine: Engine) -> list[Pair]:
    """Every pair in the data folder, the widest apart first.

    Raises ConfigurationError as `find_pairs` does.
    """
    found = []
    for original, reduced in find_pairs(data):
        logits = [
            engine.run(prepare(decode((data / path).read_bytes(), LIMITS, network=spec), spec).tensor).logits
            for path in (original, reduced)
        ]
        widest = int(np.argmax(np.abs(logits[0] - logits[1])))
        found.append(Pair(original, reduced, *(float(values[widest]) for values in logits)))
    return sorted(found, key=lambda pair: -pair.difference)


def has_originals(data: Path) -> bool:
    """Whether the data folder holds originals beside their copies; a folder of that name may be anybody's."""
    return set(_NEEDED) <= _columns(data / ORIGINALS / "manifest.csv")


def _columns(manifest: Path) -> set[str]:
    if not manifest.is_file():
        return set()
    with manifest.open(newline="", encoding="utf-8") as stream:
        return set(next(csv.reader(stream), []))


def find_pairs(data: Path) -> list[tuple[str, str]]:
    """(original, reduced) paths, one at least. Originals are named like their copies; those labelled `not_applicable` have none.

    Raises ConfigurationError where there is no manifest of originals, it names none, or one that should have a reduced copy has none.
    """
    manifest = data / ORIGINALS / "manifest.csv"
    if not has_originals(data):
        raise ConfigurationError(
            "data_missing", f"no {ORIGINALS}/{manifest.name} with columns {list(_NEEDED)} in {data}; nothing to compare"
        )
    with manifest.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["label"] != "not_applicable"]
    if not rows:
        raise ConfigurationError("data_missing", f"{ORIGINALS}/{manifest.name} names no film that has a reduced copy")
    folders = {row["source"] for row in rows}
    names = sorted(p.name for p in data.iterdir() if (p / "manifest.csv").is_file() and p.name in _copies_of(folders))
    films = {(film.folder, Path(film.path).stem): film.path for name in names for film in read_manifest(data, name)}
    pairs = []
    for row in rows:
        stem = Path(row["path"]).stem
        reduced = next((films[f, stem] for f in _copies_of({row["source"]}) if (f, stem) in films), None)
        if reduced is None:
            raise ConfigurationError("data_missing", f"{row['path']} has no reduced copy")
        pairs.append((row["path"], reduced))
    return pairs


def _copies_of(sources: set[str]) -> set[str]:
    """Folders with reduced copies: of the same name, but the squashed Kermany folder holds none of its originals."""
    return {"kermany_hires" if name.startswith("kermany") else name for name in sources}


def model_of(text: str, places: Places) -> tuple[str, InputSpec, Engine]:
    """A bundle (`name/version`) or a run, ready to judge films: its name, input specification and engine."""
    try:
        ref = BundleRef.parse(text)
        bundle = BundleStore(places.bundles).verify(ref)
        return str(ref), bundle.manifest.input, OnnxRuntimeEngine(bundle.network, threads=1)
    except BundleError as error:
        if error.code != "bundle_not_found":
            raise
    run = find_run(text, places)
    data = onnx_bytes(run.network(), run.recipe.input.size, run.recipe.input.channels)
    return run.path.name, run.recipe.input, OnnxRuntimeEngine(data, threads=1)
