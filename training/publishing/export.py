"""From a judged run to a verified bundle in `model_bundles/`, which then becomes `latest`."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from app.bundle.manifest import (
    SCHEMA_VERSION,
    DataSource,
    Estimate,
    Manifest,
    MeasuredPoint,
    Metric,
    NetworkSpec,
    Provenance,
)
from app.bundle.store import BundleRef, BundleStore, write_bundle
from app.decision import decide
from app.drift import reference_arrays
from app.errors import ConfigurationError
from app.explain import pooled
from app.imaging.phantom import phantom
from app.inference.engine import Engine, OnnxRuntimeEngine
from app.selftest import choose_phantoms, golden_cases, self_test
from training.data.cache import Pixels
from training.data.sources import intended_use, licence, source
from training.fitting.augment import standardise
from training.fitting.fit import recipe_splits
from training.judging.decide import Fixed
from training.judging.evaluate import fixed_decision
from training.judging.judge import plain_pixels, run_network, std_floor
from training.networks.onnx_export import feature_shape, head_tensors, onnx_bytes
from training.places import Places
from training.publishing.card import model_card
from training.runs import Run, now, write_atomically

TOLERANCES = {"fp32": 1e-3}
GOLDENS = 8
MAX_BYTES = 60_000_000


@dataclass(frozen=True)
class Exported:
    """What was written. difference: largest difference of a logit between torch and the engine on the validation films."""

    ref: BundleRef
    digest: str
    size_bytes: int
    difference: float


def export(run: Run, places: Places, version: str) -> Exported:
    """Write, verify and self-test the bundle, then point `latest` at it.

    Raises ConfigurationError where a step is missing, the engine disagrees with the run's network, or the bundle is too large;
    BundleError where it does not verify.
    """
    fixed, recipe, network = fixed_decision(run), run.recipe, run.network()
    data = onnx_bytes(network, recipe.input.size)
    engine = OnnxRuntimeEngine(data, threads=1)
    splits = recipe_splits(recipe, places)
    pixels = plain_pixels([*splits.fit, *splits.report], recipe, places)
    outputs = _run_engine(engine, pixels, std_floor(recipe))
    difference = _compare(outputs.logits, run_network(network, pixels.plain, std_floor(recipe)))
    manifest = _manifest(run, places, fixed, version, feature_shape(network, recipe.input.size))
    written = write_bundle(
        places.bundles,
        manifest.model_dump(mode="json", exclude={"files"}),
        network=data,
        head=head_tensors(network),
        reference=_reference(manifest, pixels, outputs),
        golden=_goldens(manifest, engine),
        model_card=model_card(manifest),
    )
    bundle = BundleStore(places.bundles).verify(written)
    self_test(bundle, OnnxRuntimeEngine(bundle.network, threads=1))
    size = sum(entry.size for entry in bundle.manifest.files.values())
    if size > MAX_BYTES:
        raise ConfigurationError("bundle_too_large", f"{written} has {size} bytes, at most {MAX_BYTES} are wanted")
    write_atomically(places.bundles / "latest", f"{written}\n".encode())
    run.write_json("exported.json", {"bundle": str(written), "digest": bundle.digest, "size_bytes": size})
    return Exported(written, bundle.digest, size, difference)


@dataclass(frozen=True)
class _Outputs:
    logits: NDArray[np.float32]
    pooled: NDArray[np.float64]


def _run_engine(engine: Engine, pixels: Pixels, floor: float) -> _Outputs:
    """Every film through the serving engine: logits [N, 1] and pooled features [N, C]."""
    import torch  # noqa: PLC0415  (only the standardisation needs it here)

    logits, means = [], []
    for film in track(pixels.plain, description="validation films through the engine", transient=True):
        tensor = standardise(torch.from_numpy(np.array(film)).float()[None, None], floor)[0].numpy()
        output = engine.run(tensor)
        logits.append(output.logits)
        means.append(pooled(output.features))
    return _Outputs(np.stack(logits), np.stack(means))


def _compare(engine: NDArray[np.float32], network: NDArray[np.float64]) -> float:
    difference = np.abs(engine[:, 0].astype(np.float64) - network)
    allowed = TOLERANCES["fp32"] * np.maximum(1, np.abs(network))
    if (difference > allowed).any():
        raise ConfigurationError(
            "export_mismatch", f"the engine's logits differ from torch's by up to {difference.max():.2e}"
        )
    return float(difference.max())


def _reference(manifest: Manifest, pixels: Pixels, outputs: _Outputs) -> dict[str, NDArray[Any]]:
    """The drift baseline: validation films, decided as the service would at the default operating point."""
    point = manifest.operating_point(None)
    if point is None:  # pragma: no cover  (the manifest's own validation)
        raise ConfigurationError("invalid_recipe", "the manifest has no default operating point")
    decisions = [decide(logits, manifest, point) for logits in outputs.logits]
    names = ("mean", "std", "aspect", "dark_fraction", "bright_fraction", "sharpness")
    statistics = {name: np.array([getattr(s, name) for s in pixels.statistics]) for name in names}
    statistics["confidence"] = np.array([d.confidence for d in decisions], dtype=np.float64)
    labels = [d.label for d in decisions]
    return dict(reference_arrays(statistics, labels, manifest.classes, outputs.pooled, seed=manifest.provenance.seed))


def _goldens(manifest: Manifest, engine: Engine) -> dict[str, NDArray[Any]]:
    """Phantoms whose margins lie far enough from every threshold; whole ones, and close-ups that look denser."""
    candidates = (_golden_film(seed) for seed in range(20 * GOLDENS))
    return golden_cases(manifest, engine, choose_phantoms(manifest, engine, candidates, GOLDENS))


def _golden_film(seed: int) -> NDArray[np.uint8]:
    film = phantom(seed // 2, opacity=seed % 4 < 2)
    if seed % 2 == 0:
        return film
    height, width = film.shape
    return film[height // 3 : -height // 12, width // 5 : -width // 5].copy()


def _manifest(run: Run, places: Places, fixed: Fixed, version: str, shape: tuple[int, int, int]) -> Manifest:
    recipe = run.recipe
    train = recipe_splits(recipe, places).train
    report = run.read_json("figures-report.json")
    points = [
        p.model_copy(update={"measured": {recipe.data.positive: _measured(report["mix"], p.name)}})
        for p in fixed.operating_points
    ]
    return Manifest.model_validate(
        {
            "schema_version": SCHEMA_VERSION,
            "name": recipe.name,
            "version": version,
            "task": "binary",
            "classes": (recipe.data.negative, recipe.data.positive),
            "input": recipe.input,
            "network": NetworkSpec(
                architecture=recipe.network.architecture, logits=1, features=shape, explanation="gap_linear"
            ),
            "calibration": fixed.calibration,
            "calibration_chosen_by": fixed.calibration_chosen_by,
            "operating_points": points,
            "default_operating_point": fixed.default_operating_point,
            "review": fixed.review,
            "quality": fixed.quality,
            "intended_use": intended_use(recipe.data.folders, recipe.data.positive),
            "gate": None,
            "metrics": _metrics(run, report),
            "provenance": _provenance(run, places),
            "licence": licence(train),
            "tolerances": TOLERANCES,
            "files": {},
        }
    )


def _measured(figures: dict[str, Any], point: str) -> MeasuredPoint:
    found = figures["points"][point]
    return MeasuredPoint(
        sensitivity=Estimate.model_validate(found["sensitivity"]),
        specificity=Estimate.model_validate(found["specificity"]),
        data="report half of the validation, clean and corrupted",
        n=figures["n"],
    )


def _metrics(run: Run, report: dict[str, Any]) -> list[Metric]:
    """The figures that were computed for these very weights; the test split's only where it was looked at."""
    hard = run.read_json("figures-hard.json")
    sets = {"validation, report half": report["clean"], "validation, report half, clean and corrupted": report["mix"]}
    if (run.path / "figures-test.json").is_file():
        test = run.read_json("figures-test.json")
        if test["ledger_row"]["weights_digest"] != run.weights_digest():
            raise ConfigurationError("stale_step", "the test figures are those of other weights")
        sets["official test"] = test["test"]
        sets |= {f"official test, {folder}": figures for folder, figures in test["folders"].items()}
    metrics = _hard_metrics(hard)
    for data, figures in sets.items():
        found = dict(figures["scores"])
        found |= {f"{k}@{p}": v for p, point in figures["points"].items() for k, v in point.items()}
        metrics += [Metric(name=name, data=data, n=figures["n"], **estimate) for name, estimate in found.items()]
    return metrics


def _hard_metrics(hard: dict[str, Any]) -> list[Metric]:
    """The figures by which runs are compared; without intervals, since the films are the same for all."""
    data, films = "hard validation", hard["kermany_n"]
    metrics = [Metric(name="auroc_kermany_corrupted", data=data, value=hard["kermany_corrupted_auroc"], n=films)]
    if "nih/clean" in hard["nih_auroc"]:
        outside = hard["nih_n"]["nih/clean"]
        metrics.append(Metric(name="auroc_nih_adults", data=data, value=hard["nih_auroc"]["nih/clean"], n=outside))
        films += outside
    return [Metric(name="selection", data=data, value=hard["selection"], n=films), *metrics]


def _provenance(run: Run, places: Places) -> Provenance:
    environment, fitted = run.read_json("environment.json"), run.read_json("fitted.json")
    pixels = plain_pixels(recipe_splits(run.recipe, places).train, run.recipe, places)
    return Provenance(
        git_commit=environment["git_commit"],
        recipe=run.recipe.name,
        recipe_digest=run.recipe.digest,
        seed=run.recipe.seed,
        data=tuple(_sources(pixels)),
        libraries=environment["libraries"],
        hardware=environment["hardware"],
        duration_s=fitted["seconds"],
        created_at=now(),
    )


def _sources(pixels: Pixels) -> list[DataSource]:
    """One entry per folder; digest = SHA-256 over the sorted list of (path, file sha256)."""
    pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
    licences: dict[str, set[str]] = defaultdict(set)
    for film, sha in zip(pixels.films, pixels.sha256, strict=True):
        pairs[film.folder].append((film.path, sha))
        licences[film.folder].add(film.licence)
    return [
        DataSource(
            name=f"{folder}, official training split less patients of the official test",
            images=len(found),
            digest=hashlib.sha256(json.dumps(sorted(found)).encode()).hexdigest(),
            licence=", ".join(sorted(licences[folder])),
            attribution=source(folder).attribution,
        )
        for folder, found in sorted(pairs.items())
    ]
