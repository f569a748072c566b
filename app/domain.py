"""The frozen values that travel the pipeline. No behaviour beyond what a value knows about itself.

Arrays in these classes are never written to after construction; shapes and units stand with each field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Task = Literal["binary", "multiclass", "multilabel"]
Rule = Literal["threshold", "argmax", "hierarchical", "per_label"]

# what drift is watched on, one number per film: fields of `InputStatistics`, and the confidence of the answer
STATISTICS = ("mean", "std", "aspect", "dark_fraction", "bright_fraction", "sharpness", "confidence")


class Role(StrEnum):
    """What a key may do; DESIGN section 3 lists the routes."""

    TECHNICIAN = "technician"
    RADIOLOGIST = "radiologist"
    SERVICE = "service"
    MONITOR = "monitor"
    ADMIN = "admin"


class ReviewReason(StrEnum):
    """Why a human must look before the answer is used."""

    LOW_CONFIDENCE = "low_confidence"
    BORDERLINE = "borderline"
    QUALITY = "quality"


@dataclass(frozen=True)
class Principal:
    """Who asks: the public id of the key, its name and role. Never the secret."""

    key_id: str
    name: str
    role: Role


@dataclass(frozen=True)
class Notice:
    """A warning that travels with an answer: stable code, message for people."""

    code: str
    message: str


@dataclass(frozen=True)
class Radiograph:
    """A decoded film, upright, one channel.

    pixels: uint8 or uint16 [H, W]; stored values, higher = brighter (MONOCHROME2). uint16 data may use fewer bits inside.
    sha256: hex digest of the bytes as received.
    format: what the content is (never taken from a name).
    view, acquisition: what the format says about the film (DICOM; empty for JPEG and PNG).
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    sha256: str
    format: Literal["jpeg", "png", "dicom"]
    view: str | None = None
    acquisition: Mapping[str, str | int | float] = field(default_factory=dict)

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])


@dataclass(frozen=True)
class Geometry:
    """How the network's square input lies on the original film; all in pixels.

    The crop [crop_top, crop_left, crop_height, crop_width] of the original (original_height x original_width) was resized
    to resized_height x resized_width and put at (pad_top, pad_left) of a size x size square. Mapping a map back = cut the
    padding away, resize to the crop, place it on the original (`preprocessing.to_original`).
    """

    original_height: int
    original_width: int
    crop_top: int
    crop_left: int
    crop_height: int
    crop_width: int
    resized_height: int
    resized_width: int
    pad_top: int
    pad_left: int
    size: int


@dataclass(frozen=True)
class InputStatistics:
    """Numbers about the film that drift is watched on; gray values on the 0..255 scale after the 16-bit rule, before any crop.

    mean, std: gray levels; aspect: width / height; dark_fraction, bright_fraction: share of pixels < 16 and > 239;
    sharpness: standard deviation of the Laplacian of the resized input, gray levels;
    height, width: px of the original.
    """

    mean: float
    std: float
    aspect: float
    dark_fraction: float
    bright_fraction: float
    sharpness: float
    height: int
    width: int


@dataclass(frozen=True)
class PreparedInput:
    """What the network sees. tensor: float32 [C, S, S]; resized: the uint8 [S, S] before normalisation."""

    tensor: NDArray[np.float32]
    resized: NDArray[np.uint8]
    geometry: Geometry
    statistics: InputStatistics


@dataclass(frozen=True)
class EngineInfo:
    """What did the arithmetic; `precision` is the effective one. `threads` per call."""

    name: str
    version: str
    precision: str
    threads: int


@dataclass(frozen=True)
class NetworkOutput:
    """logits: float32 [K]; features: float32 [C, h, w], exactly the tensor that global average pooling averages."""

    logits: NDArray[np.float32]
    features: NDArray[np.float32]


@dataclass(frozen=True)
class ClassScore:
    """One class of a decision. margin and threshold_margin in logit units, float64 (DESIGN section 4); probabilities in [0, 1].

    threshold_* are None where the rule has no threshold for the class (argmax; the fallback class of `hierarchical`).
    """

    name: str
    probability: float
    logit: float
    margin: float
    threshold_margin: float | None
    threshold_probability: float | None
    positive: bool


@dataclass(frozen=True)
class Decision:
    """The answer to one film. classes sorted by probability, highest first; confidence None for multilabel."""

    task: Task
    label: str
    positive: tuple[str, ...]
    rule: Rule
    confidence: float | None
    classes: tuple[ClassScore, ...]
    operating_point: str
    review_reasons: tuple[ReviewReason, ...]

    @property
    def review_required(self) -> bool:
        return bool(self.review_reasons)


@dataclass(frozen=True)
class ActivationMap:
    """One explanation. values: float32 [h, w] in [0, 1] on the network's feature grid, maximum 1 unless there is no evidence.

    target: class explained; negated: True when the binary negative class was explained (minus the logit);
    no_positive_evidence: the map had no positive part and is all zeros.
    """

    target: str
    method: str
    values: NDArray[np.float32]
    negated: bool = False
    no_positive_evidence: bool = False


@dataclass(frozen=True)
class Judgement:
    """Everything known about one judged film before it is recorded and answered."""

    radiograph: Radiograph
    geometry: Geometry
    statistics: InputStatistics
    decision: Decision
    notices: tuple[Notice, ...]
    engine: EngineInfo
    feature_projection: NDArray[np.float32]
    maps: tuple[ActivationMap, ...] = ()
    timing_ms: Mapping[str, float] = field(default_factory=dict)


Json = Mapping[str, Any]
