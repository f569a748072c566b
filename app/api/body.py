"""The one upload parser: a raw image or multipart/form-data, into one buffer in memory, every limit counted as chunks arrive.

Nothing is ever spooled to disk and no file name is kept. A file is a memoryview on the one buffer, so no byte is copied twice.
The limits of one request: bytes per file and per body, files (`batch_max`, or 1), 8 headers and 4 kB of headers a part, 70 bytes of
boundary, a deadline; of all requests together: `InFlight`. Parts with another name are refused: an option sent as a form field
would otherwise be lost without a word, and a field with personal data would be taken in.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header
from starlette.datastructures import Headers
from starlette.types import Receive

from app.api.policy import Body
from app.errors import RequestError, UnavailableError
from app.settings import Settings

RAW_TYPES = frozenset({"image/jpeg", "image/png", "application/dicom"})
MULTIPART = "multipart/form-data"
HEADERS_PER_PART = 8
HEADER_BYTES_PER_PART = 4_096
PART_OVERHEAD_BYTES = 8_192  # what one part may add to its file: headers, boundaries
PADDING_BYTES = 256  # blanks a client may put after a boundary; the parser walks them one by one
DELIMITERS_MAX = 64  # boundaries beyond one a file; a real boundary does not occur in a file (RFC 2046 section 5.1.1)
GROWTH_BYTES = 262_144  # first step of a body of unknown length
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")  # RFC 2046 section 5.1.1
_PLAIN_ENCODINGS = frozenset({b"binary", b"8bit", b"7bit"})

File = memoryview | RequestError


class ClientGoneError(Exception):
    """The client closed the connection before its body was complete."""


@dataclass(frozen=True)
class BodyRule:
    """What one route takes. part: name of a file's part; raw: the body may be the image itself."""

    part: str
    files_max: int
    file_max_bytes: int
    request_max_bytes: int
    deadline_s: float
    raw: bool


def rules(settings: Settings) -> Mapping[Body, BodyRule]:
    """The rule of each kind of body."""
    single = settings.upload_max_bytes + PART_OVERHEAD_BYTES
    return {
        Body.IMAGE: BodyRule("file", 1, settings.upload_max_bytes, single, settings.body_deadline_s, raw=True),
        Body.BATCH: BodyRule(
            "files",
            settings.batch_max,
            settings.upload_max_bytes,
            settings.batch_max_bytes,
            settings.body_deadline_s,
            raw=False,
        ),
    }


class InFlight:
    """Body bytes held by all requests together. Used on the event loop only.

    Args:
        limit: most bytes at one time.
        observe: told of every change; for the gauge.
    """

    def __init__(self, limit: int, observe: Callable[[int], None] = lambda _: None) -> None:
        self._limit = limit
        self._observe = observe
        self.held = 0

    def hold(self) -> Hold:
        """A request's share, empty at first; a context manager that gives it back."""
        return Hold(self)

    def change(self, count: int) -> None:
        """Take (or, negative, give back) bytes.

        Raises:
            UnavailableError: `overloaded`; nothing was taken.
        """
        if count > 0 and self.held + count > self._limit:
            raise UnavailableError("overloaded", retry_after_s=1.0)
        self.held += count
        self._observe(self.held)


class Hold:
    """One request's share of `InFlight`."""

    def __init__(self, shared: InFlight) -> None:
        self._shared = shared
        self._held = 0

    def take(self, count: int) -> None:
        self._shared.change(count)
        self._held += count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shared.change(-self._held)
        self._held = 0


def declared_length(headers: Headers) -> int | None:
    """Content-Length, or None for a chunked body; 0 where neither is given (RFC 9112 section 6.3).

    Raises:
        RequestError: `malformed_request` for a length that is no number.
    """
    if "transfer-encoding" in headers:
        return None
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise RequestError("malformed_request", what="Content-Length is not a number")
    return int(text)


def check_length(headers: Headers, limit: int) -> None:
    """Refuse a body by its declared length.

    Raises:
        RequestError: `payload_too_large`, `malformed_request`.
    """
    length = declared_length(headers)
    if length is not None and length > limit:
        raise RequestError("payload_too_large", what="body", limit=limit)
    if length is None and limit == 0:
        raise RequestError("payload_too_large", what="body", limit=0)


async def read_files(headers: Headers, receive: Receive, rule: BodyRule, hold: Hold) -> tuple[File, ...]:
    """Read a request's files.

    Args:
        headers: of the request; the declared length was checked already (`check_length`).
        receive: the ASGI channel.
        hold: charged with the memory before it is allocated.

    Returns:
        The files in order, at least one. In a batch a file above its limit stands as the error it is answered with.

    Raises:
        RequestError: coded; see the module's text.
        UnavailableError: `overloaded`.
        ClientGoneError: the client went away.
    """
    length = declared_length(headers)
    if length == 0:
        raise RequestError("missing_file", part=rule.part)
    sink = _sink(headers, length, rule, hold)
    received = 0
    try:
        async with asyncio.timeout(rule.deadline_s):
            async for chunk in _chunks(receive):
                received += len(chunk)
                if received > rule.request_max_bytes:
                    raise RequestError("payload_too_large", what="body", limit=rule.request_max_bytes)
                sink.write(chunk)
    except TimeoutError:
        raise RequestError("body_timeout", limit_s=rule.deadline_s) from None
    return sink.finish()


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunk = message.get("body", b"")
        if chunk:
            yield chunk
        more = message.get("more_body", False)


def _sink(headers: Headers, length: int | None, rule: BodyRule, hold: Hold) -> _Raw | _Multipart:
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError("unsupported_media_type")
    media, options = parse_options_header(headers.get("content-type", ""))
    kind = media.decode("latin-1")
    if kind == MULTIPART:
        return _Multipart(
            options.get(b"boundary", b"").decode("latin-1"), rule, _Buffer(length, rule.request_max_bytes, hold)
        )
    if rule.raw and kind in RAW_TYPES:
        if length is not None and length > rule.file_max_bytes:
            raise RequestError("payload_too_large", what="image", limit=rule.file_max_bytes)
        return _Raw(rule, _Buffer(length, rule.file_max_bytes, hold))
    raise RequestError("unsupported_media_type")


class _Buffer:
    """One bytearray: of the declared length, or growing by doubling up to the limit. Charged before it is allocated."""

    def __init__(self, length: int | None, limit: int, hold: Hold) -> None:
        size = min(GROWTH_BYTES, limit) if length is None else length
        hold.take(size)
        self._hold = hold
        self._limit = limit
        self._view = memoryview(bytearray(size))
        self.used = 0

    def append(self, data: bytes, start: int, end: int) -> None:
        needed = self.used + end - start
        if needed > len(self._view):
            self._grow(needed)
        self._view[self.used : needed] = memoryview(data)[start:end]
        self.used = needed

    def _grow(self, needed: int) -> None:
        size = max(needed, min(2 * len(self._view), self._limit))
        self._hold.take(size - len(self._view))
        larger = memoryview(bytearray(size))
        larger[: self.used] = self._view[: self.used]
        self._view = larger

    def view(self, start: int, end: int) -> memoryview:
        """The bytes [start, end), read-only, without a copy."""
        return self._view[start:end].toreadonly()


class _Raw:
    """The body is the image."""

    def __init__(self, rule: BodyRule, buffer: _Buffer) -> None:
        self._rule = rule
        self._buffer = buffer

    def write(self, chunk: bytes) -> None:
        if self._buffer.used + len(chunk) > self._rule.file_max_bytes:
            raise RequestError("payload_too_large", what="image", limit=self._rule.file_max_bytes)
        self._buffer.append(chunk, 0, len(chunk))

    def finish(self) -> tuple[File, ...]:
        if not self._buffer.used:
            raise RequestError("missing_file", part=self._rule.part)
        return (self._buffer.view(0, self._buffer.used),)


class _Multipart:
    """Collects the parts of multipart/form-data (RFC 7578) from python-multipart's callbacks, which slice the chunk they got."""

    def __init__(self, boundary: str, rule: BodyRule, buffer: _Buffer) -> None:
        if not _BOUNDARY.fullmatch(boundary):
            raise RequestError("malformed_multipart", what="its boundary must be 1 to 70 characters of RFC 2046")
        self._rule = rule
        self._buffer = buffer
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._files: list[tuple[int, int] | RequestError] = []
        self._parser = MultipartParser(
            boundary.encode("ascii"),
            {
                "on_part_begin": self._part_begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._part_data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
            max_header_count=HEADERS_PER_PART,
            max_header_size=HEADER_BYTES_PER_PART,
        )
        self._begun = self._ended = False
        self._padding = self._delimiters = 0
        self._start = self._header_bytes = 0
        self._too_large = self._named = False
        self._field, self._value = bytearray(), bytearray()

    def write(self, chunk: bytes) -> None:
        self._guard(chunk)
        before = self._parser.state
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise RequestError("malformed_multipart", what="its parts or their headers are damaged") from None
        if before == self._parser.state == MultipartState.BOUNDARY_PADDING:
            self._padding += len(chunk)
            if self._padding > PADDING_BYTES:
                raise RequestError("malformed_multipart", what="blanks follow a boundary")

    def finish(self) -> tuple[File, ...]:
        if not self._ended:
            raise RequestError("malformed_multipart", what="its closing boundary is missing")
        if not self._files:
            raise RequestError("missing_file", part=self._rule.part)
        return tuple(f if isinstance(f, RequestError) else self._buffer.view(*f) for f in self._files)

    def _guard(self, chunk: bytes) -> None:
        """What the parser would take its time over: text before the first boundary, and boundaries without end."""
        if not self._begun and chunk[0] != ord("-"):
            raise RequestError("malformed_multipart", what="it does not begin with its boundary")
        self._begun = True
        place = chunk.find(self._delimiter)  # several times faster than count where there is none
        while place >= 0:
            self._delimiters += 1
            if self._delimiters > DELIMITERS_MAX + self._rule.files_max:
                raise RequestError("malformed_multipart", what="its boundary stands everywhere")
            place = chunk.find(self._delimiter, place + len(self._delimiter))

    # callbacks

    def _part_begin(self) -> None:
        self._start = self._buffer.used
        self._header_bytes = 0
        self._too_large = self._named = False

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._charge_header(end - start)
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._charge_header(end - start)
        self._value += data[start:end]

    def _charge_header(self, count: int) -> None:
        self._header_bytes += count
        if self._header_bytes > HEADER_BYTES_PER_PART:
            raise RequestError(
                "malformed_multipart", what=f"a part has more than {HEADER_BYTES_PER_PART} bytes of headers"
            )

    def _header_end(self) -> None:
        name, value = bytes(self._field).lower(), bytes(self._value)
        self._field.clear()
        self._value.clear()
        if name == b"content-disposition":
            kind, options = parse_options_header(value)
            self._named = kind == b"form-data" and options.get(b"name") == self._rule.part.encode("ascii")
        elif name == b"content-transfer-encoding" and value.strip().lower() not in _PLAIN_ENCODINGS:
            raise RequestError("malformed_multipart", what="a part has a transfer encoding; send the bytes as they are")

    def _headers_finished(self) -> None:
        if not self._named:
            raise RequestError(
                "malformed_multipart",
                what=f"a part is not named '{self._rule.part}'; options belong into the query of the address",
            )
        if len(self._files) >= self._rule.files_max:
            raise RequestError("too_many_files", limit=self._rule.files_max)

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._too_large:
            return
        if self._buffer.used + end - start - self._start > self._rule.file_max_bytes:
            if self._rule.files_max == 1:
                raise self._file_too_large()
            self._too_large = True
        else:
            self._buffer.append(data, start, end)

    def _part_end(self) -> None:
        self._files.append(self._file_too_large() if self._too_large else (self._start, self._buffer.used))

    def _end(self) -> None:
        self._ended = True

    def _file_too_large(self) -> RequestError:
        return RequestError("payload_too_large", what="file", limit=self._rule.file_max_bytes)
