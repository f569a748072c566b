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

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.domain import Rule, Task

SCHEMA_VERSION = 1
CLASS_COUNT_ERROR = "class_count_mismatch"  # the type of that one validation error; a bundle is refused by this name

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]
Semver = Annotated[str, Field(pattern=r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$", max_length=32)]
ClassName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Axis = Annotated[int, Field(ge=1, le=8192)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class BorderCrop(_Model):
    """Remove black borders: outer rows and columns whose mean gray value (0..255) is at most `max_mean`.

    At most `max_fraction` of a side is removed from each edge.
    """

    max_mean: float = Field(ge=0, le=64)
    max_fraction: float = Field(gt=0, le=0.4)


class Clahe(_Model):
    """Contrast-limited adaptive histogram equalisation (Zuiderveld 1994), only where the film's gray-level std is below a limit."""

    clip_limit: float = Field(default=2.0, gt=0)
    tiles: int = Field(default=8, ge=2, le=32)
    when_std_below: float = Field(gt=0, le=128)


class FixedNormalisation(_Model):
    """tensor = (gray / 255 - mean) / std, per channel."""

    kind: Literal["fixed"]
    mean: tuple[Finite, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]


class PerImageNormalisation(_Model):
    """tensor = (gray - mean of the resized image) / max(std of the resized image, std_floor); gray levels 0..255.

    Padding is left out of mean and std, and is zero in the tensor.
    """

    kind: Literal["per_image"]
    std_floor: float = Field(gt=0)


class InputSpec(_Model):
    """From a Radiograph to the network's input; `app.preprocessing` executes it, for training and serving alike.

    sixteen_bit: how more than 8 bits become 0..255. `significant_bits`: divide by 2^b - 1, b the smallest of 8, 10, 12, 14, 16
    that holds the maximum; `min_max`: the film's own range; `percentile`: its 0.5th to 99.5th percentile, clipped.
    resize: `pad` scales the longest side to `size` and centres on black; `stretch` ignores the aspect ratio.
    antialias_sigma: standard deviation, px of the network's input, of a Gaussian low-pass after the resize; None for none. It
    takes away the finest detail, which differs between copies of one film at different resolutions: at 0.7 and 224 px a film and
    its 384 px copy differ by 0.29 gray levels in the mean instead of 0.71.
    """

    size: int = Field(ge=32, le=1024)
    channels: Literal[1, 3]
    resize: Literal["pad", "stretch"]
    sixteen_bit: Literal["significant_bits", "min_max", "percentile"]
    border_crop: BorderCrop | None = None
    clahe: Clahe | None = None
    antialias_sigma: float | None = Field(default=None, ge=0.3, le=3.0)
    normalisation: Annotated[FixedNormalisation | PerImageNormalisation, Field(discriminator="kind")]

    @model_validator(mode="after")
    def _channels_fit(self) -> Self:
        norm = self.normalisation
        if isinstance(norm, FixedNormalisation) and not (len(norm.mean) == len(norm.std) == self.channels):
            msg = f"fixed normalisation needs {self.channels} means and stds, has {len(norm.mean)} and {len(norm.std)}"
            raise ValueError(msg)
        return self


class NetworkSpec(_Model):
    """The ONNX file: input `image` float32 [B, channels, size, size]; outputs `logits` [B, K] and `features` [B, C, h, w].

    K = 1 for binary (the logit of classes[1]), else the number of classes. explanation: how logits follow from the pooled
    features (`head.safetensors`): `gap_linear` (weight, bias), `gap_mlp_relu` (0.weight, 0.bias, 1.weight, ...; ReLU between), `none`.
    """

    architecture: str = Field(max_length=64)
    logits: int = Field(ge=1, le=256)
    features: tuple[Axis, Axis, Axis]
    explanation: Literal["gap_linear", "gap_mlp_relu", "none"]


class NoCalibration(_Model):
    method: Literal["none"]


class TemperatureCalibration(_Model):
    """Guo et al. 2017: logits are divided by `temperature` before anything else; margins are in scaled logits."""

    method: Literal["temperature"]
    temperature: float = Field(gt=0, allow_inf_nan=False)


class PlattCalibration(_Model):
    """Platt 1999: probability = sigmoid(slope * margin + intercept), one pair per logit; slope > 0 keeps the order."""

    method: Literal["platt"]
    slope: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]
    intercept: tuple[Finite, ...]


class IsotonicCurve(_Model):
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


class IsotonicCalibration(_Model):
    """Zadrozny & Elkan 2002, one curve per logit."""

    method: Literal["isotonic"]
    curves: tuple[IsotonicCurve, ...]


Calibration = Annotated[
    NoCalibration | TemperatureCalibration | PlattCalibration | IsotonicCalibration, Field(discriminator="method")
]


class Estimate(_Model):
    """A measured figure with its interval. `ci` is the 95 % interval by the method named in the metrics' provenance."""

    value: Finite
    ci: tuple[Finite, Finite] | None = None


class MeasuredPoint(_Model):
    """What an operating point did for one class on one data set of `n` films."""

    sensitivity: Estimate
    specificity: Estimate
    data: str
    n: int = Field(ge=1)


class OperatingPoint(_Model):
    """A named rule with its thresholds.

    thresholds: margin per class. `threshold` (binary) names the positive class; `per_label` every label; `hierarchical` every
    class of `priority`, tried in that order, else `fallback`; `argmax` none.
    target: the requirement it was derived from, in words ("Youden J", "specificity >= 0.90").
    """

    name: Name
    rule: Rule
    target: str = Field(max_length=200)
    thresholds: dict[ClassName, Finite] = {}
    priority: tuple[ClassName, ...] = ()
    fallback: ClassName | None = None
    measured: dict[ClassName, MeasuredPoint] = {}


class ReviewRule(_Model):
    """When a human must look: confidence below `low_confidence_below`; a margin within `borderline_margin` of its threshold."""

    low_confidence_below: Fraction = 0.7
    borderline_margin: float = Field(ge=0)


class QualityRule(_Model):
    """Gray-level limits (0..255) of the films the model was measured on; outside them the answer carries a quality warning."""

    under_exposed_mean_below: float = Field(ge=0, le=255)
    over_exposed_mean_above: float = Field(ge=0, le=255)
    low_contrast_std_below: float = Field(ge=0, le=128)


class IntendedUse(_Model):
    population: str
    age_years: tuple[float, float] | None
    views: tuple[str, ...]
    purpose: str
    limits: str


class Metric(_Model):
    """One figure of the evaluation: `name` (auroc, auprc, brier, ece, ...) on `data`, `n` films, 95 % interval."""

    name: str
    data: str
    value: Finite
    ci: tuple[Finite, Finite] | None = None
    n: int = Field(ge=1)


class DataSource(_Model):
    """A data set that went into the weights: digest = SHA-256 over its sorted list of (path, file sha256)."""

    name: str
    images: int = Field(ge=0)
    digest: Sha256
    licence: str
    attribution: str


class Provenance(_Model):
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


class Licence(_Model):
    weights: str
    commercial_use: bool
    notes: str = ""


class FileEntry(_Model):
    size: int = Field(ge=1)
    sha256: Sha256


class Manifest(_Model):
    """manifest.json. The bundle's digest is the SHA-256 of this file's bytes."""

    schema_version: Literal[1]
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
    metrics: tuple[Metric, ...]
    provenance: Provenance
    licence: Licence
    tolerances: dict[str, Annotated[float, Field(gt=0, le=0.5)]]
    files: dict[str, FileEntry]

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
        "platt": lambda: {len(cal.slope), len(cal.intercept)} if isinstance(cal, PlattCalibration) else {k},
        "isotonic": lambda: {len(cal.curves)} if isinstance(cal, IsotonicCalibration) else {k},
    }.get(cal.method, lambda: {k})()
    if sizes != {k}:
        raise ValueError(f"{cal.method} calibration needs parameters for {k} logits")


def _check_point(m: Manifest, p: OperatingPoint) -> None:
    allowed: dict[Task, set[Rule]] = {
        "binary": {"threshold"},
        "multiclass": {"argmax", "hierarchical"},
        "multilabel": {"per_label"},
    }
    if p.rule not in allowed[m.task]:
        raise ValueError(f"operating point {p.name}: rule {p.rule} does not fit a {m.task} bundle")
    wanted = {
        "threshold": {m.classes[1]},
        "argmax": set[str](),
        "hierarchical": set(p.priority),
        "per_label": set(m.classes),
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
    if not set(p.measured) <= set(m.classes):
        raise ValueError(f"operating point {p.name}: measured names an unknown class")
