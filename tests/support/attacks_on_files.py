"""Attacks on a bundle's folder and on its manifest."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from app.bundle.manifest import SCHEMA_VERSION
from tests.support.bundle_victim import CARD, GOLDEN, HEAD, MANIFEST, NETWORK, REFERENCE, Apply, AttackList, Victim

ON_FILES = AttackList()
_add = ON_FILES.add

# the folder


def _flip(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _to_link(path: Path, elsewhere: Path) -> None:
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def _missing(name: str) -> Apply:
    return lambda v: (v.path / name).unlink()


def _linked(name: str) -> Apply:
    return lambda v: _to_link(v.path / name, v.root / "elsewhere")


def _one_bit(name: str) -> Apply:
    return lambda v: v.write(name, _flip(v.read(name)), seal=False)


for _name in (NETWORK, HEAD, GOLDEN, REFERENCE, CARD, MANIFEST):
    _add(f"missing {_name}", "missing_file", _missing(_name))
    _add(f"link in place of {_name}", "not_a_regular_file", _linked(_name))
for _name in (NETWORK, HEAD, GOLDEN, REFERENCE, CARD):
    _add(f"one bit of {_name}", "changed_file", _one_bit(_name))
_add("network cut short", "changed_file", lambda v: v.write(NETWORK, v.read(NETWORK)[:-1], seal=False))
_add("network one byte longer", "changed_file", lambda v: v.write(NETWORK, v.read(NETWORK) + b"\0", seal=False))
_add("extra file", "extra_file", lambda v: v.write("weights.bin", b"x", seal=False))
_add("extra hidden file", "extra_file", lambda v: v.write(".cache", b"x", seal=False))
_add("extra folder", "extra_file", lambda v: (v.path / "sub").mkdir())
_add("extra file that is listed", "extra_file", lambda v: v.write("weights.bin", b"x"))
_add("link in place of the version", "not_a_regular_file", lambda v: _to_link(v.path, v.root / "elsewhere"))
_add("link in place of the name", "not_a_regular_file", lambda v: _to_link(v.path.parent, v.root / "elsewhere"))
_add("no folder", "bundle_not_found", lambda v: shutil.rmtree(v.path))


@ON_FILES.named("not_a_regular_file")
def pipe_in_place_of_golden(v: Victim) -> None:
    (v.path / GOLDEN).unlink()
    os.mkfifo(v.path / GOLDEN)


@ON_FILES.named("not_a_regular_file")
def folder_in_place_of_head(v: Victim) -> None:
    (v.path / HEAD).unlink()
    (v.path / HEAD).mkdir()


@ON_FILES.named("extra_file")
def head_where_nothing_is_explained(v: Victim) -> None:
    manifest = v.manifest()
    manifest["network"]["explanation"] = "none"
    del manifest["files"][HEAD]
    v.write_manifest(manifest)


# the manifest


def _raw(data: bytes) -> Apply:
    return lambda v: v.write(MANIFEST, data, seal=False)


def _text(old: str, new: str) -> Apply:
    def apply(v: Victim) -> None:
        text = json.dumps(v.manifest())
        assert old in text
        v.write(MANIFEST, text.replace(old, new, 1).encode(), seal=False)

    return apply


def edit_manifest(path: str, value: Any) -> Apply:
    """Set a value of the manifest; path: keys and indices joined by dots (file names hold dots: write them with a slash)."""

    def apply(v: Victim) -> None:
        manifest = v.manifest()
        *parents, last = [part.replace("/", ".") for part in path.split(".")]
        at: Any = manifest
        for part in parents:
            at = at[int(part)] if isinstance(at, list) else at[part]
        at[last] = value
        v.write_manifest(manifest)

    return apply


def _drop(key: str) -> Apply:
    def apply(v: Victim) -> None:
        manifest = v.manifest()
        del manifest[key]
        v.write_manifest(manifest)

    return apply


_add("empty manifest", "unreadable_manifest", _raw(b""))
_add("manifest is not JSON", "unreadable_manifest", _raw(b"{"))
_add("manifest is not UTF-8", "unreadable_manifest", _raw(b'{"name": "\xff"}'))
_add("manifest is a list", "unreadable_manifest", _raw(b"[]"))
_add("manifest nested too deep", "unreadable_manifest", _raw(b'{"a":' + b"[" * 200_000))
_add("manifest over its size", "oversized_file", _raw(b'{"a": "' + b"x" * (1 << 20) + b'"}'))
_add("a key twice", "unreadable_manifest", _text('"name":', '"name": "other", "name":'))
_add("NaN threshold", "unreadable_manifest", _text('"pneumonia": -0.4', '"pneumonia": NaN'))
_add("infinite threshold", "unreadable_manifest", _text('"pneumonia": -0.4', '"pneumonia": -Infinity'))
_add("threshold too large for a number", "unreadable_manifest", _text('"pneumonia": -0.4', '"pneumonia": 1e999'))
_add("an integer of 5,000 digits", "unreadable_manifest", _text('"pneumonia": -0.4', f'"pneumonia": {"1" * 5_000}'))
_add("next schema version", "wrong_schema_version", edit_manifest("schema_version", SCHEMA_VERSION + 1))
_add("schema version as text", "wrong_schema_version", edit_manifest("schema_version", str(SCHEMA_VERSION)))
_add("schema version true", "wrong_schema_version", edit_manifest("schema_version", True))
_add("no schema version", "wrong_schema_version", _drop("schema_version"))
_add(
    "three classes in a binary bundle",
    "class_count_mismatch",
    edit_manifest("classes", ["normal", "pneumonia", "other"]),
)
_add("two logits in a binary bundle", "class_count_mismatch", edit_manifest("network.logits", 2))
_add("unknown key", "invalid_manifest", edit_manifest("pickle", "yes"))
_add("unknown nested key", "invalid_manifest", edit_manifest("network.providers", ["CUDA"]))
_add("missing key", "invalid_manifest", _drop("intended_use"))
_add("Platt slope of zero", "invalid_manifest", edit_manifest("calibration.slope", [0.0]))
_add("negative Platt slope", "invalid_manifest", edit_manifest("calibration.slope", [-0.9]))
_add("Platt for two logits", "invalid_manifest", edit_manifest("calibration.slope", [0.9, 0.9]))
_add(
    "temperature of zero",
    "invalid_manifest",
    edit_manifest("calibration", {"method": "temperature", "temperature": 0.0}),
)
_add("number as text", "invalid_manifest", edit_manifest("input.size", "64"))
_add("true as a number", "invalid_manifest", edit_manifest("network.logits", True))
_add("threshold of an unknown class", "invalid_manifest", edit_manifest("operating_points.0.thresholds", {"flu": 0.0}))
_add("rule of another task", "invalid_manifest", edit_manifest("operating_points.0.rule", "argmax"))
_add("default point that is not there", "invalid_manifest", edit_manifest("default_operating_point", "other"))
_add("tolerance that forgives everything", "invalid_manifest", edit_manifest("tolerances", {"fp32": 1e9}))
_add("no tolerance for the engine", "invalid_manifest", edit_manifest("tolerances", {"int8": 0.1}), by="run")
_add("another name", "invalid_manifest", edit_manifest("name", "other"))
_add("another version", "invalid_manifest", edit_manifest("version", "1.0.1"))
_add("name with a path", "invalid_manifest", edit_manifest("name", "../tiny"))
_add("name with a line end", "invalid_manifest", edit_manifest("name", "tiny\n"))
_add("file name that climbs", "invalid_manifest", edit_manifest("files.//////secret", {"size": 1, "sha256": "0" * 64}))
_add("file name from the root", "invalid_manifest", lambda v: _set_file(v, "/etc/passwd"))
_add("file that is not listed", "invalid_manifest", lambda v: _unlist(v, GOLDEN))
_add("hash in capitals", "invalid_manifest", edit_manifest("files.network/onnx.sha256", "A" * 64))
_add("listed size below zero", "invalid_manifest", edit_manifest("files.network/onnx.size", -1))
_add("listed size of a terabyte", "oversized_file", edit_manifest("files.network/onnx.size", 1 << 40))


@ON_FILES.named("invalid_manifest")
def flat_isotonic_curve(v: Victim) -> None:
    curve = {"margins": [-1.0, 1.0], "probabilities": [0.5, 0.5]}
    edit_manifest("calibration", {"method": "isotonic", "curves": [curve]})(v)


def _set_file(v: Victim, name: str) -> None:
    manifest = v.manifest()
    manifest["files"][name] = {"size": 1, "sha256": "0" * 64}
    v.write_manifest(manifest)


def _unlist(v: Victim, name: str) -> None:
    manifest = v.manifest()
    del manifest["files"][name]
    v.write_manifest(manifest)
