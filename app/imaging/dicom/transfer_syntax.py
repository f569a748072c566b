"""The transfer syntaxes that are read (PS3.5 Annex A, PS3.6 Annex A), and the names of those that are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from app.errors import ImageError

_ROOT = "1.2.840.10008.1.2"


@dataclass(frozen=True)
class TransferSyntax:
    """How a data set is written. encapsulated: its pixel data are fragments of a compressed stream."""

    uid: str
    name: str
    explicit: bool = True
    little: bool = True
    deflated: bool = False
    encapsulated: bool = False


IMPLICIT_LITTLE: Final = TransferSyntax(_ROOT, "Implicit VR Little Endian", explicit=False)
EXPLICIT_LITTLE: Final = TransferSyntax(f"{_ROOT}.1", "Explicit VR Little Endian")
DEFLATED: Final = TransferSyntax(f"{_ROOT}.1.99", "Deflated Explicit VR Little Endian", deflated=True)
EXPLICIT_BIG: Final = TransferSyntax(f"{_ROOT}.2", "Explicit VR Big Endian", little=False)
RLE_LOSSLESS: Final = TransferSyntax(f"{_ROOT}.5", "RLE Lossless", encapsulated=True)

_JPEG_FAMILY = {
    f"{_ROOT}.4.50": "JPEG Baseline",
    f"{_ROOT}.4.51": "JPEG Extended",
    f"{_ROOT}.4.57": "JPEG Lossless",
    f"{_ROOT}.4.70": "JPEG Lossless, first-order prediction",
    f"{_ROOT}.4.80": "JPEG-LS Lossless",
    f"{_ROOT}.4.81": "JPEG-LS Near-lossless",
    f"{_ROOT}.4.90": "JPEG 2000 Lossless",
    f"{_ROOT}.4.91": "JPEG 2000",
    f"{_ROOT}.4.201": "HTJ2K Lossless",
    f"{_ROOT}.4.202": "HTJ2K Lossless RPCL",
    f"{_ROOT}.4.203": "HTJ2K",
}

SYNTAXES: Final[dict[str, TransferSyntax]] = {
    syntax.uid: syntax
    for syntax in (
        IMPLICIT_LITTLE,
        EXPLICIT_LITTLE,
        DEFLATED,
        EXPLICIT_BIG,
        RLE_LOSSLESS,
        *(TransferSyntax(uid, name, encapsulated=True) for uid, name in _JPEG_FAMILY.items()),
    )
}
"""Everything that is read, by UID. The compressed ones need a `FrameDecoder`."""

# Only to name the refusal, longest prefix first.
_REFUSED = (
    (f"{_ROOT}.4.10", "MPEG video"),
    (f"{_ROOT}.4.11", "JPEG XL"),
    (f"{_ROOT}.4.20", "JPIP"),
    (f"{_ROOT}.4.92", "JPEG 2000 Part 2"),
    (f"{_ROOT}.4.93", "JPEG 2000 Part 2"),
    (f"{_ROOT}.4.94", "JPIP"),
    (f"{_ROOT}.4.95", "JPIP"),
    (f"{_ROOT}.4.", "a retired JPEG process"),
    (f"{_ROOT}.8.1", "deflated image frames"),
    (f"{_ROOT}.1.98", "encapsulated uncompressed frames"),
    ("1.2.840.10008.", "a transfer syntax that is not for single images"),
)


def transfer_syntax(uid: str) -> TransferSyntax:
    """The syntax of a UID from the file meta.

    Raises:
        ImageError: `unsupported_transfer_syntax`.
    """
    found = SYNTAXES.get(uid)
    if found is not None:
        return found
    name = next((name for prefix, name in _REFUSED if uid.startswith(prefix)), "a private transfer syntax")
    raise ImageError("unsupported_transfer_syntax", what=name)
