from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from app.results import ResultKind, uids
from tests.results import samples
from tests.support.decisions import unhurried


@unhurried
@given(st.lists(st.text()))
def test_a_uid_is_valid(facts: list[str]) -> None:
    made = uids.uid_of(*facts)
    assert UID(made).is_valid
    assert len(made) <= 44


def test_facts_do_not_run_together() -> None:
    assert len({uids.uid_of(*facts) for facts in [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("", "abc")]}) == 5


def test_uids_do_not_change_between_versions_of_the_code() -> None:
    """Written down once: another value means that every object in every PACS gets a twin at the next retry."""
    assert uids.object_uid(samples.report(), "sr") == "2.25.195268989672061138319275565191206903948"
    assert uids.series_uid(samples.report(), "sr") == "2.25.178164415314177477203184167487636645645"


@pytest.mark.parametrize(
    "changed",
    [
        {"judged_at": datetime(2027, 1, 1, tzinfo=UTC)},
        {"request_id": "another"},
        {"film_sha256": "0" * 64},  # the same film in another transfer syntax
        {"notices": ()},
        {"decision": samples.decision(label="normal")},
        {"engine": replace(samples.report().engine, version="1.99.0", threads=8)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_retry_has_the_same_uid(changed: dict[str, Any]) -> None:
    for kind in ("sr", "sc", "gsps", "pdf_dicom", "fhir", "oru"):
        assert uids.object_uid(samples.report(), kind) == uids.object_uid(samples.report(**changed), kind)


@pytest.mark.parametrize(
    "changed",
    [
        {"source": samples.source(2)},
        {"bundle_digest": "0" * 64},
        {"point": samples.operating_point().model_copy(update={"name": "rule-in"})},
        {"views": ("identity", "rotation +5")},
        {"engine": replace(samples.report().engine, precision="int8")},
        {"engine": replace(samples.report().engine, name="openvino")},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_film_bundle_operating_point_set_of_views_or_engine_has_another_uid(changed: dict[str, Any]) -> None:
    assert uids.object_uid(samples.report(), "sr") != uids.object_uid(samples.report(**changed), "sr")


def test_kinds_have_different_uids_and_series() -> None:
    kinds: tuple[ResultKind, ...] = ("sr", "sc", "gsps", "pdf_dicom")
    assert len({uids.object_uid(samples.report(), kind) for kind in kinds}) == 4
    assert len({uids.series_uid(samples.report(), kind) for kind in kinds}) == 4


def test_a_picture_is_known_by_its_target_and_method_too() -> None:
    for other in ({"target": "normal"}, {"method": "gradcam++"}):
        report = samples.report(heat_map=samples.heat_map(**other))
        assert uids.object_uid(report, "sc") != uids.object_uid(samples.report(), "sc")
        assert uids.object_uid(report, "sr") == uids.object_uid(samples.report(), "sr")


def test_films_of_one_study_share_a_series() -> None:
    first, second = (samples.source(1, sop_instance_uid=uid) for uid in ("1.2.3", "1.2.4"))
    assert uids.series_uid(samples.report(source=first), "sr") == uids.series_uid(samples.report(source=second), "sr")


def test_a_finding_is_tracked_over_versions_of_a_bundle() -> None:
    newer = samples.report(bundle_version="2.0.0", bundle_digest="0" * 64)
    assert uids.tracking_uid(newer, "pneumonia") == uids.tracking_uid(samples.report(), "pneumonia")
    assert uids.tracking_uid(newer, "pneumonia") != uids.tracking_uid(newer, "normal")
