from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bundle.gate_spec import GATE_CODES, GateSpec, PictureGate
from app.bundle.manifest import Manifest
from app.bundle.parse import validate_manifest
from app.domain import Acquisition, Notice
from app.errors import ERROR_TABLE, RefusedError
from app.gate import (
    PictureReference,
    PictureScores,
    check_header,
    check_network,
    check_picture,
    check_quality,
    mahalanobis,
    network_distance,
    picture_scores,
    pose_distance,
    pose_probabilities,
)
from tests.support.tiny_bundle import tiny_parts

FILM = Acquisition(
    modality="CR",
    sop_class="1.2.840.10008.5.1.4.1.1.1",
    transfer_syntax="1.2.840.10008.1.2.1",
    photometric="MONOCHROME2",
    bits_stored=12,
    display="window_linear",
    body_part="CHEST",
    view="PA",
    age_years=4.0,
    burned_in_annotation=False,
    presentation_intent="presentation",
)
SCORES = PictureScores(distance=1.0, pose="upright", pose_probability=1.0)


def gated(*, age: Any = (1, 5), **actions: str) -> Manifest:
    """Modalities CR, DX, films as SC; CHEST; PA, AP; every code is refused but for `actions`."""
    parts = tiny_parts(gate={})
    gate = {**parts.manifest["gate"], "actions": dict.fromkeys(GATE_CODES, "refuse") | actions}
    use = {**parts.manifest["intended_use"], "age_years": age}
    return validate_manifest({**parts.manifest, "gate": gate, "intended_use": use, "files": {}})


def spec(**actions: str) -> tuple[GateSpec, PictureGate]:
    gate = gated(**actions).gate
    assert gate is not None
    assert gate.picture is not None
    picture = gate.picture.model_copy(
        update={"distance_above": 2.0, "network_distance_above": 3.0, "pose_probability_at_least": 0.9}
    )
    return gate, picture


# distances and probabilities


def test_the_distance_is_the_root_mean_square_of_the_whitened_difference() -> None:
    whitening = np.array([[2.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
    pooled, mean = np.array([3.0, 5.0, 100.0]), np.array([1.0, 1.0, 0.0])
    # W (f - m) = (2 * 2, 0.5 * 4) = (4, 2); sqrt((16 + 4) / 2)
    assert float(mahalanobis(pooled, mean, whitening)) == pytest.approx(math.sqrt(10.0), rel=1e-12)


def test_the_distance_of_gaussian_features_is_about_one() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((6, 6))
    features = rng.standard_normal((20_000, 6)) @ mixing.T + 3.0
    values, vectors = np.linalg.eigh(np.cov(features.T))
    whitening = (vectors / np.sqrt(values)).T
    squared = mahalanobis(features, features.mean(axis=0), whitening) ** 2
    assert float(squared.mean()) == pytest.approx(1.0, abs=1e-3)  # the mean of chi-square over its degrees of freedom


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 7))
def test_the_distance_is_that_of_mahalanobis(seed: int, kept: int, films: int) -> None:
    """Against sqrt(d' P d / D) with P = W'W, one film at a time; the batch gives the same."""
    rng = np.random.default_rng(seed)
    whitening, mean = rng.standard_normal((kept, 5)), rng.standard_normal(5)
    features = rng.standard_normal((films, 5))
    precision = whitening.T @ whitening
    wanted = [math.sqrt(max(0.0, (f - mean) @ precision @ (f - mean)) / kept) for f in features]
    np.testing.assert_allclose(mahalanobis(features, mean, whitening), wanted, rtol=1e-9, atol=1e-12)


def test_the_nearest_pose_counts() -> None:
    means = np.array([[0.0, 0.0], [10.0, 0.0]])
    reference = PictureReference(means, np.eye(2), np.array([1.0, 1.0, 1.0]), 2.0 * np.eye(3))
    features = np.array([[9.0, 0.0], [1.0, 1.0], [5.0, 0.0]])
    np.testing.assert_allclose(pose_distance(features, reference), np.sqrt([0.5, 1.0, 12.5]), rtol=1e-12)
    assert float(network_distance(np.array([1.0, 1.0, 2.0]), reference)) == pytest.approx(math.sqrt(4.0 / 3.0))


def test_pose_probabilities_are_a_softmax_at_a_temperature() -> None:
    logits = np.array([2.0 * math.log(3.0), 0.0], np.float64)
    np.testing.assert_allclose(pose_probabilities(logits, 2.0), [0.75, 0.25], rtol=1e-12)
    np.testing.assert_allclose(pose_probabilities(logits, 1.0), [0.9, 0.1], rtol=1e-12)
    np.testing.assert_allclose(pose_probabilities(np.array([1e4, -1e4]), 1.0), [1.0, 0.0])


def test_the_scores_of_a_picture() -> None:
    _, picture = spec()
    poses = len(picture.poses)
    means = np.zeros((poses, 4))
    means[2] = 4.0
    reference = PictureReference(means, np.eye(4), np.zeros(1), np.eye(1))
    logits = np.zeros(poses, np.float32)
    logits[2] = 10.0
    scores = picture_scores(logits, np.full(4, 5.0), picture, reference)
    assert (scores.distance, scores.pose) == (1.0, "rotated_180")
    assert scores.pose_probability == pytest.approx(1.0 / (1.0 + (poses - 1) * math.exp(-10.0)), rel=1e-6)


# the header


def refused(acquisition: Acquisition, manifest: Manifest | None = None) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        check_header(acquisition, manifest or gated())
    return caught.value


def test_an_ordinary_film_is_taken_silently() -> None:
    assert check_header(FILM, gated()) == ()


def test_without_a_gate_or_a_header_there_is_nothing_to_check() -> None:
    ungated = validate_manifest({**tiny_parts().manifest, "files": {}})
    assert check_header(replace(FILM, modality="CT"), ungated) == ()
    assert check_header(None, gated()) == ()


HEADERS: list[tuple[dict[str, Any], str]] = [
    ({"modality": "CT"}, "unsupported_modality"),
    ({"modality": "other"}, "unsupported_modality"),
    ({"body_part": "HAND"}, "unsupported_body_part"),
    ({"body_part": None}, "body_part_unknown"),
    ({"view": "LL"}, "lateral_view"),
    ({"view": "RL"}, "lateral_view"),
    ({"view": "LATERAL"}, "lateral_view"),
    ({"view": "other"}, "unsupported_view"),
    ({"view": None}, "view_unknown"),
    ({"age_years": 0.99}, "patient_age_out_of_range"),
    ({"age_years": 6.0}, "patient_age_out_of_range"),
    ({"age_years": 40.0}, "patient_age_out_of_range"),
    ({"age_years": None}, "patient_age_unknown"),
    ({"burned_in_annotation": True}, "burned_in_annotation"),
    ({"presentation_intent": "processing"}, "not_for_presentation"),
]
SILENCE = {
    "body_part_unknown": "unsupported_body_part",
    "view_unknown": "unsupported_view",
    "patient_age_unknown": "patient_age_out_of_range",
}


@pytest.mark.parametrize(("changes", "code"), HEADERS)
def test_each_rule_refuses_warns_or_accepts(changes: dict[str, Any], code: str) -> None:
    film = replace(FILM, **changes)
    error = refused(film)
    assert error.code == SILENCE.get(code, code)
    assert error.status == 422
    notices = check_header(film, gated(**{code: "warn"}))
    assert [n.code for n in notices] == [code]
    assert "{" not in notices[0].message
    assert check_header(film, gated(**{code: "accept"})) == ()


@pytest.mark.parametrize("age", [1.0, 1.5, 5.0, 5.99])
def test_the_upper_end_of_the_age_range_is_in_completed_years(age: float) -> None:
    assert check_header(replace(FILM, age_years=age), gated()) == ()


def test_a_bundle_for_any_age_asks_for_none() -> None:
    for age in (None, 0.1, 90.0):
        assert check_header(replace(FILM, age_years=age), gated(age=None)) == ()


def test_what_the_header_does_not_say_is_no_finding() -> None:
    assert check_header(replace(FILM, burned_in_annotation=None, presentation_intent=None), gated()) == ()


def test_a_digitised_film_is_taken_with_a_warning_whatever_other_modalities_get() -> None:
    notices = check_header(replace(FILM, modality="SC"), gated())
    assert notices == (Notice("unsupported_modality", "The modality is SC; the bundle takes CR, DX."),)
    assert refused(replace(FILM, modality="OT")).code == "unsupported_modality"


def test_the_messages_name_what_was_found_and_what_is_taken() -> None:
    assert refused(replace(FILM, view="other")).detail == "The view is other; the bundle takes PA, AP."
    assert refused(replace(FILM, view=None)).detail == "The view is not stated; the bundle takes PA, AP."
    assert refused(replace(FILM, age_years=77.0)).detail == "The bundle is meant for patients of 1 to 5 years."
    (notice,) = check_header(replace(FILM, view=None), gated(view_unknown="warn"))
    assert notice.message == "The header does not name the view; the bundle takes PA, AP."


def test_an_age_is_never_told() -> None:
    film = replace(FILM, age_years=77.125)
    (notice,) = check_header(film, gated(patient_age_out_of_range="warn"))
    assert "77" not in refused(film).detail + notice.message


def test_all_warnings_are_given_and_a_refusal_outranks_them() -> None:
    film = replace(FILM, view=None, age_years=None, burned_in_annotation=True)
    warn = {"view_unknown": "warn", "patient_age_unknown": "warn"}
    assert refused(film, gated(**warn)).code == "burned_in_annotation"
    notices = check_header(film, gated(**warn, burned_in_annotation="warn"))
    assert [n.code for n in notices] == ["view_unknown", "patient_age_unknown", "burned_in_annotation"]


# the picture


def test_a_film_like_those_of_the_fit_is_taken() -> None:
    gate, picture = spec()
    assert check_picture(SCORES, gate, picture) == ()
    assert check_picture(replace(SCORES, distance=2.0), gate, picture) == ()
    assert check_network(3.0, gate, picture) == ()


def test_a_picture_too_far_away_is_no_chest_film() -> None:
    """Distance comes before pose: how a picture of something else lies means nothing."""
    gate, picture = spec()
    with pytest.raises(RefusedError) as by_picture:
        check_picture(PictureScores(2.001, "rotated_90", 1.0), gate, picture)
    with pytest.raises(RefusedError) as by_network:
        check_network(3.001, gate, picture)
    assert {by_picture.value.code, by_network.value.code} == {"not_a_chest_radiograph"}
    gate, picture = spec(not_a_chest_radiograph="warn")
    both = check_picture(replace(SCORES, distance=9.0), gate, picture) + check_network(9.0, gate, picture)
    assert [n.code for n in both] == ["not_a_chest_radiograph"] * 2
    assert len(set(both)) == 1


POSE_CODES: list[tuple[Any, list[str], int | None]] = [
    ("rotated_90", ["rotated_image"], 90),
    ("rotated_180", ["rotated_image"], 180),
    ("rotated_270", ["rotated_image"], 270),
    ("inverted", ["inverted_image"], None),
    ("inverted_rotated_90", ["inverted_image", "rotated_image"], 90),
    ("inverted_rotated_270", ["inverted_image", "rotated_image"], 270),
    ("cropped", ["cropped_image"], None),
]


@pytest.mark.parametrize(("pose", "codes", "degrees"), POSE_CODES)
def test_each_pose_has_its_codes(pose: Any, codes: list[str], degrees: int | None) -> None:
    scores = PictureScores(1.0, pose, 0.95)
    gate, picture = spec()
    with pytest.raises(RefusedError) as caught:
        check_picture(scores, gate, picture)
    assert caught.value.code == codes[0]
    warned, picture = spec(rotated_image="warn", inverted_image="warn", cropped_image="warn")
    notices = check_picture(scores, warned, picture)
    assert [n.code for n in notices] == codes
    assert degrees is None or f"{degrees} degrees" in notices[-1].message
    accepting, picture = spec(rotated_image="accept", inverted_image="accept", cropped_image="accept")
    assert check_picture(scores, accepting, picture) == ()


def test_an_unsure_pose_is_not_acted_upon() -> None:
    gate, picture = spec()
    assert check_picture(PictureScores(1.0, "rotated_90", 0.899), gate, picture) == ()
    with pytest.raises(RefusedError) as caught:
        check_picture(PictureScores(1.0, "rotated_90", 0.9), gate, picture)
    assert caught.value.facts == {"degrees": 90}


def test_a_rotated_film_with_exchanged_grays_is_refused_for_what_must_be_refused() -> None:
    gate, picture = spec(inverted_image="warn")
    with pytest.raises(RefusedError) as caught:
        check_picture(PictureScores(1.0, "inverted_rotated_180", 1.0), gate, picture)
    assert (caught.value.code, caught.value.facts) == ("rotated_image", {"degrees": 180})


def test_notices_of_quality_follow_the_actions() -> None:
    notices = (Notice("under_exposed", "dark"), Notice("low_contrast", "flat"))
    assert check_quality(notices, None) == notices
    assert check_quality(notices, gated(under_exposed="accept", low_contrast="warn").gate) == notices[1:]
    with pytest.raises(RefusedError) as caught:
        check_quality(notices, gated(under_exposed="warn").gate)
    assert caught.value.code == "low_contrast"


def test_every_code_of_the_gate_is_a_coded_refusal() -> None:
    assert {SILENCE.get(code, code) for code in GATE_CODES} <= set(ERROR_TABLE)
