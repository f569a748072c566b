"""The manifest of bundle format 3, from before variants of the network, and how it becomes one of format 4. Only read, never written.

Its parts have not changed since, but for the input's `reduced_decode`, which it did not know. When one does, its old form moves here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from app.bundle.fields import BundleModel, Positive
from app.bundle.gate_spec import GateSpec
from app.bundle.input_spec import InputSpec
from app.bundle.manifest import (
    Calibration,
    ClassName,
    FileEntry,
    IntendedUse,
    Licence,
    Manifest,
    Metric,
    Name,
    NetworkSpec,
    OperatingPoint,
    Promotion,
    Provenance,
    QualityRule,
    ReviewRule,
    Semver,
)
from app.domain import Task


def _of_format_3(spec: InputSpec) -> InputSpec:
    if "reduced_decode" in spec.model_fields_set:
        raise ValueError("reduced_decode belongs to format 4")
    return spec


def _gate_of_format_3(gate: GateSpec | None) -> GateSpec | None:
    if gate is not None and gate.picture is not None:
        _of_format_3(gate.picture.input)
    return gate


InputSpecV3 = Annotated[InputSpec, AfterValidator(_of_format_3)]
GateSpecV3 = Annotated[GateSpec | None, AfterValidator(_gate_of_format_3)]


class ManifestV3(BundleModel):
    """manifest.json of format 3. Whether its parts fit together is checked on the upgraded one."""

    schema_version: Literal[3]
    name: Name
    version: Semver
    task: Task
    classes: tuple[ClassName, ...] = Field(min_length=2, max_length=256)
    input: InputSpecV3
    network: NetworkSpec
    calibration: Calibration
    calibration_chosen_by: str
    operating_points: tuple[OperatingPoint, ...] = Field(min_length=1)
    default_operating_point: Name
    review: ReviewRule
    quality: QualityRule
    intended_use: IntendedUse
    gate: GateSpecV3
    metrics: tuple[Metric, ...]
    provenance: Provenance
    licence: Licence
    tolerances: dict[str, Annotated[Positive, Field(le=0.5)]]
    files: dict[str, FileEntry]
    promotion: Promotion | None = None
    research_only: bool = False


def upgrade(old: ManifestV3) -> Manifest:
    """The same manifest in format 4: there were no variants, so the reference serves it, as it always did.

    Raises:
        pydantic.ValidationError: the parts do not fit together.
    """
    return Manifest.model_validate({**old.model_dump(exclude_unset=True), "schema_version": 4})
