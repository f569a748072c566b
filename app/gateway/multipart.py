"""multipart/related (RFC 2387) as DICOMweb uses it: whole bodies in memory, bounded, no guessing about line ends or nesting."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from app.errors import RequestError

MAX_PARTS: Final = 64
MAX_HEADER_BYTES: Final = 4_096
# RFC 2046 section 5.1.1: 1 to 70 characters, quoted where it holds others than of a token
_BOUNDARY: Final = re.compile(
    r'(?:^|;)\s*boundary=(?:"([^"\\]{1,70})"|([A-Za-z0-9!#$%&\'*+.^_`|~-]{1,70}))\s*(?=;|$)', re.I
)


@dataclass(frozen=True)
class Part:
    """One part. headers: names in lower case. content: exactly the bytes between the delimiters."""

    headers: Mapping[str, str]
    content: bytes


def parse_related(body: bytes, content_type: str) -> tuple[Part, ...]:
    """The parts of a body.

    Args:
        content_type: the header with its parameters.

    Raises:
        RequestError: `malformed_multipart`; not multipart/related, no usable boundary, a delimiter or blank line missing, too many parts.
    """
    kind, _, parameters = content_type.partition(";")
    if kind.strip().lower() != "multipart/related":
        raise _malformed("it is not multipart/related")
    found = _BOUNDARY.search(parameters)
    if found is None:
        raise _malformed("there is no usable boundary")
    delimiter = b"--" + (found[1] or found[2]).encode("latin-1", "replace")
    start = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter)
    if start < 0:
        raise _malformed("its first boundary is missing")
    position = body.index(delimiter, start) + len(delimiter)
    parts: list[Part] = []
    while not body.startswith(b"--", position):
        if len(parts) == MAX_PARTS:
            raise _malformed(f"it has more than {MAX_PARTS} parts")
        end = body.find(b"\r\n" + delimiter, position)
        if end < 0:
            raise _malformed("it ends inside a part")
        parts.append(_part(body, position, end))
        position = end + 2 + len(delimiter)
    return tuple(parts)


def build_related(contents: Sequence[bytes], media_type: str) -> tuple[bytes, str]:
    """A body whose parts are all of one type, and its Content-Type."""
    boundary = f"cxr-{secrets.token_hex(16)}"
    head = f"--{boundary}\r\nContent-Type: {media_type}\r\n".encode()
    pieces = [
        piece
        for content in contents
        for piece in (head, f"Content-Length: {len(content)}\r\n\r\n".encode(), content, b"\r\n")
    ]
    body = b"".join([*pieces, f"--{boundary}--\r\n".encode()])
    return body, f'multipart/related; type="{media_type}"; boundary={boundary}'


def _part(body: bytes, position: int, end: int) -> Part:
    """The part that begins after a delimiter (at the rest of its line) and ends before the next."""
    blank = body.find(b"\r\n\r\n", position, min(end, position + MAX_HEADER_BYTES) + 4)
    line_end = body.find(b"\r\n", position, end + 2)
    if blank < 0 or line_end < 0 or body[position:line_end].strip(b" \t"):
        raise _malformed("the headers of a part are not well formed")
    headers: dict[str, str] = {}
    for line in body[line_end + 2 : blank].split(b"\r\n") if blank > line_end else ():
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not name.strip():
            raise _malformed("the headers of a part are not well formed")
        headers[name.strip().lower()] = value.strip()
    return Part(headers, body[min(blank + 4, end) : end])


def _malformed(what: str) -> RequestError:
    return RequestError("malformed_multipart", what=what)
