"""The bundle `phantom-demo` that ships beside the real ones: for trying the service without a film of anybody. It judges nothing.

`python -m tests.support.phantom_demo model_bundles 1.0.0` writes it. Random weights, and a gate that knows phantoms: it takes those of
`cxr phantom`, which the bundles for patients refuse, and refuses real films.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from app.bundle.store import BundleRef
from tests.support.tiny_bundle import tiny_parts, write_tiny

NAME = "phantom-demo"
CARD = """# phantom-demo

A toy for trying the service with `cxr phantom`: a three-layer network with random weights. **It judges nothing.** Its gate takes generated
phantoms and refuses real films, so it cannot be mistaken for a model of patients. Made by `python -m tests.support.phantom_demo`.
"""


def write_phantom_demo(root: Path, version: str) -> BundleRef:
    parts = tiny_parts(name=NAME, version=version, gate={})
    manifest = dict(parts.manifest)
    manifest["intended_use"] = {
        **manifest["intended_use"],
        "purpose": "Trying the service without a film of anybody: random weights.",
        "limits": "Judges nothing. Refuses real films.",
    }
    manifest["calibration_chosen_by"] = "set by hand"
    manifest["provenance"] = {**manifest["provenance"], "recipe": "tests/support/phantom_demo.py"}
    return write_tiny(root, replace(parts, manifest=manifest, model_card=CARD))


if __name__ == "__main__":
    print(write_phantom_demo(Path(sys.argv[1]), sys.argv[2]))
