"""The C-STORE SCP, asked by real peers: pynetdicom as SCU, dcmtk's tools, and sockets that do not keep to the rules."""

from __future__ import annotations

import io
import logging
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
from pynetdicom import AE, _config
from pynetdicom.association import Association

from app.errors import ConfigurationError, CxrError, ImageError, RefusedError, UnavailableError
from app.gateway import association as bounds
from app.gateway.part10 import as_file, read_meta
from app.gateway.scp import STORAGE_CLASSES, TRANSFER_SYNTAXES, StorageScp
from tests.support.dicom_films import CANARY, as_bytes, dicom_film, file_dataset

TITLE = "CXRTRIAGE"
FILM = dicom_film(1, size=(160, 140))
INSTANCE = read_meta(FILM).sop_instance_uid


@dataclass(frozen=True)
class Peer:
    ae: str
    address: str | None = None


@dataclass
class Sink:
    """Takes films; `answer` may raise, wait, or be left alone."""

    films: list[tuple[bytes, str]] = field(default_factory=list)
    answer: Callable[[], None] = lambda: None

    def __call__(self, data: bytes, peer: str) -> None:
        self.answer()
        self.films.append((data, peer))


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def scp(sink: Sink) -> Iterator[StorageScp]:
    with running(sink) as server:
        yield server


@contextmanager
def running(sink: Sink, **changes: object) -> Iterator[StorageScp]:
    options = {"max_associations": 3, "silence_s": 5.0, "message_max_bytes": 2_000_000} | changes
    server = StorageScp(
        sink,
        ae_title=TITLE,
        peers=(Peer("MODALITY"), Peer("FAR", "192.0.2.7"), Peer("NEAR", "127.0.0.0/8")),
        host="127.0.0.1",
        port=0,
        **options,  # type: ignore[arg-type] # names and values are checked by running
    )
    server.start()
    try:
        yield server
    finally:
        server.stop(grace_s=0.5)
        wait_for(lambda: not [t for t in threading.enumerate() if "AcceptorThread" in t.name])


def wait_for(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.02)


def associate(scp: StorageScp, calling: str = "MODALITY", called: str = TITLE) -> Association:
    entity = AE(calling)
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        for uid in (STORAGE_CLASSES[0], CTImageStorage, "1.2.840.10008.1.1"):
            entity.add_requested_context(uid, syntax)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
    return entity.associate("127.0.0.1", scp.port, ae_title=called)


def store(scp: StorageScp, film: bytes = FILM) -> Dataset:
    association = associate(scp)
    assert association.is_established
    try:
        return association.send_c_store(dcmread(io.BytesIO(film)))
    finally:
        association.release()


# what is said


def test_echo(scp: StorageScp) -> None:
    association = associate(scp)
    assert association.send_c_echo().Status == 0
    association.release()


def test_a_film_is_acknowledged_after_it_was_received(scp: StorageScp, sink: Sink) -> None:
    begun, go = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert go.wait(10)

    sink.answer = hold
    answers: list[Dataset] = []
    sender = threading.Thread(target=lambda: answers.append(store(scp)))
    sender.start()
    assert begun.wait(10)
    time.sleep(0.2)
    assert not answers
    go.set()
    sender.join(10)
    assert answers[0].Status == 0x0000
    assert [peer for _, peer in sink.films] == ["MODALITY"]


def body_in(syntax: UID) -> bytes:
    """A film's data set in a transfer syntax; where that is compressed, with bytes in place of a codestream."""
    film = file_dataset(1, size=(160, 140))
    if syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian:
        film.PixelData = encapsulate([b"no codestream; "])
        film["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    film.file_meta.TransferSyntaxUID = syntax
    film.save_as(
        buffer,
        enforce_file_format=True,
        implicit_vr=syntax.is_implicit_VR,
        little_endian=syntax.is_little_endian,
    )
    whole = buffer.getvalue()
    return whole[144 + struct.unpack_from("<I", whole, 140)[0] :]


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=lambda uid: uid.name)
def test_the_data_set_is_kept_as_it_came_in_every_transfer_syntax(
    scp: StorageScp, sink: Sink, syntax: UID, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = as_file(read_meta(FILM).sop_class_uid, INSTANCE, syntax, body_in(syntax))
    assert send_file(scp, film, tmp_path, monkeypatch).Status == 0
    assert sink.films == [(film, "MODALITY")]


def send_file(scp: StorageScp, film: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Send a file's own bytes, announced as its meta header says."""
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
    path = folder / "film.dcm"
    path.write_bytes(film)
    entity = AE("MODALITY")
    meta = read_meta(film)
    entity.add_requested_context(meta.sop_class_uid, [meta.transfer_syntax_uid])
    association = entity.associate("127.0.0.1", scp.port, ae_title=TITLE)
    try:
        return association.send_c_store(path)
    finally:
        association.release()


def test_of_several_transfer_syntaxes_the_uncompressed_one_is_taken(scp: StorageScp) -> None:
    entity = AE("MODALITY")
    entity.add_requested_context(STORAGE_CLASSES[1], [RLELossless, JPEG2000Lossless, ExplicitVRLittleEndian])
    association = entity.associate("127.0.0.1", scp.port, ae_title=TITLE)
    assert association.accepted_contexts[0].transfer_syntax == [ExplicitVRLittleEndian]
    association.release()


def test_other_storage_classes_are_not_negotiated(scp: StorageScp) -> None:
    association = associate(scp)
    assert CTImageStorage not in {context.abstract_syntax for context in association.accepted_contexts}
    association.release()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UnavailableError("audit_unavailable"), 0xA700),
        (UnavailableError("overloaded"), 0xA700),
        (ImageError("malformed_dicom", what="x"), 0xC000),
        (ImageError("payload_too_large", what="file", limit=1), 0xC000),
        (ImageError("dicom_without_image", what="x"), 0x0122),
        (RefusedError("blank_image"), 0xC000),
        (ConfigurationError("gateway_config", "x"), 0x0110),
        (ValueError(CANARY), 0x0110),
    ],
    ids=lambda value: getattr(value, "code", None) or (hex(value) if isinstance(value, int) else "ValueError"),
)
def test_statuses(scp: StorageScp, sink: Sink, error: Exception, status: int) -> None:
    def fail() -> None:
        raise error

    sink.answer = fail
    answer = store(scp)
    assert answer.Status == status
    assert answer.ErrorComment == (error.code if isinstance(error, CxrError) else "internal_error")
    sink.answer = lambda: None
    assert store(scp).Status == 0x0000


@pytest.mark.parametrize("what", ["class", "instance"])
def test_a_data_set_that_is_another_object_than_the_message_says(
    scp: StorageScp, sink: Sink, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced = (STORAGE_CLASSES[0], "1.2.3") if what == "instance" else (STORAGE_CLASSES[1], INSTANCE)
    film = as_file(*announced, ExplicitVRLittleEndian, body_in(ExplicitVRLittleEndian))
    assert send_file(scp, film, tmp_path, monkeypatch).Status == 0xA900
    assert not sink.films


def test_a_damaged_data_set_is_not_handed_on(
    scp: StorageScp, sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = body_in(ExplicitVRLittleEndian)
    film = as_file(STORAGE_CLASSES[0], INSTANCE, ExplicitVRLittleEndian, whole[: len(whole) // 2])
    answer = send_file(scp, film, tmp_path, monkeypatch)
    assert (answer.Status, answer.ErrorComment) == (0xC000, "truncated_image")
    assert not sink.films


def test_a_uid_that_is_none_is_not_written_into_a_file(scp: StorageScp, sink: Sink) -> None:
    association = associate(scp)
    film = dcmread(io.BytesIO(FILM))
    film.SOPInstanceUID = "1.2.x"
    with pytest.warns(UserWarning, match="Invalid value for VR UI"):
        assert association.send_c_store(film).Status == 0xC000
    association.release()
    assert not sink.films


def test_an_association_may_carry_any_number_of_films(scp: StorageScp, sink: Sink) -> None:
    association = associate(scp)
    for _ in range(2 * bounds.PENDING_MAX):
        assert association.send_c_store(dcmread(io.BytesIO(FILM))).Status == 0
        assert association.send_c_echo().Status == 0
    association.release()
    assert len(sink.films) == 2 * bounds.PENDING_MAX


# who may come in


@pytest.mark.parametrize(
    ("calling", "called", "diagnostic"),
    [("STRANGER", TITLE, 3), ("MODALITY", "OTHER", 7), ("FAR", TITLE, 3), ("modality", TITLE, 3)],
    ids=["calling", "called", "address", "case"],
)
def test_strangers_are_rejected_with_the_reason(scp: StorageScp, calling: str, called: str, diagnostic: int) -> None:
    association = associate(scp, calling, called)
    assert association.is_rejected
    assert association.acceptor.primitive is not None
    assert association.acceptor.primitive.diagnostic == diagnostic
    wait_for(lambda: scp.associations == 0)


def test_a_peer_from_its_own_network_is_taken(scp: StorageScp) -> None:
    association = associate(scp, "NEAR")
    assert association.is_established
    association.release()


def test_nobody_is_taken_where_nobody_is_listed(sink: Sink) -> None:
    server = StorageScp(sink, ae_title=TITLE, peers=(), host="127.0.0.1", port=0, message_max_bytes=1_000_000)
    server.start()
    try:
        assert associate(server).is_rejected
    finally:
        server.stop(grace_s=0.5)


def test_a_fault_while_asking_who_it_is_lets_nobody_in(scp: StorageScp, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(calling: str, address: str) -> bool:
        raise ValueError(CANARY)

    monkeypatch.setattr(scp, "_knows", fail)
    assert associate(scp).is_rejected


def test_an_address_that_is_none_is_refused_at_once(sink: Sink) -> None:
    with pytest.raises(ConfigurationError, match="peer_address"):
        StorageScp(sink, ae_title=TITLE, peers=[Peer("A", "pacs.example")], host="", port=0, message_max_bytes=1)


def test_one_association_too_many_is_rejected_for_now(scp: StorageScp) -> None:
    held = [associate(scp) for _ in range(3)]
    extra = associate(scp)
    assert extra.is_rejected
    assert extra.acceptor.primitive is not None
    assert extra.acceptor.primitive.result == 2  # transient: come back later
    for association in held:
        assert association.send_c_echo().Status == 0
        association.release()
    wait_for(lambda: scp.associations == 0)
    again = associate(scp)
    assert again.is_established
    again.release()


# peers that do not keep to the rules


def connect(scp: StorageScp) -> socket.socket:
    return socket.create_connection(("127.0.0.1", scp.port), timeout=10)


def read_to_end(peer: socket.socket) -> bytes:
    data = b""
    try:
        while piece := peer.recv(4096):
            data += piece
    except ConnectionResetError:
        pass
    return data


def associated_socket(scp: StorageScp) -> socket.socket:
    """A bare socket with an established association for CR in implicit VR (context 1)."""

    def item(kind: int, value: bytes) -> bytes:
        return struct.pack(">BxH", kind, len(value)) + value

    context = (
        b"\x01\x00\x00\x00" + item(0x30, STORAGE_CLASSES[0].encode()) + item(0x40, ImplicitVRLittleEndian.encode())
    )
    user = item(0x51, struct.pack(">I", 16_384)) + item(0x52, b"1.2.3")
    body = struct.pack(">HH16s16s32x", 1, 0, TITLE.ljust(16).encode(), b"MODALITY".ljust(16))
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, context) + item(0x50, user)
    peer = connect(scp)
    peer.sendall(struct.pack(">BxI", 1, len(body)) + body)
    assert peer.recv(1) == b"\x02"  # A-ASSOCIATE-AC
    time.sleep(0.1)
    peer.recv(4096)
    return peer


def test_tcp_probes_leave_nothing_behind(scp: StorageScp) -> None:
    for _ in range(25):  # more than associations or connections are allowed
        connect(scp).close()
        time.sleep(0.01)
    wait_for(lambda: scp.associations == 0, limit_s=3.0)
    assert associate(scp).is_established


def test_connections_have_a_limit(scp: StorageScp) -> None:
    held = [connect(scp) for _ in range(6)]
    wait_for(lambda: scp.associations == 6)
    extra = connect(scp)
    extra.settimeout(3)  # less than what is left to a peer that says nothing
    assert extra.recv(1) == b""  # closed at once
    for peer in (*held, extra):
        peer.close()
    wait_for(lambda: scp.associations == 0)
    assert associate(scp).is_established


def test_a_peer_that_stops_in_the_middle_of_a_pdu_is_let_go(sink: Sink) -> None:
    with running(sink, silence_s=0.5) as scp:
        peer = associated_socket(scp)
        peer.sendall(struct.pack(">BxI", 4, 1_000) + b"half")
        began = time.monotonic()
        read_to_end(peer)
        assert time.monotonic() - began < 5
        wait_for(lambda: scp.associations == 0)
        peer.close()


def test_a_silent_association_is_ended(sink: Sink) -> None:
    with running(sink, silence_s=0.5) as scp:
        peer = associated_socket(scp)
        assert read_to_end(peer)[:1] == b"\x07"  # A-ABORT
        wait_for(lambda: scp.associations == 0)
        peer.close()


@pytest.mark.parametrize("kind", [1, 4], ids=["associate", "data"])
def test_a_pdu_that_claims_gigabytes_is_answered_with_an_abort(scp: StorageScp, kind: int) -> None:
    peer = associated_socket(scp) if kind == 4 else connect(scp)
    peer.sendall(struct.pack(">BxI", kind, 0xFFFFFFF0) + bytes(100))
    assert read_to_end(peer)[:1] == b"\x07"
    wait_for(lambda: scp.associations == 0)
    peer.close()


def p_data(fragment: bytes, control: int) -> bytes:
    value = struct.pack(">IBB", len(fragment) + 2, 1, control) + fragment
    return struct.pack(">BxI", 4, len(value)) + value


def test_a_message_without_end_is_aborted(scp: StorageScp, sink: Sink) -> None:
    peer = associated_socket(scp)
    sent = 0
    try:
        for _ in range(200):
            peer.sendall(p_data(bytes(60_000), 0))
            sent += 60_000
            time.sleep(0.001)
    except OSError:
        pass
    assert sent < 8_000_000  # the limit is 2 MB; the rest lay in the kernel's buffers
    wait_for(lambda: scp.associations == 0)
    peer.close()
    assert not sink.films
    assert store(scp).Status == 0


def test_messages_that_wait_count_as_well(scp: StorageScp, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one film is being stored a peer may send more, unasked; it is stopped after a few."""
    go = threading.Event()
    sink.answer = lambda: assert_true(go.wait(20))
    from pynetdicom.dimse_messages import C_STORE_RQ
    from pynetdicom.dimse_primitives import C_STORE

    peer = associated_socket(scp)
    request = C_STORE()
    request.MessageID, request.Priority = 1, 0
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = STORAGE_CLASSES[0], INSTANCE
    request.DataSet = io.BytesIO(body_in(ImplicitVRLittleEndian))
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    pdus = []
    for primitive in message.encode_msg(1, 16_384):
        for _, value in primitive.presentation_data_value_list:
            pdus.append(struct.pack(">BxIIB", 4, len(value) + 5, len(value) + 1, 1) + value)
    aborted = False
    try:
        for _ in range(bounds.PENDING_MAX + 20):
            peer.sendall(b"".join(pdus))
            time.sleep(0.02)
    except OSError:
        aborted = True
    go.set()
    assert aborted or read_to_end(peer)[:1] == b"\x07"
    wait_for(lambda: scp.associations == 0)
    peer.close()
    assert len(sink.films) <= bounds.PENDING_MAX + 2


def assert_true(value: bool) -> None:
    assert value


def test_all_messages_together_have_a_limit(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.gateway.scp.HELD_MESSAGES", 1)
    with running(sink, message_max_bytes=300_000, silence_s=60.0) as scp:
        first, second = associated_socket(scp), associated_socket(scp)
        for _ in range(4):
            first.sendall(p_data(bytes(60_000), 0))  # 240 kB of 300 kB, and the message is not complete
        time.sleep(0.3)
        second.sendall(p_data(bytes(100_000), 0))
        assert read_to_end(second)[:1] == b"\x07"
        first.close()
        second.close()
        wait_for(lambda: scp.associations == 0)
        assert store(scp).Status == 0  # what was held is free again


def test_garbage_is_answered_with_an_abort(scp: StorageScp) -> None:
    peer = connect(scp)
    peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert read_to_end(peer)[:1] in {b"\x07", b""}
    peer.close()
    wait_for(lambda: scp.associations == 0)


# what is kept quiet


def test_nothing_of_the_patient_is_logged(
    scp: StorageScp, sink: Sink, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger().setLevel(logging.DEBUG)
    try:
        assert store(scp).Status == 0
        sink.answer = lambda: (_ for _ in ()).throw(ValueError(CANARY))
        assert store(scp, dicom_film(2, size=(160, 140))).Status == 0x0110
        sink.answer = lambda: None
        stranger = associate(scp, f"{CANARY}AE")
        assert stranger.is_rejected
        broken = file_dataset(3, size=(160, 140))
        broken.PatientName = f"{CANARY}\x00\x01"
        assert store(scp, as_bytes(broken)).Status == 0
    finally:
        logging.getLogger().setLevel(logging.WARNING)
    written = caplog.text + "".join(capfd.readouterr())
    assert "film_offered" in written
    assert CANARY not in written
    assert INSTANCE not in written


def test_stop_lets_a_film_in_hand_finish(sink: Sink) -> None:
    with running(sink) as scp:
        begun = threading.Event()

        def slow() -> None:
            begun.set()
            time.sleep(0.5)

        sink.answer = slow
        answers: list[Dataset] = []
        sender = threading.Thread(target=lambda: answers.append(store(scp)))
        sender.start()
        assert begun.wait(10)
        scp.stop(grace_s=5)
        sender.join(10)
        assert answers[0].Status == 0
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", scp.port or 1), timeout=2)


# dcmtk as the peer


@pytest.fixture
def dcmtk() -> None:
    if shutil.which("storescu") is None:
        pytest.skip("NOT RUN: dcmtk is not installed (tests/system-packages.sh)")


def test_dcmtk_echoes_and_stores(scp: StorageScp, sink: Sink, dcmtk: None, tmp_path: Path) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(FILM)
    who = ["-aet", "MODALITY", "-aec", TITLE, "127.0.0.1", str(scp.port)]
    assert subprocess.run(["echoscu", *who], timeout=20, check=False).returncode == 0
    assert subprocess.run(["storescu", *who, str(path)], timeout=20, check=False).returncode == 0
    sent, peer = sink.films[0]
    assert peer == "MODALITY"
    assert dcmread(io.BytesIO(sent)).PatientID == dcmread(io.BytesIO(FILM)).PatientID
    assert dcmread(io.BytesIO(sent)).PixelData == dcmread(io.BytesIO(FILM)).PixelData
