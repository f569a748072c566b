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
from pydantic_core import PydanticCustomError

from app.bundle.fields import Axis, BundleModel, Finite, Fraction, Positive
from app.bundle.gate_spec import GateSpec, PictureGate
from app.bundle.input_spec import InputSpec
from app.domain import Rule, Task

SCHEMA_VERSION = 3
CLASS_COUNT_ERROR = "class_count_mismatch"  # the type of that one validation error; a bundle is refused by this name

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


class FileEntry(BundleModel):
    size: int = Field(ge=1)
    sha256: Sha256


class Manifest(BundleModel):
    """manifest.json. The bundle's digest is the SHA-256 of this file's bytes.

    gate: which films are judged at all; None judges any (bundles of format 1, and bundles for tests).
    promotion: None where there was no policy (bundles of formats 1 and 2, and bundles for tests).
    research_only: not for patients, whatever the promotion says (a licence, a demonstration).
    """

    schema_version: Literal[3]
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

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_classes(self)
        _check_calibration(self)
        names = [p.name for p in self.operating_points]
        if len(set(names)) != len(names):
            raise ValueError("operating points must have different names")
        if self.default_operating_point not in names:
            raise ValueError(f"default operating point {self.default_operating_point!r} is not among {names}")
        for point in self.operating_points:
            _check_point(self, point)
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

    def tolerance(self, precision: str, logit: float = 0.0) -> float:
        """Largest accepted difference of a logit: tolerances[precision] * max(1, |logit|)."""
        return self.tolerances[precision] * max(1.0, math.fabs(logit))


def _check_classes(m: Manifest) -> None:
    if len(set(m.classes)) != len(m.classes):
        raise ValueError("class names must be different")
    if m.task == "binary" and len(m.classes) != 2:
        raise _class_count(f"a binary bundle has 2 classes, this one {len(m.classes)}")
    expected = 1 if m.task == "binary" else len(m.classes)
    if m.network.logits != expected:
        raise _class_count(
            f"{m.task} with {len(m.classes)} classes needs {expected} logits, the network has {m.network.logits}"
        )


def _class_count(message: str) -> PydanticCustomError:
    return PydanticCustomError(CLASS_COUNT_ERROR, "class-count mismatch: {message}", {"message": message})


def _check_calibration(m: Manifest) -> None:
    cal, k = m.calibration, m.network.logits
    sizes = {
        "vector_temperature": lambda: {len(cal.temperatures)} if isinstance(cal, VectorTemperatureCalibration) else {k},
        "platt": lambda: {len(cal.slope), len(cal.intercept)} if isinstance(cal, PlattCalibration) else {k},
        "isotonic": lambda: {len(cal.curves)} if isinstance(cal, IsotonicCalibration) else {k},
    }.get(cal.method, lambda: {k})()
    if sizes != {k}:
        raise ValueError(f"{cal.method} calibration needs parameters for {k} logits")


def _check_point(m: Manifest, p: OperatingPoint) -> None:
    allowed: dict[Task, set[Rule]] = {
        "binary": {"threshold", "conformal"},
        "multiclass": {"argmax", "hierarchical", "conformal"},
        "multilabel": {"per_label"},
    }
    if p.rule not in allowed[m.task]:
        raise ValueError(f"operating point {p.name}: rule {p.rule} does not fit a {m.task} bundle")
    wanted = {
        "threshold": {m.classes[1]},
        "argmax": set[str](),
        "hierarchical": set(p.priority),
        "per_label": set(m.classes),
        "conformal": set(m.classes),
    }[p.rule]
    if set(p.thresholds) != wanted:
        raise ValueError(f"operating point {p.name}: thresholds for {sorted(p.thresholds)}, needs {sorted(wanted)}")
    if p.rule == "hierarchical":
        if p.fallback is None or set(p.priority) | {p.fallback} != set(m.classes) or p.fallback in p.priority:
            raise ValueError(f"operating point {p.name}: priority and fallback must name every class once")
        if len(set(p.priority)) != len(p.priority):
            raise ValueError(f"operating point {p.name}: a class stands twice in the priority order")
    elif p.priority or p.fallback:
        raise ValueError(f"operating point {p.name}: priority and fallback belong to the hierarchical rule")
    if p.conformal is not None and p.rule != "conformal":
        raise ValueError(f"operating point {p.name}: coverage belongs to the conformal rule")
    if not set(p.measured) <= set(m.classes):
        raise ValueError(f"operating point {p.name}: measured names an unknown class")
