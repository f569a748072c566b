"""From a judged run to a verified bundle in `model_bundles/`. One that passed its policy becomes `latest`; one that failed never does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from app.bundle.manifest import Manifest, Promotion
from app.bundle.store import BundleRef, BundleStore, VerifiedBundle, write_bundle
from app.decision import decide
from app.drift import reference_arrays
from app.errors import ConfigurationError
from app.explain import pooled
from app.imaging.phantom import phantom
from app.inference.engine import Engine, OnnxRuntimeEngine
from app.selftest import choose_phantoms, golden_cases, self_test
from training.data.cache import Pixels, load_pixels
from training.data.splits import recipe_splits
from training.fitting.augment import network_input
from training.judging.evaluate import fixed_decision
from training.judging.judge import run_network
from training.networks.onnx_export import head_tensors, onnx_bytes
from training.places import Places
from training.publishing.card import model_card
from training.publishing.manifest import TOLERANCES, bundle_manifest
from training.publishing.policy import load_policy
from training.publishing.promotion import promote, with_golden
from training.recipe import Recipe
from training.runs import Run, write_atomically

GOLDENS = 8
_CANDIDATES = 5 * GOLDENS  # of each sort; with 15 labels about one in two lies near some threshold
# Largest bundle, bytes: float32 weights (parameters below) and at most about 10 MB of goldens, reference and head.
MAX_BYTES: Mapping[str, int] = MappingProxyType(
    {
        "resnet18": 60_000_000,  # 11.2 million
        "resnet50": 115_000_000,  # 23.5 million
        "densenet121": 45_000_000,  # 7.0 million
        "efficientnet_b0": 35_000_000,  # 4.0 million
        "swin_t": 135_000_000,  # 27.5 million, and tables of relative positions
        "cnn3": 15_000_000,  # 0.1 million
        "tiny_cnn": 15_000_000,
    }
)


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


def export(
    run: Run, places: Places, version: str, *, accept_failed: str | None = None, console: Console | None = None
) -> Exported:
    """Write, verify and self-test the bundle; point `latest` at it if it passed its policy and may serve.

    Args:
        accept_failed: the name of the run's folder, for a run that is to be exported although it failed its policy. The bundle then
            carries its failed lines, is for research only and never becomes `latest`.

    Raises:
        ConfigurationError: a step is missing or of other weights; the policy failed and the run was not named; the engine disagrees
            with the run's network; or the bundle is too large.
        BundleError: it does not verify, or does not pass its own golden test.
    """
    recipe = run.recipe
    promotion = _promoted(run, accept_failed)
    fixed, network = fixed_decision(run), run.network()
    data = onnx_bytes(network, recipe.input.size, recipe.input.channels)
    engine = OnnxRuntimeEngine(data, threads=1)
    splits = recipe_splits(recipe, places)
    pixels = load_pixels(places.data, [*splits.fit, *splits.report], recipe.input, places.cache)
    outputs = _run_engine(engine, pixels, recipe, console)
    difference = _compare(outputs.logits, run_network(network, pixels.plain, recipe))
    manifest = bundle_manifest(run, places, fixed, network, version)
    golden = _goldens(manifest, engine)
    promotion = with_golden(promotion, load_policy(recipe.policy), f"{_cases(golden)} phantoms")
    manifest = Manifest.model_validate(_promoted_content(manifest, promotion))
    draft = _Draft(manifest, data, head_tensors(network), _reference(manifest, pixels, outputs), golden)
    _rehearse(draft)
    bundle = draft.written(places.bundles)
    written = bundle.ref
    size = _size(bundle)
    latest = promotion.passed and not manifest.research_only
    if latest:
        write_atomically(places.bundles / "latest", f"{written}\n".encode())
    run.write_json("promotion.json", promotion.model_dump(mode="json"))
    run.write_json(
        "exported.json", {"bundle": str(written), "digest": bundle.digest, "size_bytes": size, "latest": latest}
    )
    return Exported(written, bundle.digest, size, difference, promotion, latest)


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


@dataclass(frozen=True)
class _Draft:
    """Everything that a bundle is made of."""

    manifest: Manifest
    network: bytes
    head: Mapping[str, NDArray[np.float32]]
    reference: Mapping[str, NDArray[Any]]
    golden: Mapping[str, NDArray[Any]]

    def written(self, root: Path) -> VerifiedBundle:
        """Written below the folder, verified and self-tested there. Raises BundleError."""
        ref = write_bundle(
            root,
            self.manifest.model_dump(mode="json", exclude={"files"}),
            network=self.network,
            head=self.head,
            reference=self.reference,
            golden=self.golden,
            model_card=model_card(self.manifest),
        )
        bundle = BundleStore(root).verify(ref)
        self_test(bundle, OnnxRuntimeEngine(bundle.network, threads=1))
        return bundle


def _rehearse(draft: _Draft) -> None:
    """Write, verify and self-test in a folder that is thrown away: what fails here never stands among the bundles.

    Raises BundleError, and ConfigurationError where it is too large.
    """
    with tempfile.TemporaryDirectory() as folder:
        size = _size(draft.written(Path(folder)))
    architecture = draft.manifest.network.architecture
    most = MAX_BYTES[architecture]
    if size > most:
        raise ConfigurationError(
            "bundle_too_large", f"the bundle would have {size} bytes, at most {most} are wanted of a {architecture}"
        )


def _size(bundle: VerifiedBundle) -> int:
    return sum(entry.size for entry in bundle.manifest.files.values())


@dataclass(frozen=True)
class _Outputs:
    """Of N films: logits float32 [N, K], pooled features float64 [N, C]."""

    logits: NDArray[np.float32]
    pooled: NDArray[np.float64]


def _run_engine(engine: Engine, pixels: Pixels, recipe: Recipe, console: Console | None) -> _Outputs:
    """Every film through the serving engine."""
    logits, means = [], []
    for film in track(pixels.plain, "validation films through the engine", console=console, transient=True):
        tensor = network_input(torch.from_numpy(np.array(film)).float()[None, None], recipe.input)[0].numpy()
        output = engine.run(tensor)
        logits.append(output.logits)
        means.append(pooled(output.features))
    return _Outputs(np.stack(logits), np.stack(means))


def _compare(engine: NDArray[np.float32], network: NDArray[np.float64]) -> float:
    """Largest difference of a logit, both [N, K]. Raises ConfigurationError where one is beyond the tolerance."""
    difference = np.abs(engine.astype(np.float64) - network)
    allowed = TOLERANCES["fp32"] * np.maximum(1, np.abs(network))
    if not (difference <= allowed).all():
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
