"""The gate that ships: its figures hold what was asked of it, and can be measured again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from app.bundle.gate_spec import GateFigure
from app.bundle.store import BundleRef, BundleStore, VerifiedBundle
from app.domain import Radiograph
from app.gate import PictureReference
from app.imaging.decode import decode
from app.inference.engine import OnnxRuntimeEngine
from training.data.cache import LIMITS
from training.gate import probes
from training.gate.measure import Gatekeeper, figure
from training.gate.parts import original_paths
from training.gate.poses import turned_pixels
from training.gate.scores import Eye
from training.places import CHECKOUT, DEFAULT_DATA

BUNDLE = BundleRef("pneumonia-resnet18", "1.2.0")
needs_films = pytest.mark.skipif(
    not (DEFAULT_DATA / "originals").is_dir(), reason="the radiographs of ../shared/data are not there"
)
Figures = Callable[[str, str], GateFigure]


@pytest.fixture(scope="module")
def bundle() -> VerifiedBundle:
    return BundleStore(CHECKOUT / "model_bundles").verify(BUNDLE)


@pytest.fixture(scope="module")
def keeper(bundle: VerifiedBundle) -> Gatekeeper:
    spec = bundle.manifest.gate
    assert spec is not None
    assert spec.picture is not None
    assert bundle.gate is not None
    gate = Eye(spec.picture.input, OnnxRuntimeEngine(bundle.gate.network))
    classifier = Eye(bundle.manifest.input, OnnxRuntimeEngine(bundle.network))
    return Gatekeeper(gate, classifier, spec, spec.picture, PictureReference.from_tensors(bundle.gate.tensors))


@pytest.fixture(scope="module")
def figures(keeper: Gatekeeper) -> Figures:
    found = {(f.name, f.data): f for f in keeper.picture.false_refusal}
    return lambda name, data: found[name, data]


@pytest.fixture(scope="module")
def originals() -> list[Radiograph]:
    return [decode((DEFAULT_DATA / path).read_bytes(), LIMITS) for path in original_paths(DEFAULT_DATA)]


def test_one_sound_film_in_a_hundred_at_most_is_refused(figures: Figures) -> None:
    assert figures("false_refusal", "held-out films, all sources").value <= 0.01
    assert figures("false_refusal", "held-out films, kermany_hires (the bundle's population)").value <= 0.01
    assert figures("false_refusal", "held-out films, kermany_224 (the bundle's population)").value <= 0.01


@pytest.mark.parametrize(
    "kind", ["pages of text", "charts", "white noise", "Gaussian noise", "photographs and parts of them"]
)
def test_what_is_no_radiograph_is_refused(figures: Figures, kind: str) -> None:
    assert figures("refusal", kind).value >= 0.97


@pytest.mark.parametrize("pose", ["rotated 90", "rotated 180", "rotated 270", "inverted"])
def test_turned_films_are_refused(figures: Figures, pose: str) -> None:
    assert figures("refusal", f"held-out films, {pose}").value >= 0.95


def test_noise_and_text_are_still_refused_here(keeper: Gatekeeper) -> None:
    pictures = probes.generated(11, count=3)
    for kind in ("pages of text", "white noise", "Gaussian noise"):
        assert [a.code for a in keeper.answers(pictures[kind])] == ["not_a_chest_radiograph"] * 3


@pytest.mark.real_data
@needs_films
def test_the_figure_of_the_originals_can_be_measured_again(
    keeper: Gatekeeper, figures: Figures, originals: list[Radiograph]
) -> None:
    name = "full-size originals of held-out patients"
    assert figure("false_refusal", name, [a.refused for a in keeper.answers(originals)]) == figures(
        "false_refusal", name
    )


@pytest.mark.real_data
@needs_films
def test_a_film_on_its_side_is_named_as_that(keeper: Gatekeeper, originals: list[Radiograph]) -> None:
    pixels = [np.asarray(film.pixels, np.uint8) for film in originals]
    answers = keeper.answers(turned_pixels(film, "rotated_90") for film in pixels)
    assert np.mean([(a.code, a.degrees) == ("rotated_image", 90) for a in answers]) >= 0.9


@pytest.mark.real_data
@needs_films
def test_slices_and_lateral_films_fare_as_the_card_says(keeper: Gatekeeper, figures: Figures) -> None:
    for kind, films in probes.not_frontal(DEFAULT_DATA).items():
        assert figure("refusal", kind, [a.refused for a in keeper.answers(films)]) == figures("refusal", kind)
