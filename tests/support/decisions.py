"""Manifests whose decision part is given, and strategies for what decisions are made of."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from app.bundle.manifest import (
    SCHEMA_VERSION,
    Calibration,
    IsotonicCalibration,
    IsotonicCurve,
    Manifest,
    NoCalibration,
    OperatingPoint,
    PlattCalibration,
    TemperatureCalibration,
    VectorTemperatureCalibration,
)
from app.domain import Task

unhurried = settings(deadline=None)  # the cores are shared

NONE = NoCalibration(method="none")
FINITE = st.floats(-1e4, 1e4)
MODERATE = st.floats(-30, 30)
LOGITS = st.lists(MODERATE, min_size=2, max_size=14)
TEMPERATURES = st.floats(0.1, 10.0)


def manifest(
    task: Task,
    classes: tuple[str, ...],
    point: OperatingPoint,
    *,
    calibration: Calibration = NONE,
    borderline: float = 0.0,
    low_confidence: float = 0.7,
) -> Manifest:
    """A valid manifest whose decision part is given and whose rest is filler."""
    filler: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": "tiny",
        "version": "1.0.0",
        "input": {
            "size": 32,
            "channels": 1,
            "resize": "stretch",
            "sixteen_bit": "significant_bits",
            "normalisation": {"kind": "per_image", "std_floor": 1.0},
        },
        "network": {
            "architecture": "tiny",
            "logits": 1 if task == "binary" else len(classes),
            "features": (8, 2, 2),
            "explanation": "gap_linear",
        },
        "calibration_chosen_by": "given",
        "default_operating_point": point.name,
        "quality": {"under_exposed_mean_below": 0, "over_exposed_mean_above": 255, "low_contrast_std_below": 0},
        "intended_use": {"population": "none", "age_years": None, "views": (), "purpose": "test", "limits": "test"},
        "gate": None,
        "metrics": (),
        "provenance": {
            "git_commit": "0",
            "recipe": "none",
            "recipe_digest": "0" * 64,
            "seed": 0,
            "data": (),
            "libraries": {},
            "hardware": "none",
            "duration_s": 0,
            "created_at": "2026-01-01T00:00:00Z",
        },
        "licence": {"weights": "Apache-2.0", "commercial_use": True},
        "tolerances": {"fp32": 1e-3},
        "files": {},
    }
    return Manifest.model_validate(
        {
            **filler,
            "task": task,
            "classes": classes,
            "operating_points": (point,),
            "calibration": calibration,
            "review": {"low_confidence_below": low_confidence, "borderline_margin": borderline},
        }
    )


@st.composite
def calibrations(draw: st.DrawFn, size: int) -> Calibration:
    """Any calibration for `size` logits."""
    kind = draw(st.sampled_from(["none", "temperature", "vector_temperature", "platt", "isotonic"]))
    if kind == "temperature":
        return TemperatureCalibration(method="temperature", temperature=draw(TEMPERATURES))
    if kind == "vector_temperature":
        each = tuple(draw(TEMPERATURES) for _ in range(size))
        return VectorTemperatureCalibration(method="vector_temperature", temperatures=each)
    if kind == "platt":
        slope = tuple(draw(st.floats(0.01, 20)) for _ in range(size))
        return PlattCalibration(method="platt", slope=slope, intercept=tuple(draw(MODERATE) for _ in range(size)))
    if kind == "isotonic":
        knots = st.lists(MODERATE, min_size=2, max_size=6, unique=True).map(sorted)
        curves = []
        for _ in range(size):
            at = draw(knots)
            inner = sorted(draw(st.floats(0.1, 0.9)) for _ in at[2:])
            curves.append(IsotonicCurve(margins=tuple(at), probabilities=(0.05, *inner, 0.95)))
        return IsotonicCalibration(method="isotonic", curves=tuple(curves))
    return NONE
