"""The bundle manifest: every fact about a model that the service needs, each in one place.

`SCHEMA_VERSION` is the format's single version number. To bump it:

1. raise `SCHEMA_VERSION` by one and change the classes below;
2. move the old classes to `app/bundle/manifest_v<old>.py` with one function `upgrade(old) -> Manifest`;
3. keep one bundle of the old version as a test fixture and read it in `tests/bundle/`;
4. say in CHANGELOG.md what changed and how bundles are re-exported.

Unknown keys are errors everywhere. Class names are lower case; thresholds are margins in logit units (DESIGN section 4).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from app.bundle import consistency
from app.bundle.fields import Axis, BundleModel, Finite, Fraction, Positive
from app.bundle.gate_spec import GateSpec, PictureGate
from app.bundle.input_spec import InputSpec
from app.domain import Rule, Task

SCHEMA_VERSION = 4
REFERENCE_VARIANT = "onnxruntime-fp32"  # what every bundle can be served with; it needs no entry in `variants`

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]
Semver = Annotated[str, Field(pattern=r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$", max_length=32)]
ClassName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class NetworkSpec(BundleModel):
    """The ONNX file: input `image` float32 [B, channels, size, size]; outputs `logits` [B, K] and `features` [B, C, h, w].

    K = 1 for binary (the logit of classes[1]), else the number of classes. explanation: how logits follow from the pooled
    features (`head.safetensors`): `gap_linear` (weight, bias), `gap_mlp_relu` (0.weight, 0.bias, 1.weight, ...; ReLU between), `none`.
    """

    architecture: str = Field(max_length=64)
    logits: int = Field(ge=1, le=256)
    features: tuple[Axis, Axis, Axis]
    explanation: Literal["gap_linear", "gap_mlp_relu", "none"]


class NoCalibration(BundleModel):
    method: Literal["none"]


class TemperatureCalibration(BundleModel):
    """Guo et al. 2017: logits are divided by `temperature` before anything else; margins are in scaled logits."""

    method: Literal["temperature"]
    temperature: Positive


class VectorTemperatureCalibration(BundleModel):
    """As `temperature`, with one temperature per logit: logits are divided elementwise before anything else."""

    method: Literal["vector_temperature"]
    temperatures: tuple[Positive, ...]


class PlattCalibration(BundleModel):
    """Platt 1999: probability = sigmoid(slope * margin + intercept), one pair per logit; slope > 0 keeps the order."""

    method: Literal["platt"]
    slope: tuple[Positive, ...]
    intercept: tuple[Finite, ...]


class IsotonicCurve(BundleModel):
    """Monotone, piecewise linear between knots, constant outside. margins strictly increasing, probabilities not decreasing."""

    margins: tuple[Finite, ...]
    probabilities: tuple[Fraction, ...]

    @model_validator(mode="after")
    def _monotone(self) -> Self:
        if len(self.margins) != len(self.probabilities) or len(self.margins) < 2:
            raise ValueError("an isotonic curve needs as many margins as probabilities, at least two")
        if any(b <= a for a, b in zip(self.margins, self.margins[1:], strict=False)):
            raise ValueError("isotonic margins must be strictly increasing")
        if any(b < a for a, b in zip(self.probabilities, self.probabilities[1:], strict=False)):
            raise ValueError("isotonic probabilities must not decrease")
        if self.probabilities[-1] <= self.probabilities[0]:
            raise ValueError("a flat isotonic curve tells nothing; refuse it")
        return self


class IsotonicCalibration(BundleModel):
    """Zadrozny & Elkan 2002, one curve per logit."""

    method: Literal["isotonic"]
    curves: tuple[IsotonicCurve, ...]


Calibration = Annotated[
    NoCalibration | TemperatureCalibration | VectorTemperatureCalibration | PlattCalibration | IsotonicCalibration,
    Field(discriminator="method"),
]


class Estimate(BundleModel):
    """A measured figure with its interval. `ci` is the 95 % interval by the method named in the metrics' provenance."""

    value: Finite
    ci: tuple[Finite, Finite] | None = None


class MeasuredPoint(BundleModel):
    """What an operating point did for one class on one data set of `n` films."""

    sensitivity: Estimate
    specificity: Estimate
    data: str
    n: int = Field(ge=1)


class ConformalMeasured(BundleModel):
    """What the prediction sets of a conformal point did on one data set of `n` films: share that held the true class, mean size."""

    coverage: Estimate
    mean_set_size: Estimate
    data: str
    n: int = Field(ge=1)


class OperatingPoint(BundleModel):
    """A named rule with its thresholds.

    thresholds: margin per class. `threshold` (binary) names the positive class; `per_label` every label; `hierarchical` every
    class of `priority`, tried in that order, else `fallback`; `argmax` none; `conformal` (binary, multiclass) every class, the binary
    negative one too: a class is in the prediction set exactly where its margin reaches its threshold (binary negative: -margin).
    target: the requirement it was derived from, in words ("Youden J", "specificity >= 0.90", "coverage 0.90").
    measured: by class; conformal: of a conformal point's sets.
    """

    name: Name
    rule: Rule
    target: str = Field(max_length=200)
    thresholds: dict[ClassName, Finite] = Field(default_factory=dict)
    priority: tuple[ClassName, ...] = ()
    fallback: ClassName | None = None
    measured: dict[ClassName, MeasuredPoint] = Field(default_factory=dict)
    conformal: ConformalMeasured | None = None


class ReviewRule(BundleModel):
    """When a human must look: confidence below `low_confidence_below`; a margin within `borderline_margin` of its threshold."""

    low_confidence_below: Fraction = 0.7
    borderline_margin: float = Field(ge=0)


class QualityRule(BundleModel):
    """Gray-level limits (0..255) of the films the model was measured on; outside them the answer carries a quality warning."""

    under_exposed_mean_below: float = Field(ge=0, le=255)
    over_exposed_mean_above: float = Field(ge=0, le=255)
    low_contrast_std_below: float = Field(ge=0, le=128)


class IntendedUse(BundleModel):
    population: str
    age_years: tuple[float, float] | None
    views: tuple[str, ...]
    purpose: str
    limits: str


class Baseline(BundleModel):
    """What something that cannot see the disease reaches on the same data, such as a classifier on 32 x 32 px thumbnails."""

    name: str = Field(min_length=1, max_length=120)
    value: Finite
    ci: tuple[Finite, Finite] | None = None


class Metric(BundleModel):
    """One figure of the evaluation: `name` (auroc, auprc, brier, ece, ...) on `data`, `n` films, 95 % interval."""

    name: str
    data: str
    value: Finite
    ci: tuple[Finite, Finite] | None = None
    n: int = Field(ge=1)
    baseline: Baseline | None = None


class PromotionLine(BundleModel):
    """One requirement of a promotion policy: what was wanted and what was measured, in words."""

    name: str = Field(min_length=1, max_length=120)
    wanted: str = Field(max_length=400)
    measured: str = Field(max_length=400)
    passed: bool


class Promotion(BundleModel):
    """What the promotion policy said of the run behind this bundle. One that failed is served only where that was asked for by name.

    label: short printable ASCII, shown with the bundle and with every answer of one that failed ("passed", "research-only, gate failed:
    source shortcut").
    """

    policy: Name
    policy_digest: Sha256
    passed: bool
    label: str = Field(pattern=r"^[!-~][ -~]*$", max_length=120)
    lines: tuple[PromotionLine, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _as_its_lines(self) -> Self:
        if self.passed != all(line.passed for line in self.lines):
            raise ValueError("a promotion passed exactly where every line of its policy passed")
        return self

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the lines that failed."""
        return tuple(line.name for line in self.lines if not line.passed)


class DataSource(BundleModel):
    """A data set that went into the weights: digest = SHA-256 over its sorted list of (path, file sha256)."""

    name: str
    images: int = Field(ge=0)
    digest: Sha256
    licence: str
    attribution: str


class Provenance(BundleModel):
    git_commit: str
    recipe: str
    recipe_digest: Sha256
    seed: int
    data: tuple[DataSource, ...]
    libraries: dict[str, str]
    hardware: str
    duration_s: float = Field(ge=0)
    created_at: str
    parent_digest: Sha256 | None = None


class Licence(BundleModel):
    weights: str
    commercial_use: bool
    notes: str = ""


class VariantBounds(BundleModel):
    """How far a variant may stray from the reference on the films it was measured on.

    logit: largest change of any logit; flips: largest share of films whose decision changes, at any operating point; auroc_loss:
    largest loss of any class's AUROC, by the lower end of the interval of its change.
    """

    logit: Positive
    flips: Fraction
    auroc_loss: Annotated[float, Field(gt=0, le=1)]


class VariantMeasured(BundleModel):
    """What a variant did beside the reference on `n` films of `data`, each deciding by its own calibration and thresholds.

    logit_shift_max, logit_shift_mean: of |logit of the variant - logit of the reference|, over films and logits. flips: by operating
    point, films whose decision differs. auroc_change: by class, AUROC of the variant less that of the reference, paired interval.
    """

    data: str = Field(min_length=1, max_length=200)
    n: int = Field(ge=1)
    logit_shift_max: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    logit_shift_mean: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    flips: dict[Name, Annotated[int, Field(ge=0)]] = Field(min_length=1)
    auroc_change: dict[ClassName, Estimate] = Field(min_length=1)

    def within(self, bounds: VariantBounds) -> bool:
        """Whether every figure lies within its bound; of an AUROC's change the lower end of the interval, where it has one."""
        lowest = min(change.ci[0] if change.ci is not None else change.value for change in self.auroc_change.values())
        return (
            self.logit_shift_max <= bounds.logit
            and max(self.flips.values()) <= bounds.flips * self.n
            and -lowest <= bounds.auroc_loss
        )


class Variant(BundleModel):
    """Another way to run the network than the reference: an engine and a precision, with what that costs.

    name: `<engine>-<precision>`. file: the network it runs, `network-int8.onnx` exactly for int8. tolerance: of golden logits,
    |dz| <= tolerance * max(1, |z|). admitted: exactly where `measured` lies within `bounds`; no other is ever served. calibration,
    thresholds: fitted on what this variant computes, None where the bundle's own hold; thresholds by point and class, all of them.
    """

    name: Name
    engine: Literal["onnxruntime", "openvino"]
    precision: Literal["fp32", "bf16", "int8"]
    file: Literal["network.onnx", "network-int8.onnx"]
    tolerance: Annotated[float, Field(gt=0, le=0.5)]
    bounds: VariantBounds
    measured: VariantMeasured
    admitted: bool
    calibration: Calibration | None = None
    thresholds: dict[Name, dict[ClassName, Finite]] | None = None

    @model_validator(mode="after")
    def _as_measured(self) -> Self:
        if self.name != f"{self.engine}-{self.precision}" or self.name == REFERENCE_VARIANT:
            raise ValueError(f"variant {self.name}: the name is <engine>-<precision>, and not that of the reference")
        if (self.engine, self.precision) == ("onnxruntime", "bf16"):
            raise ValueError("variant onnxruntime-bf16: ONNX Runtime has no bf16 on the CPU")
        if (self.engine, self.precision) == ("openvino", "int8"):
            raise ValueError(
                "variant openvino-int8: OpenVINO dies of a segmentation fault compiling some such networks"
            )
        if (self.precision == "int8") != (self.file == "network-int8.onnx"):
            raise ValueError(f"variant {self.name}: {self.file} is not the network of that precision")
        if self.admitted != self.measured.within(self.bounds):
            raise ValueError(f"variant {self.name}: admitted exactly where what was measured lies within the bounds")
        return self


class FileEntry(BundleModel):
    size: int = Field(ge=1)
    sha256: Sha256


class Manifest(BundleModel):
    """manifest.json. The bundle's digest is the SHA-256 of this file's bytes.

    gate: which films are judged at all; None judges any (bundles of format 1, and bundles for tests).
    promotion: None where there was no policy (bundles of formats 1 and 2, and bundles for tests).
    research_only: not for patients, whatever the promotion says (a licence, a demonstration).
    tolerances: of golden logits, by precision of the reference engine; a variant has its own.
    variants: other ways to run the network; the reference (ONNX Runtime, fp32, `network.onnx`) is not among them.
    """

    schema_version: Literal[4]
    name: Name
    version: Semver
    task: Task
    classes: tuple[ClassName, ...] = Field(min_length=2, max_length=256)
    input: InputSpec
    network: NetworkSpec
    calibration: Calibration
    calibration_chosen_by: str
    operating_points: tuple[OperatingPoint, ...] = Field(min_length=1)
    default_operating_point: Name
    review: ReviewRule
    quality: QualityRule
    intended_use: IntendedUse
    gate: GateSpec | None
    metrics: tuple[Metric, ...]
    provenance: Provenance
    licence: Licence
    tolerances: dict[str, Annotated[float, Field(gt=0, le=0.5)]]
    files: dict[str, FileEntry]
    promotion: Promotion | None = None
    research_only: bool = False
    variants: tuple[Variant, ...] = Field(default=(), max_length=8)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        consistency.check(self)
        return self

    @property
    def picture_gate(self) -> PictureGate | None:
        """The part of the gate that looks at pictures, with a network of its own; None without one."""
        return None if self.gate is None else self.gate.picture

    @property
    def gate_failed(self) -> bool:
        """Whether the promotion policy refused it; then only an activation that accepts that makes it serve."""
        return self.promotion is not None and not self.promotion.passed

    @property
    def research_label(self) -> str | None:
        """Why its answers are not for patients, in a few words; None for a bundle without such a restriction."""
        if self.promotion is not None and not self.promotion.passed:
            return self.promotion.label
        return "research-only" if self.research_only else None

    def operating_point(self, name: str | None) -> OperatingPoint | None:
        """The point of that name (None = the default), or None if the bundle has no such point."""
        wanted = name or self.default_operating_point
        return next((p for p in self.operating_points if p.name == wanted), None)

    def variant(self, name: str) -> Variant | None:
        """The variant of that name, admitted or not; None for the reference and for one that the bundle has not."""
        return next((v for v in self.variants if v.name == name), None)

    def serving(self, variant: Variant | None) -> Manifest:
        """This manifest as `variant` answers by it: its calibration, its thresholds and its tolerance in place of the bundle's own.

        None, the reference, changes nothing. What the operating points measured stays that of the reference.
        """
        if variant is None:
            return self
        own = variant.thresholds
        points = tuple(
            point if own is None else point.model_copy(update={"thresholds": own[point.name]})
            for point in self.operating_points
        )
        return self.model_copy(
            update={
                "calibration": variant.calibration or self.calibration,
                "operating_points": points,
                "tolerances": {variant.precision: variant.tolerance},
            }
        )

    def tolerance(self, precision: str, logit: float = 0.0) -> float:
        """Largest accepted difference of a logit: tolerances[precision] * max(1, |logit|)."""
        return self.tolerances[precision] * max(1.0, math.fabs(logit))
