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
VoiFunction = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]  # the terms of VOI LUT Function (0028,1056)
Lane = Literal[
    "stat", "routine", "bulk"
]  # how urgent work is: an emergency, the day's work, what may wait for spare cores
Rule = Literal["threshold", "argmax", "hierarchical", "per_label", "conformal"]

LANES: tuple[Lane, ...] = ("stat", "routine", "bulk")  # in the order in which they are served

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
    AMBIGUOUS = "ambiguous"
    QUALITY = "quality"


@dataclass(frozen=True)
class Principal:
    """Who asks: the public id of the key, its name, its role, and how urgent its requests are where they do not say. Never the secret."""

    key_id: str
    name: str
    role: Role
    lane: Lane = "routine"


@dataclass(frozen=True)
class LaneState:
    """One lane of the queue at one moment.

    queued, running: jobs; oldest_s: how long the first of those that wait has waited, 0 where none does; refused: requests that
    were turned away since the start, by reason (`app.inference.lanes.Reason`); begun: jobs that ever began; waited_s: what these
    waited altogether.
    """

    lane: Lane
    queued: int
    running: int
    oldest_s: float
    refused: Mapping[str, int]
    begun: int
    waited_s: float


@dataclass(frozen=True)
class Notice:
    """A warning that travels with an answer: stable code, message for people."""

    code: str
    message: str


@dataclass(frozen=True)
class Acquisition:
    """What a DICOM header says about how a film was taken. Words are from closed lists (anything else is `other`), so that no free
    text of a header can travel in here.

    modality: PS3.3 C.7.3.1.1.1; body_part: PS3.16 Annex L words; view: `PA`, `AP`, `LL`, `RL`, ... or `other`; None where the header
    is silent. age_years: of the patient on the day of the film; never recorded or answered. burned_in_annotation: the header's own
    word, None where it is silent. presentation_intent: `presentation` or `processing`. derived: ImageType says DERIVED.
    pixel_spacing_mm: (between rows, between columns) and where it was taken from. display: how stored values became gray levels
    (`voi_lut`, `window_linear`, `window_linear_exact`, `window_sigmoid`, `percentile`; `full_range`: they were gray levels already).
    """

    modality: str
    sop_class: str
    transfer_syntax: str
    photometric: str
    bits_stored: int
    display: str
    body_part: str | None = None
    view: str | None = None
    age_years: float | None = None
    burned_in_annotation: bool | None = None
    presentation_intent: Literal["presentation", "processing"] | None = None
    derived: bool = False
    pixel_spacing_mm: tuple[float, float] | None = None
    pixel_spacing_source: Literal["pixel_spacing", "imager_pixel_spacing"] | None = None


@dataclass(frozen=True, repr=False)
class Source:
    """Whose film it is and where it belongs: the identifiers of a DICOM header as text (empty where absent), decoded to Unicode.

    In memory only, for the result objects that go back into the same study. Never logged, labelled, traced or stored; what must be
    findable later is recorded as keyed pseudonyms. It has no `repr`.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str = ""
    patient_name: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    birth_date: str = ""
    sex: str = ""
    study_id: str = ""
    study_date: str = ""
    study_time: str = ""
    study_description: str = ""
    accession_number: str = ""
    referring_physician: str = ""
    patient_orientation: tuple[str, ...] = ()
    laterality: str = ""
    transfer_syntax_uid: str = ""
    rows: int = 0
    columns: int = 0

    def __repr__(self) -> str:
        return "Source(...)"


@dataclass(frozen=True)
class FilmDisplay:
    """How the stored values of a film became gray levels, as a presentation state says it (PS3.3 C.11.1 to C.11.6).

    slope, intercept: modality value = slope * stored + intercept. center, width, function: the window in modality values. inverse: the
    smallest value is white.
    """

    slope: float
    intercept: float
    center: float
    width: float
    function: VoiFunction
    inverse: bool


@dataclass(frozen=True)
class Radiograph:
    """A decoded film, upright, one channel.

    pixels: uint8 or uint16 [H, W]; higher = brighter (MONOCHROME2). JPEG, PNG: stored values, uint16 data may use fewer bits inside.
    DICOM: uint8 display values after modality LUT, VOI and presentation LUT shape, so that no rule for 16 bits applies to them.
    sha256: hex digest of the bytes as received.
    format: what the content is (never taken from a name).
    acquisition, source: what the header says about the film and whose it is (DICOM; None for JPEG and PNG).
    display: how its gray levels came about; None too for DICOM films shown through a LUT, and for colour ones.
    reduced_from: height and width of the film, px, where pixels are a JPEG at half of its size, rounded up (`app.imaging.reduced`);
    None where pixels are the film itself.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    sha256: str
    format: Literal["jpeg", "png", "dicom"]
    acquisition: Acquisition | None = None
    source: Source | None = None
    display: FilmDisplay | None = None
    reduced_from: tuple[int, int] | None = None

    @property
    def height(self) -> int:
        """Of the film, px."""
        return self.reduced_from[0] if self.reduced_from else int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Of the film, px."""
        return self.reduced_from[1] if self.reduced_from else int(self.pixels.shape[1])


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
    """Numbers about the film that drift is watched on; gray values on the 0..255 scale after the 16-bit rule, before any crop; of a
    film that was decoded at half of its size, of the pixels that were decoded (`app.imaging.reduced` says what that changes).

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

    threshold_* are None where the rule has no threshold for the class (argmax; the fallback class of `hierarchical`; binary `threshold`:
    the negative class).
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
    """The answer to one film. classes sorted by probability, highest first; confidence None for multilabel.

    prediction_set: the classes that a conformal point cannot rule out, in the bundle's order, maybe none; None at other points.
    """

    task: Task
    label: str
    positive: tuple[str, ...]
    rule: Rule
    confidence: float | None
    classes: tuple[ClassScore, ...]
    operating_point: str
    review_reasons: tuple[ReviewReason, ...]
    prediction_set: tuple[str, ...] | None = None

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
    """Everything known about one judged film before it is recorded and answered.

    views: the views whose mean logits were decided on, the plain film first; empty without test-time augmentation.
    """

    radiograph: Radiograph
    geometry: Geometry
    statistics: InputStatistics
    decision: Decision
    notices: tuple[Notice, ...]
    engine: EngineInfo
    feature_projection: NDArray[np.float32]
    maps: tuple[ActivationMap, ...] = ()
    views: tuple[str, ...] = ()
    timing_ms: Mapping[str, float] = field(default_factory=dict)


Json = Mapping[str, Any]
