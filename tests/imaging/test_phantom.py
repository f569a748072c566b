from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from app.imaging.decode import ImageLimits, decode
from app.imaging.phantom import encode_jpeg, encode_png, phantom


def test_shape_type_and_range() -> None:
    image = phantom(3)
    assert image.shape == (512, 448)
    assert image.dtype == np.uint8
    assert image.min() < 20
    assert image.max() > 180
    assert 40 < image.mean() < 180
    assert phantom(3, height=130, width=1_000).shape == (130, 1_000)


def test_a_seed_means_the_same_pixels_in_every_process() -> None:
    code = "import hashlib; from app.imaging.phantom import phantom; print(hashlib.sha256(phantom(7).tobytes()).hexdigest())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert hashlib.sha256(phantom(7).tobytes()).hexdigest() == other
    assert not np.array_equal(phantom(7), phantom(8))


@pytest.mark.parametrize("seed", range(12))
def test_lungs_are_darker_than_what_lies_between_them(seed: int) -> None:
    image = phantom(seed).astype(float)
    middle = image[180:260, 214:234].mean()
    left, right = image[180:260, 100:150].mean(), image[180:260, 300:350].mean()
    assert max(left, right) + 40 < middle


@pytest.mark.parametrize("seed", range(12))
def test_opacity_is_one_dense_patch_in_a_lung(seed: int) -> None:
    with_patch, without = phantom(seed, opacity=True).astype(int), phantom(seed).astype(int)
    denser = with_patch - without > 25
    assert 0.005 < denser.mean() < 0.08
    rows, columns = np.nonzero(denser)
    assert np.ptp(columns) < 448 / 3
    assert 0.3 < rows.mean() / 512 < 0.75


def test_encoders() -> None:
    image = phantom(4, height=256, width=200)
    limits = ImageLimits(128, 4_096)
    assert np.array_equal(decode(encode_png(image), limits).pixels, image)
    deep = image.astype(np.uint16) * 16
    assert np.array_equal(decode(encode_png(deep), limits).pixels, deep)
    near = decode(encode_jpeg(image, 95), limits).pixels
    assert np.abs(near.astype(int) - image).mean() < 2
    assert len(encode_jpeg(image, 30)) < len(encode_jpeg(image, 95))
