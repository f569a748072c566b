"""The phantom as DICOM: a film like any other to the service and to an independent validator."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from app.imaging.decode import ImageLimits, decode
from app.imaging.phantom import phantom
from app.imaging.phantom_dicom import encode_dicom


@pytest.mark.parametrize("size", [(512, 448), (333, 255)])
def test_it_decodes_to_the_phantom(size: tuple[int, int]) -> None:
    pixels = phantom(3, height=size[0], width=size[1])
    film = decode(encode_dicom(pixels), ImageLimits(128, 4_096))
    # a window of 256 about 128 shows 8 bits as they are (PS3.3 C.11.2.1.2)
    assert np.array_equal(film.pixels, pixels)
    assert film.acquisition is not None
    assert (film.acquisition.modality, film.acquisition.view, film.acquisition.age_years) == ("CR", "PA", 4)


def test_the_same_phantom_is_the_same_object() -> None:
    assert encode_dicom(phantom(1)) == encode_dicom(phantom(1))
    first, second = (decode(encode_dicom(phantom(seed)), ImageLimits(128, 4_096)).source for seed in (1, 2))
    assert first is not None
    assert second is not None
    assert first.sop_instance_uid != second.sop_instance_uid


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy (Debian: dicom3tools)")
def test_it_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "film.dcm"
    file.write_bytes(encode_dicom(phantom(1)))
    said = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, timeout=60, check=False)
    assert [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")] == []
