"""A film's whole way through a hospital's systems, all of them real: modality (dcmtk) -> PACS (Orthanc) -> gateway -> service -> PACS.

Read back from the PACS: structured report and overlay lie in the film's study, belong to its patient, refer to the film and say what
the audit trail says; one of each, however often the film comes and whatever happens to the gateway in between.
"""

from __future__ import annotations

import io
import itertools
import json
import signal
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from dicomweb_client.api import DICOMwebClient
from dicomweb_client.session_utils import create_session
from prometheus_client.parser import text_string_to_metric_families
from pydicom import Dataset, dcmread

from benchmarks.server import Server, free_port
from tests.support import orthanc
from tests.support.dicom_films import CANARY, PATIENT, dicom_film
from tests.support.gateway_process import TITLE, TOKEN, GatewayProcess, gateway
from tests.support.orthanc import Orthanc

Way = Literal["pacs", "gateway", "stow"]
FILM, REPORT, OVERLAY = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.7"
LIMIT_S = 60.0
SETTLED_S = 2.0  # longer than quiet time, retries and the archive's second try together
_seeds = itertools.count(9_001)


@dataclass(frozen=True)
class Hospital:
    """The archive, the gateway, the service, and a folder for films."""

    archive: Orthanc
    gateway: GatewayProcess
    service: Server
    folder: Path

    def send(self, film: bytes, way: Way) -> None:
        """As a modality: into the archive, which forwards it, or straight to the gateway by C-STORE or STOW-RS."""
        if way == "stow":
            session = create_session()
            session.headers["Authorization"] = f"Bearer {TOKEN}"
            client = DICOMwebClient(f"http://127.0.0.1:{self.gateway.http_port}", session=session)
            answer = client.store_instances([dcmread(io.BytesIO(film))])
            assert len(answer.ReferencedSOPSequence) == 1
            session.close()
            return
        path = self.folder / "film.dcm"
        path.write_bytes(film)
        title, port = ("ORTHANC", self.archive.dicom_port) if way == "pacs" else (TITLE, self.gateway.dicom_port)
        command = ["storescu", "-aet", "MODALITY", "-aec", title, "127.0.0.1", str(port), str(path)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def in_study(self, study: str, sop_class: str) -> list[Dataset]:
        """Objects of one SOP class in the archive."""
        found = self.archive.find(study, SOPClassUID=sop_class)
        return [dcmread(io.BytesIO(self.archive.file(instance))) for instance in found]

    def count(self, study: str) -> tuple[int, int, int]:
        """Films, reports and overlays of a study in the archive."""
        films, reports, overlays = (len(self.archive.find(study, SOPClassUID=c)) for c in (FILM, REPORT, OVERLAY))
        return films, reports, overlays

    def predictions(self) -> list[dict[str, Any]]:
        with sqlite3.connect(f"file:{self.service.state / 'cxr.sqlite3'}?mode=ro", uri=True) as database:
            database.row_factory = sqlite3.Row
            rows = [dict(row) for row in database.execute("SELECT * FROM predictions ORDER BY at")]
        database.close()
        return rows

    def settled(self) -> None:
        """Wait until nothing more moves: no film waits, no message is pending, and that stays so."""
        wait_for(self._idle)
        time.sleep(SETTLED_S)
        wait_for(self._idle)

    def delivered(self) -> float:
        """Messages that the archive acknowledged, each counted once."""
        return self._metrics()["cxr_gateway_deliveries", "archive", "delivered"]

    def _idle(self) -> bool:
        found = self._metrics()
        waits = ("received", "selected", "pending")
        return not any(value for labels, value in found.items() if labels[-1] in waits)

    def _metrics(self) -> dict[tuple[str, ...], float]:
        """Samples of the gateway's /metrics, by name and label values."""
        address = f"http://127.0.0.1:{self.gateway.http_port}/metrics"
        asked = urllib.request.Request(address, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(asked, timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def wait_for(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.02)


@pytest.fixture(scope="module", params=["stow", "store"])
def house(
    request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hospital]:
    """Results go back into the archive by STOW-RS or by C-STORE."""
    orthanc.required()
    folder = tmp_path_factory.mktemp(f"pacs-{request.param}")
    dicom_port = free_port()
    with orthanc.running(folder / "orthanc", gateway_port=dicom_port) as archive:
        destination = {"name": "archive", "kind": request.param, "objects": ["sr", "sc"]}
        if request.param == "stow":
            destination |= {"url": archive.studies_url, "user": orthanc.USER, "token_text": orthanc.PASSWORD}
        else:
            destination |= {"host": "127.0.0.1", "port": archive.dicom_port, "ae": orthanc.TITLE}
        with gateway(
            folder / "gateway",
            service_port=server.port,
            service_key=server.key("service"),
            destinations=[destination],
            peers=["MODALITY", "ORTHANC"],
            judge_all=True,
            dicom_port=dicom_port,
        ) as process:
            process.start()
            yield Hospital(archive, process, server, folder)


@pytest.fixture
def hospital(house: Hospital) -> Hospital:
    """With a gateway that runs, whatever the test before did to it."""
    if house.gateway.process is None:
        house.gateway.start()
    return house


@pytest.fixture
def film() -> Dataset:
    """A film nobody has seen."""
    return dcmread(io.BytesIO(dicom_film(next(_seeds))))


def as_sent(film: Dataset) -> bytes:
    buffer = io.BytesIO()
    film.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("way", ["pacs", "gateway", "stow"])
def test_report_and_overlay_arrive_in_the_study_of_the_film(
    hospital: Hospital, film: Dataset, way: Way, record_property: Callable[[str, object], None]
) -> None:
    study = str(film.StudyInstanceUID)
    began = time.perf_counter()
    hospital.send(as_sent(film), way)
    wait_for(lambda: bool(hospital.archive.find(study, SOPClassUID=REPORT)))
    seconds = time.perf_counter() - began
    record_property("film_to_report_s", round(seconds, 3))
    print(f"\n{way}: film sent to report in the archive {seconds:.2f} s, of which 0.3 s quiet time")
    wait_for(lambda: hospital.count(study)[1:] == (1, 1))
    (report,), (overlay,) = hospital.in_study(study, REPORT), hospital.in_study(study, OVERLAY)
    for made in (report, overlay):
        check_belongs_to(made, film)
    check_report(report, film, hospital.predictions()[-1])
    check_overlay(overlay, film)


def check_belongs_to(made: Dataset, film: Dataset) -> None:
    """PS3.3 C.7.1.1 and C.7.2.1: the same patient and study, in a series and an instance of its own."""
    for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "AccessionNumber"):
        assert made[name].value == film[name].value, name
    assert made.SeriesInstanceUID != film.SeriesInstanceUID
    assert made.SOPInstanceUID != film.SOPInstanceUID


def check_report(report: Dataset, film: Dataset, prediction: dict[str, Any]) -> None:
    assert report.Modality == "SR"
    items = list(walk(report))
    referenced = {
        reference.ReferencedSOPInstanceUID for item in items for reference in item.get("ReferencedSOPSequence", [])
    }
    assert film.SOPInstanceUID in referenced
    shown = [
        float(item.MeasuredValueSequence[0].NumericValue)
        for item in items
        if item.get("ValueType") == "NUM" and item.ConceptNameCodeSequence[0].CodeValue == "probability"
    ]
    recorded = json.loads(prediction["probabilities"])
    values = recorded.values() if isinstance(recorded, dict) else recorded
    assert sorted(shown) == pytest.approx(sorted(values), abs=1e-6)
    text = json.dumps([str(item.get("TextValue", "")) for item in items]) + str(report)
    assert prediction["bundle_digest"] in text


def walk(item: Dataset) -> Iterator[Dataset]:
    """An SR's content items, itself first."""
    yield item
    for name in ("ContentSequence", "CurrentRequestedProcedureEvidenceSequence"):
        for child in item.get(name, []):
            yield from walk(child)


def check_overlay(overlay: Dataset, film: Dataset) -> None:
    assert (overlay.SamplesPerPixel, overlay.BitsStored, overlay.BurnedInAnnotation) == (3, 8, "YES")
    assert overlay.SourceImageSequence[0].ReferencedSOPInstanceUID == film.SOPInstanceUID
    assert overlay.pixel_array.std() > 1


def test_a_film_that_comes_again_and_again_has_one_report(hospital: Hospital, film: Dataset) -> None:
    """By both ways, several times, with a gateway that is killed and one that is stopped in between."""
    study, sent = str(film.StudyInstanceUID), as_sent(film)
    before, delivered = len(hospital.predictions()), hospital.delivered()
    hospital.send(sent, "pacs")
    wait_for(lambda: hospital.count(study) == (1, 1, 1))
    first = {made.SOPInstanceUID for c in (REPORT, OVERLAY) for made in hospital.in_study(study, c)}
    hospital.send(sent, "gateway")
    hospital.send(sent, "gateway")
    hospital.settled()
    assert hospital.gateway.stop(signal.SIGKILL) == -signal.SIGKILL
    hospital.send(sent, "pacs")  # nobody is there to forward it to; the archive tries again
    hospital.gateway.start()
    hospital.send(sent, "gateway")
    hospital.settled()
    assert hospital.gateway.stop(signal.SIGTERM) == 0
    hospital.gateway.start()
    hospital.send(sent, "stow")
    hospital.settled()
    assert hospital.count(study) == (1, 1, 1)
    assert {made.SOPInstanceUID for c in (REPORT, OVERLAY) for made in hospital.in_study(study, c)} == first
    assert len(hospital.predictions()) - before == 1
    assert hospital.delivered() - delivered == 2


def test_a_gateway_that_is_killed_with_a_film_in_hand_finishes_it(hospital: Hospital, film: Dataset) -> None:
    study = str(film.StudyInstanceUID)
    hospital.send(as_sent(film), "gateway")
    hospital.gateway.stop(signal.SIGKILL)  # acknowledged, within its quiet time: nothing was asked of the service yet
    assert hospital.count(study) == (0, 0, 0)
    hospital.gateway.start()
    wait_for(lambda: hospital.count(study) == (0, 1, 1))


def test_results_that_the_archive_sends_back_make_no_results(hospital: Hospital, film: Dataset) -> None:
    """An archive that forwards everything would make an endless loop; the rules of this gateway judge whatever comes."""
    study = str(film.StudyInstanceUID)
    hospital.send(as_sent(film), "pacs")
    wait_for(lambda: hospital.count(study) == (1, 1, 1))
    before = len(hospital.predictions())
    (overlay,) = hospital.archive.find(study, SOPClassUID=OVERLAY)
    sent_back = json.loads(hospital.archive.request("POST", "/modalities/gateway/store", overlay.encode()))
    assert sent_back["FailedInstancesCount"] == 0
    hospital.settled()
    assert hospital.count(study) == (1, 1, 1)
    assert len(hospital.predictions()) == before


def test_the_patient_is_nowhere_but_in_the_archive(hospital: Hospital, film: Dataset) -> None:
    """Every name and identifier of the invented patients holds one word; no file and no page of gateway or service does."""
    study = str(film.StudyInstanceUID)
    hospital.send(as_sent(film), "pacs")
    wait_for(lambda: hospital.count(study) == (1, 1, 1))
    assert all(CANARY in value for name, value in PATIENT.items() if name not in {"PatientBirthDate", "PatientSex"})
    words = [CANARY.encode(), study.encode(), str(film.SOPInstanceUID).encode(), str(film.SeriesInstanceUID).encode()]
    assert hospital.archive.file(hospital.archive.find(study)[0]).count(words[0])  # the test sees it where it belongs
    for root in (hospital.gateway.folder, hospital.service.state):
        for path in (p for p in root.rglob("*") if p.is_file()):
            content = path.read_bytes()
            assert not [word for word in words if word in content], path.name
    said = hospital.gateway.cxr("status").stdout + hospital.gateway.cxr("dead").stdout
    assert CANARY not in said
