"""How much a peer may make us hold, and how long it may make us wait: bounds that the DICOM library does not have.

pynetdicom 3.0 believes the length that stands in a PDU, waits for the rest of it for ever, and gathers a message in memory however
large it grows. `Inbox` stands where it reads from the socket: a PDU has a size and a deadline, a message and all messages together
have a size, and a peer beyond them gets an A-ABORT. `BoundedServer` puts one inbox into each association and bounds their number.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from socketserver import BaseServer
from typing import Any
from weakref import WeakKeyDictionary

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

PDU_MAX_BYTES = 131_072  # what we ask peers to keep to (PS3.8 annex D.1.1); dcmtk's own largest
ASSOCIATE_MAX_BYTES = 1_048_576  # A-ASSOCIATE-RQ: 128 contexts with dozens of transfer syntaxes each
COMMAND_MAX_BYTES = 65_536  # what a message may hold besides its data set
PENDING_MAX = 8  # complete messages that wait; we negotiate no asynchronous operations, so an honest peer has one
PDU_DEADLINE_S = 30.0
_PDU_TYPES = range(1, 8)
_P_DATA_TF = 4
_RECEIVE_BYTES = 65_536


class Inbox:
    """Reads PDUs for one association and counts what they make us hold. Read by the library's network thread.

    Args:
        connection: the peer's socket; its timeout is the longest silence inside a PDU.
        message_max_bytes: of one message, command and data set.
        room: bytes that all associations together may still hold.
    """

    def __init__(self, connection: socket.socket, message_max_bytes: int, room: Callable[[], int]) -> None:
        self._connection = connection
        self._message_max_bytes = message_max_bytes
        self._room = room
        self._lock = threading.Lock()
        self._waiting: deque[int] = deque()  # sizes of the messages that are complete and not yet answered
        self._gathered = 0  # of the message that is still coming
        self._in_body = self._refused = False

    @property
    def held(self) -> int:
        """Bytes in memory for this peer."""
        with self._lock:
            return self._gathered + sum(self._waiting)

    def read(self, count: int) -> bytearray:
        """What pynetdicom calls to have `count` bytes: first the 6 of a PDU's head, then its body. Fewer bytes: the peer is gone.

        Raises:
            OSError: too slow, or refused before; the library closes the connection.
        """
        if self._refused:
            raise ConnectionAbortedError
        if self._in_body:
            self._in_body = False
            return self._exactly(count)
        head = self._exactly(count)
        if len(head) == 6:
            kind, length = struct.unpack(">BxI", head)
            if not self._takes(kind, length):
                self._refused = True
                return bytearray(6)  # a PDU type that does not exist: the library answers it with an A-ABORT
            self._in_body = kind in _PDU_TYPES  # of an unknown type the library reads no body
        return head

    def message_complete(self) -> None:
        """A message is complete and waits to be answered."""
        with self._lock:
            self._waiting.append(self._gathered)
            self._gathered = 0

    def message_answered(self) -> None:
        """The oldest message is dealt with."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft()

    def _takes(self, kind: int, length: int) -> bool:
        if kind != _P_DATA_TF:
            return length <= ASSOCIATE_MAX_BYTES
        if length > PDU_MAX_BYTES or length > self._room():
            return False
        with self._lock:
            self._gathered += length
            return self._gathered <= self._message_max_bytes + COMMAND_MAX_BYTES and len(self._waiting) <= PENDING_MAX

    def _exactly(self, count: int) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        got, until = 0, time.monotonic() + PDU_DEADLINE_S
        while got < count:
            read = self._connection.recv_into(view[got : got + _RECEIVE_BYTES])
            if not read:
                break
            got += read
            if time.monotonic() > until:
                raise TimeoutError
        view.release()
        del data[got:]
        return data


class _Handler(RequestHandler):
    """Makes an association whose socket is read by an inbox."""

    server: BoundedServer

    def _create_association(self) -> Association:
        association = super()._create_association()
        wrapped = association.dul.socket
        if wrapped is not None:
            inbox = self.server.new_inbox(association, self.request)
            wrapped.recv = inbox.read  # type: ignore[assignment,method-assign] # the one place where the library reads
        return association


class BoundedServer(ThreadedAssociationServer):
    """Takes connections, each with an inbox.

    Args:
        message_max_bytes: of one message.
        held_max_bytes: of all messages in memory.
        connections_max: connections beyond these are closed at once; the library itself rejects associations beyond its own limit
            politely, but only after it has started two threads for each.
        silence_s: longest silence of a peer inside a PDU.
    """

    request_queue_size = 64
    daemon_threads = True

    def __init__(
        self,
        entity: AE,
        address: tuple[str, int],
        ae_title: str,
        contexts: list[PresentationContext],
        *,
        evt_handlers: list[EventHandlerType],
        message_max_bytes: int,
        held_max_bytes: int,
        connections_max: int,
        silence_s: float,
    ) -> None:
        self._message_max_bytes = message_max_bytes
        self._held_max_bytes = held_max_bytes
        self._connections_max = connections_max
        self._silence_s = silence_s
        self._inboxes: WeakKeyDictionary[Association, Inbox] = WeakKeyDictionary()
        self._inboxes_lock = threading.Lock()
        super().__init__(entity, address, ae_title, contexts, evt_handlers=evt_handlers, request_handler=_Handler)

    def new_inbox(self, association: Association, connection: socket.socket) -> Inbox:
        inbox = Inbox(connection, self._message_max_bytes, self._room)
        with self._inboxes_lock:
            self._inboxes[association] = inbox
        return inbox

    def inbox_of(self, association: Association) -> Inbox:
        """Raises: KeyError, for an association of another server."""
        with self._inboxes_lock:
            return self._inboxes[association]

    @property
    def associations(self) -> int:
        """Connections that are open."""
        return len(self._open())

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.settimeout(self._silence_s)  # the listening socket's timeout is not inherited
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 - socketserver's signature
        return len(self._open()) < self._connections_max

    def shutdown(self) -> None:
        """Take no more connections; those that are open go on. The library's own asks to be in a list of its AE."""
        BaseServer.shutdown(self)
        self.server_close()

    def _open(self) -> list[Inbox]:
        with self._inboxes_lock:
            return [inbox for association, inbox in self._inboxes.items() if association.is_alive()]

    def _room(self) -> int:
        return self._held_max_bytes - sum(inbox.held for inbox in self._open())
