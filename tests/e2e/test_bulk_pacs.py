"""`cxr score` against a real archive (Orthanc): found by QIDO-RS, fetched by WADO-RS, one row a film."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow.parquet as pq
from pydicom import dcmread

from benchmarks.server import free_port
from tests.support import orthanc
from tests.support.commands import cxr, cxr_within
from tests.support.dicom_films import CANARY, dicom_film
from tests.support.tiny_bundle import make_tiny_bundle


def test_the_films_of_a_query_and_no_others_are_judged(tmp_path: Path) -> None:
    orthanc.required()
    bundles, password = tmp_path / "bundles", tmp_path / "password"
    make_tiny_bundle(bundles)
    password.write_text(orthanc.PASSWORD)
    films = [dicom_film(seed) for seed in range(7_001, 7_005)]
    films += [dicom_film(7_010, Modality="CT"), dicom_film(7_011, StudyDate="20200101")]
    where = {"state_dir": tmp_path / "state", "bundles_dir": bundles, "bundle": "tiny/1.0.0"}
    out = tmp_path / "r.parquet"
    with orthanc.running(tmp_path / "orthanc", gateway_port=free_port()) as archive:
        for film in films:
            archive.request("POST", "/instances", film)
        source = f"{archive.studies_url}?StudyDate=20210101-20211231"
        login = ("--user", orthanc.USER, "--password-file", str(password))
        counted = cxr("score", source, *login, "--out", str(out), "--dry-run", **where)
        assert counted.stdout.split() == ["films", "4"], counted.stderr
        done = cxr_within(200, "score", source, *login, "--out", str(out), **where)
    assert done.returncode == 0, done.stderr
    rows = {row["sop_instance_uid"]: row for row in pq.read_table(out).to_pylist()}
    assert len(rows) == 4
    for film in films[:4]:
        header = dcmread(io.BytesIO(film), stop_before_pixels=True)
        row = rows[str(header.SOPInstanceUID)]
        assert (row["study_uid"], row["series_uid"]) == (str(header.StudyInstanceUID), str(header.SeriesInstanceUID))
        assert (row["status"], row["format"], row["path"]) == ("ok", "dicom", None)
    text = out.read_bytes() + done.stdout.encode() + done.stderr.encode()
    assert CANARY.encode() not in text
