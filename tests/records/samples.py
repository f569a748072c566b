"""Small real records."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

from app.domain import InputStatistics, Source
from app.records import AuditEvent, PredictionRecord

DIGEST = "d" * 64
STATISTICS = InputStatistics(
    mean=100.1,
    std=50.2,
    aspect=0.1 + 0.2,
    dark_fraction=1 / 3,
    bright_fraction=0.0,
    sharpness=1e-7,
    height=512,
    width=448,
)


@dataclasses.dataclass(frozen=True)
class Ref:
    name: str
    version: str


REF = Ref("pneumonia", "1.0.0")
JUDGED_AT = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
SOURCE = Source(
    sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
    sop_instance_uid="2.25.11",
    study_uid="2.25.12",
    series_uid="2.25.13",
    patient_name="CANARY^NAME",
    patient_id="CANARY-ID",
    issuer_of_patient_id="CANARY-ISSUER",
)


def prediction(number: int = 0, **changes: Any) -> PredictionRecord:
    record = PredictionRecord(
        request_id=f"request-{number:06d}",
        key_id=None,
        bundle_name="pneumonia",
        bundle_version="1.0.0",
        bundle_digest=DIGEST,
        engine="onnxruntime 1.31.1",
        precision="fp32",
        image_sha256="a" * 64,
        image_format="png",
        statistics=STATISTICS,
        task="binary",
        label="pneumonia",
        positive=("pneumonia",),
        confidence=0.9,
        probabilities={"pneumonia": 0.9, "normal": 0.1},
        margins={"pneumonia": 2.1972245773362196, "normal": -2.1972245773362196},
        operating_point="balanced",
        review_reasons=("borderline",),
        warnings=("intended_use_unverified",),
        projection=tuple(i / 7 for i in range(16)),
        latency_ms=12.5,
    )
    return dataclasses.replace(record, **changes)


def event(number: int = 0, **payload: Any) -> AuditEvent:
    return AuditEvent("predict", None, {"request_id": f"request-{number:06d}", **payload})
