"""Reports about invented films, for the tests of the result objects."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Estimate, MeasuredPoint, OperatingPoint
from app.domain import ClassScore, Decision, EngineInfo, FilmDisplay, Notice, ReviewReason, Source
from app.imaging.phantom import phantom
from app.results import HeatMapDrawn, Report

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
SC = "1.2.840.10008.5.1.4.1.1.7"


def source(n: int = 1, **changed: Any) -> Source:
    """A CR film of an invented patient."""
    root = f"1.2.826.0.1.3680043.10.1000.{n}"
    film = Source(
        sop_class_uid=CR,
        sop_instance_uid=f"{root}.3",
        study_uid=f"{root}.1",
        series_uid=f"{root}.2",
        patient_name="Canary^Jo",
        patient_id=f"ID-{n}",
        issuer_of_patient_id="Hospital",
        birth_date="20170305",
        sex="F",
        study_id="S1",
        study_date="20210401",
        study_time="101112",
        study_description="Chest ap",
        accession_number=f"ACC{n}",
        referring_physician="Ref^Doc",
        patient_orientation=("L", "F"),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        rows=512,
        columns=448,
    )
    return replace(film, **changed)


# three films as they come: a plain one, one with hardly a header, one with names in three scripts and text that is too long
SOURCES = {
    "plain": source(1),
    "bare": Source(sop_class_uid=DX, sop_instance_uid="1.2.3.4.5.6", study_uid="1.2.3.4.5", series_uid="1.2.3.4.5.7"),
    "odd": source(
        3,
        sop_class_uid=SC,
        patient_name="Yamada^Tarou=山田^太郎=やまだ^たろう",
        patient_id="ИД-" + "9" * 80,
        issuer_of_patient_id="Größe & Söhne | ~ ^",
        birth_date="0000",
        sex="unknown",
        study_id="a study id of more than sixteen characters",
        study_date="20219999",
        study_time="99:99",
        study_description="Thorax\\a.p.\r\n" + "lang " * 30,
        accession_number="ACCESSION-NUMBER-OF-27-CHARS",
        referring_physician="Überweiserin^Änne^^^Dr.^too^many=b=c=d",
        patient_orientation=(),
    ),
}


def decision(**changed: Any) -> Decision:
    classes = (
        ClassScore("pneumonia", 0.8731234567, 1.93, 1.93, -1.2530568838119507, 0.2221, True),
        ClassScore("normal", 0.1268765433, -1.93, -1.93, None, None, False),
    )
    made = Decision(
        task="binary",
        label="pneumonia",
        positive=("pneumonia",),
        rule="threshold",
        confidence=0.8731234567,
        classes=classes,
        operating_point="screening",
        review_reasons=(ReviewReason.BORDERLINE, ReviewReason.QUALITY),
    )
    return replace(made, **changed)


def operating_point() -> OperatingPoint:
    measured = MeasuredPoint(
        sensitivity=Estimate(value=0.9354, ci=(0.9105, 0.9579)),
        specificity=Estimate(value=0.9825, ci=(0.9754, 0.9888)),
        data="report half of the validation",
        n=7456,
    )
    return OperatingPoint(
        name="screening",
        rule="threshold",
        target="largest Youden J",
        thresholds={"pneumonia": -1.2530568838119507},
        measured={"pneumonia": measured},
    )


def overlay(height: int = 512, width: int = 448) -> NDArray[np.uint8]:
    """A phantom with a warm spot."""
    film = np.repeat(phantom(3, height=height, width=width)[..., None], 3, axis=2)
    heat = np.zeros((height, width), np.uint8)
    cv2.circle(heat, (width // 3, height // 2), width // 6, 255, -1)
    warm = film.copy()
    warm[..., 0] = np.maximum(film[..., 0], heat)
    return np.asarray(warm, np.uint8)


def heat_map(**changed: Any) -> HeatMapDrawn:
    made = HeatMapDrawn(
        target="pneumonia",
        method="gradcam",
        caption="Evidence for pneumonia, mostly in the left third of the picture",
        picture=overlay(),
        contours=(((100, 200), (200, 200), (200, 300), (100, 300)), ((0, 0), (447, 0), (447, 511))),
    )
    return replace(made, **changed)


def report(**changed: Any) -> Report:
    made = Report(
        source=SOURCES["plain"],
        judged_at=datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=UTC),
        request_id="req-0123456789",
        bundle_name="pneumonia-resnet18",
        bundle_version="1.0.0",
        bundle_digest="ab" * 32,
        purpose="Puts films with signs of pneumonia first in a worklist that people read.",
        limits="Not a diagnosis and not for autonomous use. Not for adults, nor for anything but pneumonia.",
        population="children of 1 to 5 years, frontal AP radiographs",
        engine=EngineInfo("onnxruntime", "1.31.0", "fp32", 1),
        decision=decision(),
        point=operating_point(),
        notices=(Notice("unsupported_view", "The view is PA; the bundle takes AP."),),
        film_width=448,
        film_height=512,
        film_sha256="cd" * 32,
        heat_map=heat_map(),
        display=FilmDisplay(slope=1, intercept=0, center=2048, width=4096, function="LINEAR", inverse=False),
    )
    return replace(made, **changed)
