"""The HTTP contract: what each route answers, and how it is made from what the service returns.

Numbers are written with nine significant digits, which holds a float32 exactly. A document's version is `API_VERSION`; members may be
added within a version, never renamed or removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.bundle.manifest import ConformalMeasured, Manifest, OperatingPoint
from app.domain import Acquisition, ActivationMap, Decision, Geometry, Judgement, Rule, Task
from app.results.wording import NOT_A_DIAGNOSIS

if TYPE_CHECKING:
    from app.judging import Contour
    from app.service import Answer, Explanation

API_VERSION: Final = "1"
DISCLAIMER: Final = NOT_A_DIAGNOSIS
MAP_DECIMALS = 4


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class Bundle(_Answer):
    name: str
    version: str
    digest: str = Field(description="SHA-256 of the bundle's manifest, hex.")
    restriction: str | None = Field(None, description="Why it is not for patients; null without such a restriction.")


class Engine(_Answer):
    name: str
    version: str
    precision: str = Field(description="The effective one.")


class AcquisitionFacts(_Answer):
    """What the DICOM header says about how the film was taken; words from closed lists, nothing about the patient."""

    modality: str
    sop_class: str
    transfer_syntax: str
    photometric: str
    bits_stored: int
    display: str = Field(description="How stored values became gray levels.")
    body_part: str | None
    view: str | None
    burned_in_annotation: bool | None
    presentation_intent: Literal["presentation", "processing"] | None
    derived: bool
    pixel_spacing_mm: tuple[float, float] | None = Field(description="Between rows, between columns.")
    pixel_spacing_source: Literal["pixel_spacing", "imager_pixel_spacing"] | None


class Image(_Answer):
    """What was judged. The hash is over the bytes as received."""

    sha256: str
    width: int = Field(description="px")
    height: int = Field(description="px")
    format: Literal["jpeg", "png", "dicom"] = Field(description="By content, never by name.")
    view: str | None = None
    acquisition: AcquisitionFacts | None = Field(None, description="DICOM only.")


class Prediction(_Answer):
    label: str
    positive: list[str] = Field(description="Findings at or above their threshold.")
    rule: Rule


class ClassScore(_Answer):
    """Margins and logits in logit units; a decision compares `margin` with `threshold_margin`, probabilities are for people."""

    name: str
    probability: float
    logit: float
    margin: float
    threshold_margin: float | None
    threshold_probability: float | None
    positive: bool


class Interval(_Answer):
    sensitivity: tuple[float, float] | None
    specificity: tuple[float, float] | None


class Measured(_Answer):
    """What the operating point did on `n` films of `data`; `ci` are 95 % intervals."""

    sensitivity: float
    specificity: float
    ci: Interval
    data: str
    n: int


class Coverage(_Answer):
    """What the prediction sets did on `n` films of `data`: share that held the true class, mean size; 95 % intervals."""

    coverage: float
    coverage_ci: tuple[float, float] | None
    mean_set_size: float
    mean_set_size_ci: tuple[float, float] | None
    data: str
    n: int


class OperatingPointUsed(_Answer):
    name: str
    rule: Rule
    target: str
    measured: dict[str, Measured] = Field(description="By class.")
    conformal: Coverage | None = Field(None, description="Of a conformal point.")


class Review(_Answer):
    required: bool
    reasons: list[str]


class Warning_(_Answer):  # noqa: N801 - not the built-in
    model_config = ConfigDict(title="Warning", frozen=True, extra="forbid")
    code: str
    message: str


class Calibration(_Answer):
    method: Literal["none", "temperature", "vector_temperature", "platt", "isotonic"]
    parameters: dict[str, Any]


class Views(_Answer):
    """The answer was decided on the mean of the uncalibrated logits of these views, one network pass each."""

    views: list[str] = Field(description="The plain film, `identity`, first.")


class Contours(_Answer):
    """Outlines of the regions where the map reaches `level`: closed polygons of [x, y] in pixels of the original film."""

    level: float
    polygons: list[list[tuple[int, int]]]


class HeatMap(_Answer):
    """One explanation on the network's feature grid, row by row, 0 to 1. Zeros where `no_positive_evidence`."""

    target: str
    method: str
    negated: bool = Field(description="The negative class of a binary bundle was explained: minus the logit.")
    no_positive_evidence: bool
    height: int
    width: int
    values: list[list[float]]
    contours: Contours | None
    caption: str | None


class GeometryUsed(_Answer):
    """How the network's square input lies on the film, px; maps a heat map back to the film.

    The crop of the original was resized to `resized_*` and put at `pad_*` of a `size` x `size` square; a heat map covers that square.
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


class PredictAnswer(_Answer):
    """`POST /predict`. `confidence`: highest class probability, whatever the operating point; null for multilabel."""

    api_version: str
    request_id: str
    bundle: Bundle
    engine: Engine
    image: Image
    task: Task
    prediction: Prediction
    prediction_set: list[str] | None = Field(
        None, description="Conformal points: the classes that cannot be ruled out, maybe none. Else null."
    )
    confidence: float | None
    classes: list[ClassScore] = Field(description="Highest probability first.")
    operating_point: OperatingPointUsed
    review: Review
    warnings: list[Warning_]
    calibration: Calibration
    timing_ms: dict[str, float]
    disclaimer: str
    geometry: GeometryUsed
    tta: Views | None = Field(None, description="Null unless `tta=true`.")
    explanations: list[HeatMap] = Field(description="Empty unless `explain=true`.")


class Problem(BaseModel):
    """RFC 9457. `type` is `urn:cxr-triage:problem:<code>`; scripts rely on `code`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str


class BatchItem(_Answer):
    """One of `result` and `problem`. `index`: place of the file in the request, from 0."""

    index: int
    result: PredictAnswer | None
    problem: Problem | None


class BatchAnswer(_Answer):
    """`POST /batch_predict`: one item per file, in the order of the files."""

    api_version: str
    request_id: str
    results: list[BatchItem]


class GradcamAnswer(_Answer):
    """`POST /gradcam` as application/json."""

    api_version: str
    request_id: str
    explanations: list[HeatMap]
    geometry: GeometryUsed
    prediction: PredictAnswer
    disclaimer: str


class Live(_Answer):
    status: Literal["alive"] = "alive"


class ServingEngine(Engine):
    threads: int = Field(description="Threads per call.")


class Health(_Answer):
    """`GET /health`: always 200 while the process answers; `ready` is what `/health/ready` says with its status."""

    api_version: str
    version: str
    ready: bool
    reason: str | None
    bundle: str | None
    restriction: str | None = Field(None, description="Why the bundle is not for patients; null without a restriction.")
    engine: ServingEngine | None


def prediction_response(answer: Answer, *, with_maps: bool = True) -> PredictAnswer:
    """The answer to one film; the command line prints the same."""
    judgement, manifest = answer.judgement, answer.manifest
    decision, film, engine = judgement.decision, judgement.radiograph, judgement.engine
    return PredictAnswer(
        api_version=API_VERSION,
        request_id=answer.request_id,
        bundle=Bundle(
            name=manifest.name,
            version=manifest.version,
            digest=answer.digest,
            restriction=manifest.research_label,
        ),
        engine=Engine(name=engine.name, version=engine.version, precision=engine.precision),
        image=Image(
            sha256=film.sha256,
            width=film.width,
            height=film.height,
            format=film.format,
            view=film.acquisition.view if film.acquisition else None,
            acquisition=_acquisition(film.acquisition),
        ),
        task=decision.task,
        prediction=Prediction(label=decision.label, positive=list(decision.positive), rule=decision.rule),
        prediction_set=None if decision.prediction_set is None else list(decision.prediction_set),
        confidence=_number(decision.confidence),
        classes=_classes(decision),
        operating_point=_operating_point(answer.point),
        review=Review(required=decision.review_required, reasons=[str(r) for r in decision.review_reasons]),
        warnings=[Warning_(code=n.code, message=n.message) for n in judgement.notices],
        calibration=_calibration(manifest),
        timing_ms={stage: round(ms, 3) for stage, ms in judgement.timing_ms.items()},
        disclaimer=DISCLAIMER,
        geometry=_geometry(judgement),
        tta=Views(views=list(judgement.views)) if judgement.views else None,
        explanations=_maps(judgement.maps) if with_maps else [],
    )


def gradcam_response(explanation: Explanation) -> GradcamAnswer:
    """An explanation in numbers. The prediction inside does not repeat the maps."""
    answer = explanation.answer
    return GradcamAnswer(
        api_version=API_VERSION,
        request_id=answer.request_id,
        explanations=_maps(answer.judgement.maps, explanation.contours, explanation.captions),
        geometry=_geometry(answer.judgement),
        prediction=prediction_response(answer, with_maps=False),
        disclaimer=DISCLAIMER,
    )


def _acquisition(facts: Acquisition | None) -> AcquisitionFacts | None:
    if facts is None:
        return None
    return AcquisitionFacts(**{name: getattr(facts, name) for name in AcquisitionFacts.model_fields})


def _number(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.9g}")


def _classes(decision: Decision) -> list[ClassScore]:
    return [
        ClassScore(
            name=c.name,
            probability=float(f"{c.probability:.9g}"),
            logit=float(f"{c.logit:.9g}"),
            margin=float(f"{c.margin:.9g}"),
            threshold_margin=_number(c.threshold_margin),
            threshold_probability=_number(c.threshold_probability),
            positive=c.positive,
        )
        for c in decision.classes
    ]


def _operating_point(point: OperatingPoint) -> OperatingPointUsed:
    measured = {
        label: Measured(
            sensitivity=m.sensitivity.value,
            specificity=m.specificity.value,
            ci=Interval(sensitivity=m.sensitivity.ci, specificity=m.specificity.ci),
            data=m.data,
            n=m.n,
        )
        for label, m in point.measured.items()
    }
    return OperatingPointUsed(
        name=point.name,
        rule=point.rule,
        target=point.target,
        measured=measured,
        conformal=_coverage(point.conformal),
    )


def _coverage(found: ConformalMeasured | None) -> Coverage | None:
    if found is None:
        return None
    return Coverage(
        coverage=found.coverage.value,
        coverage_ci=found.coverage.ci,
        mean_set_size=found.mean_set_size.value,
        mean_set_size_ci=found.mean_set_size.ci,
        data=found.data,
        n=found.n,
    )


def _calibration(manifest: Manifest) -> Calibration:
    parameters = manifest.calibration.model_dump(mode="json")
    return Calibration(method=parameters.pop("method"), parameters=parameters)


def _maps(
    maps: Sequence[ActivationMap], contours: Sequence[Contour] = (), captions: Sequence[str] = ()
) -> list[HeatMap]:
    return [
        HeatMap(
            target=m.target,
            method=m.method,
            negated=m.negated,
            no_positive_evidence=m.no_positive_evidence,
            height=m.values.shape[0],
            width=m.values.shape[1],
            values=[[round(v, MAP_DECIMALS) for v in row] for row in m.values.tolist()],
            contours=_contours(contours[i]) if i < len(contours) else None,
            caption=captions[i] if i < len(captions) else None,
        )
        for i, m in enumerate(maps)
    ]


def _contours(found: Contour) -> Contours:
    return Contours(level=found.level, polygons=[list(p) for p in found.polygons])


def _geometry(judgement: Judgement) -> GeometryUsed:
    g: Geometry = judgement.geometry
    return GeometryUsed(**{name: getattr(g, name) for name in GeometryUsed.model_fields})
