"""What a promotion policy said of a bundle, as plain values of a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_AUROC: Final = {"name": "auroc", "wanted": "at least 0.90", "measured": "0.95", "passed": True}
PASSED: Final[Mapping[str, Any]] = {
    "policy": "strict",
    "policy_digest": "a" * 64,
    "passed": True,
    "label": "passed",
    "lines": [_AUROC],
}
LABEL: Final = "research-only, gate failed: source shortcut"
FAILED: Final[Mapping[str, Any]] = {
    **PASSED,
    "passed": False,
    "label": LABEL,
    "lines": [
        _AUROC,
        {"name": "source shortcut", "wanted": "at most 0.60", "measured": "0.97", "passed": False},
        {"name": "calibration", "wanted": "at most 0.05", "measured": "0.08", "passed": False},
    ],
}
