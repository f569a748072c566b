"""Answers as standard objects: by Accept on /predict and /gradcam, several together on /reports."""

from __future__ import annotations

import email.parser
import email.policy
import json
import sqlite3
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from tests.api.routes.test_predict import events
from tests.support.dicom_films import CANARY, as_bytes, dicom_film, file_dataset

DICOM = {"Content-Type": "application/dicom"}
JPEG = {"Content-Type": "image/jpeg"}
SR, SC, PDF = "1.2.840.10008.5.1.4.1.1.88", "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.104.1"
SIGNS = {"fhir": b"{", "oru": b"MSH|", "pdf": b"%PDF-"}
MEDIA = {
    "sr": "application/dicom",
    "sc": "application/dicom",
    "pdf_dicom": "application/dicom",
    "pdf": "application/pdf",
    "fhir": "application/fhir+json",
    "oru": "x-application/hl7-v2+er7",
}


@pytest.fixture(scope="module")
def dicom() -> bytes:
    return dicom_film(5)


def code(reply: httpx.Response) -> tuple[int, str]:
    assert reply.headers["content-type"] == "application/problem+json"
    return reply.status_code, reply.json()["code"]


def parts(reply: httpx.Response) -> list[tuple[str, str, bytes]]:
    """(kind, media type, content) of each part, read by the standard library's MIME parser."""
    assert reply.status_code == 200, reply.text
    head = f"Content-Type: {reply.headers['content-type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + reply.content)
    assert message.get_content_type() == "multipart/related"
    assert not message.defects
    found = []
    for part in message.iter_parts():
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        assert part["Content-Length"] == str(len(content))
        found.append((str(part["Content-Location"]), part.get_content_type(), content))
    return found


def film_of(content: bytes) -> tuple[str, str]:
    made = pydicom.dcmread(BytesIO(content))
    return str(made.StudyInstanceUID), str(made.PatientID)


@pytest.mark.parametrize(
    ("accept", "sign"),
    [("application/fhir+json", b"{"), ("application/pdf", b"%PDF-"), ("x-application/hl7-v2+er7", b"MSH|")],
)
def test_predict_by_accept(client: httpx.Client, dicom: bytes, accept: str, sign: bytes) -> None:
    reply = client.post("/predict", content=dicom, headers={**DICOM, "Accept": accept})
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == accept
    assert reply.content.startswith(sign)
    assert reply.headers["vary"] == "Accept"


def test_a_structured_report_says_what_the_numbers_say(client: httpx.Client, dicom: bytes) -> None:
    sent = {"X-Request-ID": "report-as-dicom"}
    reply = client.post("/predict", content=dicom, headers={**DICOM, **sent, "Accept": "application/dicom"})
    numbers = client.post("/predict", content=dicom, headers=DICOM).json()
    made, film = pydicom.dcmread(BytesIO(reply.content)), pydicom.dcmread(BytesIO(dicom))
    assert str(made.SOPClassUID).startswith(SR)
    assert (made.StudyInstanceUID, made.PatientID) == (film.StudyInstanceUID, film.PatientID)
    assert reply.headers["cxr-label"] == numbers["prediction"]["label"]
    assert reply.headers["cxr-bundle"] == "tiny/1.0.0"
    assert reply.headers["cxr-request-id"] == "report-as-dicom"
    assert reply.headers["cxr-film-size"] == f"{film.Columns}x{film.Rows}"
    assert reply.headers["cxr-review-required"] == str(numbers["review"]["required"]).lower()


@pytest.mark.parametrize("query", ["", "?explain=true"])
def test_a_page_shows_the_heat_map(client: httpx.Client, dicom: bytes, query: str) -> None:
    reply = client.post(f"/predict{query}", content=dicom, headers={**DICOM, "Accept": "application/pdf"})
    assert b"/Subtype /Image" in reply.content


def test_gradcam_as_secondary_capture(client: httpx.Client, dicom: bytes) -> None:
    reply = client.post("/gradcam", content=dicom, headers={**DICOM, "Accept": "application/dicom"})
    assert reply.status_code == 200, reply.text
    made, film = pydicom.dcmread(BytesIO(reply.content)), pydicom.dcmread(BytesIO(dicom))
    assert made.SOPClassUID == SC
    assert (made.SamplesPerPixel, made.StudyInstanceUID) == (3, film.StudyInstanceUID)
    assert reply.headers["cxr-target"] == reply.headers["cxr-label"]


def test_all_kinds_together_from_one_judgement(client: httpx.Client, dicom: bytes, state: Path) -> None:
    sent = {"X-Request-ID": "all-kinds-together"}
    reply = client.post(f"/reports?objects={','.join(MEDIA)}", content=dicom, headers={**DICOM, **sent})
    found = parts(reply)
    assert [(kind, media) for kind, media, _ in found] == list(MEDIA.items())
    for kind, _, content in found:
        if kind in SIGNS:
            assert content.startswith(SIGNS[kind])
        else:
            assert film_of(content) == film_of(dicom)
    ((kind, payload),) = events(state, "all-kinds-together")
    assert (kind, payload["objects"]) == ("report", list(MEDIA))
    assert payload["predictions"]["label"] == reply.headers["cxr-label"]
    assert payload["explained"][0]["method"] == "gradcam"
    assert set(payload["film_sources"]) == {"patient", "study", "instance"}
    with sqlite3.connect(f"file:{state / 'cxr.sqlite3'}?mode=ro", uri=True) as database:
        rows = database.execute("SELECT label FROM predictions WHERE request_id = 'all-kinds-together'").fetchall()
    assert rows == [(reply.headers["cxr-label"],)]


def test_the_order_asked_for_and_one_alone(client: httpx.Client, dicom: bytes) -> None:
    assert [kind for kind, _, _ in parts(client.post("/reports?objects=pdf,sr", content=dicom, headers=DICOM))] == [
        "pdf",
        "sr",
    ]
    assert [kind for kind, _, _ in parts(client.post("/reports?objects=sr", files={"file": dicom}))] == ["sr"]


def test_a_named_operating_point(client: httpx.Client, dicom: bytes) -> None:
    by_point = {
        name: parts(client.post(f"/reports?objects=fhir&operating_point={name}", content=dicom, headers=DICOM))[0][2]
        for name in ("screening", "rule-in")
    }
    assert b"rule-in" in by_point["rule-in"]
    assert b"rule-in" not in by_point["screening"]


@pytest.mark.parametrize(
    ("query", "accept", "wanted"),
    [
        ("", "*/*", (400, "invalid_parameter")),
        ("objects=", "*/*", (400, "invalid_parameter")),
        ("objects=sr,sr", "*/*", (400, "invalid_parameter")),
        ("objects=sr,%20pdf", "*/*", (400, "invalid_parameter")),
        ("objects=sr,png", "*/*", (400, "invalid_parameter")),
        ("objects=sr&objects=pdf", "*/*", (400, "malformed_request")),
        ("objects=sr&operating_point=none-such", "*/*", (400, "unknown_operating_point")),
        ("objects=sr", "application/json", (406, "not_acceptable")),
        ("objects=sr", "multipart/*", (200, "")),
    ],
)
def test_problems(client: httpx.Client, dicom: bytes, query: str, accept: str, wanted: tuple[int, str]) -> None:
    reply = client.post(f"/reports?{query}", content=dicom, headers={**DICOM, "Accept": accept})
    assert (reply.status_code, "") == wanted if reply.status_code == 200 else code(reply) == wanted


def test_objects_for_a_study_need_a_study(client: httpx.Client, film: bytes, state: Path) -> None:
    for kind in ("sr", "sc", "gsps", "pdf_dicom", "oru"):
        assert code(client.post(f"/reports?objects=pdf,{kind}", content=film, headers=JPEG)) == (
            422,
            "dicom_source_required",
        )
    sent = {"X-Request-ID": "no-study-to-go-to", "Accept": "application/dicom"}
    assert code(client.post("/predict", content=film, headers={**JPEG, **sent})) == (422, "dicom_source_required")
    assert [(kind, p["code"]) for kind, p in events(state, "no-study-to-go-to")] == [
        ("refused", "dicom_source_required")
    ]
    assert [k for k, _, _ in parts(client.post("/reports?objects=pdf,fhir", content=film, headers=JPEG))] == [
        "pdf",
        "fhir",
    ]


def test_what_a_film_does_not_allow_is_left_out_and_named(client: httpx.Client) -> None:
    """A film shown through a look-up table has no window for a presentation state to repeat; its report is worth having all the same."""
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [4_096, 0, 8], np.linspace(0, 255, 4_096).astype("<u2").tobytes()
    lut["LUTDescriptor"].VR, lut["LUTData"].VR = "US", "OW"
    film = dicom_film(6, WindowCenter=None, WindowWidth=None, VOILUTSequence=[lut])
    reply = client.post("/reports?objects=gsps,sr", content=film, headers=DICOM)
    assert [kind for kind, _, _ in parts(reply)] == ["sr"]
    assert reply.headers["CXR-Omitted"] == "gsps"
    assert code(client.post("/reports?objects=gsps", content=film, headers=DICOM)) == (422, "presentation_unknown")
    whole = client.post("/reports?objects=gsps,sr", content=dicom_film(6), headers=DICOM)
    assert [kind for kind, _, _ in parts(whole)] == ["gsps", "sr"]
    assert whole.headers["CXR-Omitted"] == "none"


def test_a_large_dicom_film_and_a_large_picture(client: httpx.Client) -> None:
    """Above the limit of JPEG and PNG; the same bytes without the mark are refused."""
    large = dicom_film(3, size=(2_400, 2_400))
    assert len(large) > 10_000_000
    assert 4 * len(large) > 32_000_000
    for way in ({"content": large, "headers": DICOM}, {"files": {"file": large}}):
        assert client.post("/predict", **way).status_code == 200
    batch = client.post("/batch_predict", files=[("files", large)] * 4)
    assert [r["problem"] for r in batch.json()["results"]] == [None] * 4
    spoiled = large[:128] + b"DICX" + large[132:]
    assert code(client.post("/predict", files={"file": spoiled})) == (413, "payload_too_large")
    assert code(client.post("/predict", content=spoiled, headers=DICOM)) == (413, "payload_too_large")


def test_a_compressed_film_is_the_same_film(client: httpx.Client) -> None:
    """Losslessly, through a decoder process."""
    data = file_dataset(9, bits_stored=8)
    plain = client.post("/predict", content=as_bytes(data), headers=DICOM).json()
    data.compress(RLELossless)
    packed = client.post("/predict", content=as_bytes(data), headers=DICOM).json()
    assert packed["image"]["acquisition"]["transfer_syntax"] == RLELossless
    assert packed["classes"] == plain["classes"]
    assert packed["image"]["sha256"] != plain["image"]["sha256"]
    assert "cxr_dicom_decoder_restarts_total 0.0" in client.get("/metrics").text


def test_nothing_personal_is_kept_or_shown(client: httpx.Client, dicom: bytes, state: Path) -> None:
    shown = client.post("/predict?explain=true", content=dicom, headers=DICOM)
    assert shown.status_code == 200
    client.post("/reports?objects=sr,fhir,oru", content=dicom, headers=DICOM)
    client.post("/predict", content=dicom[:-100], headers=DICOM)
    assert CANARY not in shown.text
    assert CANARY not in client.get("/metrics").text
    assert not [p for p in state.rglob("*") if p.is_file() and CANARY.encode() in p.read_bytes()]
    uid = str(pydicom.dcmread(BytesIO(dicom)).StudyInstanceUID)
    assert uid not in json.dumps(shown.json())
    assert not [p for p in state.rglob("*") if p.is_file() and uid.encode() in p.read_bytes()]
