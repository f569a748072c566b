from __future__ import annotations

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, get_args

import pytest

from app.errors import ConflictError, RefusedError
from app.results import MEDIA_TYPES, NEEDS_PICTURE, NEEDS_SOURCE, SOP_CLASSES, ResultKind, make
from tests.results import readback, samples

KINDS: tuple[ResultKind, ...] = get_args(ResultKind)


def test_every_kind_has_a_media_type() -> None:
    assert set(MEDIA_TYPES) == set(KINDS)


def test_importing_the_room_loads_no_heavy_library() -> None:
    code = (
        "import sys, app.results; print([m for m in ('highdicom', 'pydicom', 'reportlab', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", KINDS)
def test_what_belongs_to_a_study_is_refused_without_one(kind: ResultKind) -> None:
    report = samples.report(source=None)
    if kind not in NEEDS_SOURCE:
        assert make(kind, report)
        return
    with pytest.raises(RefusedError) as caught:
        make(kind, report)
    assert caught.value.code == "dicom_source_required"
    assert "{" not in caught.value.detail


@pytest.mark.parametrize("kind", sorted(NEEDS_SOURCE))
@pytest.mark.parametrize("field", ["study_uid", "series_uid", "sop_instance_uid", "sop_class_uid"])
@pytest.mark.parametrize("value", ["", "1.2.x", "1." * 33 + "1", "1..2", " 1.2", "1.2\n"])
def test_a_film_without_usable_uids_is_refused(kind: ResultKind, field: str, value: str) -> None:
    changed: dict[str, Any] = {field: value}
    with pytest.raises(RefusedError) as caught:
        make(kind, samples.report(source=samples.source(1, **changed)))
    assert caught.value.code == "dicom_source_required"


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_heat_map_only_pictures_are_refused(kind: ResultKind) -> None:
    report = samples.report(heat_map=None)
    if kind not in NEEDS_PICTURE:
        assert make(kind, report)
        return
    with pytest.raises(ConflictError) as caught:
        make(kind, report)
    assert caught.value.code == "explanation_unavailable"


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_report_gives_the_same_bytes_in_every_thread(kind: ResultKind) -> None:
    """Also where another patient's objects are made in between."""
    report, other = samples.report(), samples.report(source=samples.SOURCES["odd"])
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda n: make(kind, other if n % 3 == 0 else report), range(12)))
    assert len({made[n] for n in range(12) if n % 3}) == 1
    assert len({made[n] for n in range(0, 12, 3)}) == 1


def test_another_process_makes_the_same_bytes() -> None:
    """No clock, no hash seed, no counter."""
    code = (
        "import hashlib; from app.results import MEDIA_TYPES, make; from tests.results import samples; "
        "print([(kind, hashlib.sha256(make(kind, samples.report())).hexdigest()) for kind in MEDIA_TYPES])"
    )
    seeds = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
            env={"PYTHONHASHSEED": seed, "TZ": "UTC", "PATH": "/usr/bin:/bin"},
        ).stdout
        for seed in ("1", "2")
    ]
    assert seeds[0] == seeds[1] != ""


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_patient_is_logged_or_printed(
    kind: ResultKind, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The libraries log and warn about values they find odd; none of a film's values may be among them."""
    canary = "ZZCANARY"
    odd = replace(
        samples.SOURCES["odd"],
        patient_name=f"{canary} no caret",
        patient_id=canary * 20,
        issuer_of_patient_id=canary,
        birth_date=canary,
        sex=canary,
        study_id=canary * 5,
        study_date=canary,
        study_time=canary,
        study_description=canary * 30,
        accession_number=canary * 5,
        referring_physician=canary * 30,
        laterality=canary,
        sop_instance_uid="1.2.0777.1",  # a leading zero, which pydicom warns of
        study_uid="1.2.0777.2",
    )
    caplog.set_level(logging.DEBUG)
    assert make(kind, samples.report(source=odd))
    out, err = capfd.readouterr()
    assert canary not in caplog.text + out + err
    assert "0777" not in caplog.text + out + err


def test_a_report_does_not_show_whose_it_is() -> None:
    assert "Canary" not in repr(samples.report())


@pytest.mark.parametrize("kind", SOP_CLASSES)
def test_objects_are_of_the_class_that_the_conformance_statement_names(kind: ResultKind) -> None:
    assert readback.dataset(make(kind, samples.report())).SOPClassUID == SOP_CLASSES[kind]
