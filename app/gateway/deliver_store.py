"""C-STORE (PS3.4 annex B): one association a message, the status of the response decides."""

from __future__ import annotations

import io
import socket
from contextlib import suppress
from typing import Any

from pydicom import dcmread
from pynetdicom import AE, build_context, evt

from app.gateway.config import StoreDestination
from app.gateway.deliver_status import of_status
from app.gateway.outbox import Message, Outcome

_REJECTED_FOR_GOOD = 1  # PS3.8 table 9-21, Result


class StoreSender:
    """Sends as `calling` to one called AE. Association, message and network each wait at most `timeout_s`."""

    def __init__(self, destination: StoreDestination, calling: str) -> None:
        self._destination = destination
        self._socket: socket.socket | None = None
        self._entity = AE(ae_title=calling)
        for name in ("acse_timeout", "dimse_timeout", "network_timeout", "connection_timeout"):
            setattr(self._entity, name, destination.timeout_s)

    def send(self, message: Message) -> Outcome:
        data = dcmread(io.BytesIO(message.content))
        context = build_context(str(data.SOPClassUID), str(data.file_meta.TransferSyntaxUID))
        target = self._destination
        association = self._entity.associate(
            target.host,
            target.port,
            contexts=[context],
            ae_title=target.ae,
            evt_handlers=[(evt.EVT_CONN_OPEN, self._bound)],
        )
        if not association.is_established:
            return _not_established(association)
        status = association.send_c_store(data)
        if "Status" not in status:  # the connection ended, or nothing came in time
            self._cut()
            return Outcome("retry", "no_response", away=True)
        association.release()
        return of_status(int(status.Status), "dimse")

    def _bound(self, event: Any) -> None:
        """The library takes the timeout off a connected socket, and would wait for ever for a target that stops reading."""
        self._socket = event.assoc.dul.socket.socket
        self._socket.settimeout(self._destination.timeout_s)

    def _cut(self) -> None:
        """End the connection under the library, which would go on with what it has queued, one timeout after the other."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._entity.shutdown()


def _not_established(association: Any) -> Outcome:
    """A rejection is final where the acceptor says so, yet its configuration may be put right; so every one is tried again."""
    if not association.is_rejected:
        return Outcome("retry", "no_association", away=True, tried=False)
    primitive = association.acceptor.primitive
    final = primitive is not None and primitive.result == _REJECTED_FOR_GOOD
    code = "association_rejected" if final else "association_rejected_for_now"
    return Outcome("retry", code, away=True, tried=False)
