"""From a bundle to its next version with precision variants: other engines and precisions for the same network, each measured.

The network is not trained anew. Ranges of the int8 network come from training films; the fit-half of the validation re-fits calibrator
and thresholds on what int8 computes, by the recipe's own rules; the report-half, which fitted nothing, says what each variant costs.
The reference is what every bundle can be served with: `network.onnx` by ONNX Runtime in float32. The test split is not opened.

Two controls hold the comparison together. The recipe's training films must be the ones that the bundle's provenance names, file by
file: then its splits are the bundle's too. And the rules, applied to the reference, must give the thresholds that the bundle has:
then a threshold that differs on int8 differs for int8's sake. Where a calibrator fitted anew would not be the bundle's (its rules have
changed since), every variant keeps the bundle's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import torch
from pydantic import ValidationError
from rich.console import Console

from app.bundle.manifest import REFERENCE_VARIANT, SCHEMA_VERSION, Calibration, Manifest, Variant, VariantBounds
from app.bundle.store import BundleRef, BundleStore, VerifiedBundle
from app.errors import BundleError, ConfigurationError, CxrError
from app.inference.engine import OnnxRuntimeEngine
from app.selftest import self_test
from training.data.cache import Pixels
from training.data.films import Film
from training.data.fingerprint import folder_digests
from training.data.splits import Splits, recipe_splits
from training.judging.corruptions import corrupt_all
from training.judging.judge import CLEAN, SELECTION_KINDS, plain_pixels, score, score_corrupted
from training.judging.reading import Read, engine_reader, tensor
from training.judging.scored import Scored
from training.judging.variants import Deciding, beside, probability_gap, refitted, threshold_gap
from training.places import Places
from training.publishing.card import number
from training.publishing.draft import By, Draft, Precision, check_new, engine_of, publish
from training.publishing.manifest import TOLERANCES
from training.publishing.quantise import quantise
from training.recipe import Recipe
from training.runs import now

# Of another engine in float32 nothing but rounding is accepted; of fewer bits, a share of decisions that is small beside what a film
# taken twice costs, and a loss of AUROC that is small beside the interval of the AUROC itself.
BOUNDS: Mapping[Precision, VariantBounds] = MappingProxyType(
    {
        "fp32": VariantBounds(logit=0.001, flips=0.0, auroc_loss=0.0005),
        "bf16": VariantBounds(logit=0.1, flips=0.01, auroc_loss=0.002),
        "int8": VariantBounds(logit=0.5, flips=0.02, auroc_loss=0.005),
    }
)
# Of golden logits, as in the manifest. Goldens are phantoms, further from the calibration films than any film of a patient.
GOLDEN_TOLERANCES: Mapping[Precision, float] = MappingProxyType(
    {"fp32": TOLERANCES["fp32"], "bf16": 0.05, "int8": 0.25}
)
MEASURED_ON = "report half of the validation, beside onnxruntime-fp32"
CALIBRATION = 256  # films
SAME_THRESHOLD, SAME_PROBABILITY = 1e-3, 5e-3  # margins, probability: what releases of an engine may move them by


@dataclass(frozen=True)
class Candidate:
    """A way to run the network that is to be measured."""

    by: By
    precision: Precision

    @property
    def name(self) -> str:
        return f"{self.by}-{self.precision}"


# OpenVINO 2026.4.1 dies of a segmentation fault while it compiles DenseNet-121 in QDQ: no service may try it, so no bundle offers it.
CANDIDATES = (
    Candidate("onnxruntime", "int8"),
    Candidate("openvino", "fp32"),
    Candidate("openvino", "bf16"),
)


@dataclass(frozen=True)
class Plan:
    """version: of the bundle to be. calibration: training films that the int8 ranges are taken from. films: at most so many of each
    part, only to try it out: nothing is written then; None: all. bounds: by precision."""

    version: str
    calibration: int = CALIBRATION
    films: int | None = None
    bounds: Mapping[Precision, VariantBounds] = field(default_factory=lambda: BOUNDS)


@dataclass(frozen=True)
class Done:
    """variants: measured, admitted or not. left_out: name of each other candidate -> why. bundle: what was written, None in a try-out."""

    variants: tuple[Variant, ...]
    left_out: Mapping[str, str]
    bundle: VerifiedBundle | None


def add_variants(parent: BundleRef, recipe: Recipe, places: Places, plan: Plan, console: Console) -> Done:
    """Quantise, measure, write, verify and self-test; then point `latest` at the new version, unless that is for research only.

    Raises:
        ConfigurationError: `stale_recipe` (the recipe's films or rules are not the bundle's), `bundle_exists`, `no_variant` (none was
            admitted: nothing is written), `no_films`.
        BundleError: the parent does not verify, or what was made of it does not.
    """
    bundle = BundleStore(places.bundles).verify(parent)
    check_new(BundleRef(parent.name, plan.version), places)
    recipe = recipe.model_copy(update={"input": bundle.manifest.input})  # films as this bundle sees them
    bench = _Bench(bundle, recipe, _checked(bundle.manifest, recipe, places), places, plan, console)
    reference = bench.reference()
    int8 = bench.int8()
    variants: list[Variant] = []
    left_out: dict[str, str] = {}
    for candidate in CANDIDATES:
        try:
            variants.append(bench.measured(candidate, int8, reference))
        except CxrError as error:  # not installed, another precision on this CPU, goldens too far away
            left_out[candidate.name] = str(error)
    if plan.films is not None:
        return Done(tuple(variants), left_out, None)
    if not any(variant.admitted for variant in variants):
        raise ConfigurationError("no_variant", f"no variant of {parent} is within its bounds; nothing is written")
    written, _ = publish(_draft(bundle, plan.version, variants, int8), places)
    return Done(tuple(variants), left_out, written)


@dataclass(frozen=True)
class _Reference:
    """films: the report-half, by the reference; deciding: what decides there; keep: its calibrator where variants take it as it is."""

    films: Scored
    deciding: Deciding
    keep: Calibration | None


@dataclass(frozen=True)
class _Bench:
    """A bundle, and the films of its recipe for any engine to read. recipe: with the bundle's own input."""

    bundle: VerifiedBundle
    recipe: Recipe
    splits: Splits
    places: Places
    plan: Plan
    console: Console

    def reference(self) -> _Reference:
        """The report-half by the reference, and what decides there: the bundle's own, whose thresholds the recipe's rules must give again.

        Raises ConfigurationError: `stale_recipe`.
        """
        own, manifest = Deciding.of(self.bundle.manifest), self.bundle.manifest
        read = engine_reader(OnnxRuntimeEngine(self.bundle.network, threads=torch.get_num_threads()), self.recipe)
        sets = self._fit(read, REFERENCE_VARIANT)
        if self.plan.films is not None:  # few films give thresholds of their own
            return _Reference(self._report(read), refitted(self.recipe, manifest, sets), None)
        again = refitted(self.recipe, manifest, sets, keep=own.calibration)
        if threshold_gap(own, again) > SAME_THRESHOLD:
            raise ConfigurationError(
                "stale_recipe",
                f"the rules of {self.recipe.name} do not give {self.bundle.ref} its thresholds, but others, up to "
                f"{threshold_gap(own, again):.4f} away: recipe or code have changed since",
            )
        calibration = refitted(self.recipe, manifest, sets).calibration
        gap = max(probability_gap(films, own.calibration, calibration) for films in sets)
        if gap <= SAME_PROBABILITY:
            return _Reference(self._report(read), own, None)
        self.console.print(
            f"the calibrator is kept for all variants: fitted anew, the reference's would move a probability by up to {gap:.3f}"
        )
        return _Reference(self._report(read), own, own.calibration)

    def int8(self) -> bytes:
        """The int8 network: ranges from training films as they are, and from each under one corruption of the hard validation in turn,
        because the films to come are exposed differently."""
        pixels = self._pixels(self.splits.train, self.plan.calibration)
        self.console.print(f"int8: ranges from {len(pixels.films)} training films")
        level = max(self.recipe.evaluation.severities, default=1)
        changed = [
            corrupt_all(pixels.plain[i : i + 1], SELECTION_KINDS[i % len(SELECTION_KINDS)], level, [film.path])
            for i, film in enumerate(pixels.films)
        ]
        gray, cpu = np.concatenate([pixels.plain, *changed]), torch.device("cpu")
        return quantise(self.bundle.network, (tensor(film[None], self.recipe, cpu)[0].numpy() for film in gray))

    def measured(self, candidate: Candidate, int8: bytes, reference: _Reference) -> Variant:
        """What the candidate costs. Raises CxrError where it cannot run here, or its goldens are too far from the reference's."""
        precision, own = candidate.precision, reference.deciding
        if precision == "int8" and len(int8) > len(self.bundle.network):
            raise BundleError(
                "oversized_file", f"{len(int8)} bytes in int8, {len(self.bundle.network)} in float32: too small to gain"
            )
        threads = torch.get_num_threads()
        engine = engine_of(candidate.by, precision, self.bundle.network, int8, threads=threads)
        self.console.print(f"{candidate.name}: measuring")
        read = engine_reader(engine, self.recipe)
        fitted = None
        if precision == "int8":
            sets = self._fit(read, candidate.name)
            fitted = refitted(self.recipe, self.bundle.manifest, sets, keep=reference.keep)
        data = MEASURED_ON if self.plan.films is None else f"{self.plan.films} films of the {MEASURED_ON}"
        found = beside(reference.films, self._report(read), (own, fitted or own), self.recipe, data)
        variant = Variant(
            name=candidate.name,
            engine=candidate.by,
            precision=precision,
            file="network-int8.onnx" if precision == "int8" else "network.onnx",
            tolerance=GOLDEN_TOLERANCES[precision],
            bounds=self.plan.bounds[precision],
            measured=found,
            admitted=found.within(self.plan.bounds[precision]),
            calibration=None if fitted is None or reference.keep is not None else fitted.calibration,
            thresholds=None if fitted is None else fitted.thresholds,
        )
        gate = None if self.bundle.gate is None else OnnxRuntimeEngine(self.bundle.gate.network)
        self_test(self.bundle, engine, gate, variant=variant)
        return variant

    def _report(self, read: Read) -> Scored:
        """The report-half as it is."""
        return score(CLEAN, read, self._pixels(self.splits.report), self.recipe)

    def _fit(self, read: Read, what: str) -> list[Scored]:
        """The fit-half, as it is and under every corruption of the hard validation."""
        pixels = self._pixels(self.splits.fit)
        return [
            score(CLEAN, read, pixels, self.recipe),
            *score_corrupted(read, pixels, self.recipe, f"fit half, {what}"),
        ]

    def _pixels(self, films: Sequence[Film], most: int | None = None) -> Pixels:
        """The films as the service sees them; of more than `most` (or those of a try-out) some, by a hash of the path."""
        limits = [limit for limit in (most, self.plan.films) if limit is not None]
        order = sorted(films, key=lambda film: hashlib.sha256(film.path.encode()).digest())
        return plain_pixels(order[: min(limits)] if limits else films, self.recipe, self.places)


def _checked(manifest: Manifest, recipe: Recipe, places: Places) -> Splits:
    """The recipe's splits, if its classes, operating points and training films, file by file, are the bundle's.

    Raises ConfigurationError: `stale_recipe`.
    """
    named = [(point.name, point.rule) for point in manifest.operating_points]
    rules = {"hierarchical": "hierarchical", "argmax": "argmax", "conformal": "conformal"}
    own = "per_label" if manifest.task == "multilabel" else "threshold"
    wanted = [(part.name, rules.get(part.kind, own)) for part in recipe.decision.points]
    if (recipe.data.task, recipe.data.classes, wanted) != (manifest.task, manifest.classes, named):
        raise ConfigurationError(
            "stale_recipe",
            f"{recipe.name} has other classes or operating points than {manifest.name}/{manifest.version}",
        )
    splits = recipe_splits(recipe, places)
    sha256 = [hashlib.sha256((places.data / film.path).read_bytes()).hexdigest() for film in splits.train]
    known = {source.digest for source in manifest.provenance.data}
    others = [folder for folder, (_, digest) in folder_digests(splits.train, sha256).items() if digest not in known]
    if others:
        raise ConfigurationError(
            "stale_recipe",
            f"{manifest.name}/{manifest.version} was not trained on the films that {recipe.name} trains on ({', '.join(others)}): with "
            "other films its splits are others, too; give the recipe and the data that it was made with",
        )
    return splits


def _draft(bundle: VerifiedBundle, version: str, variants: Sequence[Variant], int8: bytes) -> Draft:
    """The parent but for the version, the variants and where it comes from."""
    provenance = bundle.manifest.provenance.model_copy(update={"parent_digest": bundle.digest, "created_at": now()})
    changed = {
        "schema_version": SCHEMA_VERSION,
        "version": version,
        "variants": tuple(variants),
        "provenance": provenance,
        "files": {},
    }
    manifest = Manifest.model_validate(bundle.manifest.model_copy(update=changed).model_dump(mode="json"))
    used = any(variant.precision == "int8" for variant in variants)
    return Draft.of(bundle, manifest, int8=int8 if used else None)


def with_bounds(changes: Iterable[str]) -> dict[Precision, VariantBounds]:
    """The default bounds with some of them changed, each change as `int8.flips=0.01`. Raises ConfigurationError."""
    found = dict(BOUNDS)
    for text in changes:
        where, _, value = text.partition("=")
        precision, _, name = where.partition(".")
        match = next((known for known in found if known == precision), None)
        if match is None or name not in VariantBounds.model_fields:
            known = ", ".join(VariantBounds.model_fields)
            raise ConfigurationError(
                "invalid_bound", f"--bound {text}: wanted PRECISION.NAME=VALUE of {', '.join(found)} and {known}"
            )
        try:
            found[match] = VariantBounds.model_validate({**found[match].model_dump(), name: value})
        except ValidationError as error:
            raise ConfigurationError("invalid_bound", f"--bound {text}: {error.errors()[0]['msg']}") from error
    return found


def broken(variant: Variant) -> list[str]:
    """Which bounds are broken: `logit`, `flips`, `auroc_loss`."""
    names, bounds = VariantBounds.model_fields, variant.bounds
    loose = VariantBounds(logit=1e9, flips=1.0, auroc_loss=1.0)
    return [n for n in names if not variant.measured.within(loose.model_copy(update={n: getattr(bounds, n)}))]


def variant_lines(done: Done) -> Iterator[str]:
    """A table of what was measured, worst class of several, and why the others are missing."""
    points = list(done.variants[0].measured.flips) if done.variants else []
    rows = [
        (
            "variant",
            "admitted",
            "logit max",
            "mean",
            *(f"flips {name}" for name in points),
            "change of AUROC, worst class",
        )
    ]
    for v in done.variants:
        m = v.measured
        name, worst = min(m.auroc_change.items(), key=lambda item: item[1].value)
        shift = f"{m.logit_shift_max:.4f}", f"{m.logit_shift_mean:.4f}"
        flips = (f"{count} of {m.n}" for count in m.flips.values())
        change = f"{name} {number(worst.value, worst.ci, signed=True)}"
        rows.append((v.name, "yes" if v.admitted else f"NO: {', '.join(broken(v))}", *shift, *flips, change))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    yield from (f"{name} is left out: {why}" for name, why in done.left_out.items())
