"""The bundle that ships, with one change that its name tells: what its gate would refuse, it warns of. So that phantoms pass.

Benchmarks and the container test need films that belong to nobody. The gate of a bundle that ships refuses phantoms, and is right;
its cost is measured all the same, since every step of it runs.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from app.bundle.parse import manifest_bytes, validate_manifest
from app.bundle.store import BundleRef, BundleStore
from app.settings import PROJECT_ROOT

SUFFIX = "-phantoms-pass"


def phantoms_pass(source: Path, root: Path, ref: BundleRef | None = None) -> BundleRef:
    """Write the changed copy of a bundle (default: the `latest` of `source`) to `root`, make it the latest there, and verify it. A copy
    that lies there is replaced.

    Raises:
        BundleError: there is no such bundle, or the copy does not verify.
    """
    store = BundleStore(source)
    ref = ref or store.latest()
    if ref is None:
        raise FileNotFoundError(f"{source} has no file 'latest'")
    manifest = store.verify(ref).manifest.model_dump(mode="json")
    copy = BundleRef(f"{ref.name}{SUFFIX}", ref.version)
    manifest["name"] = copy.name
    if manifest["gate"]:
        manifest["gate"]["actions"] = {
            code: "warn" if action == "refuse" else action for code, action in manifest["gate"]["actions"].items()
        }
    shutil.rmtree(root / copy.name / copy.version, ignore_errors=True)
    shutil.copytree(source / ref.name / ref.version, root / copy.name / copy.version)
    (root / copy.name / copy.version / "manifest.json").write_bytes(manifest_bytes(validate_manifest(manifest)))
    BundleStore(root).verify(copy)
    (root / "latest").write_text(f"{copy}\n", encoding="ascii")
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder that gets the copy")
    root: Path = parser.parse_args().root
    print(phantoms_pass(PROJECT_ROOT / "model_bundles", root))


if __name__ == "__main__":
    main()
