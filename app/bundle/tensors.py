"""Strict reading and repeatable writing of the two tensor formats of a bundle: npz and safetensors. From bytes, never a path.

npz is read without numpy's loader: sizes are checked where they are declared, before anything is inflated; no pickle, no
object arrays, no Fortran order; every array must be one that the caller expects, by name, element type and shape.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from app.errors import BundleError

Arrays: TypeAlias = Mapping[str, NDArray[Any]]

_SUFFIX = ".npy"
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed time, so that the same arrays give the same bytes
_NPY_MAGIC = b"\x93NUMPY\x01\x00"
# Format of numpy.lib.format, version 1.0. Numbers and unicode only: no objects (pickle), no structures, no Fortran order.
_NPY_HEADER = re.compile(
    rb"\{'descr': '(?P<descr>[|<](?:[ui][1248]|f[248])|<U[0-9]{1,5})', 'fortran_order': False, "
    rb"'shape': \((?P<shape>|[0-9]{1,9},|[0-9]{1,9}(?:, [0-9]{1,9}){1,7})\), \} *\n"
)
_ENCRYPTED = 0x1
_MAX_ENTRIES = 512


@dataclass(frozen=True)
class ArraySpec:
    """What an array must be.

    dtypes: exact numpy names; `str` = unicode (ASCII only) of at most `max_chars`. shape: None = any size from 1.
    finite: no NaN and no infinity.
    """

    dtypes: tuple[str, ...]
    shape: tuple[int | None, ...]
    max_chars: int = 0
    finite: bool = True

    def refusal(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> str | None:
        """Why an array of that type and shape is not the one wanted, or None."""
        if dtype.kind == "U":
            if "str" not in self.dtypes or not 4 <= dtype.itemsize <= 4 * self.max_chars or not dtype.isnative:
                return f"has the type {dtype}"
        elif dtype.name not in self.dtypes or not dtype.isnative:
            return f"has the type {dtype}, wanted {' or '.join(self.dtypes)}"
        fits = len(shape) == len(self.shape) and all(
            have >= 1 if want is None else have == want for have, want in zip(shape, self.shape, strict=True)
        )
        return None if fits else f"has the shape {list(shape)}, wanted {list(self.shape)}"


def npz_names(data: bytes, *, file: str) -> tuple[str, ...]:
    """The names of the arrays in an npz file, in order; nothing is inflated.

    Raises:
        BundleError: `malformed_tensors`.
    """
    return tuple(name for name, _ in _entries(_open(data, file), file))


def read_npz(data: bytes, specs: Mapping[str, ArraySpec], *, file: str, max_bytes: int) -> Arrays:
    """All arrays of an npz file, read-only.

    Args:
        data: the file.
        specs: every array that must be there; no other may be.
        file: the file's name, for messages.
        max_bytes: most bytes all arrays together may have, as declared and as read.

    Raises:
        BundleError: `malformed_tensors`: not a zip, missing or extra arrays, too large, pickled, wrong type or shape, damaged.
    """
    archive = _open(data, file)
    entries = dict(_entries(archive, file))
    if set(entries) != set(specs):
        missing, extra = sorted(set(specs) - set(entries)), sorted(set(entries) - set(specs))
        raise _malformed(file, f"missing arrays {missing}, extra arrays {extra}")
    declared = sum(info.file_size for info in entries.values())
    if declared > max_bytes:
        raise _malformed(file, f"declares {declared} bytes of arrays, at most {max_bytes} are accepted")
    return MappingProxyType(
        {name: _array(_inflate(archive, info, file), specs[name], f"{file}: {name}") for name, info in entries.items()}
    )


def write_npz(arrays: Arrays) -> bytes:
    """An npz file of the arrays, sorted by name; the same arrays always give the same bytes (for one version of zlib).

    Raises:
        ValueError: an object array; it could only be pickled.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in sorted(arrays):
            payload = io.BytesIO()
            np.lib.format.write_array(payload, np.array(arrays[name], order="C", copy=None), allow_pickle=False)
            info = zipfile.ZipInfo(name + _SUFFIX, date_time=_ZIP_EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, payload.getvalue())
    return out.getvalue()


def read_safetensors(data: bytes, *, file: str) -> Mapping[str, NDArray[np.float32]]:
    """All tensors of a safetensors file, float32, read-only. The library checks header, offsets and holes.

    Raises:
        BundleError: `malformed_tensors`: not such a file, or a tensor that is not float32.
    """
    try:
        tensors = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise _malformed(file, f"not a safetensors file: {error}") from error
    wrong = sorted(f"{name} is {tensor.dtype}" for name, tensor in tensors.items() if tensor.dtype != np.float32)
    if wrong:
        raise _malformed(file, f"tensors must be float32: {', '.join(wrong)}")
    return MappingProxyType({name: _read_only(tensor.copy()) for name, tensor in sorted(tensors.items())})


def write_safetensors(tensors: Mapping[str, NDArray[np.float32]]) -> bytes:
    """A safetensors file of the tensors; the same tensors always give the same bytes."""
    ready = {name: np.array(tensors[name], dtype=np.float32, order="C") for name in sorted(tensors)}
    return bytes(safetensors.numpy.save(ready))


def _open(data: bytes, file: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, struct.error) as error:
        raise _malformed(file, f"not an npz file: {error}") from error


def _entries(archive: zipfile.ZipFile, file: str) -> list[tuple[str, zipfile.ZipInfo]]:
    infos = archive.infolist()
    if len(infos) > _MAX_ENTRIES:
        raise _malformed(file, f"{len(infos)} entries, at most {_MAX_ENTRIES} are accepted")
    entries = []
    for info in infos:
        name = info.filename
        if not name.endswith(_SUFFIX) or len(name) > 128:
            raise _malformed(file, f"an entry {name[:128]!r} that is not an array")
        if info.flag_bits & _ENCRYPTED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _malformed(file, f"entry {name!r} is encrypted or compressed by an unknown method")
        entries.append((name.removesuffix(_SUFFIX), info))
    if len({name for name, _ in entries}) != len(entries):
        raise _malformed(file, "an array stands twice")
    return entries


def _inflate(archive: zipfile.ZipFile, info: zipfile.ZipInfo, file: str) -> bytes:
    """The bytes of one entry: at most as many as it declares, and exactly those that its checksum covers."""
    try:
        with archive.open(info) as stream:
            payload = stream.read(info.file_size + 1)
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise _malformed(file, f"entry {info.filename!r} is damaged: {error}") from error
    if len(payload) != info.file_size:
        raise _malformed(file, f"entry {info.filename!r} has {len(payload)} bytes and declares {info.file_size}")
    return payload


def _array(payload: bytes, spec: ArraySpec, what: str) -> NDArray[Any]:
    """An array from the bytes of an npy file, version 1.0, in exactly the form in which numpy writes it."""
    size = int.from_bytes(payload[8:10], "little")
    header = _NPY_HEADER.fullmatch(payload[10 : 10 + size])
    if payload[:8] != _NPY_MAGIC or header is None:
        raise BundleError("malformed_tensors", f"{what} is not an npy array of plain numbers or text in C order")
    dtype = np.dtype(header["descr"].decode("ascii"))
    shape = tuple(int(axis) for axis in header["shape"].replace(b",", b" ").split())
    refusal = spec.refusal(dtype, shape)
    if refusal is not None:
        raise BundleError("malformed_tensors", f"{what} {refusal}")
    left = len(payload) - 10 - size
    if left != math.prod(shape) * dtype.itemsize:
        raise BundleError("malformed_tensors", f"{what} holds {left} bytes, not those of {list(shape)} {dtype}")
    values = np.frombuffer(payload, dtype=dtype, offset=10 + size).reshape(shape).copy()
    if dtype.kind == "U":
        _check_text(values, what)
    if dtype.kind == "f" and spec.finite and not np.isfinite(values).all():
        raise BundleError("malformed_tensors", f"{what} holds values that are not finite")
    return _read_only(values)


def _check_text(values: NDArray[Any], what: str) -> None:
    """Unicode arrays are raw 32 bit code points; numpy would raise late, when one is read."""
    points = values.reshape(-1).view(np.uint32)
    if (points > 0x7E).any():
        raise BundleError("malformed_tensors", f"{what} holds text that is not ASCII")


def _read_only(values: NDArray[Any]) -> NDArray[Any]:
    values.flags.writeable = False
    return values


def _malformed(file: str, what: str) -> BundleError:
    return BundleError("malformed_tensors", f"{file}: {what}")
