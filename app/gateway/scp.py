"""C-ECHO and C-STORE SCP: takes films from known application entities and acknowledges what is durable, nothing else.

What it speaks stands here as data (`STORAGE_CLASSES`, `TRANSFER_SYNTAXES`): the conformance statement is made from it. A film's
data set is kept as it came, never transcoded. The statuses it answers with stand in `statuses.py`.

pynetdicom's own log quotes what it cannot decode, so it is silenced; what is worth knowing is logged here, without any text of a peer.
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Protocol, cast

import pydicom.uid as uids
import structlog
from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom import sop_class as classes
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext, build_context

from app.errors import ConfigurationError, CxrError
from app.gateway.association import PDU_MAX_BYTES, BoundedServer
from app.gateway.header import read_facts
from app.gateway.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION, as_file
from app.gateway.statuses import FAULT, SUCCESS, MismatchError, status_of

log = structlog.get_logger("cxr.gateway.scp")

# films, and what films are sent as by systems that know no better; several frames are taken so that the answer is a coded refusal
STORAGE_CLASSES: tuple[uids.UID, ...] = (
    classes.ComputedRadiographyImageStorage,  # type: ignore[attr-defined]
    classes.DigitalXRayImageStorageForPresentation,  # type: ignore[attr-defined]
    classes.DigitalXRayImageStorageForProcessing,  # type: ignore[attr-defined]
    classes.SecondaryCaptureImageStorage,  # type: ignore[attr-defined]
    classes.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,  # type: ignore[attr-defined]
    classes.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,  # type: ignore[attr-defined]
    classes.MultiFrameTrueColorSecondaryCaptureImageStorage,  # type: ignore[attr-defined]
    classes.XRayRadiofluoroscopicImageStorage,  # type: ignore[attr-defined]
)
# in this order where a peer leaves us the choice: uncompressed ones cost the service no decoder process
TRANSFER_SYNTAXES: tuple[uids.UID, ...] = (
    uids.ExplicitVRLittleEndian,
    uids.ImplicitVRLittleEndian,
    uids.DeflatedExplicitVRLittleEndian,
    uids.ExplicitVRBigEndian,
    uids.RLELossless,
    uids.JPEGBaseline8Bit,
    uids.JPEGExtended12Bit,
    uids.JPEGLossless,
    uids.JPEGLosslessSV1,
    uids.JPEGLSLossless,
    uids.JPEGLSNearLossless,
    uids.JPEG2000Lossless,
    uids.JPEG2000,
    uids.HTJ2KLossless,
    uids.HTJ2KLosslessRPCL,
    uids.HTJ2K,
)

_REJECTED_PERMANENT, _BY_SERVICE_USER = 1, 1  # PS3.8 section 9.3.4
_CALLING_NOT_RECOGNISED, _CALLED_NOT_RECOGNISED = 3, 7

ASSOCIATE_DEADLINE_S = 10.0
HELD_MESSAGES = 4  # messages of the largest size that may be in memory at one time, all peers together


class Sender(Protocol):
    """An application entity that may send; address: an IP address or network, None for any."""

    @property
    def ae(self) -> str: ...

    @property
    def address(self) -> str | None: ...


Receive = Callable[[bytes, str], object]


class StorageScp:
    """The listening side. Threads of its own; `receive` is called on them, one call per association at a time.

    Args:
        receive: takes (Part 10 file, calling AE title), returns when it is durable, raises CxrError where it is not.
        ae_title: what callers must call us.
        peers: who may call; nobody where empty.
        host, port: where to listen; port 0 takes a free one.
        message_max_bytes: largest film.
        max_associations: more are rejected, "local limit exceeded".
        silence_s: longest silence of a peer inside an association.

    Raises:
        ConfigurationError: peer_address; an address is none.
    """

    def __init__(
        self,
        receive: Receive,
        *,
        ae_title: str,
        peers: Iterable[Sender],
        host: str,
        port: int,
        message_max_bytes: int,
        max_associations: int = 10,
        silence_s: float = 30.0,
    ) -> None:
        self._receive = receive
        self._ae_title = ae_title
        self._peers = _networks_by_title(peers)
        self._address = (host, port)
        self._message_max_bytes = message_max_bytes
        self._silence_s = silence_s
        self._ae = _application_entity(ae_title, max_associations, silence_s)
        self._max_associations = max_associations
        self._server: BoundedServer | None = None

    def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address is taken, or none of ours.
        """
        silence_libraries()
        self._server = server = BoundedServer(
            self._ae,
            self._address,
            self._ae_title,
            supported_contexts(),
            evt_handlers=[
                (evt.EVT_REQUESTED, self._requested),
                (evt.EVT_C_ECHO, self._echo),
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_DIMSE_RECV, self._message),
                (evt.EVT_CONN_CLOSE, _closed),
            ],
            message_max_bytes=self._message_max_bytes,
            held_max_bytes=HELD_MESSAGES * self._message_max_bytes,
            connections_max=2 * self._max_associations,
            silence_s=self._silence_s,
        )
        threading.Thread(target=server.serve_forever, name="cxr-scp", daemon=True).start()
        log.info("scp_listening", port=self.port, peers=len(self._peers))

    def stop(self, grace_s: float = 5.0) -> None:
        """Take no new associations, let those that are open finish within `grace_s`, abort the rest."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        until = time.monotonic() + grace_s
        while server.active_associations and time.monotonic() < until:
            time.sleep(0.05)
        for association in server.active_associations:
            association.abort()

    @property
    def port(self) -> int:
        """Where it listens; the one that was asked for while it does not."""
        return int(self._server.server_address[1]) if self._server else self._address[1]

    @property
    def associations(self) -> int:
        """Connections that are open."""
        return self._server.associations if self._server else 0

    # the library's events

    def _requested(self, event: evt.Event) -> None:
        """Who may not come in is turned away here, before anything is negotiated (PS3.8 section 9.3.4)."""
        try:
            objection = self._objection(event.assoc)
        except Exception as error:  # the library would go on as if nothing had been said
            log.error("association_failed", error=type(error).__name__)  # noqa: TRY400 - the text may quote the peer
            objection = _CALLING_NOT_RECOGNISED
        if objection is not None:
            log.warning("association_rejected", diagnostic=objection, address=event.assoc.requestor.address)
            event.assoc.acse.send_reject(_REJECTED_PERMANENT, _BY_SERVICE_USER, objection)
            event.assoc.kill()  # waits until the rejection is on its way

    def _objection(self, association: Association) -> int | None:
        """Why this peer is not taken: the diagnostic of an A-ASSOCIATE-RJ; None where it is."""
        request = association.requestor.primitive
        if request is None or request.calling_ae_title is None:
            return _CALLING_NOT_RECOGNISED
        if request.called_ae_title != self._ae_title:
            return _CALLED_NOT_RECOGNISED
        known = self._knows(request.calling_ae_title, association.requestor.address)
        return None if known else _CALLING_NOT_RECOGNISED

    def _knows(self, calling: str, address: str) -> bool:
        here = ip_address(address)
        if isinstance(here, IPv6Address) and here.ipv4_mapped is not None:
            here = here.ipv4_mapped
        return any(network is None or here in network for network in self._peers.get(calling, ()))

    def _message(self, event: evt.Event) -> None:
        self._inbox_do(event.assoc, "message_complete")

    def _echo(self, event: evt.Event) -> int:
        self._inbox_do(event.assoc, "message_answered")
        return SUCCESS

    def _store(self, event: evt.Event) -> Dataset | int:
        try:
            return self._stored(event)
        finally:
            self._inbox_do(event.assoc, "message_answered")

    def _stored(self, event: evt.Event) -> Dataset | int:
        peer = str(event.assoc.requestor.ae_title)
        code, status, size = None, SUCCESS, 0
        try:
            data = self._file_of(event)
            size = len(data)
            self._receive(data, peer)
        except CxrError as error:
            code, status = error.code, status_of(error)
        except Exception as error:  # whatever it is, it must not reach the library, which would log its text
            log.error("receive_failed", error=type(error).__name__)  # noqa: TRY400 - the text may quote the film
            code, status = "internal_error", FAULT
        log.info("film_offered", peer=peer, bytes=size, code=code)
        return _answer(status, code)

    def _file_of(self, event: evt.Event) -> bytes:
        """The film as a Part 10 file.

        Raises:
            ImageError: coded; MismatchError where the data set is another object than the message says.
        """
        request = cast("C_STORE", event.request)
        announced = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        data = as_file(*announced, str(event.context.transfer_syntax), event.encoded_dataset(include_meta=False))
        facts = read_facts(data, self._message_max_bytes)
        if (facts.sop_class_uid, facts.sop_instance_uid) != announced:
            raise MismatchError
        return data

    def _inbox_do(self, association: Association, what: str) -> None:
        server = self._server
        if server is None:
            return  # stopping
        inbox = server.inbox_of(association)
        if what == "message_complete":
            inbox.message_complete()
        else:
            inbox.message_answered()


def supported_contexts() -> list[PresentationContext]:
    """What is negotiated: Verification, and every storage class in every transfer syntax; of those a peer offers, the first of ours."""
    syntaxes = [str(uid) for uid in TRANSFER_SYNTAXES]
    plain = [str(uids.ImplicitVRLittleEndian), str(uids.ExplicitVRLittleEndian)]
    return [
        build_context(classes.Verification, plain),  # type: ignore[attr-defined]
        *(build_context(uid, syntaxes) for uid in STORAGE_CLASSES),
    ]


def silence_libraries() -> None:
    """Nothing that pynetdicom or pydicom would log or warn of may be seen: it can quote names and identifiers."""
    _config.LOG_HANDLER_LEVEL = "none"
    for name in ("pynetdicom", "pydicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        warnings.filterwarnings("ignore", module=rf"{name}\b")
    for name in ("httpx", "httpcore"):  # a line for every request, with its address, which may hold a secret
        logging.getLogger(name).setLevel(logging.WARNING)


def _closed(event: evt.Event) -> None:
    """A peer that connects and leaves, as health probes do: let its thread go now, not after the deadline of its first message."""
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(None)  # type: ignore[arg-type] # what `receive_pdu` returns at the deadline


def _answer(status: int, code: str | None) -> Dataset | int:
    if code is None:
        return status
    answer = Dataset()
    answer.Status = status
    answer.ErrorComment = code
    return answer


def _application_entity(ae_title: str, max_associations: int, silence_s: float) -> AE:
    entity = AE(ae_title=ae_title)
    entity.implementation_class_uid = uids.UID(IMPLEMENTATION_CLASS_UID)
    entity.implementation_version_name = IMPLEMENTATION_VERSION
    entity.maximum_associations = max_associations
    entity.maximum_pdu_size = PDU_MAX_BYTES
    entity.acse_timeout = ASSOCIATE_DEADLINE_S
    entity.dimse_timeout = silence_s
    entity.network_timeout = silence_s
    return entity


def _networks_by_title(peers: Iterable[Sender]) -> dict[str, list[IPv4Network | IPv6Network | None]]:
    networks: dict[str, list[IPv4Network | IPv6Network | None]] = {}
    for peer in peers:
        try:
            network = None if peer.address is None else ip_network(peer.address, strict=False)
        except ValueError:
            raise ConfigurationError("peer_address", f"the address of {peer.ae} is no IP address or network") from None
        networks.setdefault(peer.ae, []).append(network)
    return networks
