"""Tables and counts over films of more rows than one strip, in either byte order."""

from __future__ import annotations

import numpy as np
import pytest

from app.imaging.dicom.gray import luma, pattern_counts, through_table


@pytest.mark.parametrize("kind", ["u1", "<u2", ">u2"])
@pytest.mark.parametrize("rows", [1, 128, 129, 300])
def test_each_sample_takes_its_entry(rows: int, kind: str) -> None:
    bits = 8 if kind == "u1" else 12
    rng = np.random.default_rng(rows)
    samples = rng.integers(0, 1 << (8 if kind == "u1" else 16), (rows, 37)).astype(kind)
    table = rng.integers(0, 256, 1 << bits).astype(np.uint8)
    patterns = samples.astype(np.int64) & (len(table) - 1)
    assert np.array_equal(through_table(samples, table), table[patterns])
    assert np.array_equal(pattern_counts(samples, len(table)), np.bincount(patterns.ravel(), minlength=len(table)))


def test_every_row_of_a_color_film() -> None:
    colors = np.random.default_rng(1).integers(0, 256, (300, 41, 3)).astype(np.uint8)
    assert np.abs(luma(colors) - colors @ [0.299, 0.587, 0.114]).max() <= 0.51
    view = colors[:, :, 0]
    assert np.array_equal(luma(view), view)
    assert luma(view).flags.c_contiguous
