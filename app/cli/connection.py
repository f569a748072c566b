"""How `cxr serve` reads from a socket: little, bounded, and not before it was asked to.

uvicorn's own protocol takes up to 256 kB from the kernel at a time, keeps reading while the application decides, and bounds neither
the size of the headers nor the time they take. `BoundedConnection` reads at most `RECEIVE_BYTES` of them at a time, stops at
their end until the application asks for the body, and gives them a size and a deadline. So a 9 MB upload with a bad key costs one
read. `uvicorn.Config(http=HTTP_PROTOCOL)` puts it in.

A body that was asked for is read in larger pieces. (To let the kernel wait for them, SO_RCVLOWAT, saves a little more, but clients that
send in small writes without TCP_NODELAY then wait for a delayed acknowledgement, up to 250 ms.)
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

RECEIVE_BYTES = 61_440
BODY_BYTES = 131_072  # at a time, of a body that was asked for
HEADERS_MAX_BYTES = 32_768  # also of a chunked body's trailers, and of what stands between its pieces
HEADERS_DEADLINE_S = 10.0
LINGER_S = 0.25


_BUFFERS: WeakKeyDictionary[asyncio.AbstractEventLoop, bytearray] = WeakKeyDictionary()


def _buffer_of(loop: asyncio.AbstractEventLoop) -> bytearray:
    """One buffer for all connections of a loop: it is filled and copied from within one callback, never across two."""
    buffer = _BUFFERS.get(loop)
    if buffer is None:
        buffer = _BUFFERS[loop] = bytearray(BODY_BYTES)
    return buffer


class _Flow(FlowControl):
    """Resumes reading only where `held` lets it: any request that is being answered asks, also one that has all of its body."""

    def __init__(self, transport: asyncio.Transport, held: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._held = held

    def resume_reading(self) -> None:
        if self.read_paused and not self._held():
            super().resume_reading()


class _Http(HttpToolsProtocol):
    """uvicorn's protocol, which says when the headers are complete and answers what is no HTTP in our own form.

    `cycle` is the newest request, `running` the one being answered; those between wait in `pipeline`, the newest first.
    """

    headers_open = body_open = False
    moved = False  # whether the last read brought some of a body, or the end of headers or of a request
    ended = False  # nothing more is read: the connection closes with the last answer that is owed
    left = 0  # bytes of a body still to come; 0 where its length is not known
    running: RequestResponseCycle | None = None

    @property
    def busy(self) -> bool:
        """Whether a request's headers are complete and its answer is not."""
        return self.cycle is not None and not self.cycle.response_complete and not self.headers_open

    @property
    def owes(self) -> bool:
        """Whether an answer is still to come."""
        return self.running is not None and not self.running.response_complete

    @property
    def unread(self) -> bool:
        """Whether the client may still be sending a request that is already answered."""
        return self.ended or self.headers_open or (self.cycle is not None and self.cycle.more_body)

    def held(self) -> bool:
        """Whether what the client sends next has to wait: a body that was not asked for yet, or a third request.

        Behind one whole request reading goes on, else the client's leaving would not be seen.
        """
        return self.ended or len(self.pipeline) > 1 or (self.body_open and len(self.pipeline) == 1)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        super().connection_made(transport)
        self.flow = _Flow(transport, self.held)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.running is not None and not self.running.response_complete:  # super() tells only `cycle`
            self.running.disconnected = True
            self.running.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self.running = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_begin(self) -> None:
        self.headers_open = True
        super().on_message_begin()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline_upgrade(data[offer.args[0] :])
        except httptools.HttpParserError as error:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response(str(error))

    def _decline_upgrade(self, rest: bytes) -> None:
        """Go on as if the client had not offered another protocol (RFC 9110 section 7.8), as Java's does with every first request.

        The parser takes what follows such headers for the other protocol, so the same headers are read anew without the offer.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.send_400_response("CONNECT")
            return
        head = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
        head += [b"%s: %s" % (name, value) for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join(head) + b"\r\n\r\n" + rest)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        super().on_headers_complete()  # raises where the URL is none; then there is no request
        length = next((value for name, value in self.headers if name == b"content-length"), b"0")
        self.body_open, self.left = True, int(length) if length.isdigit() else 0
        self.headers_open, self.moved = False, True
        self.flow.pause_reading()  # resumed when the application asks for the body, or at the end of its answer

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.headers_open:  # else a trailer of a chunked body, of which nobody here wants any
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self.left, self.moved = max(0, self.left - len(body)), True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.body_open, self.left, self.moved = False, 0, True
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the text names the parser's complaint; ours is fixed
        self.refuse(400, "malformed_request", "Malformed request", "The request is not HTTP/1.1.")

    def refuse(self, status: int, code: str, title: str, detail: str) -> None:
        """Answer and close, for what never becomes a request. The shape is that of `app.api.problems`."""
        if self.ended or self.transport.is_closing():  # answered already
            return
        if self.body_open and self.pipeline:
            self.pipeline.popleft()  # a request that waits, and whose body will never be whole
        if self._leave_after_answers():
            return
        if self.body_open and self.cycle.response_started:
            self.transport.close()
            return
        request_id = uuid.uuid4().hex
        problem = {"type": f"urn:cxr-triage:problem:{code}", "title": title, "status": status, "detail": detail}
        body = json.dumps(problem | {"code": code, "request_id": request_id}).encode()
        head = (
            f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\ncontent-length: {len(body)}\r\n"
            f"x-request-id: {request_id}\r\nx-content-type-options: nosniff\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _leave_after_answers(self) -> bool:
        """Let the last answer that is owed close the connection; False where none is. A refusal would be taken for the first of them."""
        last = self.pipeline[0][0] if self.pipeline else self.running
        if last is None or last.response_complete or (self.body_open and last is self.cycle):
            return False
        last.keep_alive = False
        self.ended = True
        self.flow.pause_reading()
        return True


class _Lingering:
    """A transport whose `close`, while a body is unread, first only ends our side and reads no more.

    Closing a socket with unread data makes the kernel send a reset, which can overtake the answer: a client still busy sending then
    never sees why (RFC 9112 section 9.6). Whatever else the transport can do it still does.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, unread: Callable[[], bool]
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._unread = unread
        self._lingering = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._lingering or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """What comes after our side has ended goes nowhere; uvloop's own transport would raise."""
        if not self.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        if self.is_closing() or not (self._unread() and self._transport.can_write_eof()):
            self._transport.close()
            return
        self._lingering = True
        self._transport.pause_reading()
        self._transport.write_eof()
        self._loop.call_later(LINGER_S, self._transport.close)


class BoundedConnection(asyncio.BufferedProtocol):
    """One connection: owns the buffer that the event loop reads into and drives `_Http`."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._loop = _loop or asyncio.get_running_loop()
        self._http = _Http(config, server_state, app_state, _loop=self._loop)
        self._buffer = memoryview(_buffer_of(self._loop))
        self._quiet_bytes = 0  # read since the last that `_http.moved`
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        real = cast("asyncio.Transport", transport)
        self._http.connection_made(cast("asyncio.Transport", _Lingering(real, self._loop, lambda: self._http.unread)))
        self._expect_headers()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the loop's wish; the bound is ours
        return self._buffer[: max(RECEIVE_BYTES, min(self._http.left, BODY_BYTES))]

    def buffer_updated(self, nbytes: int) -> None:
        self._http.moved = False
        self._http.data_received(bytes(self._buffer[:nbytes]))
        # a read that ends one request and begins another does not count: it may be mostly the first
        self._quiet_bytes = 0 if self._http.moved else self._quiet_bytes + nbytes
        if self._quiet_bytes >= HEADERS_MAX_BYTES:
            detail = "The headers, or what surrounds the pieces of the body, are larger than 32 kB."
            self._http.refuse(431, "headers_too_large", "Headers too large", detail)
        if self._http.busy:
            self._stop_deadline()
        else:
            self._expect_headers()

    def eof_received(self) -> None:
        self._http.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        self._http.connection_lost(exc)

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()

    def _expect_headers(self) -> None:
        if self._deadline is None:
            self._deadline = self._loop.call_later(HEADERS_DEADLINE_S, self._late)

    def _late(self) -> None:
        self._deadline = None
        if not self._http.owes:  # else reading may have waited, not the client; keep-alive begins with the answer
            self._http.transport.close()

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


HTTP_PROTOCOL = cast("type[asyncio.Protocol]", BoundedConnection)  # uvicorn's annotation knows only streaming protocols
