"""Which films a bundle judges: what the header must say, what the picture must look like, and what is done about the rest.

`app.gate` executes it. The age range stands in `IntendedUse.age_years`, the limits of exposure and contrast in `QualityRule`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from app.bundle.fields import Axis, BundleModel, Fraction, Positive
from app.bundle.input_spec import InputSpec

Action = Literal["refuse", "warn", "accept"]
GateCode = Literal[
    # the header (DICOM)
    "unsupported_modality",
    "unsupported_body_part",
    "body_part_unknown",
    "lateral_view",
    "unsupported_view",
    "view_unknown",
    "patient_age_out_of_range",
    "patient_age_unknown",
    "burned_in_annotation",
    "not_for_presentation",
    # the picture
    "not_a_chest_radiograph",
    "rotated_image",
    "inverted_image",
    "cropped_image",
    "under_exposed",
    "over_exposed",
    "low_contrast",
]
Pose = Literal[
    "upright",
    "rotated_90",
    "rotated_180",
    "rotated_270",
    "inverted",
    "inverted_rotated_90",
    "inverted_rotated_180",
    "inverted_rotated_270",
    "cropped",
]
GATE_CODES: tuple[GateCode, ...] = get_args(GateCode)

# a code string (PS3.5 section 6.2, CS): capitals, digits, space, underscore, at most 16
HeaderWord = Annotated[str, Field(pattern=r"^[A-Z0-9][A-Z0-9_ ]{0,15}$")]
HeaderWords = Annotated[tuple[HeaderWord, ...], Field(min_length=1, max_length=64)]


class HeaderGate(BundleModel):
    """What a DICOM header must say, in the words of `Acquisition`. Where it is silent, the actions of the `_unknown` codes hold.

    film_modalities: taken as films with the warning `unsupported_modality` (SC, OT: digitised films); empty = refused like others.
    """

    modalities: HeaderWords
    film_modalities: tuple[HeaderWord, ...] = ()
    body_parts: HeaderWords
    views: HeaderWords

    @model_validator(mode="after")
    def _no_word_twice(self) -> Self:
        for words in ((*self.modalities, *self.film_modalities), self.body_parts, self.views):
            if len(set(words)) != len(words):
                raise ValueError("a word stands twice among the words of the header gate")
        return self


class GateFigure(BundleModel):
    """A measured rate of the picture gate: what (`name`), on which `n` pictures (`data`), with its 95 % interval."""

    name: str = Field(max_length=64)
    data: str = Field(max_length=200)
    value: Fraction
    ci: tuple[Fraction, Fraction]
    n: int = Field(ge=1)


class PictureGate(BundleModel):
    """A small network that knows frontal chest films and how they lie: gate.onnx with the contract of network.onnx (input `image`,
    outputs `logits`, one per pose, and `features`), and gate.safetensors.

    poses: what each logit stands for, the first upright. `rotated_90` is the upright film turned clockwise by 90 degrees
    (`np.rot90(pixels, -1)`), as Image Rotation in PS3.3 C.10.6; `inverted` has black and white exchanged; `cropped` lost parts.
    temperature: pose probabilities = softmax(logits / temperature). pose_probability_at_least: a pose other than upright is acted
    upon only from here on. distance_above: root mean square of the whitened pooled features about the nearest pose (Mahalanobis
    distance with shared covariance, Lee et al. 2018), above which a picture is no chest film; network_distance_above: the same for
    the classifier's pooled features about one mean. false_refusal: measured rates, of false refusals and of refusals.
    """

    input: InputSpec
    poses: tuple[Pose, ...] = Field(min_length=2)
    temperature: Positive
    pose_probability_at_least: Fraction
    distance_above: Positive
    network_distance_above: Positive
    features: tuple[Axis, Axis, Axis]
    false_refusal: tuple[GateFigure, ...]

    @model_validator(mode="after")
    def _small_and_named(self) -> Self:
        if self.input.channels != 1 or not 64 <= self.input.size <= 128:
            raise ValueError("the gate's network sees one channel of 64 to 128 px")
        if self.poses[0] != "upright" or len(set(self.poses)) != len(self.poses):
            raise ValueError("the poses of the gate are different, and the first is upright")
        return self


class GateSpec(BundleModel):
    """header: for DICOM films. picture: for all films, None where only headers are looked at. actions: one for every code."""

    header: HeaderGate
    picture: PictureGate | None
    actions: dict[GateCode, Action]

    @model_validator(mode="after")
    def _every_code_once(self) -> Self:
        missing = sorted(set(GATE_CODES) - set(self.actions))
        if missing:
            raise ValueError(f"the gate has no action for {', '.join(missing)}")
        return self
