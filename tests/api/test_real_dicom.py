"""Every DICOM file under ../shared/data/dicom through the shipped application: objects for its study, or a coded refusal."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import httpx
import pydicom
import pytest
from fastapi import FastAPI

from app.errors import ERROR_TABLE
from tests.api.routes.test_predict import idle
from tests.api.routes.test_reports import DICOM, parts

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "dicom"
KINDS = "sr,sc,pdf_dicom,pdf,fhir,oru"
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="../shared/data is not here"),
]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.dcm")), ids=lambda p: p.name)
def test_objects_or_a_coded_refusal(client: httpx.Client, shipped: FastAPI, path: Path) -> None:
    film = path.read_bytes()
    reply = client.post(f"/reports?objects={KINDS}", content=film, headers=DICOM)
    assert idle(shipped)
    if reply.status_code != 200:
        assert reply.status_code < 500, reply.text
        assert reply.status_code == ERROR_TABLE[reply.json()["code"]].status
        return
    made = parts(reply)
    assert ",".join(kind for kind, _, _ in made) == KINDS
    study = pydicom.dcmread(BytesIO(film), stop_before_pixels=True).StudyInstanceUID
    for _, media, content in made:
        if media == DICOM["Content-Type"]:
            assert pydicom.dcmread(BytesIO(content)).StudyInstanceUID == study


def test_some_real_films_are_answered(client: httpx.Client) -> None:
    replies = [
        client.post("/predict", content=path.read_bytes(), headers={**DICOM, "Accept": "application/dicom"})
        for path in sorted(FOLDER.glob("rsna_*.dcm"))
    ]
    assert [r.status_code for r in replies] == [200, 200]
