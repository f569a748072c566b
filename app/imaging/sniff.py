"""What a file is, told by its first bytes alone; names and declared types are never asked."""

from __future__ import annotations

from typing import Literal

from app.errors import ImageError

Format = Literal["jpeg", "png", "dicom"]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8\xff"
_DICOM_PREFIX = b"DICM"
_DICOM_PREFIX_AT = 128

# Only to name the refusal; the words are ours, so that they may be shown.
_KNOWN: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GIF8", "a GIF"),
    (0, b"BM", "a BMP"),
    (0, b"II*\x00", "a TIFF"),
    (0, b"MM\x00*", "a TIFF"),
    (0, b"II+\x00", "a TIFF"),
    (8, b"WEBP", "a WebP"),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 file"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 stream"),
    (0, b"\xff\x0a", "a JPEG XL stream"),
    (0, b"\x00\x00\x00\x0cJXL ", "a JPEG XL file"),
    (4, b"ftyp", "a HEIF, AVIF or video file"),
    (0, b"%PDF", "a PDF"),
    (0, b"PK", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"MZ", "a program"),
    (0, b"\x7fELF", "a program"),
    (0, b"\x8aMNG", "an animation"),
    (0, b"<", "markup text"),
)


def sniff(head: bytes) -> Format:
    """The format of a file that begins with `head` (the first 132 bytes or more suffice).

    DICOM first (PS3.10 section 7.1): a file with its prefix is never another picture, whatever its preamble begins like.

    Raises:
        ImageError: `unsupported_format` for anything that begins like none of them.
    """
    if head[_DICOM_PREFIX_AT : _DICOM_PREFIX_AT + 4] == _DICOM_PREFIX:
        return "dicom"
    if head.startswith(_JPEG_START):
        return "jpeg"
    if head.startswith(_PNG_SIGNATURE):
        return "png"
    if not head:
        raise ImageError("unsupported_format", what="it is empty")
    for offset, magic, name in _KNOWN:
        if head[offset : offset + len(magic)] == magic:
            raise ImageError("unsupported_format", what=f"it looks like {name}")
    raise ImageError("unsupported_format", what="its first bytes belong to none of them")
