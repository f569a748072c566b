from __future__ import annotations

import dataclasses

import pytest

from app.bundle.manifest import QualityRule
from app.domain import InputStatistics
from app.errors import RefusedError
from app.imaging.quality import quality_notices, refuse_blank

FILM = InputStatistics(
    mean=120.0, std=50.0, aspect=1.0, dark_fraction=0.1, bright_fraction=0.05, sharpness=9.0, height=512, width=512
)
RULE = QualityRule(under_exposed_mean_below=50, over_exposed_mean_above=200, low_contrast_std_below=25)


def test_an_ordinary_film_has_no_notice() -> None:
    refuse_blank(FILM)
    assert quality_notices(FILM, RULE) == ()


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({"mean": 49.9}, ["under_exposed"]),
        ({"mean": 50.0}, []),
        ({"mean": 200.1}, ["over_exposed"]),
        ({"mean": 200.0}, []),
        ({"std": 24.9}, ["low_contrast"]),
        ({"mean": 30.0, "std": 10.0}, ["under_exposed", "low_contrast"]),
    ],
)
def test_notices_at_the_limits(changes: dict[str, float], codes: list[str]) -> None:
    notices = quality_notices(dataclasses.replace(FILM, **changes), RULE)  # type: ignore[arg-type]  # floats only
    assert [notice.code for notice in notices] == codes
    assert all(notice.message.endswith("read with care.") for notice in notices)


@pytest.mark.parametrize("changes", [{"std": 1.9}, {"dark_fraction": 0.996}, {"bright_fraction": 0.996}])
def test_blank_images_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(RefusedError) as refusal:
        refuse_blank(dataclasses.replace(FILM, **changes))  # type: ignore[arg-type]  # floats only
    assert refusal.value.code == "blank_image"
