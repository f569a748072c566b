"""Small real peers of the gateway on loopback: the service's `/reports`, a STOW-RS archive, a C-STORE archive, a webhook, an HL7 listener.

Each runs on its own threads and port, keeps what it was given, and misbehaves by `mode` (HTTP: at POST):

    ok         answers as it should
    500        answers with a server error (DIMSE: processing failure; HL7: AE), keeping nothing
    4xx        answers with an error that cannot heal
    slow       answers well, after `slow_s`
    half_open  takes the connection and never answers, keeping nothing
    forgetful  keeps what it was given but closes the connection instead of answering

`down` is a mode too: nothing listens on the port.
"""

from __future__ import annotations

import hashlib
import io
import json
import socket
import socketserver
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ComprehensiveSRStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from pynetdicom import AE, evt

from app.gateway.deliver_mllp import END, START
from app.gateway.multipart import parse_related

BUNDLE = "stand-in/1.0.0"
API_KEY = "cxr_test_key"
HALF_OPEN_S = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def result_uid(film_uid: str, kind: str, bundle: str = BUNDLE) -> str:
    """The SOP Instance UID of a result: follows from the film, the bundle and the kind, as in the service."""
    return str(generate_uid(entropy_srcs=[film_uid, bundle, kind]))


class Peer:
    """Common to all: a port, a mode, and what was kept: id -> how often it came and which contents."""

    def __init__(self) -> None:
        self.port = free_port()
        self.mode = "down"
        self.slow_s = 1.0
        self.guard = threading.Lock()
        self.times: Counter[str] = Counter()
        self.contents: dict[str, set[str]] = {}
        self.tries = 0

    def keep(self, name: str, content: bytes) -> None:
        with self.guard:
            self.times[name] += 1
            self.contents.setdefault(name, set()).add(hashlib.sha256(content).hexdigest())

    def set(self, mode: str) -> None:
        if self.mode == "down" and mode != "down":
            self._listen()
        elif self.mode != "down" and mode == "down":
            self._close()
        self.mode = mode

    def close(self) -> None:
        self.set("down")

    def _listen(self) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    peer: HttpPeer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The gateway was killed in the middle; that is what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        assert "Content-Length" in self.headers
        self._serve(self.rfile.read(int(self.headers["Content-Length"])))

    def _serve(self, body: bytes) -> None:
        peer = self.server.peer
        with peer.guard:
            peer.tries += self.command == "POST"
        if peer.mode == "down":  # a connection that was kept
            self.close_connection = True
            return
        if self.command == "POST" and peer.mode == "half_open":
            time.sleep(HALF_OPEN_S)
            self.close_connection = True
            return
        if self.command == "POST" and peer.mode == "slow":
            time.sleep(peer.slow_s)
        status, headers, answer = peer.answer(self.command, self.path, dict(self.headers.items()), body)
        if self.command == "POST" and peer.mode == "forgetful":
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class' name
        pass


class HttpPeer(Peer):
    """An HTTP server whose answers come from `answer`."""

    error: ClassVar[int] = 500

    def _listen(self) -> None:
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.peer = self
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def _close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        raise NotImplementedError


def problem(status: int, code: str) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/problem+json"}, json.dumps({"code": code}).encode()


class ServicePeer(HttpPeer):
    """`GET /health` and `POST /reports`; refuses films whose View Position is LL. times counts predictions by Idempotency-Key."""

    def __init__(self) -> None:
        super().__init__()
        self.bundle = BUNDLE
        self.key = API_KEY
        self.poison = ""  # SOP Instance UID of a film on which it always fails

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if path == "/health":
            return 200, {"Content-Type": "application/json"}, json.dumps({"bundle": self.bundle or None}).encode()
        if headers.get("X-API-Key") != self.key:
            return problem(401, "unauthenticated")
        if self.mode == "500":
            return problem(500, "internal_error")
        assert headers["Content-Type"] == "application/dicom"
        film = dcmread(io.BytesIO(body), stop_before_pixels=True)
        if film.SOPInstanceUID == self.poison:
            return problem(500, "internal_error")
        if film.ViewPosition == "LL":
            return problem(422, "lateral_view")
        self.keep(headers["Idempotency-Key"], body)
        kinds = path.partition("objects=")[2].partition("&")[0].split(",")
        return self._reports(film, kinds)

    def _reports(self, film: Dataset, kinds: list[str]) -> tuple[int, dict[str, str], bytes]:
        boundary = "stand-in-boundary"
        pieces = []
        for kind in kinds:
            content = self._object(film, kind)
            pieces.append(f"--{boundary}\r\nContent-Type: x/y\r\nContent-Location: {kind}\r\n\r\n".encode() + content)
        body = b"\r\n".join([*pieces, f"--{boundary}--\r\n".encode()])
        return 200, {"Content-Type": f"multipart/related; boundary={boundary}", "CXR-Bundle": self.bundle}, body

    def _object(self, film: Dataset, kind: str) -> bytes:
        uid = result_uid(str(film.SOPInstanceUID), kind, self.bundle)
        if kind == "fhir":
            return json.dumps({"resourceType": "DiagnosticReport", "id": uid}).encode()
        if kind == "oru":
            header = f"MSH|^~\\&|CXR|CXR|RIS|RIS|20210401||ORU^R01|{uid}|P|2.5.1"
            return f"{header}\rOBX|1|NM|p||0.5\r".encode()
        result = Dataset()
        result.SOPClassUID = {"sr": ComprehensiveSRStorage}.get(kind, SecondaryCaptureImageStorage)
        result.SOPInstanceUID = uid
        result.StudyInstanceUID = film.StudyInstanceUID
        result.SeriesInstanceUID = result_uid(film.SeriesInstanceUID, kind)
        result.PatientName = film.PatientName
        result.file_meta = FileMetaDataset()
        result.file_meta.MediaStorageSOPClassUID = result.SOPClassUID
        result.file_meta.MediaStorageSOPInstanceUID = UID(uid)
        result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        buffer = io.BytesIO()
        result.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()


class StowPeer(HttpPeer):
    """An archive: objects by SOP Instance UID. headers: of the last request."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: dict[str, str] = {}

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self.mode == "500":
            return 500, {}, b""
        if self.mode == "4xx":
            return 403, {}, b""
        self.headers = headers
        lines = []
        for part in parse_related(body, headers["Content-Type"]):
            data = dcmread(io.BytesIO(part.content))
            self.keep(str(data.SOPInstanceUID), part.content)
            lines.append({"00081155": {"vr": "UI", "Value": [str(data.SOPInstanceUID)]}})
        answer = json.dumps({"00081199": {"vr": "SQ", "Value": lines}}).encode()
        return 200, {"Content-Type": "application/dicom+json"}, answer


class WebhookPeer(HttpPeer):
    """Messages by `webhook-id`; headers of the last one are kept for the signature's test."""

    def __init__(self) -> None:
        super().__init__()
        self.last: tuple[dict[str, str], bytes] = ({}, b"")
        self.films: set[str] = set()  # ids of the resources inside

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self.mode == "500":
            return 503, {"Retry-After": "0"}, b""
        if self.mode == "4xx":
            return 410, {}, b""
        self.last = (headers, body)
        self.films.add(json.loads(body)["data"]["id"])
        self.keep(headers["webhook-id"], body)
        return 204, {}, b""


class StorePeer(Peer):
    """An archive behind a C-STORE SCP."""

    AE_TITLE = "PEER"

    def _listen(self) -> None:
        entity = AE(ae_title=self.AE_TITLE)
        entity.require_called_aet = True
        for uid in (ComprehensiveSRStorage, SecondaryCaptureImageStorage):
            entity.add_supported_context(uid, ExplicitVRLittleEndian)
        handlers: Any = [(evt.EVT_C_STORE, self._store)]
        self._server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

    def _close(self) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def _store(self, event: Any) -> int:
        with self.guard:
            self.tries += 1
        if self.mode == "500":
            return 0x0110
        if self.mode == "4xx":
            return 0xC000
        if self.mode == "half_open":
            time.sleep(3.0)
            event.assoc.abort()
            return 0xA700
        if self.mode == "slow":
            time.sleep(self.slow_s)
        content = event.request.DataSet.getvalue()
        self.keep(str(event.request.AffectedSOPInstanceUID), content)
        if self.mode == "forgetful":
            event.assoc.abort()
        return 0x0000


class _Mllp(socketserver.BaseRequestHandler):
    server: _MllpServer

    def handle(self) -> None:
        peer, received = self.server.peer, bytearray()
        with suppress(OSError):
            while not received.endswith(END):
                piece = self.request.recv(65_536)
                if not piece:
                    return
                received += piece
            with peer.guard:
                peer.tries += 1
            if peer.mode == "half_open":
                time.sleep(HALF_OPEN_S)
                return
            if peer.mode == "slow":
                time.sleep(peer.slow_s)
            message = bytes(received).removeprefix(START).removesuffix(END)
            name = message.split(b"|")[9].decode()
            if name == peer.poison:
                return
            code = {"500": "AE", "4xx": "AR"}.get(peer.mode, "AA")
            if code == "AA":
                peer.keep(name, message)
            if peer.mode != "forgetful":
                error = "\rERR|||102^Data type error^HL70357|E" if code == "AR" else ""
                head = "MSH|^~\\&|RIS|RIS|CXR|CXR|20210401||ACK^R01|1|P|2.5.1"
                self.request.sendall(START + f"{head}\rMSA|{code}|{name}{error}\r".encode() + END)


class _MllpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    peer: MllpPeer


class MllpPeer(Peer):
    """An HL7 listener: messages by MSH-10."""

    poison = ""  # a message that makes it close the connection

    def _listen(self) -> None:
        self._server = _MllpServer(("127.0.0.1", self.port), _Mllp)
        self._server.peer = self
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def _close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
