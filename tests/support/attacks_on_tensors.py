"""Attacks on a bundle's tensor files: head.safetensors, golden.npz, reference.npz."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load as load_head
from safetensors.numpy import save as save_head

from tests.support.attacks_on_files import edit_manifest
from tests.support.bundle_victim import GOLDEN, HEAD, REFERENCE, Apply, AttackList, Victim

ON_TENSORS = AttackList()
_add = ON_TENSORS.add
_when_run = partial(ON_TENSORS.add, by="run")
MALFORMED = "malformed_tensors"
MISMATCH = "golden_mismatch"

# the head


def _head(change: Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]) -> Apply:
    return lambda v: v.write(HEAD, save_head(change(load_head(v.read(HEAD)))))


def _safetensors(header: dict[str, Any], body: bytes) -> Apply:
    text = json.dumps(header).encode()
    return lambda v: v.write(HEAD, len(text).to_bytes(8, "little") + text + body)


_add("head of two logits", "head_mismatch", _head(lambda h: {**h, "weight": np.repeat(h["weight"], 2, axis=0)}))
_add("head of 8 channels", "head_mismatch", _head(lambda h: {**h, "weight": np.ascontiguousarray(h["weight"][:, :8])}))
_add("head turned", "head_mismatch", _head(lambda h: {**h, "weight": np.ascontiguousarray(h["weight"].T)}))
_add("head with one more tensor", "head_mismatch", _head(lambda h: {**h, "extra": h["bias"]}))
_add("head without bias", "head_mismatch", _head(lambda h: {"weight": h["weight"]}))
_add("head of another kind", "head_mismatch", _head(lambda h: {f"0.{name}": values for name, values in h.items()}))
_add("empty head", "head_mismatch", _head(lambda _: {}))
_add("head with NaN", "head_mismatch", _head(lambda h: {**h, "bias": np.full(1, np.nan, np.float32)}))
_add("head of float64", MALFORMED, _head(lambda h: {k: v.astype(np.float64) for k, v in h.items()}))
_when_run("head with other weights", "head_mismatch", _head(lambda h: {**h, "weight": h["weight"] * np.float32(1.01)}))
_when_run("head with another bias", "head_mismatch", _head(lambda h: {**h, "bias": h["bias"] + np.float32(0.01)}))
_add("head is no safetensors", MALFORMED, lambda v: v.write(HEAD, b"\x80\x04K\x01."))
_add("head whose header has no end", MALFORMED, lambda v: v.write(HEAD, b"\xff" * 8 + b"{}"))
_add(
    "head with overlapping tensors",
    MALFORMED,
    _safetensors(
        {
            "weight": {"dtype": "F32", "shape": [1, 16], "data_offsets": [0, 64]},
            "bias": {"dtype": "F32", "shape": [1], "data_offsets": [60, 64]},
        },
        b"\0" * 64,
    ),
)
_add(
    "head with a lying shape",
    MALFORMED,
    _safetensors({"weight": {"dtype": "F32", "shape": [1 << 40, 16], "data_offsets": [0, 64]}}, b"\0" * 64),
)
_add(
    "head of a type numpy has not",
    MALFORMED,
    _safetensors({"weight": {"dtype": "BF16", "shape": [1, 16], "data_offsets": [0, 32]}}, b"\0" * 32),
)


# npz files


def _array(file: str, name: str, change: Callable[[NDArray[Any]], Any]) -> Apply:
    """One array of an npz file becomes another (a new one starts as [0])."""
    return lambda v: v.write_arrays(file, {**v.arrays(file), name: change(v.arrays(file).get(name, np.zeros(1)))})


def _npz(name: str, change: Callable[[dict[str, NDArray[Any]]], dict[str, Any]]) -> Apply:
    return lambda v: v.write_arrays(name, change(v.arrays(name)))


def _zip(change: Callable[[zipfile.ZipFile], None], *, without: str = "") -> Apply:
    """golden.npz with its own entries (but for one) and what `change` writes."""

    def apply(v: Victim) -> None:
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(v.read(GOLDEN))) as old, zipfile.ZipFile(out, "w") as new:
            for info in old.infolist():
                if info.filename != without:
                    new.writestr(info.filename, old.read(info))
            change(new)
        v.write(GOLDEN, out.getvalue())

    return apply


def _npy(header: bytes, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    size = len(header).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + size + header + body


def _golden_npy(name: str, payload: bytes) -> Apply:
    return _zip(lambda z: z.writestr(f"{name}.npy", payload), without=f"{name}.npy")


def _plain(shape: str, *, descr: str = "<f4", fortran: bool = False) -> bytes:
    return f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()


_LOGITS = np.zeros(1, np.float32).tobytes()
_add("golden is no zip", MALFORMED, lambda v: v.write(GOLDEN, b"PK\x03\x04nothing"))
_add("golden is a pickle", MALFORMED, lambda v: v.write(GOLDEN, b"\x80\x04K\x01."))
_add("golden holds pickled objects", MALFORMED, _array(GOLDEN, "logits_0", lambda _: np.array([None])))
_add("golden lacks an array", MALFORMED, _npz(GOLDEN, lambda a: {k: a[k] for k in a if k != "tensor_1"}))
_add("golden has one more array", MALFORMED, _array(GOLDEN, "extra", lambda a: a))
_add("golden without cases", MALFORMED, _npz(GOLDEN, lambda _: {"n": np.zeros(1)}))
_add("golden tensor of float64", MALFORMED, _array(GOLDEN, "tensor_0", lambda a: a.astype(np.float64)))
_add("golden tensor of 32 px", MALFORMED, _array(GOLDEN, "tensor_0", lambda a: a[:, :32]))
_add("golden phantom of one pixel", MALFORMED, _array(GOLDEN, "phantom_0", lambda a: a[:1, :1]))
_add("golden logits of NaN", MALFORMED, _array(GOLDEN, "logits_0", lambda a: a * np.float32(np.nan)))
_add("golden text not ASCII", MALFORMED, _array(GOLDEN, "decisions_0", lambda _: np.array("é")))
_add(
    "golden text over its size",
    MALFORMED,
    _array(GOLDEN, "decisions_0", lambda _: np.array("x" * 20_000)),
)
_add(
    "golden text without code points",
    MALFORMED,
    _golden_npy("decisions_0", _npy(_plain("()", descr="<U1"), b"\xff\xff\xff\xff")),
)
_add("golden array that climbs", MALFORMED, _zip(lambda z: z.writestr("../evil.npy", b"x")))
_add("golden entry that is no array", MALFORMED, _zip(lambda z: z.writestr("evil.py", b"x")))
_add("golden with a lying shape", MALFORMED, _golden_npy("logits_0", _npy(_plain("(1,)"), _LOGITS * 2)))
_add("golden shape below zero", MALFORMED, _golden_npy("logits_0", _npy(_plain("(-1,)"), _LOGITS)))
_add("golden shape of 2^62", MALFORMED, _golden_npy("phantom_0", _npy(_plain("(1<<31,)", descr="|u1"))))
_add(
    "golden phantom of 2^62 px",
    MALFORMED,
    _golden_npy("phantom_0", _npy(_plain(f"({1 << 31}, {1 << 31})", descr="|u1"))),
)
_add("golden in Fortran order", MALFORMED, _golden_npy("logits_0", _npy(_plain("(1,)", fortran=True), _LOGITS)))
_add("golden of npy version 3", MALFORMED, _golden_npy("logits_0", _npy(_plain("(1,)"), _LOGITS, b"\x03\x00")))
_add("golden with a huge npy header", MALFORMED, _golden_npy("logits_0", _npy(_plain("(1,)") + b" " * 60_000, _LOGITS)))
_add("golden with a deep npy header", MALFORMED, _golden_npy("logits_0", _npy(b"(" * 3_000, _LOGITS)))
_add("golden big-endian", MALFORMED, _golden_npy("logits_0", _npy(_plain("(1,)", descr=">f4"), _LOGITS)))
_add("golden npy without a body", MALFORMED, _golden_npy("logits_0", b"\x93NUMPY\x01"))


@ON_TENSORS.named(MALFORMED)
def golden_zip_bomb(v: Victim) -> None:
    """A few hundred kilobytes that inflate to 140 MB."""
    body = _npy(_plain(f"(4096, {140_000_000 // 4096})", descr="|u1")) + b"\0" * 140_000_000
    _zip(lambda z: z.writestr("phantom_0.npy", body, zipfile.ZIP_DEFLATED), without="phantom_0.npy")(v)


@ON_TENSORS.named(MALFORMED)
def golden_zip_bomb_that_declares_little(v: Victim) -> None:
    name = b"phantom_0.npy"
    body = _npy(_plain("(64, 64)", descr="|u1"), b"\0" * 5_000_000)
    _zip(lambda z: z.writestr("phantom_0.npy", body, zipfile.ZIP_DEFLATED), without="phantom_0.npy")(v)
    data = bytearray(v.read(GOLDEN))
    size = len(body).to_bytes(4, "little")
    for header in (b"PK\x03\x04", b"PK\x01\x02"):
        at = data.index(header)
        while not data[at:].startswith(header) or name not in data[at : at + 80]:
            at = data.index(header, at + 1)
        where = data.index(size, at)
        data[where : where + 4] = (4_300).to_bytes(4, "little")
    v.write(GOLDEN, bytes(data))


@ON_TENSORS.named(MALFORMED)
def golden_array_twice(v: Victim) -> None:
    out = io.BytesIO(v.read(GOLDEN))
    with zipfile.ZipFile(out, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("logits_0.npy", archive.read("logits_1.npy"))
    v.write(GOLDEN, out.getvalue())


def _golden_compression(method: int) -> Apply:
    def apply(v: Victim) -> None:
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(v.read(GOLDEN))) as old, zipfile.ZipFile(out, "w", method) as new:
            for info in old.infolist():
                new.writestr(info.filename, old.read(info))
        v.write(GOLDEN, out.getvalue())

    return apply


_add("golden compressed by lzma", MALFORMED, _golden_compression(zipfile.ZIP_LZMA))
_add("golden compressed by bzip2", MALFORMED, _golden_compression(zipfile.ZIP_BZIP2))


@ON_TENSORS.named(MALFORMED)
def golden_encrypted(v: Victim) -> None:
    data = bytearray(v.read(GOLDEN))
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    v.write(GOLDEN, bytes(data))


_add("reference lacks an array", MALFORMED, _npz(REFERENCE, lambda a: {k: a[k] for k in a if k != "n"}))
_add("reference edges that fall", MALFORMED, _array(REFERENCE, "edges_mean", lambda a: a[::-1].copy()))
_add("reference shares above one", MALFORMED, _array(REFERENCE, "proportions_std", lambda a: a * 2))
_add(
    "reference with a bin too many",
    MALFORMED,
    _array(REFERENCE, "edges_std", lambda a: a[1:]),
)
_add("reference of no film", MALFORMED, _array(REFERENCE, "n", lambda a: a * 0))
_add("reference of another network", MALFORMED, _array(REFERENCE, "projection", lambda a: a[:, :8]))
_add("reference with NaN", MALFORMED, _array(REFERENCE, "projected_mean", lambda a: a * np.nan))
_add("reference that is no covariance", MALFORMED, _array(REFERENCE, "projected_cov", lambda a: -a))

# golden cases that the bundle does not reproduce

_when_run("golden logits off by 0.01", MISMATCH, _array(GOLDEN, "logits_1", lambda a: a + np.float32(0.01)))
_when_run("golden hash of another image", MISMATCH, _array(GOLDEN, "resized_sha256_1", lambda _: np.array("0" * 64)))
_when_run("golden tensor off by 1e-3", MISMATCH, _array(GOLDEN, "tensor_1", lambda a: a + np.float32(1e-3)))
_when_run("golden of another decision", MISMATCH, _npz(GOLDEN, lambda a: {**a, "decisions_0": a["decisions_1"]}))
_when_run("golden of another phantom", MISMATCH, _npz(GOLDEN, lambda a: {**a, "phantom_0": a["phantom_1"]}))
_when_run("other normalisation", MISMATCH, edit_manifest("input.normalisation.std_floor", 100.0))
_when_run("other resize", MISMATCH, edit_manifest("input.resize", "pad"))


def _move_threshold(tolerances: float) -> Apply:
    """Put a threshold that many tolerances below the first golden's margin."""

    def apply(v: Victim) -> None:
        logit = float(v.arrays(GOLDEN)["logits_0"][0])
        margin = logit - tolerances * 1e-3 * max(1.0, abs(logit))
        manifest = v.manifest()
        manifest["operating_points"][1]["thresholds"]["pneumonia"] = margin
        v.write_manifest(manifest)

    return apply


_when_run("golden on a threshold", "golden_near_threshold", _move_threshold(0.0))
_when_run("golden 9 tolerances from a threshold", "golden_near_threshold", _move_threshold(9.0))
_when_run(
    "threshold moved past a golden", MISMATCH, edit_manifest("operating_points.0.thresholds", {"pneumonia": 50.0})
)
