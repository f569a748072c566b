"""Invented words that stand for people, and the search for them in bytes, in every disguise that software gives to text by accident.

Every person's name, identifier and free text of a canary film holds one of `STEMS`, its UIDs one row of digits, its dates two days.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import quopri
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

WORD = "QZKANARI"
LATIN = "QZKÄNÅRÏ"
KANJI = "金糸雀鳥"
DIGITS = "77718281828459"
BORN, TAKEN = "18010203", "18050607"
STEMS = (WORD, LATIN, KANJI, DIGITS)
_ENCODINGS = (
    "utf-8",
    "latin-1",
    "cp1252",
    "utf-16-le",
    "utf-16-be",
    "utf-32-le",
    "iso2022_jp",
    "shift_jis",
    "euc_jp",
    "gb18030",
)
_DAYS = re.compile("|".join(rf"(?<!\d){d[:4]}-?{d[4:6]}-?{d[6:]}(?!\d)" for d in (BORN, TAKEN)).encode())


def disguises(text: str) -> Mapping[bytes, str]:
    """Byte strings by which this text can be told, and what each is called."""
    found: dict[bytes, str] = {}
    for case, shown in {"": text, " upper": text.upper(), " lower": text.lower(), " reversed": text[::-1]}.items():
        for encoding in _ENCODINGS:
            try:
                data = shown.encode(encoding)
            except UnicodeEncodeError:
                continue
            data = data.removeprefix(b"\x1b$B").removesuffix(b"\x1b(B")
            for name, form in _forms(data):
                found.setdefault(form, f"{encoding}{case}{name}")
        for name, escaped in {
            "json": json.dumps(shown)[1:-1], "json upper": json.dumps(shown)[1:-1].upper(), "url": urllib.parse.quote(shown),
            "entities": "".join(f"&#{ord(c)};" for c in shown), "quoted-printable": quopri.encodestring(shown.encode()).decode(),
            "repr": repr(shown.encode())[2:-1], "escapes": shown.encode("unicode_escape").decode(),
        }.items():  # fmt: skip
            found.setdefault(escaped.encode(), f"{name}{case}")
            found.setdefault(escaped.lower().encode(), f"{name}{case}")
    return found


def _forms(data: bytes) -> Iterator[tuple[str, bytes]]:
    yield "", data
    yield " hex", data.hex().encode()
    yield " HEX", data.hex().upper().encode()
    for ahead in range(3):  # base64 has another look at each of three offsets; what neighbours decide is left out
        whole = bytes(ahead) + data
        piece = base64.b64encode(whole)[(0, 2, 3)[ahead] : len(whole) * 8 // 6]
        yield " base64", piece
        yield " base64 for addresses", piece.replace(b"+", b"-").replace(b"/", b"_")


def digests(identifier: str) -> Mapping[bytes, str]:
    """Digests without a key: who can guess an identifier can find it by them."""
    found: dict[bytes, str] = {}
    for name in ("md5", "sha1", "sha256", "sha512"):
        digest = hashlib.new(name, identifier.encode()).digest()
        for form in (
            digest,
            digest.hex().encode(),
            digest.hex().upper().encode(),
            base64.b64encode(digest).rstrip(b"="),
        ):
            found[form] = f"{name} of {identifier}"
    return found


class _Search:
    """Thousands of byte strings, of four bytes and more, looked for in one pass."""

    def __init__(self, needles: Mapping[bytes, str]) -> None:
        self._by_start: dict[bytes, list[tuple[bytes, str]]] = {}
        for needle, name in needles.items():
            self._by_start.setdefault(needle[:4], []).append((needle, name))
        self._starts = np.unique(np.array([int.from_bytes(start, "little") for start in self._by_start], np.uint32))
        self._pairs = np.zeros(65_536, bool)
        self._pairs[self._starts & 0xFFFF] = True

    def names(self, data: bytes) -> list[str]:
        """Of those that are there, each once."""
        if len(data) < 4:
            return []
        octets = np.frombuffer(data, np.uint8).astype(np.uint32)
        pairs = octets[:-1] | octets[1:] << 8
        places = np.flatnonzero(self._pairs[pairs[:-2]])
        places = places[np.isin(pairs[places] | pairs[places + 2] << 16, self._starts)]
        found = {
            name
            for place in places.tolist()
            for needle, name in self._by_start[data[place : place + 4]]
            if data.startswith(needle, place)
        }
        return sorted(found)


@functools.cache
def _search(identifiers: tuple[str, ...]) -> _Search:
    needles = {form: f"{stem} as {name}" for stem in STEMS for form, name in disguises(stem).items()}
    for identifier in identifiers:
        needles |= digests(identifier)
    return _Search(needles)


def canaries_in(data: bytes, identifiers: Iterable[str] = ()) -> list[str]:
    """What was found: stem and disguise; digests of `identifiers` too."""
    days = {day.decode() for day in _DAYS.findall(data)}
    return _search(tuple(identifiers)).names(data) + [f"date {day}" for day in sorted(days)]


def canaries_in_files(root: Path, identifiers: Iterable[str] = ()) -> dict[str, list[str]]:
    """The same of every file under a folder, as raw bytes, and of the names of files and folders."""
    wanted, found = tuple(identifiers), {}
    for path in root.rglob("*"):
        try:
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        except FileNotFoundError:  # a running service tidies up
            continue
        if said := canaries_in(content + b"\n" + str(path.relative_to(root)).encode(), wanted):
            found[str(path)] = said
    return found


def canaries_of_process(pid: int) -> dict[str, list[str]]:
    """The same of what other users can read of a process, and of its open files' names."""
    found = {}
    for name in ("cmdline", "environ", "comm", "status"):
        if said := canaries_in(Path(f"/proc/{pid}/{name}").read_bytes()):
            found[f"{pid} {name}"] = said
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if link.is_symlink() and (said := canaries_in(str(link.readlink()).encode())):
            found[f"{pid} fd"] = said
    return found
