"""A real Orthanc as the PACS: Debian's package, with the configuration that ships in deploy/orthanc."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.server import free_port

CONFIGURATION = Path(__file__).resolve().parents[2] / "deploy/orthanc"
USER, PASSWORD = "cxr", "a-password-for-tests"
TITLE = "ORTHANC"
START_LIMIT_S = 30


@dataclass(frozen=True)
class Orthanc:
    """A running archive."""

    process: subprocess.Popen[bytes]
    http_port: int
    dicom_port: int
    folder: Path

    @property
    def studies_url(self) -> str:
        """The STOW-RS resource."""
        return f"http://127.0.0.1:{self.http_port}/dicom-web/studies"

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Raises: RuntimeError for any status but 200."""
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        with closing(http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=30)) as connection:
            connection.request(method, path, body=body, headers={"Authorization": f"Basic {login}"})
            response = connection.getresponse()
            answer = response.read()
            if response.status != 200:
                raise RuntimeError(f"{method} {path}: {response.status}")
            return answer

    def get(self, path: str) -> Any:
        return json.loads(self.request("GET", path))

    def find(self, study_uid: str, **query: str) -> list[str]:
        """Orthanc's ids of the instances of a study; query: DICOM keywords."""
        wanted = {"Level": "Instance", "Query": {"StudyInstanceUID": study_uid} | query}
        found: list[str] = json.loads(self.request("POST", "/tools/find", json.dumps(wanted).encode()))
        return found

    def file(self, instance: str) -> bytes:
        """A Part 10 file as it was received."""
        return self.request("GET", f"/instances/{instance}/file")

    def log(self) -> str:
        return (self.folder / "orthanc.log").read_text(errors="replace")


def required() -> None:
    """Skip, and say why, where Orthanc or dcmtk is not installed."""
    missing = [name for name in ("Orthanc", "storescu") if _path_of(name) is None]
    plugin = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
    if not Path(plugin).exists():
        missing.append("orthanc-dicomweb")
    if missing:
        pytest.skip(f"NOT RUN: {', '.join(missing)} not installed (tests/system-packages.sh)")


@contextmanager
def running(folder: Path, *, gateway_port: int) -> Iterator[Orthanc]:
    """An archive that forwards its radiographs to a gateway on loopback."""
    folder.mkdir(parents=True, exist_ok=True)
    http_port, dicom_port = free_port(), free_port()
    environment = os.environ | {
        "ORTHANC_STORAGE": str(folder / "db"),
        "ORTHANC_FORWARD": str(CONFIGURATION / "forward.lua"),
        "ORTHANC_HTTP_PORT": str(http_port),
        "ORTHANC_DICOM_PORT": str(dicom_port),
        "ORTHANC_PASSWORD": PASSWORD,
        "ORTHANC_STABLE_AGE": "2",
        "CXR_GATEWAY_HOST": "127.0.0.1",
        "CXR_GATEWAY_PORT": str(gateway_port),
    }
    program = _path_of("Orthanc")
    assert program is not None
    with (folder / "orthanc.log").open("ab") as log:
        process = subprocess.Popen(
            [program, str(CONFIGURATION / "orthanc.json")],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    archive = Orthanc(process, http_port, dicom_port, folder)
    try:
        _wait(archive)
        yield archive
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _path_of(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin")


def _wait(archive: Orthanc) -> None:
    until = time.monotonic() + START_LIMIT_S
    while True:
        if archive.process.poll() is not None:
            raise RuntimeError(f"Orthanc ended with {archive.process.returncode}\n{archive.log()[-2000:]}")
        try:
            archive.get("/system")
            return
        except (OSError, RuntimeError):
            if time.monotonic() > until:
                raise RuntimeError(f"Orthanc is not ready\n{archive.log()[-2000:]}") from None
            time.sleep(0.05)
