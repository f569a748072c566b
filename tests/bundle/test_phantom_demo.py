"""The demo bundle that ships is sound, takes every phantom that `cxr phantom` makes, and is made by the code beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.bundle.store import BundleRef, BundleStore
from app.imaging.decode import ImageLimits
from app.imaging.phantom import encode_jpeg, phantom
from app.judging import Limits, Refusal, judge
from app.live import LiveBundle, load_bundle
from app.settings import PROJECT_ROOT
from tests.support.phantom_demo import NAME, write_phantom_demo

REF = BundleRef(NAME, "1.0.0")
LIMITS = Limits(ImageLimits(128, 4_096), 1_024)


@pytest.fixture(scope="module")
def live() -> LiveBundle:
    return load_bundle(BundleStore(PROJECT_ROOT / "model_bundles"), REF)


@pytest.mark.parametrize("size", [(512, 448), (256, 256), (1_024, 900)])
def test_it_takes_phantoms(live: LiveBundle, size: tuple[int, int]) -> None:
    point = live.manifest.operating_points[0]
    for seed in range(8):
        film = encode_jpeg(phantom(seed, height=size[0], width=size[1], opacity=seed % 2 == 0))
        assert judge(film, live, point, None, LIMITS).judgement.decision.operating_point == point.name


def test_it_refuses_a_phantom_upside_down(live: LiveBundle) -> None:
    with pytest.raises(Refusal) as refusal:
        judge(encode_jpeg(phantom(1)[::-1].copy()), live, live.manifest.operating_points[0], None, LIMITS)
    assert refusal.value.error.status == 422


def test_it_is_what_its_generator_writes(live: LiveBundle, tmp_path: Path) -> None:
    write_phantom_demo(tmp_path, REF.version)
    assert BundleStore(tmp_path).verify(REF).manifest.model_dump(exclude={"files", "provenance"}) == (
        live.manifest.model_dump(exclude={"files", "provenance"})
    )
