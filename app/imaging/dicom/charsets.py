"""Specific Character Set: bytes of a header as Unicode text. Nothing here can fail: what cannot be decoded becomes U+FFFD.

Source: PS3.3 C.12.1.1.2 (defined terms), PS3.5 section 6.1 and Annexes H to K (code extensions by ISO 2022 escape sequences).
pydicom's decoder is not used: it warns, and its warnings repeat the value.
"""

from __future__ import annotations

import re

_ASCII = "ascii"

_CODECS = {
    "": _ASCII,
    "ISO_IR 6": _ASCII,
    "ISO_IR 13": "shift_jis",
    "ISO_IR 100": "latin_1",
    "ISO_IR 101": "iso8859_2",
    "ISO_IR 109": "iso8859_3",
    "ISO_IR 110": "iso8859_4",
    "ISO_IR 126": "iso8859_7",
    "ISO_IR 127": "iso8859_6",
    "ISO_IR 138": "iso8859_8",
    "ISO_IR 144": "iso8859_5",
    "ISO_IR 148": "iso8859_9",
    "ISO_IR 166": "tis_620",
    "ISO_IR 192": "utf_8",
    "ISO_IR 203": "iso8859_15",
    "GB18030": "gb18030",
    "GBK": "gbk",
}
_ESCAPE = re.compile(rb"\x1b(?:\$?[()-]?[A-Zb])")
_ESCAPES = {
    b"\x1b(B": _ASCII,
    b"\x1b(J": "shift_jis",
    b"\x1b)I": "shift_jis",
    b"\x1b-A": "latin_1",
    b"\x1b-B": "iso8859_2",
    b"\x1b-C": "iso8859_3",
    b"\x1b-D": "iso8859_4",
    b"\x1b-F": "iso8859_7",
    b"\x1b-G": "iso8859_6",
    b"\x1b-H": "iso8859_8",
    b"\x1b-L": "iso8859_5",
    b"\x1b-M": "iso8859_9",
    b"\x1b-T": "tis_620",
    b"\x1b-b": "iso8859_15",
    b"\x1b$)C": "euc_kr",
    b"\x1b$)A": "gb2312",
    b"\x1b$B": "iso2022_jp",
    b"\x1b$(D": "iso2022_jp_2",
}
_KEEPS_ESCAPE = {"iso2022_jp", "iso2022_jp_2"}
_RESET = re.compile(rb"[\\^=\r\n\t\f]")


def codec_of(terms: tuple[str, ...]) -> str:
    """Python's name of the character set in which values begin; ASCII where a term is not known."""
    first = (terms[0] if terms else "").strip().upper().replace("ISO 2022 IR", "ISO_IR").replace("ISO 2022 GBK", "GBK")
    return _CODECS.get(first, _ASCII)


def decode_text(value: bytes, codec: str) -> str:
    """One value as text, without surrounding blanks and control characters."""
    text = (
        "".join(_run(piece, codec) for piece in _split(value)) if b"\x1b" in value else value.decode(codec, "replace")
    )
    return "".join(c for c in text if c.isprintable()).strip()


def _split(value: bytes) -> list[bytes]:
    """Pieces that each lie within one character set: the initial one returns after a delimiter (PS3.5 section 6.1.2.5.3)."""
    pieces, start = [], 0
    cuts = sorted({m.start() for m in _ESCAPE.finditer(value)} | _resets(value))
    for cut in cuts:
        pieces.append(value[start:cut])
        start = cut
    return [*pieces, value[start:]]


def _resets(value: bytes) -> set[int]:
    """Where a delimiter stands that is not one byte of a two-byte Japanese character."""
    double, found, at = False, set[int](), 0
    while at < len(value):
        escape = _ESCAPE.match(value, at)
        if escape:
            double = escape.group() in (b"\x1b$B", b"\x1b$(D")
            at = escape.end()
        elif double:
            at += 2
        else:
            if _RESET.match(value, at):
                found.add(at)
            at += 1
    return found


def _run(piece: bytes, codec: str) -> str:
    escape = _ESCAPE.match(piece)
    if escape is None:
        return piece.decode(codec, "replace")
    own = _ESCAPES.get(escape.group())
    if own is None:
        return piece[escape.end() :].decode(codec, "replace")
    return (piece if own in _KEEPS_ESCAPE else piece[escape.end() :]).decode(own, "replace")
