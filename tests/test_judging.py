"""One film through the whole worker-thread path with real tiny bundles: what the gate lets through, refuses and warns about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray

from app.bundle.gate_spec import Action
from app.bundle.store import BundleStore
from app.domain import ReviewReason
from app.imaging.decode import ImageLimits
from app.imaging.phantom import encode_jpeg, encode_png, phantom
from app.judging import Drawn, ExplainOptions, Limits, Refusal, judge
from app.live import LiveBundle, load_bundle
from tests.support.dicom_films import dicom_film
from tests.support.tiny_bundle import make_tiny_bundle
from tests.support.tiny_gate import POSES, posed

LIMITS = Limits(ImageLimits(128, 4_096), overlay_max_px=128)
QUALITY: Mapping[str, Action] = {"under_exposed": "refuse", "over_exposed": "refuse", "low_contrast": "refuse"}


@pytest.fixture(scope="module")
def open_bundle(tmp_path_factory: pytest.TempPathFactory) -> LiveBundle:
    """Without a gate: judges anything."""
    return loaded(tmp_path_factory.mktemp("open"), None)


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> LiveBundle:
    return loaded(tmp_path_factory.mktemp("gated"), {})


@pytest.fixture(scope="module")
def warning(tmp_path_factory: pytest.TempPathFactory) -> LiveBundle:
    """With a gate that warns where the other refuses."""
    picture: dict[str, Action] = dict.fromkeys(
        ("not_a_chest_radiograph", "rotated_image", "inverted_image", "cropped_image"), "warn"
    )
    return loaded(tmp_path_factory.mktemp("warning"), {**picture, "lateral_view": "warn"})


def loaded(root: Path, gate: Mapping[str, Action] | None) -> LiveBundle:
    return load_bundle(BundleStore(root), make_tiny_bundle(root, gate=gate))


def judged(data: bytes, live: LiveBundle, wanted: ExplainOptions | None = None) -> Drawn:
    point = live.manifest.operating_point(None)
    assert point is not None
    return judge(data, live, point, wanted, LIMITS)


def code_of(data: bytes, live: LiveBundle) -> str:
    with pytest.raises(Refusal) as refused:
        judged(data, live)
    return refused.value.error.code


def codes(drawn: Drawn) -> list[str]:
    return [notice.code for notice in drawn.judgement.notices]


def film(seed: int = 9_001) -> NDArray[np.uint8]:
    return phantom(seed, height=320, width=288)


def noise() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (256, 256), dtype=np.uint8)


@pytest.mark.parametrize("seed", range(9_000, 9_010))
def test_a_phantom_passes_the_gate_of_a_bundle_for_phantoms(seed: int, gated: LiveBundle) -> None:
    drawn = judged(encode_png(film(seed)), gated)
    assert codes(drawn) == ["intended_use_unverified"]
    assert ReviewReason.QUALITY not in drawn.judgement.decision.review_reasons


def test_the_file_format_changes_nothing(gated: LiveBundle) -> None:
    assert codes(judged(encode_jpeg(film(), 90), gated)) == ["intended_use_unverified"]
    deep = film().astype(np.uint16) * 257
    assert codes(judged(encode_png(deep), gated)) == ["intended_use_unverified"]


@pytest.mark.parametrize("pose", POSES[1:])
def test_a_phantom_in_another_pose_is_refused_or_warned_about(
    pose: str, gated: LiveBundle, warning: LiveBundle
) -> None:
    data = encode_png(posed(phantom(9_002, height=512, width=448), pose))
    wanted = ["cropped_image"] if pose == "cropped" else []
    wanted += ["inverted_image"] if pose.startswith("inverted") else []
    wanted += ["rotated_image"] if "rotated" in pose else []
    # a classifier that sees a rotated phantom for the first time finds it strange itself
    drawn = judged(data, warning)
    assert [code for code in codes(drawn) if code in wanted] == wanted
    assert ReviewReason.QUALITY in drawn.judgement.decision.review_reasons
    if pose != "cropped":  # warned about by the tiny gate
        assert code_of(data, gated) == wanted[0]


def test_the_refusal_says_how_far_the_film_is_turned(gated: LiveBundle) -> None:
    clockwise = np.ascontiguousarray(np.rot90(film(), -1))
    with pytest.raises(Refusal) as refused:
        judged(encode_png(clockwise), gated)
    assert refused.value.error.facts == {"degrees": 90}


def test_noise_is_no_chest_film(gated: LiveBundle, warning: LiveBundle, open_bundle: LiveBundle) -> None:
    data = encode_png(noise())
    assert code_of(data, gated) == "not_a_chest_radiograph"
    # found by both distances, told once
    assert codes(judged(data, warning)) == ["not_a_chest_radiograph", "intended_use_unverified"]
    assert codes(judged(data, open_bundle)) == ["intended_use_unverified"]


def test_the_classifiers_own_features_refuse_too(gated: LiveBundle) -> None:
    """A limit of distance so wide that only the second one is left."""
    assert gated.gate is not None
    blind = gated.gate.spec.model_copy(update={"distance_above": 1e9, "pose_probability_at_least": 1.0})
    spec = gated.gate.__class__(blind, gated.gate.engine, gated.gate.reference)
    live = LiveBundle(gated.bundle, gated.engine, gated.head, spec)
    assert code_of(encode_png(noise()), live) == "not_a_chest_radiograph"
    assert codes(judged(encode_png(film()), live)) == ["intended_use_unverified"]


def test_a_blank_picture_is_refused_as_blank(gated: LiveBundle) -> None:
    assert code_of(encode_png(np.full((256, 256), 128, np.uint8)), gated) == "blank_image"


def test_exposure_follows_the_actions(tmp_path: Path, gated: LiveBundle, open_bundle: LiveBundle) -> None:
    """A phantom whose contrast is a tenth: the gate's network, which normalises, still knows it."""
    flat = encode_png((film().astype(np.float64) * 0.15 + 60).astype(np.uint8))
    for live in (gated, open_bundle):
        drawn = judged(flat, live)
        assert codes(drawn) == ["low_contrast", "intended_use_unverified"]
        assert ReviewReason.QUALITY in drawn.judgement.decision.review_reasons
    strict = loaded(tmp_path, QUALITY)
    assert code_of(flat, strict) == "low_contrast"


# DICOM


def test_a_dicom_film_of_the_intended_use_is_judged(gated: LiveBundle) -> None:
    drawn = judged(dicom_film(), gated)
    assert codes(drawn) == []
    assert drawn.judgement.radiograph.source is not None


HEADERS: list[tuple[dict[str, Any], str]] = [
    ({"Modality": "CT"}, "unsupported_modality"),
    ({"BodyPartExamined": "HAND"}, "unsupported_body_part"),
    ({"ViewPosition": "LL"}, "lateral_view"),
    ({"PatientAge": "040Y"}, "patient_age_out_of_range"),
    ({"BurnedInAnnotation": "YES"}, "burned_in_annotation"),
    ({"PresentationIntentType": "FOR PROCESSING"}, "not_for_presentation"),
]


@pytest.mark.parametrize(("attributes", "code"), HEADERS)
def test_a_header_that_does_not_fit_is_refused(
    attributes: dict[str, Any], code: str, gated: LiveBundle, open_bundle: LiveBundle
) -> None:
    data = dicom_film(**attributes)
    assert code_of(data, gated) == code
    assert codes(judged(data, open_bundle)) == []


def test_silence_of_the_header_is_a_warning_and_a_reason_for_review(gated: LiveBundle) -> None:
    data = dicom_film(ViewPosition=None, BodyPartExamined=None, PatientAge=None, PatientBirthDate=None)
    drawn = judged(data, gated)
    assert codes(drawn) == ["body_part_unknown", "view_unknown", "patient_age_unknown"]
    assert ReviewReason.QUALITY in drawn.judgement.decision.review_reasons


def test_the_header_is_looked_at_before_the_picture(gated: LiveBundle) -> None:
    blank = np.full((256, 256), 128, np.uint8)
    assert code_of(dicom_film(pixels=blank, bits_stored=8, Modality="MR"), gated) == "unsupported_modality"
    assert code_of(dicom_film(pixels=noise(), bits_stored=8), gated) == "not_a_chest_radiograph"


# what comes out


def test_each_step_has_its_time(gated: LiveBundle, open_bundle: LiveBundle) -> None:
    for live in (gated, open_bundle):
        timing = judged(encode_png(film()), live, ExplainOptions(output="json")).judgement.timing_ms
        assert list(timing) == ["decode", "preprocess", "gate", "network", "decide", "explain"]
        assert all(lap >= 0 for lap in timing.values())


def test_the_overlay_as_an_array_is_the_picture_of_the_file(open_bundle: LiveBundle) -> None:
    data = encode_png(film())
    array = judged(data, open_bundle, ExplainOptions(output="array"))
    assert array.picture is None
    assert array.picture_array is not None
    assert (array.picture_array.dtype.name, array.picture_array.shape) == ("uint8", (128, 115, 3))
    file = judged(data, open_bundle, ExplainOptions(output="png"))
    assert file.picture is not None
    assert file.picture_array is None
    decoded = np.asarray(cv2.imdecode(np.frombuffer(file.picture, np.uint8), cv2.IMREAD_COLOR))
    np.testing.assert_array_equal(array.picture_array, decoded[:, :, ::-1])


def test_numbers_alone_draw_nothing(open_bundle: LiveBundle) -> None:
    drawn = judged(encode_png(film()), open_bundle, ExplainOptions(output="json"))
    assert (drawn.picture, drawn.picture_array, len(drawn.contours)) == (None, None, 1)


def test_a_jpeg_overlay_is_a_jpeg(open_bundle: LiveBundle) -> None:
    drawn = judged(encode_png(film()), open_bundle, ExplainOptions(output="jpeg"))
    assert drawn.picture is not None
    assert simplejpeg.decode_jpeg_header(drawn.picture)[:2] == (128, 115)


def test_a_live_bundle_does_not_keep_the_bytes_of_its_networks(gated: LiveBundle) -> None:
    assert (gated.bundle.network, gated.bundle.gate, dict(gated.bundle.golden)) == (b"", None, {})


# --- a film that is decoded at half of its size


@pytest.fixture(scope="module")
def reducing(tmp_path_factory: pytest.TempPathFactory) -> LiveBundle:
    """Of the tiny network's 64 px, so that films of 512 px and more are reduced; with a gate that warns."""
    root = tmp_path_factory.mktemp("reducing")
    picture: dict[str, Action] = {"not_a_chest_radiograph": "warn", "cropped_image": "warn"}
    plain = json.loads((root / str(make_tiny_bundle(root, gate=picture)) / "manifest.json").read_text())["input"]
    ref = make_tiny_bundle(root, version="1.1.0", gate=picture, fields={"input": {**plain, "reduced_decode": True}})
    return load_bundle(BundleStore(root), ref)


def large(height: int = 640, width: int = 577) -> bytes:
    return encode_jpeg(phantom(9_001, height=height, width=width))


def test_a_reduced_film_is_answered_as_itself(reducing: LiveBundle, gated: LiveBundle) -> None:
    found, plain = (judged(large(), live, ExplainOptions(output="json")).judgement for live in (reducing, gated))
    assert found.radiograph.pixels.shape == (320, 289)
    assert (found.radiograph.width, found.radiograph.height) == (577, 640)
    assert (found.statistics.width, found.statistics.height) == (577, 640)
    assert found.geometry == plain.geometry
    assert codes(judged(large(), reducing)) == codes(judged(large(), gated)) == ["intended_use_unverified"]
    for one, other in zip(found.decision.classes, plain.decision.classes, strict=True):
        assert (one.name, one.positive) == (other.name, other.positive)
        assert one.logit == pytest.approx(other.logit, abs=0.05)


def test_contours_are_in_pixels_of_the_film(reducing: LiveBundle, gated: LiveBundle) -> None:
    found, plain = (judged(large(), live, ExplainOptions(output="json")).contours[0] for live in (reducing, gated))
    across = [x for polygon in found.polygons for x, _ in polygon]
    expected = [x for polygon in plain.polygons for x, _ in polygon]
    assert max(expected) > 300  # beyond the reduced film's 289 columns
    assert abs(max(across) - max(expected)) <= 8


@pytest.mark.parametrize("full_size", [True, False])
def test_the_overlay_shows_the_film_itself(full_size: bool, reducing: LiveBundle, gated: LiveBundle) -> None:
    """Without heat the picture is the film: at full size every pixel of it, else what is left of it at 128 px."""
    wanted = ExplainOptions(output="array", full_size=full_size, alpha=0.0)
    found, plain = (judged(large(), live, wanted).picture_array for live in (reducing, gated))
    assert found is not None
    assert plain is not None
    assert found.shape == plain.shape == ((640, 577, 3) if full_size else (128, 115, 3))
    difference = np.abs(found.astype(int) - plain)
    assert difference.max() == 0 if full_size else difference.mean() < 0.5


def test_a_picture_larger_than_the_reduced_film_is_drawn_from_the_film(reducing: LiveBundle) -> None:
    point = reducing.manifest.operating_point(None)
    assert point is not None
    wanted = ExplainOptions(output="array", alpha=0.0)
    drawn = judge(large(), reducing, point, wanted, replace(LIMITS, overlay_max_px=500))
    assert drawn.picture_array is not None
    assert drawn.picture_array.shape == (500, 451, 3)


def test_a_film_just_too_small_is_decoded_in_full(reducing: LiveBundle) -> None:
    assert judged(large(511, 640), reducing).judgement.radiograph.reduced_from is None
