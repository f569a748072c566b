"""Compressed frames to decode, made by other people's encoders, and other people's decoders to compare with."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame

from app.imaging.dicom.frame import FrameRequest
from tests.support.dicom_films import as_bytes, file_dataset


def pattern(
    rows: int = 24, columns: int = 40, *, bits: int = 12, signed: bool = False, samples: int = 1
) -> NDArray[Any]:
    """Ramps, texture and edges over the whole range of `bits`; [rows, columns] or [rows, columns, 3], smallest type that holds it."""
    y, x = np.mgrid[0:rows, 0:columns].astype(np.int64)
    base = x * 7 + y * 13 + (x * y) % 17 + ((x // 8 + y // 8) % 2) * 40
    if samples == 3:
        base = np.stack([base, base * 3, base * 5 + x], axis=-1)
    values = base * 2**bits // 600 % 2**bits
    if signed:
        return np.asarray(values - 2 ** (bits - 1), np.int8 if bits <= 8 else np.int16)
    return np.asarray(values, np.uint8 if bits <= 8 else np.uint16)


def smooth(rows: int = 72, columns: int = 90, *, bits: int = 8, samples: int = 1) -> NDArray[Any]:
    """What lossy coding is for: waves without edges, off both ends of the range."""
    y, x = np.mgrid[0:rows, 0:columns]
    waves = [0.5 + 0.42 * np.sin(x / (9 + 4 * c)) * np.cos(y / (13 - 3 * c)) for c in range(samples)]
    values = np.rint((np.stack(waves, axis=-1) if samples == 3 else waves[0]) * (2**bits - 1))
    return np.asarray(values, np.uint8 if bits <= 8 else np.uint16)


def dataset(pixels: NDArray[Any], bits: int, **attributes: Any) -> Dataset:
    """An uncompressed film of `pixels`; three samples make it RGB."""
    plain = pixels[..., 0] if pixels.ndim == 3 else pixels
    film = file_dataset(1, pixels=plain, bits_stored=bits, WindowCenter=None, WindowWidth=None)
    if pixels.ndim == 3:
        film.SamplesPerPixel, film.PhotometricInterpretation, film.PlanarConfiguration = 3, "RGB", 0
        film.PixelData = pixels.tobytes()
    for name, value in attributes.items():
        setattr(film, name, value)
    return film


def needs(tool: str) -> str:
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} (Debian package dcmtk) is not installed: this syntax is not compared with dcmtk")
    return found


def recode(film: Dataset, folder: Path, tool: str, *options: str) -> Dataset:
    """`film` through one of dcmtk's dcmcjpeg, dcmcjpls, dcmcrle (coded) or dcmdjpeg, dcmdjpls, dcmdrle (plain)."""
    source = folder / "in.dcm"
    source.write_bytes(as_bytes(film))
    return recode_file(source, folder, tool, *options)


def recode_file(source: Path, folder: Path, tool: str, *options: str) -> Dataset:
    target = folder / "out.dcm"
    subprocess.run([needs(tool), *options, source, target], check=True, timeout=60, capture_output=True)
    return pydicom.dcmread(io.BytesIO(target.read_bytes()))


def codestream(film: Dataset) -> bytes:
    return bytes(get_frame(film.PixelData, 0, number_of_frames=1))


def request(film: Dataset, **changes: Any) -> FrameRequest:
    """The frame of an encapsulated film as `DecoderPool.decode` is asked for it."""
    fields: dict[str, Any] = {
        "transfer_syntax": str(film.file_meta.TransferSyntaxUID),
        "codestream": changes.pop("codestream", None) or codestream(film),
        "rows": film.Rows,
        "columns": film.Columns,
        "samples": film.SamplesPerPixel,
        "bits_allocated": film.BitsAllocated,
        "bits_stored": film.BitsStored,
        "signed": bool(film.PixelRepresentation),
        "photometric": film.PhotometricInterpretation,
    }
    return FrameRequest(**(fields | changes))


def plain_pixels(film: Dataset) -> NDArray[Any]:
    """Stored values of an uncompressed film, read without any decoder of pydicom: by pixel, little endian."""
    kind = ("i" if film.PixelRepresentation else "u") + str(film.BitsAllocated // 8)
    count = film.Rows * film.Columns * film.SamplesPerPixel
    flat = np.frombuffer(film.PixelData, f"<{kind}", count)
    if film.SamplesPerPixel == 1:
        return flat.reshape(film.Rows, film.Columns)
    if film.PlanarConfiguration:
        return flat.reshape(3, film.Rows, film.Columns).transpose(1, 2, 0)
    return flat.reshape(film.Rows, film.Columns, 3)
