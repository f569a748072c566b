"""Is this a film the bundle may judge? What the header says, and what the picture looks like, against the manifest's `gate`.

Every finding has a code, and the manifest says for each whether the film is refused, judged with a warning, or judged silently.
Pure: numbers in, notices or a coded refusal out. A bundle without a gate judges anything.

The distance of a picture is that of Lee et al. 2018 (Mahalanobis distance to the nearest class mean under a shared covariance),
here as the root mean square of the whitened difference, so that it is about 1 for films like those it was fitted on, however many
dimensions were kept:

    distance = min over poses p of sqrt(mean((W (f - m_p))^2))
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.bundle.gate_spec import Action, GateCode, GateSpec, HeaderGate, PictureGate, Pose
from app.bundle.manifest import Manifest
from app.domain import Acquisition, Notice
from app.errors import RefusedError

Floats: TypeAlias = NDArray[np.float64]

LATERAL_VIEWS = frozenset({"LL", "RL", "LATERAL"})
_DEGREES: Mapping[str, int] = {"rotated_90": 90, "rotated_180": 180, "rotated_270": 270}

# What the header does not say: the warning, and the code a refusal has.
_SILENCE: Mapping[GateCode, tuple[str, str]] = {
    "body_part_unknown": ("The header does not name the body part; the bundle takes {accepted}.", "unsupported_body_part"),
    "view_unknown": ("The header does not name the view; the bundle takes {accepted}.", "unsupported_view"),
    "patient_age_unknown": (
        "The header gives no age; the bundle is meant for patients of {youngest} to {oldest} years.",
        "patient_age_out_of_range",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class PictureReference:
    """What pictures are compared with, float64: for P poses, C channels of the gate's features and C2 of the classifier's.

    pose_means [P, C], pose_whitening [D, C], network_mean [C2], network_whitening [D2, C2].
    """

    pose_means: Floats
    pose_whitening: Floats
    network_mean: Floats
    network_whitening: Floats

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.float32]]) -> PictureReference:
        """From the tensors of gate.safetensors, which `app.bundle.contents` has checked."""
        names = ("pose_means", "pose_whitening", "network_mean", "network_whitening")
        return cls(*(tensors[name].astype(np.float64) for name in names))


@dataclass(frozen=True)
class PictureScores:
    """distance: from the nearest pose, about 1 for chest films. pose: the most probable one, with its probability."""

    distance: float
    pose: Pose
    pose_probability: float


@dataclass(frozen=True)
class _Finding:
    """facts: fill the message; numbers and words of the manifest or of closed lists."""

    code: GateCode
    facts: Mapping[str, Any] = field(default_factory=dict)


# scores


def mahalanobis(pooled: Floats, mean: Floats, whitening: Floats) -> Floats:
    """Root mean square of the whitened difference: float64 [...] >= 0 from pooled features [..., C], mean [C], whitening [D, C]."""
    whitened = (pooled - mean) @ whitening.T
    distance: Floats = np.sqrt(np.mean(np.square(whitened), axis=-1))
    return distance


def pose_distance(pooled: Floats, reference: PictureReference) -> Floats:
    """Distance from the nearest pose, float64 [...], from the gate's pooled features [..., C]."""
    whitening = reference.pose_whitening
    nearest: Floats = np.min([mahalanobis(pooled, mean, whitening) for mean in reference.pose_means], axis=0)
    return nearest


def network_distance(pooled: Floats, reference: PictureReference) -> Floats:
    """Distance of the classifier's pooled features [..., C2] from those of films, float64 [...]."""
    return mahalanobis(pooled, reference.network_mean, reference.network_whitening)


def pose_probabilities(logits: NDArray[np.floating], temperature: float) -> Floats:
    """softmax(logits / temperature), float64 [..., P], from logits [..., P] (Guo et al. 2017)."""
    scaled = np.asarray(logits, np.float64) / temperature
    weights = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    probabilities: Floats = weights / weights.sum(axis=-1, keepdims=True)
    return probabilities


def picture_scores(
    logits: NDArray[np.float32], pooled: Floats, picture: PictureGate, reference: PictureReference
) -> PictureScores:
    """What the gate's network says about one picture: its logits [P] and its features averaged over the grid, [C]."""
    probabilities = pose_probabilities(logits, picture.temperature)
    likeliest = int(np.argmax(probabilities))
    return PictureScores(
        distance=float(pose_distance(pooled, reference)),
        pose=picture.poses[likeliest],
        pose_probability=float(probabilities[likeliest]),
    )


# findings


def check_header(acquisition: Acquisition | None, manifest: Manifest) -> tuple[Notice, ...]:
    """What the header says against what the bundle is meant for; nothing to check without a header or a gate.

    Raises:
        RefusedError: `unsupported_modality`, `unsupported_body_part`, `lateral_view`, `unsupported_view`,
            `patient_age_out_of_range`, `burned_in_annotation`, `not_for_presentation`, as the actions say. Where the header is
            silent and silence is refused: the code of what is missing.
    """
    gate = manifest.gate
    if gate is None or acquisition is None:
        return ()
    film = acquisition.modality in gate.header.film_modalities
    actions: Mapping[GateCode, Action] = {**gate.actions, "unsupported_modality": "warn"} if film else gate.actions
    findings = [
        *_modality(acquisition, gate.header),
        *_body_part(acquisition, gate.header),
        *_view(acquisition, gate.header),
        *_age(acquisition, manifest.intended_use.age_years),
    ]
    if acquisition.burned_in_annotation:
        findings.append(_Finding("burned_in_annotation"))
    if acquisition.presentation_intent == "processing":
        findings.append(_Finding("not_for_presentation"))
    return _acted_upon(findings, actions)


def check_picture(scores: PictureScores, gate: GateSpec, picture: PictureGate) -> tuple[Notice, ...]:
    """No chest film at all; else one that does not lie as it should.

    Raises:
        RefusedError: `not_a_chest_radiograph`, `rotated_image`, `inverted_image`, `cropped_image`, as the actions say.
    """
    if scores.distance > picture.distance_above:
        return _acted_upon([_Finding("not_a_chest_radiograph")], gate.actions)
    if scores.pose == "upright" or scores.pose_probability < picture.pose_probability_at_least:
        return ()
    return _acted_upon(_pose(scores.pose), gate.actions)


def check_network(distance: float, gate: GateSpec, picture: PictureGate) -> tuple[Notice, ...]:
    """Whether the classifier's own features are those of a film.

    Raises:
        RefusedError: `not_a_chest_radiograph`, as the actions say.
    """
    outside = distance > picture.network_distance_above
    return _acted_upon([_Finding("not_a_chest_radiograph")] if outside else [], gate.actions)


def check_quality(notices: tuple[Notice, ...], gate: GateSpec | None) -> tuple[Notice, ...]:
    """What becomes of the notices about exposure and contrast: without a gate they stay notices.

    Raises:
        RefusedError: `under_exposed`, `over_exposed`, `low_contrast`, as the actions say.
    """
    if gate is None:
        return notices
    actions = {str(code): action for code, action in gate.actions.items()}
    for notice in notices:
        if actions[notice.code] == "refuse":
            raise RefusedError(notice.code)
    return tuple(notice for notice in notices if actions[notice.code] == "warn")


def _modality(acquisition: Acquisition, header: HeaderGate) -> list[_Finding]:
    if acquisition.modality in header.modalities:
        return []
    return [_Finding("unsupported_modality", _found(acquisition.modality, header.modalities))]


def _body_part(acquisition: Acquisition, header: HeaderGate) -> list[_Finding]:
    part = acquisition.body_part
    if part is None:
        return [_Finding("body_part_unknown", _found("not stated", header.body_parts))]
    return [] if part in header.body_parts else [_Finding("unsupported_body_part", _found(part, header.body_parts))]


def _view(acquisition: Acquisition, header: HeaderGate) -> list[_Finding]:
    view = acquisition.view
    if view is None:
        return [_Finding("view_unknown", _found("not stated", header.views))]
    if view in header.views:
        return []
    return [_Finding("lateral_view" if view in LATERAL_VIEWS else "unsupported_view", _found(view, header.views))]


def _age(acquisition: Acquisition, age_years: tuple[float, float] | None) -> list[_Finding]:
    """The upper end of the range in completed years: a child of 5 years and 11 months is five years old."""
    if age_years is None:
        return []
    youngest, oldest = age_years
    facts = {"youngest": f"{youngest:g}", "oldest": f"{oldest:g}"}
    age = acquisition.age_years
    if age is None:
        return [_Finding("patient_age_unknown", facts)]
    return [] if age >= youngest and math.floor(age) <= oldest else [_Finding("patient_age_out_of_range", facts)]


def _pose(pose: Pose) -> list[_Finding]:
    """A film that is both inverted and rotated has both findings, the one about gray values first."""
    if pose == "cropped":
        return [_Finding("cropped_image")]
    inverted = [_Finding("inverted_image")] if pose.startswith("inverted") else []
    degrees = _DEGREES.get(pose.removeprefix("inverted_"))
    return inverted if degrees is None else [*inverted, _Finding("rotated_image", {"degrees": degrees})]


def _found(word: str, accepted: Iterable[str]) -> Mapping[str, str]:
    return {"found": word, "accepted": ", ".join(accepted)}


def _acted_upon(findings: Iterable[_Finding], actions: Mapping[GateCode, Action]) -> tuple[Notice, ...]:
    """The first finding that must be refused is raised; the others become notices, or nothing where they are accepted."""
    found = list(findings)
    for finding in found:
        if actions[finding.code] == "refuse":
            raise RefusedError(_SILENCE.get(finding.code, ("", finding.code))[1], **finding.facts)
    return tuple(_notice(finding) for finding in found if actions[finding.code] == "warn")


def _notice(finding: _Finding) -> Notice:
    if finding.code in _SILENCE:
        return Notice(finding.code, _SILENCE[finding.code][0].format(**finding.facts))
    return Notice(finding.code, RefusedError(finding.code, **finding.facts).detail)
