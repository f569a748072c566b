"""Results for the DICOM files of real devices and vendors: their headers, with the numbers of an invented decision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest

from app.domain import Radiograph, Source
from app.errors import CxrError, RefusedError
from app.imaging.decode import ImageLimits, decode
from app.imaging.dicom.decoders import DecoderPool
from app.results import NEEDS_SOURCE, Report, ResultKind, make
from app.results.identity import usable_uid
from tests.results import readback, samples

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "dicom"

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="../shared/data is not here: no header of a real device is tried"),
]


@pytest.fixture(scope="module")
def films() -> Iterator[dict[str, Radiograph]]:
    """Every file that can be read."""
    pool = DecoderPool(1, 60.0, 2_000_000_000)
    read = {}
    for path in sorted(FOLDER.glob("*.dcm")):
        try:
            read[path.name] = decode(path.read_bytes(), ImageLimits(16, 8192), pool)
        except CxrError:
            continue
    yield read
    pool.close()


def test_each_has_valid_results_in_its_study(films: dict[str, Radiograph], tmp_path: Path) -> None:
    placed = 0
    for name, film in films.items():
        source = film.source
        assert source is not None
        report = _report(film)
        if not all(map(usable_uid, (source.study_uid, source.series_uid, source.sop_instance_uid))):
            print(f"{name}: without usable UIDs, refused")
            with pytest.raises(RefusedError, match="dicom_source_required"):
                make("sr", report)
            continue
        for kind in get_args(ResultKind):
            made = make(kind, report)
            if kind in NEEDS_SOURCE and kind != "oru":
                assert _complaints(made, source, tmp_path) == [], (name, kind)
                assert readback.dataset(made).StudyInstanceUID == source.study_uid
        placed += 1
        print(f"{name}: valid results")
    assert placed >= 15


def _complaints(made: bytes, source: Source, folder: Path) -> list[str]:
    """Without those about the film's own UIDs, which are passed on as they stand however odd they are."""
    own = (source.study_uid, source.series_uid, source.sop_instance_uid)
    return [line for line in readback.complaints(made, folder) if not any(uid in line for uid in own)]


def _report(film: Radiograph) -> Report:
    height = max(1, round(512 * film.height / film.width))
    small = cv2.resize(film.pixels, (512, height), interpolation=cv2.INTER_AREA)
    picture = np.repeat(np.asarray(small, np.uint8)[..., None], 3, axis=2)
    outline = ((0, 0), (film.width - 1, 0), (film.width - 1, film.height - 1))
    return samples.report(
        source=film.source,
        film_width=film.width,
        film_height=film.height,
        film_sha256=film.sha256,
        heat_map=samples.heat_map(picture=picture, contours=(outline,)),
    )
