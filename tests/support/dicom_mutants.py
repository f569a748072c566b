"""Damaged DICOM films without end, seeded: structure-aware edits of sound files in every kind of transfer syntax.

    for mutant in mutants(10_000, seed=1): decode(mutant.data, limits, pool)

The sound files are phantoms of 128 px (about 35 kB, so that ten thousand take minutes), with LUT sequences, padding, colour and odd
identifiers among them. Each mutant has one to three edits; `name` lists them, so that a finding can be told from its name and seed.
"""

from __future__ import annotations

import functools
import random
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from app.imaging.dicom.part10 import read_part10
from app.imaging.dicom.transfer_syntax import SYNTAXES
from app.imaging.header import ImageLimits
from app.imaging.phantom import encode_jpeg, phantom
from tests.support.dicom_bytes import deflate, encapsulated
from tests.support.dicom_films import as_bytes, dicom_film, file_dataset

SIDE = 128
_LIMITS = ImageLimits(1, 4_096)
_LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_VRS = (*_LONG_VRS, *(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US ZZ".split()))
_NUMBERS = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 32, 127, 128, 129, 255, 256, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
_TEXTS = (
    b"", b"0 ", b"-1", b"nan ", b"inf ", b"1e400 ", b"1\\2 ", b"\\", b"\\\\", b"99999999999999", b"0x10", b"\x00\x00",
    b"\xff\xfe", b"\x1b$B\x1b(B ",
    b"ISO_IR 192", b"ISO 2022 IR 87\\ISO 2022 IR 159 ", b"MONOCHROME1 ", b"MONOCHROME2 ", b"RGB ", b"YBR_FULL",
    b"PALETTE COLOR ", b"INVERSE ",
    b"SIGMOID ", b"LINEAR_EXACT", b"1.2.840.10008.1.2.4.80", b"A" * 5_000,
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """number: counts from 0; the same seed and number are always the same bytes."""

    number: int
    name: str
    data: bytes


@dataclass(frozen=True)
class _Seed:
    """front: preamble, prefix, meta; elements: each encoded whole, in order; explicit, order, deflated: of the transfer syntax."""

    name: str
    front: bytes
    elements: tuple[bytes, ...]
    explicit: bool
    order: str
    deflated: bool


def mutants(count: int, seed: int = 1) -> Iterator[Mutant]:
    """`count` damaged files. Each is made from its own generator, so that any one can be made alone: `mutant(seed, number)`."""
    for number in range(count):
        yield mutant(seed, number)


def mutant(seed: int, number: int) -> Mutant:
    """The one with that number."""
    chance = random.Random(f"{seed}/{number}")
    base = chance.choice(_seeds())
    front, elements, names = base.front, list(base.elements), [base.name]
    for _ in range(chance.choice((1, 1, 2, 3))):
        edit = chance.choice(_ELEMENT_EDITS)
        edit(chance, base, elements)
        names.append(edit.__name__.strip("_"))
    if chance.random() < 0.1:
        front = _other_syntax(chance, front)
        names.append("other_syntax")
    content = b"".join(elements)
    data = front + (deflate(content, 1) if base.deflated else content)
    if chance.random() < 0.3:
        file_edit = chance.choice(_FILE_EDITS)
        data = file_edit(chance, data)
        names.append(file_edit.__name__.strip("_"))
    return Mutant(number, "+".join(names), data)


# --- sound files


def sound_films() -> dict[str, bytes]:
    """The files that are damaged; each is taken as it is (compressed ones with a decoder)."""
    eight = phantom(1, height=SIDE, width=SIDE)
    size = (SIDE, SIDE)
    films = {
        "explicit": dicom_film(1, size=size),
        "mono1_10_bits": dicom_film(2, size=size, bits_stored=10, PhotometricInterpretation="MONOCHROME1"),
        "signed_16": dicom_film(3, pixels=(eight.astype(np.int16) - 128) * 200, bits_stored=16, PixelPaddingValue=-25_600),
        "eight_bits": dicom_film(4, pixels=eight, bits_stored=8, WindowCenter=None, WindowWidth=None),
        "rescaled": dicom_film(5, size=size, RescaleSlope="-0.5", RescaleIntercept="17", VOILUTFunction="SIGMOID"),
        "no_voi": dicom_film(6, size=size, WindowCenter=None, WindowWidth=None, PresentationLUTShape="INVERSE"),
    }  # fmt: skip
    for name, uid in {
        "implicit": ImplicitVRLittleEndian, "big_endian": ExplicitVRBigEndian, "deflated": DeflatedExplicitVRLittleEndian,
    }.items():  # fmt: skip
        data = file_dataset(7, size=size, ViewPosition=None)
        data.file_meta.TransferSyntaxUID = uid
        data.ViewCodeSequence = Sequence([_item(CodeValue="R-10206", CodingSchemeDesignator="SRT", CodeMeaning="AP")])
        data.ModalityLUTSequence = Sequence([_lut(4_096, 0, 16)])
        data.VOILUTSequence = Sequence([_lut(1_024, 100, 12), _lut(16, 0, 8)])
        if uid == ExplicitVRBigEndian:  # pydicom writes these bytes as they are
            data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
        films[name] = as_bytes(data)
    rgb = file_dataset(8, pixels=eight, bits_stored=8, PhotometricInterpretation="RGB", SamplesPerPixel=3)
    rgb.PlanarConfiguration = 0
    rgb.PixelData = np.dstack([eight, eight[::-1], eight.T]).tobytes()
    films["rgb"] = as_bytes(rgb)
    for name, uid in {"rle": RLELossless, "jpeg_ls": JPEGLSLossless, "jpeg_2000": JPEG2000Lossless}.items():
        data = file_dataset(9, size=size)
        data.compress(uid, generate_instance_uid=False)
        films[name] = as_bytes(data)
    jpeg = file_dataset(10, pixels=eight, bits_stored=8)
    jpeg.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    del jpeg.PixelData
    stream = encode_jpeg(eight)
    films["jpeg"] = as_bytes(jpeg) + encapsulated(stream + bytes(len(stream) % 2))
    return films


def _item(**attributes: object) -> Dataset:
    item = Dataset()
    for name, value in attributes.items():
        setattr(item, name, value)
    return item


def _lut(entries: int, first: int, bits: int) -> Dataset:
    table = np.linspace(0, 2**bits - 1, entries).astype("<u2").tolist()
    item = _item(LUTDescriptor=[entries, first, bits], LUTData=table)
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return item


_MAKING = threading.Lock()


def _seeds() -> tuple[_Seed, ...]:
    """Made once, by whoever comes first: the encoders behind `sound_films` are not safe in several threads at a time."""
    with _MAKING:
        return _made()


@functools.cache
def _made() -> tuple[_Seed, ...]:
    return tuple(_taken_apart(name, data) for name, data in sound_films().items())


def _taken_apart(name: str, data: bytes) -> _Seed:
    dataset = read_part10(memoryview(data), _LIMITS)
    syntax, content = dataset.syntax, dataset.data.tobytes()
    begins = [
        e.start - (12 if syntax.explicit and e.vr.encode() in _LONG_VRS else 8) for e in dataset.elements.values()
    ]
    pieces = tuple(content[a:b] for a, b in zip(begins, [*begins[1:], len(content)], strict=True))
    size = int.from_bytes(data[140:144], "little") + 144
    return _Seed(name, data[:size], pieces, syntax.explicit, "<" if syntax.little else ">", syntax.deflated)


# --- edits of one element

_Edit = Callable[[random.Random, _Seed, list[bytes]], None]


def _flip_in_header(chance: random.Random, base: _Seed, elements: list[bytes]) -> None:
    at = chance.randrange(len(elements))
    elements[at] = _flipped(chance, elements[at], 12)


def _flip_anywhere(chance: random.Random, base: _Seed, elements: list[bytes]) -> None:
    at = chance.randrange(len(elements))
    elements[at] = _flipped(chance, elements[at], len(elements[at]))


def _flip_in_pixels(chance: random.Random, base: _Seed, elements: list[bytes]) -> None:
    for _ in range(chance.randint(1, 20)):
        elements[-1] = _flipped(chance, elements[-1], len(elements[-1]))


def _flip_after_pixel_header(chance: random.Random, base: _Seed, elements: list[bytes]) -> None:
    """Where the first fragment's own header is."""
    elements[-1] = elements[-1][:20] + _flipped(chance, elements[-1][20:], 64)


def _other_tag(chance: random.Random, base: _Seed, elements: list[bytes]) -> None:
    at = chance.randrange(len(elements))
    tag = chance.choice(elements)[:4] if chance.random() < 0.5 else chance.randbytes(4)
    elements[at] = tag + elements[at][4:]


def _other_vr(chance: random.Random, base: _Seed, elements: list[bytes]) -> None:
    at = chance.randrange(len(elements))
    elements[at] = elements[at][:4] + chance.choice(_VRS) + elements[at][6:]


def _other_length(chance: random.Random, base: _Seed, elements: list[bytes]) -> None:
    at = chance.randrange(len(elements))
    piece = elements[at]
    place, size = _length_field(base, piece)
    length = int.from_bytes(piece[place : place + size], "little" if base.order == "<" else "big")
    lengths = (0, 1, length - 1, length + 1, length + 2, 2 * length, length // 2, 0xFFFE, 0xFFFFFFFE, 0xFFFFFFFF)
    new = chance.choice(lengths) % (1 << 8 * size)
    elements[at] = piece[:place] + struct.pack(base.order + ("H" if size == 2 else "L"), new) + piece[place + size :]


def _other_number(chance: random.Random, base: _Seed, elements: list[bytes]) -> None:
    """A well-formed element with another 16-bit number in it: rows, columns, bits, padding, descriptors."""
    numbers = [i for i, piece in enumerate(elements) if len(piece) == 10]
    at = chance.choice(numbers)
    elements[at] = elements[at][:8] + struct.pack(base.order + "H", chance.choice(_NUMBERS))


def _other_value(chance: random.Random, base: _Seed, elements: list[bytes]) -> None:
    """A well-formed element with another text in it."""
    at = chance.randrange(len(elements))
    piece, value = elements[at], chance.choice(_TEXTS)
    place, size = _length_field(base, piece)
    length = struct.pack(base.order + ("H" if size == 2 else "L"), len(value))
    elements[at] = piece[:place] + length + value


def _drop(chance: random.Random, base: _Seed, elements: list[bytes]) -> None:
    del elements[chance.randrange(len(elements))]
    if not elements:
        elements.append(b"")


def _twice(chance: random.Random, base: _Seed, elements: list[bytes]) -> None:
    at = chance.randrange(len(elements))
    elements.insert(at, elements[at])


def _swap(chance: random.Random, base: _Seed, elements: list[bytes]) -> None:
    a, b = chance.randrange(len(elements)), chance.randrange(len(elements))
    elements[a], elements[b] = elements[b], elements[a]


def _splice(chance: random.Random, base: _Seed, elements: list[bytes]) -> None:
    """An element of another film, in its place by tag or anywhere."""
    piece = chance.choice(chance.choice(_seeds()).elements)
    if chance.random() < 0.5:
        elements.insert(chance.randrange(len(elements) + 1), piece)
    else:
        same = [i for i, own in enumerate(elements) if own[:4] == piece[:4]]
        elements[same[0] if same else -1] = piece


def _other_pixels(chance: random.Random, base: _Seed, elements: list[bytes]) -> None:
    """Pixel data of another film."""
    elements[-1] = chance.choice(_seeds()).elements[-1]


_ELEMENT_EDITS: tuple[_Edit, ...] = (
    _flip_in_header, _flip_anywhere, _flip_in_pixels, _flip_after_pixel_header, _other_tag, _other_vr, _other_length, _other_number,
    _other_number, _other_value, _other_value, _drop, _twice, _swap, _splice, _other_pixels,
)  # fmt: skip


def _length_field(base: _Seed, piece: bytes) -> tuple[int, int]:
    """Position and size of an element's length."""
    if not base.explicit:
        return 4, 4
    return (8, 4) if piece[4:6] in _LONG_VRS else (6, 2)


def _flipped(chance: random.Random, piece: bytes, within: int) -> bytes:
    if not piece:
        return piece
    at = chance.randrange(min(within, len(piece)))
    return piece[:at] + bytes([piece[at] ^ (1 << chance.randrange(8))]) + piece[at + 1 :]


# --- edits of the file


def _other_syntax(chance: random.Random, front: bytes) -> bytes:
    """The meta with another transfer syntax; its stated length is corrected."""
    at = front.index(b"\x02\x00\x10\x00UI")
    old = int.from_bytes(front[at + 6 : at + 8], "little")
    uid = chance.choice((*SYNTAXES, "1.2.840.10008.1.2.4.110", "1.2.3")).encode()
    uid += bytes(len(uid) % 2)
    rest = front[at + 8 + old :]
    total = int.from_bytes(front[140:144], "little") + len(uid) - old
    return front[:140] + struct.pack("<L", total) + front[144 : at + 6] + struct.pack("<H", len(uid)) + uid + rest


def _cut(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(132, len(data))]


def _cut_early(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(132, min(len(data), 2_000))]


def _flip_in_file(chance: random.Random, data: bytes) -> bytes:
    for _ in range(chance.randint(1, 8)):
        data = data[:132] + _flipped(chance, data[132:], len(data))
    return data


def _insert(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(132, min(len(data), 4_000))
    return data[:at] + chance.randbytes(chance.randint(1, 9)) + data[at:]


def _remove(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(132, min(len(data), 4_000))
    return data[:at] + data[at + chance.randint(1, 9) :]


def _append(chance: random.Random, data: bytes) -> bytes:
    return data + chance.choice((bytes(9), chance.randbytes(9), data[:200]))


def _preamble(chance: random.Random, data: bytes) -> bytes:
    return chance.choice((b"MZ", b"II*\x00", b"\x7fELF", chance.randbytes(8))).ljust(128, b"\0") + data[128:]


_FILE_EDITS = (_cut, _cut_early, _flip_in_file, _insert, _remove, _append, _preamble)
