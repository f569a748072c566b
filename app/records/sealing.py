"""Sealed blobs: AES-256-GCM (NIST SP 800-38D), for the few places where something personal has to lie on disk for a while.

Format version 1: `1, n, key id (n bytes), nonce (12 bytes), ciphertext, tag (16 bytes)`; everything before the nonce, and the caller's
context, is authenticated with the data. To change it: raise `FORMAT`, read the old form in a function of its own, test on an old blob.
Nonces are random: a key may seal 2**32 blobs (section 8.3 of the standard), so rotate `seal` long before.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from app.errors import RecordsError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FORMAT: Final = 1
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16


def seal(key_id: str, key: bytes, data: bytes, context: bytes) -> bytes:
    """One blob.

    Args:
        key_id: kept in the blob in clear text; at most 255 ASCII characters. key: 32 bytes. context: must be given again to open it.
    """
    name = key_id.encode("ascii")
    header = bytes((FORMAT, len(name))) + name
    nonce = secrets.token_bytes(NONCE_BYTES)
    return header + nonce + _cipher(key).encrypt(nonce, data, header + context)


def key_id_of(blob: bytes) -> str:
    """Which key sealed it.

    Raises:
        RecordsError: sealed_blob_damaged.
    """
    return _header(blob)[2:].decode("ascii")


def unseal(key: bytes, blob: bytes, context: bytes) -> bytes:
    """What was sealed.

    Raises:
        RecordsError: sealed_blob_damaged.
    """
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - as in `_cipher`

    header = _header(blob)
    nonce = blob[len(header) : len(header) + NONCE_BYTES]
    try:
        return _cipher(key).decrypt(nonce, blob[len(header) + NONCE_BYTES :], header + context)
    except InvalidTag:
        raise damaged("it was changed, or belongs elsewhere") from None


def damaged(why: str) -> RecordsError:
    return RecordsError("sealed_blob_damaged", f"a sealed blob cannot be opened: {why}")


def _header(blob: bytes) -> bytes:
    """Format, length and key id of a blob that is long enough to be one."""
    length = 2 + (blob[1] if len(blob) > 1 else 0)
    if len(blob) < length + NONCE_BYTES + TAG_BYTES:
        raise damaged("it is too short")
    if blob[0] != FORMAT or not blob[:length].isascii():
        raise damaged(f"it is not of format {FORMAT}")
    return blob[:length]


def _cipher(key: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - only the gateway pays for it

    return AESGCM(key)
