"""The one upload parser: a raw image or multipart/form-data, into one buffer in memory, every limit counted as chunks arrive.

Nothing is ever spooled to disk and no file name is kept. A file is a memoryview on the one buffer, so no byte is copied twice.
The limits of one request: bytes per file and per body, files (`batch_max`, or 1), 8 headers and 4 kB of headers a part, 70 bytes of
boundary, a deadline; of all requests together: `InFlight`. Parts with another name are refused: an option sent as a form field
would otherwise be lost without a word, and a field with personal data would be taken in.

DICOM films have larger limits. A file is taken for one by its bytes alone (PS3.10 section 7.1: `DICM` after a preamble of 128 bytes),
and until they have been seen the limits of JPEG and PNG hold, so that a declared length by itself takes no memory.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header
from starlette.datastructures import Headers
from starlette.types import Receive

from app.api.memory import Buffer, Hold
from app.api.policy import Body
from app.errors import RequestError
from app.settings import Settings

DICOM = "application/dicom"
RAW_TYPES = frozenset({"image/jpeg", "image/png", DICOM})
MAGIC_END = 132  # a DICOM file has `DICM` before this byte
MULTIPART = "multipart/form-data"
HEADERS_PER_PART = 8
HEADER_BYTES_PER_PART = 4_096
PART_OVERHEAD_BYTES = 8_192  # what one part may add to its file: headers, boundaries
PADDING_BYTES = 256  # blanks a client may put after a boundary; the parser walks them one by one
DELIMITERS_MAX = 64  # boundaries beyond one a file; a real boundary does not occur in a file (RFC 2046 section 5.1.1)
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")  # RFC 2046 section 5.1.1
_PLAIN_ENCODINGS = frozenset({b"binary", b"8bit", b"7bit"})

File = memoryview | RequestError


class ClientGoneError(Exception):
    """The client closed the connection before its body was complete."""


@dataclass(frozen=True)
class BodyRule:
    """What one route takes. part: name of a file's part; raw: the body may be the image itself.

    file_max_bytes: of a JPEG or PNG; request_max_bytes: of everything in a body that is not a DICOM file.
    dicom_max_bytes: of a DICOM file; body_max_bytes: of a body with DICOM files.
    """

    part: str
    files_max: int
    file_max_bytes: int
    request_max_bytes: int
    dicom_max_bytes: int
    body_max_bytes: int
    deadline_s: float
    raw: bool

    def file_limit(self, *, dicom: bool) -> int:
        return max(self.dicom_max_bytes, self.file_max_bytes) if dicom else self.file_max_bytes


def rules(settings: Settings) -> Mapping[Body, BodyRule]:
    """The rule of each kind of body. A batch with DICOM films may take half of what all requests together may hold."""
    single = settings.upload_max_bytes + PART_OVERHEAD_BYTES
    single_dicom = max(settings.dicom_max_bytes, settings.upload_max_bytes) + PART_OVERHEAD_BYTES
    image = BodyRule(
        part="file",
        files_max=1,
        file_max_bytes=settings.upload_max_bytes,
        request_max_bytes=single,
        dicom_max_bytes=settings.dicom_max_bytes,
        body_max_bytes=single_dicom,
        deadline_s=settings.body_deadline_s,
        raw=True,
    )
    batch = replace(
        image,
        part="files",
        files_max=settings.batch_max,
        request_max_bytes=settings.batch_max_bytes,
        body_max_bytes=max(settings.batch_max_bytes, single_dicom, settings.in_flight_max_bytes // 2),
        raw=False,
    )
    return {Body.IMAGE: image, Body.BATCH: batch}


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
                if received > rule.body_max_bytes:
                    raise _body_too_large(rule.body_max_bytes)
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
        buffer = Buffer(length, rule.request_max_bytes, rule.body_max_bytes, hold)
        return _Multipart(options.get(b"boundary", b"").decode("latin-1"), rule, length, buffer)
    if rule.raw and kind in RAW_TYPES:
        limit = rule.file_limit(dicom=kind == DICOM)
        if length is not None and length > limit:
            raise _too_large("image", limit)
        return _Raw(rule, limit, Buffer(length, rule.file_max_bytes, limit, hold))
    raise RequestError("unsupported_media_type")


def _too_large(what: str, limit: int) -> RequestError:
    return RequestError("payload_too_large", what=what, limit=limit)


def _body_too_large(limit: int) -> RequestError:
    return _too_large("body", limit)


class _Raw:
    """The body is the image. limit: what its declared type allows; above the limit of JPEG and PNG its bytes must say so too."""

    def __init__(self, rule: BodyRule, limit: int, buffer: Buffer) -> None:
        self._rule = rule
        self._limit = limit
        self._buffer = buffer

    def write(self, chunk: bytes) -> None:
        used = self._buffer.used + len(chunk)
        if used > self._rule.file_max_bytes:
            dicom = _is_dicom(self._buffer.view(0, self._buffer.used), chunk)
            limit = self._limit if dicom else self._rule.file_max_bytes
            if used > limit:
                raise _too_large("image", limit)
        self._buffer.append(chunk, 0, len(chunk))

    def finish(self) -> tuple[File, ...]:
        if not self._buffer.used:
            raise RequestError("missing_file", part=self._rule.part)
        return (self._buffer.view(0, self._buffer.used),)


def _is_dicom(head: memoryview, following: bytes | memoryview) -> bool:
    """Whether a file that is kept in part begins as DICOM; `following` are the bytes that come next."""
    return (bytes(head[:MAGIC_END]) + bytes(following[:MAGIC_END]))[MAGIC_END - 4 : MAGIC_END] == b"DICM"


class _Multipart:
    """Collects the parts of multipart/form-data (RFC 7578) from python-multipart's callbacks, which slice the chunk they got."""

    def __init__(self, boundary: str, rule: BodyRule, length: int | None, buffer: Buffer) -> None:
        if not _BOUNDARY.fullmatch(boundary):
            raise RequestError("malformed_multipart", what="its boundary must be 1 to 70 characters of RFC 2046")
        self._rule = rule
        self._buffer = buffer
        self._length = length or 0
        self._received = self._dicom_bytes = 0
        self._dicom: bool | None = None  # of the part that is being read; None before its first 132 bytes
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
        self._received += len(chunk)
        if self._received - self._dicom_bytes > self._rule.request_max_bytes:
            raise _body_too_large(self._rule.request_max_bytes)

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
        self._dicom = None

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
        size = self._buffer.used - self._start + end - start
        if self._dicom is None and size >= MAGIC_END:
            self._decide(_is_dicom(self._buffer.view(self._start, self._buffer.used), memoryview(data)[start:end]))
            self._dicom_bytes += size if self._dicom else 0
        elif self._dicom:
            self._dicom_bytes += end - start
        if self._too_large:
            return
        if size > self._rule.file_limit(dicom=bool(self._dicom)):
            if self._rule.files_max == 1:
                raise self._file_too_large()
            self._too_large = True
        else:
            self._buffer.append(data, start, end)

    def _decide(self, dicom: bool) -> None:
        """The part is DICOM or not. A body that can hold only this file, and is not DICOM, need not be read to its declared end."""
        self._dicom = dicom
        if not dicom and self._rule.files_max == 1 and self._length > self._rule.request_max_bytes:
            raise _body_too_large(self._rule.request_max_bytes)

    def _part_end(self) -> None:
        self._files.append(self._file_too_large() if self._too_large else (self._start, self._buffer.used))

    def _end(self) -> None:
        self._ended = True

    def _file_too_large(self) -> RequestError:
        return _too_large("file", self._rule.file_limit(dicom=bool(self._dicom)))
