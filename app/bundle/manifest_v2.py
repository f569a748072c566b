"""The manifest of bundle format 2, from before promotion policies, and how it becomes one of format 3. Only read, never written.

Its calibrations, operating points and metrics are those of the time; the other parts have not changed since. When one does, its old
form moves here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from app.bundle.fields import BundleModel, Finite, Positive
from app.bundle.manifest import (
    ClassName,
    FileEntry,
    IntendedUse,
    IsotonicCalibration,
    Licence,
    MeasuredPoint,
    Name,
    NetworkSpec,
    NoCalibration,
    PlattCalibration,
    Provenance,
    QualityRule,
    ReviewRule,
    Semver,
    TemperatureCalibration,
)
from app.bundle.manifest_v3 import GateSpecV3, InputSpecV3, ManifestV3
from app.domain import Task

CalibrationV2 = Annotated[
    NoCalibration | TemperatureCalibration | PlattCalibration | IsotonicCalibration, Field(discriminator="method")
]


class OperatingPointV2(BundleModel):
    """Without prediction sets."""

    name: Name
    rule: Literal["threshold", "argmax", "hierarchical", "per_label"]
    target: str = Field(max_length=200)
    thresholds: dict[ClassName, Finite] = Field(default_factory=dict)
    priority: tuple[ClassName, ...] = ()
    fallback: ClassName | None = None
    measured: dict[ClassName, MeasuredPoint] = Field(default_factory=dict)


class MetricV2(BundleModel):
    """Without a baseline."""

    name: str
    data: str
    value: Finite
    ci: tuple[Finite, Finite] | None = None
    n: int = Field(ge=1)


class ManifestV2(BundleModel):
    """manifest.json of format 2. Whether its parts fit together is checked on the upgraded one."""

    schema_version: Literal[2]
    name: Name
    version: Semver
    task: Task
    classes: tuple[ClassName, ...] = Field(min_length=2, max_length=256)
    input: InputSpecV3
    network: NetworkSpec
    calibration: CalibrationV2
    calibration_chosen_by: str
    operating_points: tuple[OperatingPointV2, ...] = Field(min_length=1)
    default_operating_point: Name
    review: ReviewRule
    quality: QualityRule
    intended_use: IntendedUse
    gate: GateSpecV3
    metrics: tuple[MetricV2, ...]
    provenance: Provenance
    licence: Licence
    tolerances: dict[str, Annotated[Positive, Field(le=0.5)]]
    files: dict[str, FileEntry]


def upgrade(old: ManifestV2) -> ManifestV3:
    """The same manifest in format 3: there was no promotion policy, so nothing passed or failed one."""
    return ManifestV3.model_validate({**old.model_dump(exclude_unset=True), "schema_version": 3})
