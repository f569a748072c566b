"""A sound bundle that is about to be damaged, and what an attack on it is. The attacks themselves: `bundle_attacks.ATTACKS`."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from app.bundle.store import BundleRef, BundleStore, VerifiedBundle
from app.inference.engine import OnnxRuntimeEngine
from app.selftest import self_test

NETWORK, HEAD, GOLDEN, REFERENCE = "network.onnx", "head.safetensors", "golden.npz", "reference.npz"
GATE_NETWORK, GATE = "gate.onnx", "gate.safetensors"
CARD, MANIFEST = "MODEL_CARD.md", "manifest.json"


def load(root: Path, ref: BundleRef) -> VerifiedBundle:
    """What the service does with a bundle before it serves it."""
    bundle = BundleStore(root).verify(ref)
    gate = OnnxRuntimeEngine(bundle.gate.network) if bundle.gate is not None else None
    self_test(bundle, OnnxRuntimeEngine(bundle.network), gate)
    return bundle


class Victim:
    """A written bundle that is about to be damaged; `network` is the file that the attacks on networks are aimed at."""

    def __init__(self, root: Path, ref: BundleRef, network: str = NETWORK) -> None:
        self.root = root
        self.network = network
        self.path = root / ref.name / ref.version

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes, *, seal: bool = True) -> None:
        """Replace a file; `seal` makes its size and hash in the manifest right again."""
        (self.path / name).write_bytes(data)
        if seal:
            manifest = self.manifest()
            manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            self.write_manifest(manifest)

    def manifest(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.read(MANIFEST))
        return loaded

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        (self.path / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")

    def model(self) -> onnx.ModelProto:
        return onnx.load_from_string(self.read(self.network))

    def write_model(self, model: onnx.ModelProto) -> None:
        self.write(self.network, model.SerializeToString())

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        with np.load(io.BytesIO(self.read(name)), allow_pickle=False) as loaded:
            return dict(loaded)

    def write_arrays(self, name: str, arrays: dict[str, NDArray[Any]]) -> None:
        out = io.BytesIO()
        np.savez_compressed(out, **arrays)  # type: ignore[arg-type]  # its stub has `allow_pickle` before the arrays
        self.write(name, out.getvalue())


Apply: TypeAlias = Callable[[Victim], None]


@dataclass(frozen=True)
class Attack:
    """name: for the test report; code: by which the bundle must be refused.

    by: `store` if reading alone must stop it, before any of it is run; `run` if only the running network can tell.
    on: the file it is aimed at, where that is the network of a bundle's gate.
    """

    name: str
    code: str
    apply: Apply
    by: Literal["store", "run"] = "store"
    on: str = NETWORK


class AttackList:
    """Collects attacks, one call each or by decorator."""

    def __init__(self) -> None:
        self.attacks: list[Attack] = []

    def add(self, name: str, code: str, apply: Apply, *, by: Literal["store", "run"] = "store") -> None:
        self.attacks.append(Attack(name, code, apply, by))

    def named(self, code: str) -> Callable[[Apply], Apply]:
        """Decorator: the function is the attack and gives the name."""

        def register(apply: Apply) -> Apply:
            self.add(apply.__name__, code, apply)
            return apply

        return register
