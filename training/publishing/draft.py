"""A bundle on its way to its place: rehearsed in a folder that is thrown away, then written, verified and self-tested, then perhaps
the latest. Every command that writes a bundle goes through here."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Manifest, Variant
from app.bundle.store import LATEST, BundleRef, BundleStore, GateParts, VerifiedBundle, write_bundle
from app.errors import BundleError, ConfigurationError
from app.inference.engine import Engine, OnnxRuntimeEngine
from app.inference.openvino import OpenVinoEngine
from app.selftest import self_test
from training.places import Places
from training.publishing.card import model_card
from training.runs import write_atomically

By = Literal["onnxruntime", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]

# Largest bundle without an int8 network, bytes: float32 weights (parameters below) and at most about 10 MB of everything else.
MAX_BYTES: Mapping[str, int] = MappingProxyType(
    {
        "resnet18": 60_000_000,  # 11.2 million
        "resnet50": 115_000_000,  # 23.5 million
        "densenet121": 45_000_000,  # 7.0 million
        "efficientnet_b0": 35_000_000,  # 4.0 million
        "swin_t": 135_000_000,  # 27.5 million, and tables of relative positions
        "cnn3": 15_000_000,  # 0.1 million
        "tiny_cnn": 15_000_000,
    }
)


@dataclass(frozen=True)
class Draft:
    """Everything that a bundle is made of. gate: where the manifest has one that looks at pictures; int8: where a variant runs it."""

    manifest: Manifest
    network: bytes
    head: Mapping[str, NDArray[np.float32]]
    reference: Mapping[str, NDArray[Any]]
    golden: Mapping[str, NDArray[Any]]
    gate: GateParts | None = None
    int8: bytes | None = None

    @classmethod
    def of(cls, bundle: VerifiedBundle, manifest: Manifest, *, int8: bytes | None) -> Draft:
        """The next version of a bundle, with the same files but for the manifest and the int8 network."""
        return cls(manifest, bundle.network, bundle.head, bundle.reference, bundle.golden, bundle.gate, int8)

    def written(self, root: Path) -> VerifiedBundle:
        """Written below the folder, verified and self-tested there. Raises BundleError."""
        ref = write_bundle(
            root,
            self.manifest.model_dump(mode="json", exclude={"files"}),
            network=self.network,
            head=self.head,
            reference=self.reference,
            golden=self.golden,
            model_card=model_card(self.manifest),
            gate=self.gate,
            int8=self.int8,
        )
        bundle = BundleStore(root).verify(ref)
        gate = None if bundle.gate is None else OnnxRuntimeEngine(bundle.gate.network)
        self_test(bundle, OnnxRuntimeEngine(bundle.network), gate)
        for variant in bundle.manifest.variants:
            engine = _available(bundle, variant)
            if engine is not None:
                self_test(bundle, engine, gate, variant=variant)
        return bundle

    def rehearse(self) -> None:
        """Write, verify and self-test in a folder that is thrown away: what fails here never stands among the bundles.

        Raises BundleError, and ConfigurationError where it is too large.
        """
        with tempfile.TemporaryDirectory() as folder:
            size = size_of(self.written(Path(folder))) - len(self.int8 or b"")
        architecture = self.manifest.network.architecture
        most = MAX_BYTES[architecture]
        if size > most:
            raise ConfigurationError(
                "bundle_too_large", f"the bundle would have {size} bytes, at most {most} are wanted of a {architecture}"
            )


def engine_of(by: By, precision: Precision, network: bytes, int8: bytes | None, *, threads: int = 1) -> Engine:
    """An engine of the float32 network or the int8 one.

    Raises BundleError: `engine_unavailable`, `engine_precision` (this CPU computes in another), or that it refuses the network.
    """
    file = int8 if precision == "int8" else network
    if file is None:
        raise BundleError("missing_file", f"{by}-{precision} needs a quantised network, and there is none")
    if by == "openvino":
        return OpenVinoEngine(file, precision=precision, threads=threads)
    return OnnxRuntimeEngine(file, threads=threads, precision="int8" if precision == "int8" else "fp32")


def _available(bundle: VerifiedBundle, variant: Variant) -> Engine | None:
    """None where this machine cannot run an admitted variant that was measured elsewhere, and for one that is never served."""
    if not variant.admitted:
        return None
    try:
        return engine_of(variant.engine, variant.precision, bundle.network, bundle.int8)
    except BundleError as error:
        if error.code in {"engine_unavailable", "engine_precision"}:
            return None
        raise


def publish(draft: Draft, places: Places) -> tuple[VerifiedBundle, bool]:
    """The bundle in its place after a rehearsal, and whether `latest` points at it now: only one that may serve patients does.

    Raises BundleError, and ConfigurationError where it is too large.
    """
    draft.rehearse()
    bundle = draft.written(places.bundles)
    latest = bundle.manifest.research_label is None and bundle.manifest.licence.commercial_use
    if latest:
        write_atomically(places.bundles / LATEST, f"{bundle.ref}\n".encode())
    return bundle, latest


def check_new(ref: BundleRef, places: Places) -> None:
    """Raises ConfigurationError where the version exists, before hours are spent on it."""
    if (places.bundles / ref.name / ref.version).exists():
        raise ConfigurationError("bundle_exists", f"{ref} exists; a version is written once")


def size_of(bundle: VerifiedBundle) -> int:
    """Bytes of all files but the manifest."""
    return sum(entry.size for entry in bundle.manifest.files.values())
