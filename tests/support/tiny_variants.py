"""Tiny bundles whose network can be run in other ways: a real int8 graph, and variants with figures set by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from app.bundle.input_spec import InputSpec
from app.bundle.store import BundleRef, write_bundle
from app.domain import Radiograph
from app.preprocessing import prepare
from tests.support.quantised import quantised
from tests.support.tiny_bundle import TinyParts, small_phantom, tiny_parts

FILMS = 24
SEED = 5  # random weights of which eight bits move the golden logits little: by 0.16 to 0.23


def variant(name: str, **fields: Any) -> dict[str, Any]:
    """A variant of the tiny binary bundle, admitted; values of the manifest. fields: in place of what stands here."""
    engine, _, precision = name.partition("-")
    return {
        "name": name,
        "engine": engine,
        "precision": precision,
        "file": "network-int8.onnx" if precision == "int8" else "network.onnx",
        "tolerance": {"fp32": 1e-3}.get(precision, 0.4),
        "bounds": {"logit": 0.2, "flips": 0.01, "auroc_loss": 0.01},
        "measured": {
            "data": "generated phantoms",
            "n": FILMS,
            "logit_shift_max": 0.05,
            "logit_shift_mean": 0.01,
            "flips": {"screening": 0, "rule-in": 0},
            "auroc_change": {"pneumonia": {"value": 0.0, "ci": [-0.001, 0.001]}},
        },
        "admitted": True,
        "calibration": None,
        "thresholds": None,
    } | fields


def with_variants(variants: Sequence[Mapping[str, Any]], *, version: str = "1.0.0") -> tuple[TinyParts, bytes | None]:
    """The parts of a tiny binary bundle with these variants, and its int8 network where one of them runs it."""
    parts = tiny_parts(version=version, seed=SEED)
    needed = any(one["precision"] == "int8" for one in variants)
    return replace(parts, manifest={**parts.manifest, "variants": list(variants)}), int8() if needed else None


@cache
def int8() -> bytes:
    """The int8 network of the tiny binary bundle."""
    parts = tiny_parts(seed=SEED)
    spec = InputSpec.model_validate(parts.manifest["input"])
    films = [prepare(Radiograph(small_phantom(4_000 + i), "0" * 64, "png"), spec).tensor for i in range(8)]
    return quantised(parts.network, films)


def make_variants(root: Path, *variants: Mapping[str, Any], version: str = "1.0.0", latest: bool = False) -> BundleRef:
    """Write a tiny binary bundle with these variants (see `variant`)."""
    parts, int8_network = with_variants(variants, version=version)
    ref = write_bundle(
        root,
        parts.manifest,
        network=parts.network,
        head=parts.head,
        reference=parts.reference,
        golden=parts.golden,
        model_card=parts.model_card,
        int8=int8_network,
    )
    if latest:
        (root / "latest").write_text(f"{ref}\n", encoding="ascii")
    return ref
