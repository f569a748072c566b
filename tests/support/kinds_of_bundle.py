"""Tiny bundles of every kind that a recipe can export: tasks, rules, heads, calibrations, and inputs as ImageNet networks want them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from app.bundle.store import BundleRef
from tests.support.promotions import FAILED
from tests.support.tiny_bundle import make_tiny_bundle

IMAGENET: Final[Mapping[str, Any]] = {
    "size": 64,
    "channels": 3,
    "resize": "pad",
    "sixteen_bit": "percentile",
    "border_crop": {"max_mean": 4.0, "max_fraction": 0.1},
    "normalisation": {"kind": "fixed", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}
NIH: Final = (
    "no_finding",
    "atelectasis",
    "cardiomegaly",
    "effusion",
    "infiltration",
    "mass",
    "nodule",
    "pneumonia",
    "pneumothorax",
    "consolidation",
    "edema",
    "emphysema",
    "fibrosis",
    "pleural_thickening",
    "hernia",
)
COVERAGE: Final[Mapping[str, Any]] = {
    "coverage": {"value": 0.91, "ci": [0.88, 0.94]},
    "mean_set_size": {"value": 1.2, "ci": [1.1, 1.3]},
    "data": "generated phantoms",
    "n": 24,
}


def _sets(thresholds: Mapping[str, float]) -> dict[str, Any]:
    return {
        "name": "sets",
        "rule": "conformal",
        "target": "coverage 0.90",
        "thresholds": dict(thresholds),
        "conformal": dict(COVERAGE),
    }


def binary_sets(root: Path) -> BundleRef:
    """Binary with a threshold and prediction sets; the default is the sets. Its promotion gate failed."""
    screening = {"name": "screening", "rule": "threshold", "target": "by hand", "thresholds": {"pneumonia": -0.4}}
    fields = {
        "operating_points": [screening, _sets({"normal": -0.8, "pneumonia": -0.9})],
        "default_operating_point": "sets",
        "promotion": dict(FAILED),
        "input": {**IMAGENET, "channels": 1, "normalisation": {"kind": "fixed", "mean": [0.5], "std": [0.25]}},
    }
    return make_tiny_bundle(root, name="binary", explanation="gap_mlp_relu", fields=fields, latest=True)


def three_classes(root: Path) -> BundleRef:
    """Multiclass with every rule, a temperature per class, a multi-layer head, three channels."""
    cascade = {
        "name": "risk-prioritised",
        "rule": "hierarchical",
        "target": "by hand",
        "thresholds": {"tuberculosis": -1.5, "pneumonia": -0.7},
        "priority": ["tuberculosis", "pneumonia"],
        "fallback": "normal",
    }
    highest = {"name": "argmax", "rule": "argmax", "target": "most probable class"}
    fields = {
        "operating_points": [cascade, highest, _sets({"normal": -1.0, "pneumonia": -1.1, "tuberculosis": -1.3})],
        "default_operating_point": "risk-prioritised",
        "calibration": {"method": "vector_temperature", "temperatures": [1.5, 0.8, 1.2]},
        "input": dict(IMAGENET),
    }
    return make_tiny_bundle(
        root, name="three-classes", task="multiclass", explanation="gap_mlp_relu", fields=fields, latest=True
    )


def nih_labels(root: Path) -> BundleRef:
    """Multilabel: fourteen findings and No Finding, a multi-layer head, three channels."""
    fields = {
        "classes": list(NIH),
        "operating_points": [
            {
                "name": "max-f1",
                "rule": "per_label",
                "target": "largest F1 per label",
                "thresholds": dict.fromkeys(NIH, 1.0),
            },
        ],
        "default_operating_point": "max-f1",
        "calibration": {"method": "platt", "slope": [0.9] * len(NIH), "intercept": [-0.5] * len(NIH)},
        "input": dict(IMAGENET),
        "research_only": True,
    }
    return make_tiny_bundle(
        root, name="nih-labels", task="multilabel", explanation="gap_mlp_relu", fields=fields, latest=True
    )
