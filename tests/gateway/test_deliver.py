"""What a target's answer means: delivered, tried again, or dead. Hand-made answers beside each rule, real sockets where they matter."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import SecondaryCaptureImageStorage
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider

from app.errors import ConfigurationError
from app.gateway.config import OruDestination, StoreDestination, StowDestination, WebhookDestination
from app.gateway.deliver_http import refused
from app.gateway.deliver_mllp import MllpSender, judge_answer
from app.gateway.deliver_status import of_status
from app.gateway.deliver_store import StoreSender
from app.gateway.deliver_stow import StowSender, judge_reply
from app.gateway.deliver_webhook import WebhookSender, signature
from app.gateway.exchange import Reply
from app.gateway.outbox import DELIVERED, Message, Outcome
from tests.gateway.conftest import WEBHOOK_SECRET, Peers, refused_connections, wait_until
from tests.support.dicom_films import as_bytes, dicom_film, file_dataset

UID = "1.2.3"


def reply(status: int, answer: object = None, retry_after_s: float | None = None) -> Reply:
    return Reply(status, {}, b"" if answer is None else json.dumps(answer).encode(), retry_after_s)


def line(uid: str, reason: int | None = None) -> dict[str, Any]:
    item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
    return item if reason is None else item | {"00081197": {"vr": "US", "Value": [reason]}}


def stored(*lines: object) -> dict[str, Any]:
    return {"00081199": {"vr": "SQ", "Value": list(lines)}}


def failed(*lines: object) -> dict[str, Any]:
    return {"00081198": {"vr": "SQ", "Value": list(lines)}}


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (reply(200, stored(line(UID))), DELIVERED),
        (reply(200, [stored(line(UID))]), DELIVERED),
        (reply(202, stored(line("1.9"), line(UID)) | failed(line("1.8", 0xC000))), DELIVERED),
        (reply(200, stored(line("1.9"))), Outcome("retry", "unconfirmed")),
        (reply(200), Outcome("retry", "unconfirmed")),
        (reply(200, {"00081199": {"Value": [None, 3, {"00081155": 1}]}}), Outcome("retry", "unconfirmed")),
        (reply(200, failed(line(UID, 0xA700))), Outcome("retry", "stow_a700")),
        (reply(409, failed(line(UID, 0x0110))), Outcome("retry", "stow_0110")),
        (reply(409, failed(line(UID))), Outcome("retry", "stow_0110")),
        (reply(409, failed(line(UID, 0x0111))), DELIVERED),
        (reply(202, failed(line(UID, 0xC122))), Outcome("dead", "stow_c122")),
        (reply(409, failed(line(UID, 0x0122))), Outcome("dead", "stow_0122")),
        (reply(409), Outcome("dead", "http_409")),
        (reply(204), Outcome("dead", "http_204")),
        (reply(301), Outcome("dead", "http_301")),
        (reply(400), Outcome("dead", "http_400")),
        (reply(401), Outcome("dead", "http_401")),
        (reply(408), Outcome("retry", "http_408")),
        (reply(429, retry_after_s=7.0), Outcome("retry", "http_429", away=True, tried=False, retry_after_s=7.0)),
        (reply(500), Outcome("retry", "http_500")),
        (reply(501), Outcome("dead", "http_501")),
        (reply(503), Outcome("retry", "http_503", away=True, tried=False)),
    ],
)
def test_stow_answers(answer: Reply, outcome: Outcome) -> None:
    assert judge_reply(answer, UID) == outcome


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (0x0000, "delivered"),
        (0xB000, "delivered"),
        (0xB007, "delivered"),
        (0x0111, "delivered"),
        (0x0110, "retry"),
        (0xA700, "retry"),
        (0xA7FF, "retry"),
        (0xA900, "dead"),
        (0xC000, "dead"),
        (0x0122, "dead"),
        (0x0124, "dead"),
    ],
)
def test_storage_statuses(status: int, state: str) -> None:
    outcome = of_status(status, "dimse")
    assert outcome.state == state
    assert outcome.code == (None if state == "delivered" else f"dimse_{status:04x}")


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("MSH|^~\\&|A|B|C|D|1||ACK|1|P|2.5.1\rMSA|AA|M1\r", DELIVERED),
        ("MSH|^~\\&|\nMSA|CA|M1\n", DELIVERED),
        ("MSH|\rMSA|AA|M2\r", Outcome("retry", "unconfirmed")),
        ("MSH|\rMSA|AA\r", Outcome("retry", "unconfirmed")),
        ("MSH|\rMSA|XX|M1\r", Outcome("retry", "unconfirmed")),
        ("", Outcome("retry", "unconfirmed")),
        ("MSH|\rMSA|AE|M1\r", Outcome("retry", "hl7_ae")),
        ("MSH|\rMSA|AR|M1\rERR|||207^Application internal error|E\r", Outcome("retry", "hl7_ar")),
        ("MSH|\rMSA|AE|M1\rERR|||101^Required field missing|E\r", Outcome("dead", "hl7_ae")),
        ("MSH|\rMSA|AR|M1\rERR|||200|E\r", Outcome("dead", "hl7_ar")),
        ("MSH|\rMSA|AE|M1\rERR||\r", Outcome("retry", "hl7_ae")),
    ],
)
def test_hl7_acknowledgements(answer: str, outcome: Outcome) -> None:
    assert judge_answer(answer.encode(), "M1") == outcome


def test_the_signature_of_the_standard() -> None:
    """The example of the specification's reference libraries (standardwebhooks.com)."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def destination(peers: Peers, tmp_path: Path, secret: str = WEBHOOK_SECRET) -> WebhookDestination:
    path = tmp_path / "secret"
    path.write_text(secret)
    return WebhookDestination(name="hook", kind="webhook", url=peers.webhook.url, secret_file=path, timeout_s=2)


def test_a_webhook_is_signed_over_what_is_sent(peers: Peers, tmp_path: Path) -> None:
    sender = WebhookSender(destination(peers, tmp_path), lambda: 1_700_000_000.5)
    assert sender.send(Message("ab" * 32, "fhir", b'{"id": "Z\xc3\xbcrich"}')) == DELIVERED
    sender.close()
    headers, body = peers.webhook.last
    assert json.loads(body) == {"type": "report.created", "id": f"msg_{'ab' * 32}", "data": {"id": "Zürich"}}
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(WEBHOOK_SECRET.removeprefix("whsec_"))
    assert headers["webhook-signature"] == "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    assert headers["webhook-timestamp"] == "1700000000"


@pytest.mark.parametrize("secret", ["no-prefix", "whsec_###", "whsec_c2hvcnQ="])
def test_a_weak_secret_is_refused(peers: Peers, tmp_path: Path, secret: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        WebhookSender(destination(peers, tmp_path, secret), lambda: 0.0)
    assert refusal.value.code == "gateway_secret"


@pytest.mark.parametrize(
    ("token", "user", "header"),
    [("t0ken", None, "Bearer t0ken"), ("word", "me", "Basic bWU6d29yZA=="), (None, None, None)],
)
def test_stow_authorisation(
    peers: Peers, tmp_path: Path, token: str | None, user: str | None, header: str | None
) -> None:
    if token is not None:
        (tmp_path / "token").write_text(token)
    place = {"token_file": tmp_path / "token" if token else None, "user": user, "timeout_s": 2}
    sender = StowSender(StowDestination.model_validate({"name": "a", "kind": "stow", "url": peers.stow.url} | place))
    assert sender.send(Message("00", "sr", dicom_film(1, size=(64, 64)))) == DELIVERED
    assert sender.send(Message("00", "sr", b"no DICOM")) == Outcome("dead", "unusable_object")
    sender.close()
    assert peers.stow.headers.get("Authorization") == header
    assert int(peers.stow.headers["Content-Length"]) > 8_192


def store(peers: Peers, **changes: Any) -> StoreSender:
    fields = {
        "name": "pacs",
        "kind": "store",
        "host": "127.0.0.1",
        "port": peers.store.port,
        "ae": "PEER",
        "timeout_s": 2,
    }
    return StoreSender(StoreDestination.model_validate(fields | changes), "CXRTRIAGE")


@refused_connections
def test_c_store_that_is_not_accepted(peers: Peers) -> None:
    film = Message("00", "sr", dicom_film(1, size=(64, 64)))  # the peer takes no computed radiography
    assert store(peers).send(film) == Outcome("retry", "no_association", away=True, tried=False)
    assert store(peers, ae="OTHER").send(film) == Outcome("retry", "association_rejected", away=True, tried=False)
    peers.store.set("down")
    assert store(peers).send(film) == Outcome("retry", "no_association", away=True, tried=False)


class Stopping:
    """Relays one connection to a port, and stops reading from the client after so many bytes, the connection staying open."""

    def __init__(self, port: int, after: int) -> None:
        self._target, self._after = port, after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._relay)
        self._thread.start()

    def _relay(self) -> None:
        self._client, _ = self._listener.accept()
        self._server = socket.create_connection(("127.0.0.1", self._target))
        threading.Thread(target=self._back, daemon=True).start()
        relayed = 0
        while relayed < self._after:
            piece = self._client.recv(1_024)
            self._server.sendall(piece)
            relayed += len(piece)

    def _back(self) -> None:
        with suppress(OSError):
            while piece := self._server.recv(4_096):
                self._client.sendall(piece)

    def close(self) -> None:
        self._thread.join()
        for each in (self._client, self._server):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for each in (self._listener, self._client, self._server):
            each.close()


def library_threads() -> list[threading.Thread]:
    """Threads of associations that we requested."""
    return [
        thread
        for thread in threading.enumerate()
        if (isinstance(thread, Association) and thread.is_requestor)
        or (isinstance(thread, DULServiceProvider) and thread.assoc.is_requestor)
    ]


def test_c_store_to_a_target_that_stops_reading(peers: Peers) -> None:
    data = file_dataset(1, pixels=np.zeros((3_000, 3_000), np.uint16))
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    relay = Stopping(peers.store.port, 20_000)
    assert store(peers, port=relay.port, timeout_s=1).send(Message("00", "sc", as_bytes(data))) == Outcome(
        "retry", "no_response", away=True
    )
    wait_until(lambda: not library_threads())  # none of it is left waiting
    relay.close()
    assert peers.store.times == {}


def mllp(port: int) -> MllpSender:
    return MllpSender(OruDestination(name="ris", kind="oru", host="127.0.0.1", port=port, timeout_s=0.5))


ORU = Message("00", "oru", b"MSH|^~\\&|A|B|C|D|1||ORU^R01|M1|P|2.5.1\rOBX|1\r")


def test_an_hl7_message_that_cannot_be_framed_is_dead(peers: Peers) -> None:
    for content in (b"", b"MSH|", b"PID|1", b"MSH|^~\\&|A|B|C|D|1||ORU^R01||P|2.5.1\r", ORU.content + b"\x1c"):
        assert mllp(peers.mllp.port).send(Message("00", "oru", content)) == Outcome("dead", "unusable_object")


@pytest.mark.parametrize(
    ("answer", "code"),
    [(b"", "broken_connection"), (b"\x0bMSH|", "timeout"), (b"x" * 70_000, "broken_connection")],
    ids=["closes", "stops", "babbles"],
)
def test_an_hl7_listener_that_misbehaves(answer: bytes, code: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held = []

        def serve() -> None:
            connection, _ = listener.accept()
            connection.recv(4_096)
            if answer:
                connection.sendall(answer)
                held.append(connection)
            else:
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        assert mllp(listener.getsockname()[1]).send(ORU) == Outcome("retry", code, away=True)
        thread.join()
        for connection in held:
            connection.close()


def test_codes_of_http_refusals_are_bounded_words() -> None:
    assert {refused(reply(status)).code for status in range(300, 600)} == {f"http_{n}" for n in range(300, 600)}
