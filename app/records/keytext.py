"""The text of an API key: `cxr_<id8>_<secret43>_<crc6>`, 63 characters.

id: 40 random bits, base32 (RFC 4648, lower case); public, logged. secret: 256 random bits, base64url (RFC 4648 section 5).
crc: CRC-32 (zlib) of everything before it, six base-62 digits; lets a mistyped key be refused without a look-up.
"""

from __future__ import annotations

import base64
import re
import secrets
import string
import zlib
from dataclasses import dataclass, field
from typing import Final

_BASE62: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_FORM: Final = re.compile(r"cxr_([a-z2-7]{8})_([A-Za-z0-9_-]{43})_([0-9A-Za-z]{6})")


@dataclass(frozen=True)
class KeyText:
    """A key text taken apart; its checksum was right."""

    id: str
    secret: str = field(repr=False)

    def __str__(self) -> str:
        body = f"cxr_{self.id}_{self.secret}"
        return f"{body}_{_checksum(body)}"


def new_key_text() -> KeyText:
    """A key that nobody has yet."""
    return KeyText(base64.b32encode(secrets.token_bytes(5)).decode().lower(), secrets.token_urlsafe(32))


def parse_key_text(text: str) -> KeyText | None:
    """The parts of a key text; None when it is not one, or mistyped. Not constant-time: a checksum is no secret."""
    match = _FORM.fullmatch(text)
    if match is None or _checksum(text[:-7]) != match[3]:
        return None
    return KeyText(match[1], match[2])


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode("ascii"))
    digits = []
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))
