"""From the bytes of manifest.json to a `Manifest`, and back. One strict reader, so that nothing is understood in two ways."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from app.bundle import manifest_v1, manifest_v2, manifest_v3
from app.bundle.consistency import CLASS_COUNT_ERROR
from app.bundle.folder import (
    GATE,
    GATE_NETWORK,
    GOLDEN,
    HEAD,
    MAX_BYTES,
    MODEL_CARD,
    NETWORK,
    NETWORK_INT8,
    REFERENCE,
)
from app.bundle.manifest import SCHEMA_VERSION, Manifest
from app.errors import BundleError

_MAX_FAULTS_SHOWN = 3


def parse_manifest(data: bytes) -> Manifest:
    """Read manifest.json of this format, or of an older one, which is upgraded.

    Raises:
        BundleError: `unreadable_manifest` (not UTF-8 JSON, a key twice, a number that is not finite), `wrong_schema_version`,
            `class_count_mismatch`, `invalid_manifest` (anything else that the schema does not allow).
    """
    raw = _read_json(data)
    version = raw.get("schema_version")
    if type(version) is not int or version not in _READERS:
        raise BundleError("wrong_schema_version", f"the manifest has schema_version {version!r:.40}, this service reads "
                          f"{sorted(_READERS)}; export the bundle again with a matching version")  # fmt: skip
    manifest = _validated(_READERS[version], raw)
    _check_files(manifest)
    return manifest


def validate_manifest(raw: Mapping[str, Any]) -> Manifest:
    """A manifest from plain values (lists, strings, numbers), by the schema alone.

    Raises:
        BundleError: `class_count_mismatch`, `invalid_manifest`.
    """
    return _validated(_current, raw)


def _current(text: str) -> Manifest:
    # strict JSON mode: "224" is no number and 1 is no truth value, but a list is a tuple
    return Manifest.model_validate_json(text, strict=True)


def _version_1(text: str) -> Manifest:
    old = manifest_v1.ManifestV1.model_validate_json(text, strict=True)
    return manifest_v3.upgrade(manifest_v2.upgrade(manifest_v1.upgrade(old)))


def _version_2(text: str) -> Manifest:
    return manifest_v3.upgrade(manifest_v2.upgrade(manifest_v2.ManifestV2.model_validate_json(text, strict=True)))


def _version_3(text: str) -> Manifest:
    return manifest_v3.upgrade(manifest_v3.ManifestV3.model_validate_json(text, strict=True))


_READERS: Mapping[int, Callable[[str], Manifest]] = MappingProxyType(
    {1: _version_1, 2: _version_2, 3: _version_3, SCHEMA_VERSION: _current}
)


def _validated(reader: Callable[[str], Manifest], raw: Mapping[str, Any]) -> Manifest:
    try:
        return reader(json.dumps(raw))
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        code = "invalid_manifest"
        if any(fault["type"] == CLASS_COUNT_ERROR for fault in faults):
            code = "class_count_mismatch"
        shown = [f"{'.'.join(str(part) for part in fault['loc']) or 'manifest'}: {fault['msg']}" for fault in faults]
        more = f" (and {len(shown) - _MAX_FAULTS_SHOWN} more)" if len(shown) > _MAX_FAULTS_SHOWN else ""
        raise BundleError(code, "; ".join(shown[:_MAX_FAULTS_SHOWN]) + more) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise BundleError("invalid_manifest", f"the manifest holds values that are not JSON: {error}") from error


def manifest_bytes(manifest: Manifest) -> bytes:
    """The one way a manifest is written: JSON, two spaces, the schema's order, a final newline."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def required_files(manifest: Manifest) -> frozenset[str]:
    """The files beside manifest.json: no head where nothing can be explained, those of the gate only where it looks at pictures,
    the int8 network only where a variant runs it."""
    files = {NETWORK, REFERENCE, GOLDEN, MODEL_CARD}
    if manifest.network.explanation != "none":
        files |= {HEAD}
    if manifest.picture_gate is not None:
        files |= {GATE_NETWORK, GATE}
    files |= {variant.file for variant in manifest.variants}
    return frozenset(files)


def _check_files(manifest: Manifest) -> None:
    listed, wanted = set(manifest.files), required_files(manifest)
    if listed != wanted:
        raise BundleError(
            "invalid_manifest",
            f"files: lists {sorted(listed - wanted)[:3]} too many and lacks {sorted(wanted - listed)}",
        )
    for name, entry in manifest.files.items():
        if entry.size > MAX_BYTES[name]:
            raise BundleError(
                "oversized_file", f"{name} is listed with {entry.size} bytes, more than {MAX_BYTES[name]}"
            )
    small = manifest.files.get(NETWORK_INT8)
    if small is not None and small.size > manifest.files[NETWORK].size:
        raise BundleError(
            "oversized_file",
            f"{NETWORK_INT8} has {small.size} bytes, more than the {manifest.files[NETWORK].size} of {NETWORK}",
        )


def _read_json(data: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_not_finite,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise BundleError("unreadable_manifest", f"the manifest is not strict JSON: {error}") from error
    if not isinstance(raw, dict):
        raise BundleError("unreadable_manifest", "the manifest is not a JSON object")
    return raw


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return values


def _not_finite(word: str) -> float:
    raise ValueError(f"{word} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large")
    return value
