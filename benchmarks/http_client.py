"""A small HTTP/1.1 client for load: one request at a time per connection, the request's bytes made beforehand.

It costs the machine as little as Python can: no header objects, no copies of the film, parsing by httptools (node's parser).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, cast

import httptools

_BUFFER: Final = 4 * 2**20


@dataclass(frozen=True)
class Request:
    """The bytes of one request, ready to be written."""

    head: bytes
    body: bytes

    @classmethod
    def of(cls, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> Request:
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return cls(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"), body)


@dataclass(frozen=True)
class Answer:
    """retry_after_s: when the server wants to be asked again; 0 where it does not say."""

    status: int
    body: bytes
    retry_after_s: float = 0.0


class Connection(asyncio.Protocol):
    """One kept-alive connection. `ask` raises ConnectionError when it breaks before the answer is whole."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._retry_after_s = 0.0

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: Request, timeout_s: float) -> Answer:
        """Send and wait. Raises: ConnectionError, TimeoutError (the connection is closed then)."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("closed")
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Answer] = loop.create_future()
        self._waiter = waiter
        self._transport.writelines([request.head, request.body])
        timer = loop.call_later(timeout_s, self._give_up)
        try:
            return await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _give_up(self) -> None:
        self._fail(TimeoutError())
        self.close()

    def _fail(self, error: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is no subclass
        self._transport.set_write_buffer_limits(high=_BUFFER)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(str(error)))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._fail(ConnectionError(str(error or "closed by the server")))

    # the parser's side

    def on_message_begin(self) -> None:
        self._parts, self._retry_after_s = [], 0.0

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after" and value.isdigit():  # seconds; the other form, a date, is taken for no wish
            self._retry_after_s = float(value)

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)

    def on_message_complete(self) -> None:
        answer = Answer(self._parser.get_status_code(), b"".join(self._parts), self._retry_after_s)
        if answer.status < 200:
            return
        keep = self._parser.should_keep_alive()
        self._parser = httptools.HttpResponseParser(self)
        if not keep:
            self.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(answer)


async def connect(port: int) -> Connection:
    """Raises: OSError."""
    _, protocol = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return protocol
