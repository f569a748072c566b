"""The bundles on disk: list, verify, read, write. `<root>/<name>/<version>/`, and a text file `<root>/latest`.

Verification goes from the outside in, each step only on what the one before accepted: names of files, manifest schema, size and
SHA-256 of every file, tensors, network walk. All of it happens on bytes that were read once; nothing later goes back to the disk.
The two steps that need a running network, head invariant and golden cases, are `app.selftest`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from app.bundle.contents import check_gate_network, check_network, read_gate, read_golden, read_head, read_reference
from app.bundle.folder import (
    GATE,
    GATE_NETWORK,
    GOLDEN,
    HEAD,
    MANIFEST,
    MODEL_CARD,
    NETWORK,
    NETWORK_INT8,
    REFERENCE,
    BundleFolder,
    open_folder,
)
from app.bundle.manifest import Manifest, Name, Semver
from app.bundle.onnx_walk import inspect_network
from app.bundle.parse import manifest_bytes, parse_manifest, required_files, validate_manifest
from app.bundle.tensors import Arrays, write_npz, write_safetensors
from app.errors import BundleError

LATEST = "latest"
_LATEST_MAX_BYTES = 256
_NAME: TypeAdapter[str] = TypeAdapter(Name)
_SEMVER: TypeAdapter[str] = TypeAdapter(Semver)


@dataclass(frozen=True)
class BundleRef:
    """Which bundle: lower-case name with hyphens, and a version of three numbers.

    Raises:
        BundleError: `bundle_not_found` for words that can name no bundle.
    """

    name: str
    version: str

    def __post_init__(self) -> None:
        if not (_matches(_NAME, self.name) and _matches(_SEMVER, self.version)):
            raise BundleError("bundle_not_found", f"{self.name[:80]!r} / {self.version[:40]!r} can name no bundle")

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"

    @property
    def order(self) -> tuple[str, int, int, int]:
        """Sort key: by name, then by version as numbers."""
        major, minor, patch = (int(part) for part in self.version.split("."))
        return self.name, major, minor, patch

    @classmethod
    def parse(cls, text: str) -> BundleRef:
        """From `name/version`."""
        name, _, version = text.partition("/")
        return cls(name, version)


@dataclass(frozen=True)
class GateParts:
    """The two files of a gate that looks at pictures: the ONNX bytes of its network, and the tensors beside it, float32."""

    network: bytes
    tensors: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class VerifiedBundle:
    """A bundle whose files are what its manifest says. Arrays are read-only.

    digest: SHA-256 of manifest.json, which holds those of all other files. network: the ONNX bytes that were hashed and walked.
    head: float32, empty where `explanation` is `none`. reference, golden: as in DESIGN section 4. path: for messages only.
    gate: None where the manifest has no gate that looks at pictures. int8: as network, the quantised one; None where no variant runs it.
    """

    ref: BundleRef
    digest: str
    manifest: Manifest
    network: bytes
    head: Mapping[str, NDArray[np.float32]]
    reference: Arrays
    golden: Arrays
    path: Path
    gate: GateParts | None = None
    int8: bytes | None = None


class BundleStore:
    """The bundles below one folder.

    Args:
        root: need not exist; may be a link or a mount. Below it no link is followed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def list(self) -> list[BundleRef]:
        """Every folder that is named like a bundle, sound or not, by name and version."""
        refs = []
        for name in _folders(self.root, _NAME):
            refs += [BundleRef(name, version) for version in _folders(self.root / name, _SEMVER)]
        return sorted(refs, key=lambda ref: ref.order)

    def latest(self) -> BundleRef | None:
        """What `<root>/latest` names, or None without such a file. It only seeds an empty history.

        Raises:
            BundleError: `bundle_not_found` if the file does not hold `name/version` in one line.
        """
        try:
            descriptor = os.open(self.root / LATEST, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BundleError("bundle_not_found", f"{LATEST} cannot be read: {error.strerror}") from error
        try:
            text = os.read(descriptor, _LATEST_MAX_BYTES).decode("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError("bundle_not_found", f"{LATEST} does not hold name/version") from error
        finally:
            os.close(descriptor)
        return BundleRef.parse(text.strip())

    def read_manifest(self, ref: BundleRef) -> Manifest:
        """The manifest alone, checked against the schema and its folder; the other files are not looked at.

        Raises:
            BundleError: as `verify`, for the folder and the manifest.
        """
        with open_folder(self.root, ref.name, ref.version) as folder:
            return _manifest(folder.read(MANIFEST), ref)

    def verify(self, ref: BundleRef) -> VerifiedBundle:
        """Read and check a bundle; what comes back needs no file any more.

        Raises:
            BundleError: the first fault found. Folder: `bundle_not_found`, `not_a_regular_file`, `missing_file`, `extra_file`,
                `oversized_file`, `unreadable_file`. Manifest: `unreadable_manifest`, `wrong_schema_version`, `class_count_mismatch`,
                `invalid_manifest`. Hashes: `changed_file`. Tensors: `malformed_tensors`, `head_mismatch`, `gate_mismatch`. Networks:
                `malformed_network`, `external_data`, `custom_operator`, `forbidden_operator`, `unsupported_opset`, `wrong_inputs_outputs`,
                `not_quantised`.
        """
        path = self.root / ref.name / ref.version
        with open_folder(self.root, ref.name, ref.version) as folder:
            return _verify(folder, ref, path)


def write_bundle(
    root: Path,
    manifest: Mapping[str, Any],
    *,
    network: bytes,
    head: Mapping[str, NDArray[np.float32]],
    reference: Arrays,
    golden: Arrays,
    model_card: str,
    gate: GateParts | None = None,
    int8: bytes | None = None,
) -> BundleRef:
    """Write a bundle: all of it, verified, or nothing.

    Args:
        root: folder of bundles; made where missing.
        manifest: every field but `files`, which is filled in here. A `Manifest`'s `model_dump()` will do.
        network: ONNX bytes, all tensors inside.
        head: float32 tensors; empty exactly where `explanation` is `none`.
        reference, golden: arrays of reference.npz and golden.npz.
        model_card: Markdown.
        gate: exactly where the manifest has a gate that looks at pictures.
        int8: ONNX bytes of the quantised network, exactly where a variant runs it.

    Raises:
        BundleError: `bundle_exists`; or why the bundle would not verify.
    """
    files = {
        NETWORK: network,
        REFERENCE: write_npz(reference),
        GOLDEN: write_npz(golden),
        MODEL_CARD: model_card.encode(),
    }
    if head:
        files[HEAD] = write_safetensors(head)
    if gate is not None:
        files |= {GATE_NETWORK: gate.network, GATE: write_safetensors(gate.tensors)}
    if int8 is not None:
        files[NETWORK_INT8] = int8
    entries = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in sorted(files.items())
    }
    checked = validate_manifest({**manifest, "files": entries})
    ref = BundleRef(checked.name, checked.version)
    target = root / ref.name / ref.version
    if target.exists():
        raise BundleError("bundle_exists", f"{ref} exists; a version is written once")
    root.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=root))
    try:
        _write_files(draft, {**files, MANIFEST: manifest_bytes(checked)})
        with open_folder(root, draft.name) as folder:
            _verify(folder, ref, draft)
        _publish(draft, target, ref)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return ref


def _verify(folder: BundleFolder, ref: BundleRef, path: Path) -> VerifiedBundle:
    present = folder.names()
    raw = folder.read(MANIFEST)
    manifest = _manifest(raw, ref)
    required = required_files(manifest)
    for name in sorted(present - required - {MANIFEST}):
        raise BundleError("extra_file", f"{ref} holds {name}, which its manifest does not list")
    data = {name: _read_hashed(folder, name, manifest) for name in sorted(required)}
    head = read_head(data.get(HEAD), manifest)
    reference = read_reference(data[REFERENCE], manifest)
    golden = read_golden(data[GOLDEN], manifest)
    check_network(inspect_network(data[NETWORK]), manifest)
    if NETWORK_INT8 in data:
        check_network(inspect_network(data[NETWORK_INT8], file=NETWORK_INT8), manifest, file=NETWORK_INT8)
    gate = _gate(data, manifest)
    return VerifiedBundle(
        ref=ref,
        digest=hashlib.sha256(raw).hexdigest(),
        manifest=manifest,
        network=data[NETWORK],
        head=head,
        reference=reference,
        golden=golden,
        path=path,
        gate=gate,
        int8=data.get(NETWORK_INT8),
    )


def _gate(data: Mapping[str, bytes], manifest: Manifest) -> GateParts | None:
    picture = manifest.picture_gate
    if picture is None:
        return None
    tensors = read_gate(data[GATE], manifest, picture)
    check_gate_network(inspect_network(data[GATE_NETWORK], file=GATE_NETWORK), picture)
    return GateParts(data[GATE_NETWORK], tensors)


def _manifest(raw: bytes, ref: BundleRef) -> Manifest:
    manifest = parse_manifest(raw)
    if (manifest.name, manifest.version) != (ref.name, ref.version):
        raise BundleError("invalid_manifest", f"the manifest in {ref} is that of {manifest.name}/{manifest.version}")
    return manifest


def _read_hashed(folder: BundleFolder, name: str, manifest: Manifest) -> bytes:
    data, entry = folder.read(name), manifest.files[name]
    if len(data) != entry.size:
        raise BundleError("changed_file", f"{name} has {len(data)} bytes, the manifest lists {entry.size}")
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BundleError("changed_file", f"{name} has another SHA-256 than the manifest lists")
    return data


def _write_files(draft: Path, files: Mapping[str, bytes]) -> None:
    draft.chmod(0o755)
    for name, data in files.items():
        with (draft / name).open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    _sync_folder(draft)


def _publish(draft: Path, target: Path, ref: BundleRef) -> None:
    target.parent.mkdir(exist_ok=True)
    try:
        draft.rename(target)  # fails on a folder that holds anything, so two writers cannot both succeed
    except OSError as error:
        raise BundleError("bundle_exists", f"{ref} cannot be put in its place: {error.strerror}") from error
    _sync_folder(target.parent)
    _sync_folder(target.parent.parent)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _folders(path: Path, pattern: TypeAdapter[str]) -> list[str]:
    try:
        entries = list(os.scandir(path))
    except OSError:
        return []
    return [e.name for e in entries if e.is_dir(follow_symlinks=False) and _matches(pattern, e.name)]


def _matches(pattern: TypeAdapter[str], text: str) -> bool:
    try:
        pattern.validate_python(text, strict=True)
    except ValidationError:
        return False
    return True
