"""DICOM files that must never get an answer, each with the status and code it must get instead. All bytes are made here.

Limits assumed: sides of 128 to 8,192 px, 64 MB a file and what it inflates to (the defaults). No file is larger than 5 MB.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from app.errors import ERROR_TABLE
from app.imaging.phantom import encode_jpeg, encode_png, phantom
from tests.support.dicom_bytes import (
    BIG,
    DEFLATED,
    IMPLICIT,
    JPEG,
    LITTLE,
    RLE,
    UNDEFINED,
    body,
    compressed_film,
    deflate,
    delimiter,
    element,
    encapsulated,
    even,
    film,
    film_elements,
    item,
    meta,
    nested,
    us,
    with_body,
)

PIXELS = 0x7FE00010


@dataclass(frozen=True)
class HostileDicom:
    """One case."""

    name: str
    data: bytes
    status: int
    code: str
    content_type: str = "application/dicom"


_Case = tuple[str, bytes, str]


@functools.cache
def hostile_dicom() -> tuple[HostileDicom, ...]:
    """The corpus; names are unique."""
    families = (
        _preambles, _metas, _objects, _structures, _sequences, _bombs, _pixel_modules, _pixel_lengths, _fragments, _transformations,
    )  # fmt: skip
    return tuple(
        HostileDicom(f"dicom_{name}", data, ERROR_TABLE[code].status, code)
        for family in families
        for name, data, code in family()
    )


def _preambles() -> Iterator[_Case]:
    sound = film()
    starts = {
        "windows_program": b"MZ\x90\x00", "linux_program": b"\x7fELF\x02\x01\x01", "mac_program": b"\xcf\xfa\xed\xfe",
        "mac_program_big_endian": b"\xfe\xed\xfa\xcf", "java_class": b"\xca\xfe\xba\xbe", "wasm": b"\x00asm",
        "shell_script": b"#!/bin/sh\n",
        "batch_file": b"@echo off\r\n", "php": b"<?php system(1);", "html": b"<script>alert(1)</script>", "pdf": b"%PDF-1.7",
        "zip": b"PK\x03\x04",
        "shortcut": b"L\x00\x00\x00\x01\x14\x02\x00", "ole": b"\xd0\xcf\x11\xe0",
    }  # fmt: skip
    for name, start in starts.items():
        yield f"preamble_{name}", start.ljust(128, b"\0") + sound[128:], "executable_preamble"
    yield "preamble_jpeg", encode_jpeg(phantom(1))[:128] + sound[128:], "malformed_dicom"
    yield "preamble_png", encode_png(phantom(1))[:128] + sound[128:], "malformed_dicom"


def _metas() -> Iterator[_Case]:
    content = body(film_elements())
    yield "nothing_after_prefix", bytes(128) + b"DICM", "truncated_image"
    yield "zeros_after_prefix", bytes(128) + b"DICM" + bytes(200), "malformed_dicom"
    yield "meta_without_syntax", meta(None) + content, "malformed_dicom"
    yield "meta_length_too_long", meta(length_error=20) + content, "malformed_dicom"
    yield "meta_length_too_short", meta(length_error=-20) + content, "malformed_dicom"
    twice = bytes(128) + b"DICM" + 2 * element(0x00020010, "UI", even(LITTLE))
    yield "meta_two_syntaxes", twice + content, "malformed_dicom"
    many = b"".join(element(0x00020100 + i, "OB", b"") for i in range(100))
    yield "meta_too_many_elements", bytes(128) + b"DICM" + many + content, "malformed_dicom"
    yield (
        "meta_implicit",
        bytes(128) + b"DICM" + element(0x00020010, "", even(LITTLE), syntax=IMPLICIT),
        "malformed_dicom",
    )
    huge = element(0x00020001, "OB", b"", length=0xFFFFFFF0)
    yield "meta_huge_length", bytes(128) + b"DICM" + huge + content, "truncated_image"
    for name, uid in {
        "jpeg_xl": "1.2.840.10008.1.2.4.110", "mpeg": "1.2.840.10008.1.2.4.102", "retired_jpeg": "1.2.840.10008.1.2.4.53",
        "jpip": "1.2.840.10008.1.2.4.94", "private": "1.2.840.113619.5.2",
        "no_uid": "ZZCANARY", "multi_component": "1.2.840.10008.1.2.4.92",
        "long": "1." * 400 + "1",
    }.items():  # fmt: skip
        yield f"syntax_{name}", meta(uid) + content, "unsupported_transfer_syntax"
    yield "syntax_says_big_endian", meta(BIG) + content, "malformed_dicom"
    yield "syntax_says_explicit", meta(LITTLE) + body(film_elements(), IMPLICIT), "malformed_dicom"
    yield "syntax_says_deflated", meta(DEFLATED) + content, "malformed_dicom"
    yield "syntax_says_compressed", meta(JPEG) + body(film_elements(bits=8)), "malformed_dicom"
    yield (
        "syntax_says_native",
        meta(LITTLE) + _without_pixels() + encapsulated(encode_jpeg(phantom(1))),
        "malformed_dicom",
    )


def _objects() -> Iterator[_Case]:
    directory = "1.2.840.10008.1.3.10"
    yield "directory", meta(sop_class=directory) + element(0x00041220, "SQ", b""), "dicom_without_image"
    for name, uid in {
        "structured_report": "1.2.840.10008.5.1.4.1.1.88.33", "treatment_plan": "1.2.840.10008.5.1.4.1.1.481.5",
        "encapsulated_pdf": "1.2.840.10008.5.1.4.1.1.104.1", "presentation_state": "1.2.840.10008.5.1.4.1.1.11.1",
        "waveform": "1.2.840.10008.5.1.4.1.1.9.1.1", "nothing_known": "1.2.3",
    }.items():  # fmt: skip
        yield name, film(t7FE00010=None, t00080016=("UI", even(uid))), "dicom_without_image"
    yield "empty_data_set", meta(), "truncated_image"
    yield "float_pixels", film(t7FE00010=None, t7FE00008=("OF", bytes(4 * 128 * 128))), "unsupported_pixel_format"
    yield "two_frames", film(t00280008=("IS", b"2 ")), "multi_frame_image"
    yield "many_frames", film(t00280008=("IS", b"999999999999")), "multi_frame_image"


def _structures() -> Iterator[_Case]:
    sound, start = film(), len(meta())
    elements = film_elements()
    front = body({tag: value for tag, value in elements.items() if tag != PIXELS})
    yield "descending_tags", meta() + element(0x00280010, "US", us(128)) + body(elements), "malformed_dicom"
    rows = element(0x00280010, "US", us(128))
    yield "element_twice", sound.replace(rows, rows + element(0x00280010, "US", us(64))), "malformed_dicom"
    yield "unknown_vr", sound[:start] + sound[start:].replace(b"CS", b"ZZ", 1), "malformed_dicom"
    yield "meta_in_data_set", with_body(element(0x00020010, "UI", even(IMPLICIT)) + body(elements)), "malformed_dicom"
    yield "command_in_data_set", with_body(element(0x00000002, "UI", even("1.2")) + body(elements)), "malformed_dicom"
    yield "length_beyond_the_end", with_body(element(0x00080008, "CS", b"", length=60_000)), "truncated_image"
    yield (
        "length_4_gb",
        with_body(element(0x00081190, "UR", b"", length=0xFFFFFFFE) + body(elements)),
        "truncated_image",
    )
    yield "undefined_length_text", with_body(element(0x00081190, "UT", b"", length=UNDEFINED)), "malformed_dicom"
    yield "undefined_length_pixels", with_body(front + element(PIXELS, "OW", b"", length=UNDEFINED)), "malformed_dicom"
    yield "stray_delimiter", with_body(delimiter(0xE0DD) + body(elements)), "malformed_dicom"
    yield "stray_item", with_body(item(b"") + body(elements)), "malformed_dicom"
    yield "after_pixels_garbage", sound + b"PK\x03\x04 a second file", "malformed_dicom"
    yield "after_pixels_second_film", sound + sound, "malformed_dicom"
    yield "after_pixels_pixels", sound + sound[sound.rindex(b"\xe0\x7f\x10\x00") :][:1000], "malformed_dicom"
    for name, cut in {"in_tag": start + 3, "in_length": start + 7, "in_value": start + 15}.items():
        yield f"cut_{name}", sound[:cut], "truncated_image"


def _sequences() -> Iterator[_Case]:
    rest = body(film_elements())
    lead = body({0x00080016: film_elements()[0x00080016]})
    rest = rest[len(lead) :]

    def inside(sequence: bytes) -> bytes:
        without = {tag: value for tag, value in film_elements().items() if tag > 0x00081140}
        return with_body(lead + sequence + body(without))

    sequence = functools.partial(element, 0x00081140, "SQ")
    yield "nested_too_deep", inside(nested(9)), "malformed_dicom"
    yield "nested_too_deep_undefined", inside(nested(9, undefined=True)), "malformed_dicom"
    yield "nested_10000", inside(nested(2_000)), "malformed_dicom"
    yield "nested_10000_undefined", inside(nested(10_000, undefined=True)), "malformed_dicom"
    yield "item_longer_than_its_sequence", inside(sequence(item(b"12345678", length=100))), "malformed_dicom"
    yield (
        "element_longer_than_its_item",
        inside(sequence(item(element(0x00081150, "UI", b"1.2.", length=40)))),
        "malformed_dicom",
    )
    swallowed = element(0x00081155, "UI", b"1.2.")
    swallowing = element(0x00081140, "SQ", item(b"", length=len(swallowed))) + swallowed
    yield "item_swallows_what_follows", inside(swallowing), "malformed_dicom"
    yield "no_items_in_sequence", inside(sequence(element(0x00081150, "UI", b"1.2."))), "malformed_dicom"
    yield "sequence_without_end", inside(sequence(item(b""), length=UNDEFINED)), "malformed_dicom"
    yield "item_without_end", inside(sequence(item(b"", length=UNDEFINED))), "malformed_dicom"
    yield (
        "delimiter_with_length",
        inside(sequence(item(b"") + struct.pack("<HHL", 0xFFFE, 0xE0DD, 8) + bytes(8), length=UNDEFINED)),
        "malformed_dicom",
    )
    yield (
        "unknown_of_undefined_length",
        inside(element(0x00091010, "UN", b"\1\2\3\4" * 9, length=UNDEFINED)),
        "malformed_dicom",
    )


def _bombs() -> Iterator[_Case]:
    yield "inflates_to_1_gb", meta(DEFLATED) + deflate(bytes(1_000_000_000), 1), "payload_too_large"
    yield "inflates_elements", with_body(b"".join(_tiny(300_000)), DEFLATED), "malformed_dicom"
    yield "deflated_rubbish", meta(DEFLATED) + b"\xff" * 500, "malformed_dicom"
    yield "deflated_cut", film(DEFLATED)[:-200], "truncated_image"
    yield "deflated_and_more", film(DEFLATED) + b"PK\x03\x04" * 9, "trailing_data"
    yield "elements_300000", with_body(b"".join(_tiny(300_000))), "malformed_dicom"
    yield "items_300000", with_body(element(0x00081140, "SQ", item(b"") * 300_000)), "malformed_dicom"
    yield "fragments_300000", meta(JPEG) + _without_pixels(8) + encapsulated(*[b""] * 300_000), "malformed_dicom"
    yield "columns_65535", film(t00280010=("US", us(65_535)), t00280011=("US", us(65_535))), "image_too_large"
    stream = compressed_film(encode_jpeg(phantom(1)))
    yield (
        "compressed_columns_8193",
        stream.replace(element(0x00280011, "US", us(128)), element(0x00280011, "US", us(8_193))),
        "image_too_large",
    )
    table = element(0x00283002, "US", us(0, 0, 16)) + element(0x00283006, "OW", bytes(10))
    yield "lut_of_65536_entries_in_10_bytes", film(t00283010=("SQ", item(table))), "malformed_dicom"


def _tiny(count: int) -> Iterator[bytes]:
    """Private elements without a value, ascending."""
    for n in range(count):
        yield struct.pack("<HH2sH", 0x0009 + 2 * (n >> 15), n & 0x7FFF, b"LO", 0)


def _pixel_modules() -> Iterator[_Case]:
    numbers = {
        "rows": "t00280010", "columns": "t00280011", "samples": "t00280002", "bits_allocated": "t00280100", "bits_stored": "t00280101",
        "high_bit": "t00280102", "representation": "t00280103",
    }  # fmt: skip
    for name, tag in numbers.items():
        yield f"{name}_absent", film(changes={tag: None}), "malformed_dicom"
        yield f"{name}_empty", film(changes={tag: ("US", b"")}), "malformed_dicom"
        yield f"{name}_twice", film(changes={tag: ("US", us(128, 128))}), "malformed_dicom"
        yield f"{name}_as_text", film(changes={tag: ("IS", b"12")}), "malformed_dicom"
        yield f"{name}_as_long", film(changes={tag: ("UL", us(16, 0))}), "malformed_dicom"
        yield f"{name}_as_unknown", film(changes={tag: ("UN", us(16))}), "malformed_dicom"
    changes: dict[str, tuple[dict[str, tuple[str, bytes] | None], str]] = {
        "rows_zero": ({"t00280010": ("US", us(0))}, "malformed_dicom"),
        "rows_127": ({"t00280010": ("US", us(127))}, "too_small"),
        "two_samples": ({"t00280002": ("US", us(2))}, "malformed_dicom"),
        "three_samples_gray": ({"t00280002": ("US", us(3)), "t00280006": ("US", us(0))}, "malformed_dicom"),
        "rgb_of_16_bits": (_rgb(), "unsupported_pixel_format"),
        "rgb_without_planes": ({**_rgb(), "t00280006": None}, "malformed_dicom"),
        "rgb_planes_2": ({**_rgb(), "t00280006": ("US", us(2))}, "malformed_dicom"),
        "rgb_of_one_sample": ({"t00280004": ("CS", b"RGB ")}, "malformed_dicom"),
        "palette": ({"t00280004": ("CS", b"PALETTE COLOR ")}, "unsupported_color"),
        "cmyk": ({"t00280004": ("CS", b"CMYK")}, "unsupported_color"),
        "ybr_ict_native": ({**_rgb(), "t00280004": ("CS", b"YBR_ICT ")}, "unsupported_color"),
        "photometric_unknown": ({"t00280004": ("CS", b"ZZCANARY")}, "unsupported_color"),
        "photometric_absent": ({"t00280004": None}, "malformed_dicom"),
        "photometric_twice": ({"t00280004": ("CS", b"MONOCHROME2\\MONOCHROME1 ")}, "malformed_dicom"),
        "32_bits": ({"t00280100": ("US", us(32))}, "unsupported_pixel_format"),
        "1_bit": ({"t00280100": ("US", us(1)), "t00280101": ("US", us(1)), "t00280102": ("US", us(0))}, "unsupported_pixel_format"),
        "4_bits": ({"t00280101": ("US", us(4)), "t00280102": ("US", us(3))}, "unsupported_pixel_format"),
        "17_bits": ({"t00280101": ("US", us(17)), "t00280102": ("US", us(15))}, "malformed_dicom"),
        "0_bits": ({"t00280101": ("US", us(0))}, "malformed_dicom"),
        "high_bit_15": ({"t00280102": ("US", us(15))}, "unsupported_pixel_format"),
        "high_bit_16": ({"t00280102": ("US", us(16))}, "malformed_dicom"),
        "representation_2": ({"t00280103": ("US", us(2))}, "malformed_dicom"),
        "no_frames": ({"t00280008": ("IS", b"0 ")}, "malformed_dicom"),
        "minus_one_frame": ({"t00280008": ("IS", b"-1")}, "malformed_dicom"),
        "frames_a_word": ({"t00280008": ("IS", b"one ")}, "malformed_dicom"),
        "frames_binary": ({"t00280008": ("US", us(1))}, "malformed_dicom"),
        "frames_twice": ({"t00280008": ("IS", b"1\\1 ")}, "malformed_dicom"),
    }  # fmt: skip
    for name, (change, code) in changes.items():
        yield name, film(changes=change), code


def _rgb() -> dict[str, tuple[str, bytes] | None]:
    return {"t00280002": ("US", us(3)), "t00280004": ("CS", b"RGB "), "t00280006": ("US", us(0))}


def _pixel_lengths() -> Iterator[_Case]:
    exact = 2 * 128 * 128
    for name, size in {
        "empty": 0,
        "half": exact // 2,
        "two_bytes_less": exact - 2,
        "two_bytes_more": exact + 2,
    }.items():
        yield f"pixels_{name}", film(t7FE00010=("OW", bytes(size))), "malformed_dicom"
    yield "pixels_as_text", film(t7FE00010=("UT", bytes(exact))), "malformed_dicom"
    yield "pixels_cut", film()[:-1], "truncated_image"
    yield "pixels_cut_implicit", film(IMPLICIT)[:-1], "truncated_image"
    yield (
        "pixels_length_lies",
        meta() + _without_pixels() + element(PIXELS, "OW", bytes(exact), length=exact + 10),
        "truncated_image",
    )
    yield (
        "pixels_length_lies_4_gb",
        meta() + _without_pixels() + element(PIXELS, "OW", bytes(exact), length=0xFFFFFFFE),
        "truncated_image",
    )
    yield "pixels_8_bits_as_16", film(bits=8, t00280100=("US", us(16))), "malformed_dicom"
    yield "pixels_in_big_endian_bytes", film(BIG, t7FE00010=("OB", bytes(exact))), "malformed_dicom"


def _without_pixels(bits: int = 16) -> bytes:
    return body({tag: value for tag, value in film_elements(bits=bits).items() if tag != PIXELS})


def _fragments() -> Iterator[_Case]:
    jpeg = encode_jpeg(phantom(1, height=128, width=128))
    jpeg += b"\0" * (len(jpeg) % 2)
    front = meta(JPEG) + _without_pixels(8)
    yield (
        "no_table_no_fragment",
        front + element(PIXELS, "OB", b"", length=UNDEFINED) + delimiter(0xE0DD),
        "malformed_dicom",
    )
    yield "no_fragment", compressed_film(), "malformed_dicom"
    yield "fragments_without_end", front + encapsulated(jpeg, end=False), "truncated_image"
    yield "fragment_cut", front + encapsulated(jpeg)[:-200], "truncated_image"
    lying = item(b"") + item(jpeg, length=len(jpeg) + 1_000_000)
    yield "fragment_length_lies", front + element(PIXELS, "OB", lying, length=UNDEFINED), "truncated_image"
    endless = item(b"") + item(jpeg, length=UNDEFINED)
    yield "fragment_of_undefined_length", front + element(PIXELS, "OB", endless, length=UNDEFINED), "malformed_dicom"
    yield (
        "table_of_two_frames",
        compressed_film(jpeg, jpeg, table=struct.pack("<LL", 0, len(jpeg) + 8)),
        "malformed_dicom",
    )
    yield "table_elsewhere", compressed_film(jpeg, table=struct.pack("<L", 80)), "malformed_dicom"
    yield "rle_two_fragments", compressed_film(bytes(64), bytes(64), syntax=RLE), "malformed_dicom"
    yield "fragments_of_words", front + encapsulated(jpeg).replace(b"OB", b"UN", 1), "malformed_dicom"
    yield (
        "compressed_frames_2",
        meta(JPEG)
        + body({**{t: v for t, v in film_elements(bits=8).items() if t != PIXELS}, 0x00280008: ("IS", b"2 ")})
        + encapsulated(jpeg),
        "multi_frame_image",
    )


def _transformations() -> Iterator[_Case]:
    def window(center: bytes, width: bytes, function: bytes | None = None) -> bytes:
        extra: dict[str, tuple[str, bytes] | None] = {} if function is None else {"t00281056": ("CS", function)}
        return film(changes=extra, t00281050=("DS", center), t00281051=("DS", width))

    yield "window_zero", window(b"100 ", b"0 "), "malformed_dicom"
    yield "window_negative", window(b"100 ", b"-5"), "malformed_dicom"
    yield "window_below_one", window(b"100 ", b".5"), "malformed_dicom"
    yield "window_not_a_number", window(b"100 ", b"nan "), "malformed_dicom"
    yield "window_infinite", window(b"inf ", b"100 "), "malformed_dicom"
    yield "window_overflow", window(b"1e308 ", b"100 "), "malformed_dicom"
    yield "window_underscore", window(b"1_0 ", b"100 "), "malformed_dicom"
    yield "window_words", window(b"ZZCANARY", b"100 "), "malformed_dicom"
    yield "window_without_width", film(t00281050=("DS", b"100 ")), "malformed_dicom"
    yield "window_more_widths", window(b"100 ", b"1\\2 "), "malformed_dicom"
    yield "window_function_unknown", window(b"100 ", b"100 ", b"ZZCANARY"), "malformed_dicom"
    yield "window_binary", film(t00281050=("FD", bytes(8)), t00281051=("DS", b"10")), "malformed_dicom"
    yield "window_digits", window(b"1" * 4_098, b"100 "), "malformed_dicom"
    yield "slope_zero", film(t00281052=("DS", b"0 "), t00281053=("DS", b"0 ")), "malformed_dicom"
    yield "slope_alone", film(t00281053=("DS", b"1 ")), "malformed_dicom"
    yield "slope_twice", film(t00281052=("DS", b"0 "), t00281053=("DS", b"1\\1 ")), "malformed_dicom"
    yield "padding_twice", film(t00280120=("US", us(1, 2))), "malformed_dicom"
    yield "padding_text", film(t00280120=("LO", b"ab")), "malformed_dicom"
    yield "shape_unknown", film(t20500020=("CS", b"ZZCANARY")), "malformed_dicom"
    yield "shape_optical_density", film(t20500020=("CS", b"LIN OD")), "unsupported_pixel_format"

    def table(descriptor: bytes, data: bytes, vr: str = "OW") -> tuple[str, bytes]:
        return "SQ", item(element(0x00283002, "US", descriptor) + element(0x00283006, vr, data))

    for name, (descriptor, data) in {
        "two_numbers": (us(4, 0), us(1, 2, 3, 4)), "more_bits": (us(4, 0, 17), us(1, 2, 3, 4)), "no_bits": (us(4, 0, 0), us(1, 2, 3, 4)),
        "too_short": (us(4, 0, 12), us(1, 2, 3)), "too_long": (us(4, 0, 12), us(1, 2, 3, 4, 5)), "empty": (us(4, 0, 12), b""),
    }.items():  # fmt: skip
        yield f"modality_lut_{name}", film(t00283000=table(descriptor, data)), "malformed_dicom"
        yield f"voi_lut_{name}", film(t00283010=table(descriptor, data)), "malformed_dicom"
    yield "lut_of_text", film(t00283010=table(us(2, 0, 8), b"1234", "UT")), "malformed_dicom"
    yield "lut_without_data", film(t00283010=("SQ", item(element(0x00283002, "US", us(4, 0, 8))))), "malformed_dicom"
    yield "lut_as_text", film(t00283010=("UT", b"12")), "malformed_dicom"
    yield "lut_empty_item", film(t00283010=("SQ", item(b""))), "malformed_dicom"
    one = table(us(4, 0, 12), us(1, 2, 3, 4))[1]
    yield "two_modality_luts", film(t00283000=("SQ", one + one)), "malformed_dicom"
