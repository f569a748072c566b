"""Test-time augmentation and the explanations that need further passes, over a real tiny bundle: what is averaged, said and repeated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from app import preprocessing
from app.bundle.store import BundleStore
from app.decision import decide
from app.domain import EngineInfo, NetworkOutput
from app.imaging.decode import ImageLimits, decode
from app.imaging.phantom import encode_png, phantom
from app.imaging.views import FURTHER_VIEWS
from app.inference.engine import Engine
from app.judging import Drawn, ExplainOptions, Limits, Method, begin, judge
from app.live import LiveBundle, load_bundle
from tests.support.tiny_bundle import make_tiny_bundle

LIMITS = Limits(ImageLimits(128, 4_096), overlay_max_px=128)
FILM = encode_png(phantom(9_001, height=320, width=288))
VIEWS = ("identity", "rotation +5", "rotation -5", "brightness +0.15 stops", "brightness -0.15 stops")
NUMBERS = ExplainOptions(output="json")


class Watched:
    """An engine that notes what it was given."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.seen: list[NDArray[np.float32]] = []
        self.said: list[NetworkOutput] = []

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def run(self, tensor: NDArray[np.float32]) -> NetworkOutput:
        self.seen.append(tensor)
        self.said.append(self._engine.run(tensor))
        return self.said[-1]

    def run_many(self, tensors: NDArray[np.float32]) -> list[NetworkOutput]:
        return [self.run(tensor) for tensor in tensors]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LiveBundle]:
    root = tmp_path_factory.mktemp("bundles")
    made: dict[str, LiveBundle] = {}

    def of(task: str) -> LiveBundle:
        if task not in made:
            ref = make_tiny_bundle(root, name=task, task=task)  # type: ignore[arg-type]  # parametrised text
            made[task] = load_bundle(BundleStore(root), ref)
        return made[task]

    return of


@pytest.fixture
def live(bundles: Callable[[str], LiveBundle]) -> LiveBundle:
    return bundles("binary")


def watched(live: LiveBundle) -> tuple[LiveBundle, Watched]:
    engine = Watched(live.engine)
    return replace(live, engine=engine), engine


def judged(live: LiveBundle, wanted: ExplainOptions | None = None, *, tta: bool = False, data: bytes = FILM) -> Drawn:
    point = live.manifest.operating_point(None)
    assert point is not None
    return judge(data, live, point, wanted, LIMITS, tta=tta)


# test-time augmentation


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_the_decision_is_that_of_the_mean_logits(bundles: Callable[[str], LiveBundle], task: str) -> None:
    live, engine = watched(bundles(task))
    found = judged(live, tta=True).judgement
    prepared = preprocessing.prepare(decode(FILM, LIMITS.image, None), live.manifest.input)
    films = [prepared.resized, *(view(prepared.resized) for view in FURTHER_VIEWS.values())]
    tensors = [preprocessing.normalise(film, prepared.geometry, live.manifest.input) for film in films]
    for given, wanted in zip(engine.seen, tensors, strict=True):
        np.testing.assert_array_equal(given, wanted)
    logits = np.stack([said.logits for said in engine.said]).astype(np.float64)
    assert np.ptp(logits, axis=0).min() > 1e-3  # the views are no copies
    point = live.manifest.operating_point(None)
    assert point is not None
    mean = logits.mean(axis=0).astype(np.float32)
    assert found.decision == decide(mean, live.manifest, point, quality_doubt=False)
    assert found.decision != judged(live).judgement.decision
    assert found.views == VIEWS


def test_everything_but_the_decision_is_the_plain_films(live: LiveBundle) -> None:
    plain, mean = judged(live).judgement, judged(live, tta=True).judgement
    assert (mean.statistics, mean.geometry) == (plain.statistics, plain.geometry)
    np.testing.assert_array_equal(mean.feature_projection, plain.feature_projection)
    assert plain.views == ()
    added = [n for n in mean.notices if n not in plain.notices]
    assert [n.code for n in added] == ["mean_of_views"]
    assert "5 views" in added[0].message
    assert mean.decision.review_reasons == judged(live, tta=True).judgement.decision.review_reasons


def test_each_pass_has_its_time(live: LiveBundle) -> None:
    timing = judged(live, NUMBERS, tta=True).judgement.timing_ms
    assert list(timing) == ["decode", "preprocess", "gate", "network", "passes", "decide", "explain"]
    assert timing["passes"] > 0


# explanations


@pytest.mark.parametrize(
    ("method", "passes"), [("gradcam", 0), ("gradcam++", 0), ("smoothgradcam++", 16), ("scorecam", 17)]
)
def test_the_work_of_each_method(live: LiveBundle, method: Method, passes: int) -> None:
    """The tiny network has 16 channels: Score-CAM looks through all of them, and at the empty input."""
    seen, engine = watched(live)
    drawn = judged(seen, replace(NUMBERS, method=method, top_k=2))
    assert len(engine.seen) == 1 + passes
    assert [m.method for m in drawn.judgement.maps] == [method] * 2
    assert {m.target for m in drawn.judgement.maps} == set(live.manifest.classes)
    assert [m.negated for m in drawn.judgement.maps].count(True) == 1
    assert drawn.judgement.decision == judged(live).judgement.decision
    names = {
        "smoothgradcam++": "SmoothGrad-CAM++",
        "scorecam": "Score-CAM",
        "gradcam": "Grad-CAM",
        "gradcam++": "Grad-CAM++",
    }
    assert all(f" {names[method]} evidence" in caption for caption in drawn.captions)


@pytest.mark.parametrize("method", ["smoothgradcam++", "scorecam"])
def test_the_same_film_has_the_same_map(live: LiveBundle, method: Method) -> None:
    wanted = replace(NUMBERS, method=method)
    (first,), (again,) = (judged(live, wanted).judgement.maps for _ in range(2))
    np.testing.assert_array_equal(first.values, again.values)
    (other,) = judged(live, wanted, data=encode_png(phantom(9_002, height=320, width=288))).judgement.maps
    assert not np.array_equal(first.values, other.values)


def test_the_methods_differ(live: LiveBundle) -> None:
    methods: tuple[Method, ...] = ("gradcam", "gradcam++", "smoothgradcam++", "scorecam")
    maps = [judged(live, replace(NUMBERS, method=m, target="pneumonia")).judgement.maps[0].values for m in methods]
    for i, one in enumerate(maps):
        for other in maps[:i]:
            assert np.abs(one - other).max() > 1e-3


def test_views_and_an_explanation_together(live: LiveBundle) -> None:
    """The views come first; each part gets its own passes."""
    seen, engine = watched(live)
    both = judged(seen, replace(NUMBERS, method="scorecam", target="pneumonia"), tta=True)
    assert len(engine.seen) == 1 + 4 + 17
    assert [i for i, tensor in enumerate(engine.seen) if not tensor.any()] == [
        5
    ]  # the empty input comes after the views
    alone = judged(live, replace(NUMBERS, method="scorecam", target="pneumonia"))
    np.testing.assert_array_equal(both.judgement.maps[0].values, alone.judgement.maps[0].values)
    assert both.judgement.decision == judged(live, tta=True).judgement.decision


# in parts


def test_the_parts_make_the_whole_in_any_order(live: LiveBundle) -> None:
    point = live.manifest.operating_point(None)
    assert point is not None
    wanted = replace(NUMBERS, method="smoothgradcam++")
    begun = begin(FILM, live, point, wanted, LIMITS, tta=True)
    assert begun.passes == 4 + 16
    passed = {index: begun.run(index) for index in reversed(range(begun.passes))}
    drawn = begun.finish([passed[index] for index in range(begun.passes)])
    whole = judged(live, wanted, tta=True)
    assert drawn.judgement.decision == whole.judgement.decision
    np.testing.assert_array_equal(drawn.judgement.maps[0].values, whole.judgement.maps[0].values)
    assert (drawn.contours, drawn.captions) == (whole.contours, whole.captions)


def test_a_pass_that_is_missing_is_no_answer(live: LiveBundle) -> None:
    point = live.manifest.operating_point(None)
    assert point is not None
    begun = begin(FILM, live, point, None, LIMITS, tta=True)
    with pytest.raises(ValueError, match="4 passes wanted, 3 given"):
        begun.finish([begun.run(index) for index in range(3)])
