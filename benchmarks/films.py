"""The films that the benchmarks send: generated phantoms as JPEG, PNG and DICOM, the same bytes on every run."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.imaging.phantom import encode_jpeg, encode_png, phantom
from app.imaging.phantom_dicom import encode_dicom

Format = Literal["jpeg", "png", "dicom"]
CONTENT_TYPES: dict[Format, str] = {"jpeg": "image/jpeg", "png": "image/png", "dicom": "application/dicom"}


@lru_cache(maxsize=16)
def films(form: Format, px: int, count: int) -> tuple[bytes, ...]:
    """`count` square phantoms of `px` a side, as files; every second one has an opacity."""
    encoders: dict[Format, Callable[[NDArray[np.uint8]], bytes]] = {
        "jpeg": encode_jpeg,
        "png": encode_png,
        "dicom": encode_dicom,
    }
    encode = encoders[form]
    return tuple(encode(phantom(seed, height=px, width=px, opacity=bool(seed % 2))) for seed in range(count))
