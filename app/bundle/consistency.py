"""Whether the parts of a manifest fit together: what no field can say of itself. Run by `Manifest` when it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic_core import PydanticCustomError

from app.domain import Rule, Task

if TYPE_CHECKING:
    from app.bundle.manifest import Calibration, Manifest, OperatingPoint, Variant

CLASS_COUNT_ERROR = "class_count_mismatch"  # the type of that one validation error; a bundle is refused by this name


def check(m: Manifest) -> None:
    """Check a manifest.

    Raises:
        ValueError: what does not fit. PydanticCustomError: `class_count_mismatch`.
    """
    _check_classes(m)
    _check_calibration(m, m.calibration)
    names = [p.name for p in m.operating_points]
    if len(set(names)) != len(names):
        raise ValueError("operating points must have different names")
    if m.default_operating_point not in names:
        raise ValueError(f"default operating point {m.default_operating_point!r} is not among {names}")
    for point in m.operating_points:
        _check_point(m, point)
    if len({variant.name for variant in m.variants}) != len(m.variants):
        raise ValueError("variants must have different names")
    for variant in m.variants:
        _check_variant(m, variant)
    _check_decode(m)


def _check_decode(m: Manifest) -> None:
    """One decode serves both networks, and `input` says how; so a reduced one must be large enough for the gate's as well."""
    gate = m.picture_gate
    if gate is None:
        return
    if gate.input.reduced_decode:
        raise ValueError(
            "reduced_decode is a matter of the classifier's input, which decides how a film is decoded for both networks"
        )
    if m.input.reduced_decode and gate.input.size > m.input.size:
        raise ValueError(
            f"reduced_decode for {m.input.size} px leaves too little for the gate's network of {gate.input.size} px"
        )


def _check_classes(m: Manifest) -> None:
    if len(set(m.classes)) != len(m.classes):
        raise ValueError("class names must be different")
    if m.task == "binary" and len(m.classes) != 2:
        raise _class_count(f"a binary bundle has 2 classes, this one {len(m.classes)}")
    expected = 1 if m.task == "binary" else len(m.classes)
    if m.network.logits != expected:
        raise _class_count(
            f"{m.task} with {len(m.classes)} classes needs {expected} logits, the network has {m.network.logits}"
        )


def _class_count(message: str) -> PydanticCustomError:
    return PydanticCustomError(CLASS_COUNT_ERROR, "class-count mismatch: {message}", {"message": message})


def _check_calibration(m: Manifest, calibration: Calibration) -> None:
    """One parameter per logit, whichever the method's are called."""
    lists = [value for value in dict(calibration).values() if isinstance(value, tuple)]
    if any(len(values) != m.network.logits for values in lists):
        raise ValueError(f"{calibration.method} calibration needs parameters for {m.network.logits} logits")


def _check_point(m: Manifest, p: OperatingPoint) -> None:
    allowed: dict[Task, set[Rule]] = {
        "binary": {"threshold", "conformal"},
        "multiclass": {"argmax", "hierarchical", "conformal"},
        "multilabel": {"per_label"},
    }
    if p.rule not in allowed[m.task]:
        raise ValueError(f"operating point {p.name}: rule {p.rule} does not fit a {m.task} bundle")
    wanted = {
        "threshold": {m.classes[1]},
        "argmax": set[str](),
        "hierarchical": set(p.priority),
        "per_label": set(m.classes),
        "conformal": set(m.classes),
    }[p.rule]
    if set(p.thresholds) != wanted:
        raise ValueError(f"operating point {p.name}: thresholds for {sorted(p.thresholds)}, needs {sorted(wanted)}")
    if p.rule == "hierarchical":
        if p.fallback is None or set(p.priority) | {p.fallback} != set(m.classes) or p.fallback in p.priority:
            raise ValueError(f"operating point {p.name}: priority and fallback must name every class once")
        if len(set(p.priority)) != len(p.priority):
            raise ValueError(f"operating point {p.name}: a class stands twice in the priority order")
    elif p.priority or p.fallback:
        raise ValueError(f"operating point {p.name}: priority and fallback belong to the hierarchical rule")
    if p.conformal is not None and p.rule != "conformal":
        raise ValueError(f"operating point {p.name}: coverage belongs to the conformal rule")
    if not set(p.measured) <= set(m.classes):
        raise ValueError(f"operating point {p.name}: measured names an unknown class")


def _check_variant(m: Manifest, v: Variant) -> None:
    if v.calibration is not None:
        _check_calibration(m, v.calibration)
    points = {p.name: set(p.thresholds) for p in m.operating_points}
    if set(v.measured.flips) != set(points) or max(v.measured.flips.values()) > v.measured.n:
        raise ValueError(f"variant {v.name}: flips are counted at every operating point, at most one per film")
    if not set(v.measured.auroc_change) <= set(m.classes):
        raise ValueError(f"variant {v.name}: the AUROC of an unknown class")
    if v.thresholds is not None and {name: set(margins) for name, margins in v.thresholds.items()} != points:
        raise ValueError(
            f"variant {v.name}: thresholds must name every operating point and every class that has one there"
        )
