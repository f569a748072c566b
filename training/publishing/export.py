"""From a judged run to a verified bundle in `model_bundles/`. One that passed its policy becomes `latest`; one that failed never does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Manifest, Promotion
from app.bundle.store import BundleRef
from app.decision import decide
from app.drift import reference_arrays
from app.errors import ConfigurationError
from app.imaging.phantom import phantom
from app.inference.engine import Engine, OnnxRuntimeEngine
from app.selftest import choose_phantoms, golden_cases
from training.data.cache import Pixels, load_pixels
from training.judging.evaluate import checked_splits, fixed_decision
from training.judging.reading import Reading, engine_reader, torch_reader
from training.networks.onnx_export import head_tensors, onnx_bytes
from training.places import Places
from training.publishing.draft import Draft, publish, size_of
from training.publishing.manifest import TOLERANCES, bundle_manifest
from training.publishing.policy import load_policy
from training.publishing.promotion import promote, with_golden
from training.runs import Run

GOLDENS = 8
_CANDIDATES = 5 * GOLDENS  # of each sort; with 15 labels about one in two lies near some threshold


@dataclass(frozen=True)
class Exported:
    """What was written. difference: largest difference of a logit between torch and the engine on the validation films; latest:
    whether it became the bundle that an empty service starts with."""

    ref: BundleRef
    digest: str
    size_bytes: int
    difference: float
    promotion: Promotion
    latest: bool


def export(run: Run, places: Places, version: str, *, accept_failed: str | None = None) -> Exported:
    """Write, verify and self-test the bundle; point `latest` at it if it passed its policy and may serve.

    Args:
        accept_failed: the name of the run's folder, for a run that is to be exported although it failed its policy. The bundle then
            carries its failed lines, is for research only and never becomes `latest`.

    Raises:
        ConfigurationError: a step is missing or of other weights; the films changed since the fit; the policy failed and the run was not
            named; the engine disagrees with the run's network; or the bundle is too large.
        BundleError: it does not verify, or does not pass its own golden test.
    """
    recipe = run.recipe
    promotion = _promoted(run, accept_failed)
    fixed, network = fixed_decision(run), run.network()
    data = onnx_bytes(network, recipe.input.size, recipe.input.channels)
    engine = OnnxRuntimeEngine(data, threads=1)
    splits = checked_splits(run, places)
    pixels = load_pixels(places.data, [*splits.fit, *splits.report], recipe.input, places.cache)
    outputs = engine_reader(engine, recipe)(pixels.plain)
    difference = _compare(outputs.logits, torch_reader(network, recipe)(pixels.plain).logits)
    manifest = bundle_manifest(run, places, fixed, network, version)
    golden = _goldens(manifest, engine)
    promotion = with_golden(promotion, load_policy(recipe.policy), f"{_cases(golden)} phantoms")
    manifest = Manifest.model_validate(_promoted_content(manifest, promotion))
    draft = Draft(manifest, data, head_tensors(network), _reference(manifest, pixels, outputs), golden)
    bundle, latest = publish(draft, places)
    size = size_of(bundle)
    run.write_json("promotion.json", promotion.model_dump(mode="json"))
    run.write_json(
        "exported.json", {"bundle": str(bundle.ref), "digest": bundle.digest, "size_bytes": size, "latest": latest}
    )
    return Exported(bundle.ref, bundle.digest, size, difference, promotion, latest)


def _promoted(run: Run, accept_failed: str | None) -> Promotion:
    """Raises ConfigurationError for a run that failed and was not named, or for another run's name."""
    if accept_failed is not None and accept_failed != run.path.name:
        raise ConfigurationError(
            "wrong_run_named",
            f"--accept-failed names {accept_failed!r}, but the run is {run.path.name}; give its folder's name",
        )
    promotion = promote(run)
    if not promotion.passed and accept_failed is None:
        raise ConfigurationError(
            "promotion_failed",
            f"{run.path.name} failed its policy {promotion.policy} at: {'; '.join(promotion.failed)}. To export it for research "
            f"all the same: --accept-failed {run.path.name}",
        )
    return promotion


def _promoted_content(manifest: Manifest, promotion: Promotion) -> dict[str, Any]:
    research = (
        not promotion.passed or load_policy(promotion.policy).research_only or not manifest.licence.commercial_use
    )
    return manifest.model_copy(update={"promotion": promotion, "research_only": research}).model_dump(mode="json")


def _compare(engine: NDArray[np.float64], network: NDArray[np.float64]) -> float:
    """Largest difference of a logit, both [N, K]. Raises ConfigurationError where one is beyond the tolerance."""
    difference = np.abs(engine - network)
    allowed = TOLERANCES["fp32"] * np.maximum(1, np.abs(network))
    if not (difference <= allowed).all():
        raise ConfigurationError(
            "export_mismatch", f"the engine's logits differ from torch's by up to {difference.max():.2e}"
        )
    return float(difference.max())


def _reference(manifest: Manifest, pixels: Pixels, outputs: Reading) -> dict[str, NDArray[Any]]:
    """The drift baseline: validation films, decided as the service would at the default operating point."""
    point = manifest.operating_point(None)
    if point is None:  # pragma: no cover  (the manifest's own validation)
        raise ConfigurationError("invalid_recipe", "the manifest has no default operating point")
    decisions = [decide(logits, manifest, point) for logits in outputs.logits.astype(np.float32)]
    names = ("mean", "std", "aspect", "dark_fraction", "bright_fraction", "sharpness")
    statistics = {name: np.array([getattr(s, name) for s in pixels.statistics]) for name in names}
    several = manifest.task == "multilabel"
    if not several:
        statistics["confidence"] = np.array([d.confidence for d in decisions], dtype=np.float64)
    labels: list[str | tuple[str, ...]] = [d.positive or (d.label,) if several else d.label for d in decisions]
    return dict(reference_arrays(statistics, labels, manifest.classes, outputs.pooled, seed=manifest.provenance.seed))


def _goldens(manifest: Manifest, engine: Engine) -> dict[str, NDArray[Any]]:
    """Phantoms whose margins lie far enough from every threshold."""
    return golden_cases(manifest, engine, choose_phantoms(manifest, engine, golden_films(), GOLDENS))


def golden_films() -> Iterator[NDArray[np.uint8]]:
    """Candidates, uint8 [H, W]: whole phantoms, close-ups that look denser, blurred ones and negatives; after many of these phantoms
    under stripes and half covered, which lie further out, for bundles with many thresholds or small logits."""
    for seed in range(_CANDIDATES):
        film = phantom(seed // 4, opacity=seed % 8 < 4)
        height, width = film.shape
        close = film[height // 3 : -height // 12, width // 5 : -width // 5].copy()
        blurred = np.asarray(cv2.GaussianBlur(film, (0, 0), width / 60), dtype=np.uint8)
        yield (film, close, blurred, 255 - film)[seed % 4]
    for seed in range(_CANDIDATES):
        film = phantom(seed // 4, height=256, width=224, opacity=seed % 8 < 4)
        height, width = film.shape
        row = np.arange(height)[:, None] >> (1 + seed // 4 % 6)
        covered = np.where(np.arange(width) < width // 2, 255, film).astype(np.uint8)
        lower = np.where(np.arange(height)[:, None] < height // 2, 0, film).astype(np.uint8)
        striped = np.where(row % 2 == 0, film, 255 - film).astype(np.uint8)
        yield (striped, covered, lower, np.ascontiguousarray(striped.T))[seed % 4]


def _cases(golden: Mapping[str, NDArray[Any]]) -> int:
    return sum(name.startswith("phantom_") for name in golden)
