"""The manifest of bundle format 1, which had no gate, and how it becomes one of format 2. Only read, never written.

Its parts are those of format 2; when one of them differed, it would stand here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from app.bundle.fields import BundleModel
from app.bundle.manifest import (
    ClassName,
    FileEntry,
    IntendedUse,
    Licence,
    Name,
    NetworkSpec,
    Provenance,
    QualityRule,
    ReviewRule,
    Semver,
)
from app.bundle.manifest_v2 import CalibrationV2, ManifestV2, MetricV2, OperatingPointV2
from app.bundle.manifest_v3 import InputSpecV3
from app.domain import Task


class ManifestV1(BundleModel):
    """manifest.json of format 1. Whether its parts fit together is checked on the upgraded one."""

    schema_version: Literal[1]
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
    metrics: tuple[MetricV2, ...]
    provenance: Provenance
    licence: Licence
    tolerances: dict[str, Annotated[float, Field(gt=0, le=0.5)]]
    files: dict[str, FileEntry]


def upgrade(old: ManifestV1) -> ManifestV2:
    """The same manifest in format 2: without a gate, so that any film is judged, as it always was with this bundle."""
    return ManifestV2.model_validate({**old.model_dump(exclude_unset=True), "schema_version": 2, "gate": None})
