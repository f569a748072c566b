"""Images that must never get an answer, each with the status and code it must get instead. All bytes are made here.

DICOM files have a corpus of their own, `dicom_attacks`. Limits assumed: 128 to 4,096 px a side, 10 MB a file (the defaults).
"""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from app.imaging.phantom import encode_jpeg, encode_png, phantom
from tests.support.image_bytes import (
    SIGNATURE,
    bare_jpeg,
    chunk,
    exif,
    exif_segment,
    frame,
    gray_progressive,
    ihdr,
    png,
    raw_rows,
    scan,
    segment,
    with_segment,
    zeros,
)


@dataclass(frozen=True)
class HostileImage:
    """One case. content_type: what a client would claim; it never matters."""

    name: str
    data: bytes
    status: int
    code: str
    content_type: str


_STATUS = {
    "unsupported_format": 415,
    "unsupported_color": 415,
    "animated_image": 415,
    "malformed_image": 400,
    "truncated_image": 400,
    "trailing_data": 400,
    "image_too_large": 413,
    "too_small": 422,
    "blank_image": 422,
}


@functools.cache
def hostile_images() -> tuple[HostileImage, ...]:
    """The corpus; names are unique."""
    cases = []
    for family in (_strangers, _jpeg_files, _jpeg_headers, _png_files, _png_chunks, _png_streams, _sound_but_refused):
        for name, data, code in family():
            kind = "image/jpeg" if data.startswith(b"\xff\xd8") else "image/png"
            cases.append(HostileImage(name, data, _STATUS[code], code, kind))
    return tuple(cases)


_Case = tuple[str, bytes, str]


def _film() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return phantom(11, height=256, width=224)


def _save(kind: str, *frames: Image.Image, **options: object) -> bytes:
    sink = io.BytesIO()
    extra = {"save_all": True, "append_images": list(frames[1:])} if len(frames) > 1 else {}
    frames[0].save(sink, kind, **extra, **options)
    return sink.getvalue()


def _strangers() -> Iterator[_Case]:
    image = Image.fromarray(_film())
    files = {
        "empty": b"",
        "one_byte": b"\x89",
        "plain_text": b"patient: none\n" * 50,
        "html": b"<!doctype html><script>alert(1)</script>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="500" height="500"/>',
        "pdf": _save("PDF", image),
        "zip": b"PK\x03\x04" + bytes(200),
        "gzip": b"\x1f\x8b\x08" + bytes(200),
        "windows_program": b"MZ\x90\x00" + bytes(200),
        "linux_program": b"\x7fELF\x02\x01\x01" + bytes(200),
        "gif": _save("GIF", image),
        "gif_animated": _save("GIF", image, image.rotate(90)),
        "bmp": _save("BMP", image),
        "tiff": _save("TIFF", image),
        "tiff_big_endian": b"MM\x00*" + bytes(200),
        "webp": _save("WEBP", image),
        "jpeg_2000": _save("JPEG2000", image),
        "jpeg_2000_stream": b"\xff\x4f\xff\x51" + bytes(200),
        "jpeg_xl": b"\xff\x0a" + bytes(200),
        "avif": b"\x00\x00\x00\x1cftypavif" + bytes(200),
        "mng": b"\x8aMNG\r\n\x1a\n" + bytes(200),
        "png_after_junk": b"\r\n" + encode_png(_film()),
        "jpeg_after_junk": b"\x00" + encode_jpeg(_film()),
    }
    for name, data in files.items():
        yield name, data, "unsupported_format"


def _jpeg_files() -> Iterator[_Case]:
    film, jpeg = Image.fromarray(_film()), encode_jpeg(_film())
    scan_at = jpeg.index(b"\xff\xda")
    color = film.convert("RGB")
    progressive = _save("JPEG", film, progressive=True)
    last_scan = progressive.rindex(b"\xff\xda")
    damaged = bytearray(jpeg)
    damaged[scan_at + 400 : scan_at + 500] = b"\x5a" * 100
    yield "jpeg_two_bytes_more", b"\xff\xd8\xff", "truncated_image"
    yield "jpeg_garbage_after_magic", b"\xff\xd8\xff\xe0JFIF is my name" + bytes(50), "truncated_image"
    yield "jpeg_cut_in_tables", jpeg[: scan_at // 2], "truncated_image"
    yield "jpeg_cut_before_scan", jpeg[:scan_at], "truncated_image"
    yield "jpeg_cut_in_scan", jpeg[: len(jpeg) // 2], "truncated_image"
    yield "jpeg_without_end", jpeg[:-2], "truncated_image"
    yield "jpeg_cut_and_closed", jpeg[: len(jpeg) // 2] + b"\xff\xd9", "truncated_image"
    yield "jpeg_progressive_last_scan_missing", progressive[:last_scan] + b"\xff\xd9", "truncated_image"
    yield "jpeg_damaged_scan", bytes(damaged), "malformed_image"
    yield "jpeg_with_zip", jpeg + b"PK\x03\x04" + bytes(100), "trailing_data"
    yield "jpeg_with_html", jpeg + b"<script>alert(1)</script>", "trailing_data"
    yield "jpeg_with_far_trailer", jpeg + bytes(50_000) + b"x", "trailing_data"
    yield "jpeg_twice", jpeg + jpeg, "trailing_data"
    yield "mpo", _save("MPO", color, color.rotate(180)), "animated_image"
    yield "jpeg_cmyk", _save("JPEG", color.convert("CMYK")), "unsupported_color"


def _jpeg_headers() -> Iterator[_Case]:
    jpeg = encode_jpeg(_film())
    sof = jpeg.index(b"\xff\xc0")
    head, end = bare_jpeg()[:-2], b"\xff\xd9"
    loop = exif(1, following=8)
    sub_loop = b"II" + struct.pack("<HIHHHIII", 42, 8, 1, 0x8769, 4, 1, 8, 0)
    yield "jpeg_12_bits", bare_jpeg(frame(0xC1, 256, 256, bits=12), scan()), "unsupported_format"
    yield "jpeg_lossless", bare_jpeg(frame(0xC3, 256, 256), scan()), "unsupported_format"
    yield "jpeg_arithmetic", bare_jpeg(frame(0xC9, 256, 256), scan()), "unsupported_format"
    yield "jpeg_hierarchical", bare_jpeg(frame(0xDE, 256, 256), scan()), "unsupported_format"
    yield "jpeg_two_components", bare_jpeg(frame(0xC0, 256, 256, components=2), scan()), "unsupported_color"
    yield "jpeg_200_components", bare_jpeg(frame(0xC0, 256, 256, components=200), scan()), "unsupported_color"
    yield "jpeg_bomb", bare_jpeg(frame(0xC0, 65_535, 65_535), scan()), "image_too_large"
    yield "jpeg_progressive_bomb", bare_jpeg(frame(0xC2, 65_535, 65_535, components=3), scan()), "image_too_large"
    yield "jpeg_largest_frame_no_data", bare_jpeg(frame(0xC0, 4_096, 4_096), scan()), "truncated_image"
    yield "jpeg_zero_width", bare_jpeg(frame(0xC0, 0, 256), scan()), "malformed_image"
    yield "jpeg_zero_height", bare_jpeg(frame(0xC0, 256, 0), scan()), "malformed_image"
    yield "jpeg_many_scans", gray_progressive(4_096, 4_096, 2_000), "malformed_image"
    yield "jpeg_hundred_blank_scans", gray_progressive(4_096, 4_096, 100), "blank_image"
    yield "jpeg_length_beyond_end", head + b"\xff\xe0\xff\xff" + end, "truncated_image"
    yield "jpeg_length_zero", head + b"\xff\xe0\x00\x00" + end, "malformed_image"
    yield "jpeg_two_frames", with_segment(jpeg, frame(0xC0, 224, 256)), "malformed_image"
    yield "jpeg_no_frame", head + end, "malformed_image"
    yield "jpeg_scan_before_frame", head + scan() + end, "malformed_image"
    yield "jpeg_unknown_component", bare_jpeg(frame(0xC0, 256, 256), scan(component=9)), "malformed_image"
    yield "jpeg_impossible_scan", bare_jpeg(frame(0xC2, 256, 256), scan(60, 90)), "malformed_image"
    yield "jpeg_start_inside", with_segment(jpeg, b"\xff\xd8"), "malformed_image"
    yield "jpeg_lost_marker", jpeg[:sof] + b"\x00\x00" + jpeg[sof:], "malformed_image"
    yield "jpeg_taller_than_its_data", jpeg[: sof + 5] + struct.pack(">H", 4_000) + jpeg[sof + 7 :], "truncated_image"
    yield "jpeg_no_tables", b"\xff\xd8" + frame(0xC0, 256, 256) + scan() + end, "malformed_image"
    yield "jpeg_50000_comments", with_segment(jpeg, segment(0xFE) * 50_000), "malformed_image"
    yield "jpeg_exif_loop", with_segment(jpeg, exif_segment(loop)), "malformed_image"
    yield "jpeg_exif_sub_directory_loop", with_segment(jpeg, exif_segment(sub_loop)), "malformed_image"
    yield (
        "jpeg_exif_65535_entries",
        with_segment(jpeg, exif_segment(loop[:8] + b"\xff\xff" + bytes(60_000))),
        "malformed_image",
    )
    yield "jpeg_exif_orientation_9", with_segment(jpeg, exif_segment(exif(9))), "malformed_image"
    yield "jpeg_exif_far_directory", with_segment(jpeg, exif_segment(b"II*\x00\xf0\xff\xff\xff")), "malformed_image"
    two = exif_segment(exif(1)) + exif_segment(exif(3))
    yield "jpeg_exif_contradiction", with_segment(jpeg, two), "malformed_image"


def _png_files() -> Iterator[_Case]:
    film = encode_png(_film())
    head = ihdr(224, 256)
    data = film.index(b"IDAT") - 4
    wrong = bytearray(film)
    wrong[data + 40] ^= 0xFF
    crc = bytearray(film)
    crc[29] ^= 1
    yield "png_signature_alone", SIGNATURE, "truncated_image"
    yield "png_cut_in_header", film[:20], "truncated_image"
    yield "png_cut_before_data", film[:data], "truncated_image"
    yield "png_cut_in_data", film[: len(film) // 2], "truncated_image"
    yield "png_without_end", film[:-12], "truncated_image"
    yield "png_no_data", SIGNATURE + head + chunk(b"IEND"), "truncated_image"
    yield "png_with_html", film + b"<script>alert(1)</script>", "trailing_data"
    yield "png_with_zip", film + b"PK\x03\x04" + bytes(100), "trailing_data"
    yield "png_with_jpeg", film + encode_jpeg(_film()), "trailing_data"
    yield "png_wrong_byte_in_data", bytes(wrong), "malformed_image"
    yield "png_wrong_header_checksum", bytes(crc), "malformed_image"
    yield "png_bomb", SIGNATURE + ihdr(65_535, 65_535) + chunk(b"IDAT", zeros(4)) + chunk(b"IEND"), "image_too_large"
    yield "png_2_billion_px", SIGNATURE + ihdr(2**31 - 1, 2**31 - 1) + chunk(b"IEND"), "image_too_large"
    yield "png_zero_width", SIGNATURE + ihdr(0, 256) + chunk(b"IDAT", zeros(1)) + chunk(b"IEND"), "malformed_image"
    yield "png_zero_height", SIGNATURE + ihdr(256, 0) + chunk(b"IDAT", zeros(1)) + chunk(b"IEND"), "malformed_image"
    yield "png_length_beyond_end", SIGNATURE + head + b"\x7f\xff\xff\xffIDAT" + bytes(100), "truncated_image"
    yield "png_length_over_2_gib", SIGNATURE + head + b"\xff\xff\xff\xffIDAT" + bytes(100), "malformed_image"
    frames = Image.fromarray(_film())
    yield "apng", _save("PNG", frames, frames.rotate(180)), "animated_image"


def _png_chunks() -> Iterator[_Case]:
    film = _film()
    good = png(film)
    tail = good[33:]
    table = bytes(range(12))
    indices = np.full((256, 256), 3)
    parts = [chunk(b"IDAT", p) for p in (zlib.compress(raw_rows(film, 8)),)]
    half = len(parts[0]) // 2
    split = chunk(b"IDAT", parts[0][8:half]) + chunk(b"tEXt", b"a\x00b") + chunk(b"IDAT", parts[0][half:-4])
    yield "png_data_before_header", SIGNATURE + parts[0] + good[8:], "malformed_image"
    yield "png_two_headers", png(film, before=[ihdr(224, 256)]), "malformed_image"
    yield "png_interrupted_data", SIGNATURE + ihdr(224, 256) + split + chunk(b"IEND"), "malformed_image"
    yield "png_full_end_chunk", good[:-12] + chunk(b"IEND", b"x"), "malformed_image"
    yield "png_unknown_critical_chunk", png(film, before=[chunk(b"EVIL", b"x")]), "malformed_image"
    yield "png_name_not_letters", png(film, before=[chunk(b"\x00\x01\x02\x03")]), "malformed_image"
    yield "png_3_bits", SIGNATURE + ihdr(224, 256, 3) + tail, "malformed_image"
    yield "png_color_type_5", SIGNATURE + ihdr(224, 256, 8, 5) + tail, "malformed_image"
    yield "png_rgb_with_4_bits", SIGNATURE + ihdr(224, 256, 4, 2) + tail, "malformed_image"
    yield "png_compression_method_1", SIGNATURE + ihdr(224, 256, 8, 0, 1, 0, 0) + tail, "malformed_image"
    yield "png_interlace_method_2", SIGNATURE + ihdr(224, 256, 8, 0, 0, 0, 2) + tail, "malformed_image"
    yield "png_palette_missing", png(indices, 8, 3), "malformed_image"
    yield "png_palette_index_too_high", png(indices, 8, 3, before=[chunk(b"PLTE", table[:9])]), "malformed_image"
    yield "png_palette_of_5_bytes", png(indices, 8, 3, before=[chunk(b"PLTE", table[:5])]), "malformed_image"
    yield "png_palette_too_long", png(indices, 2, 3, before=[chunk(b"PLTE", bytes(15))]), "malformed_image"
    yield "png_palette_in_gray", png(film, before=[chunk(b"PLTE", table)]), "malformed_image"
    late = good[:-12] + chunk(b"PLTE", table) + chunk(b"IEND")
    yield "png_palette_after_data", late, "malformed_image"
    long = [chunk(b"PLTE", table), chunk(b"tRNS", bytes(5))]
    yield "png_transparency_longer_than_palette", png(indices, 8, 3, before=long), "malformed_image"
    yield "png_transparency_before_palette", png(indices, 8, 3, before=long[::-1]), "malformed_image"
    yield "png_broken_exif", png(film, before=[chunk(b"eXIf", b"II*\x00\xff\xff\xff\x7f")]), "malformed_image"
    yield "png_two_exif", png(film, before=[chunk(b"eXIf", exif(1))] * 2), "malformed_image"
    yield "png_60000_chunks", png(film, before=[chunk(b"tEXt", b"a\x00b")] * 60_000), "malformed_image"


def _png_streams() -> Iterator[_Case]:
    film = _film()
    raw = raw_rows(film, 8)
    good = zlib.compress(raw)
    yield "png_stream_too_short", png(film, stream=zlib.compress(raw[: len(raw) // 2])), "malformed_image"
    yield "png_stream_cut", png(film, stream=good[:-100]), "malformed_image"
    yield "png_stream_without_checksum", png(film, stream=good[:-4]), "malformed_image"
    yield "png_stream_wrong_checksum", png(film, stream=good[:-4] + b"abcd"), "malformed_image"
    yield "png_stream_is_text", png(film, stream=b"not zlib at all " * 1_000), "malformed_image"
    yield "png_filter_type_7", png(film, stream=zlib.compress(b"\x07" + raw[1:])), "malformed_image"
    yield "png_stream_empty", png(film, stream=b""), "truncated_image"
    yield "png_zlib_bomb", png(film, stream=zeros(256)), "malformed_image"
    frame_alone = SIGNATURE + ihdr(4_096, 4_096, 16, 6) + chunk(b"IDAT", good[:500]) + chunk(b"IEND")
    yield "png_largest_frame_no_data", frame_alone, "truncated_image"
    blank = np.full((256, 256), 90)
    bombs = [chunk(b"zTXt", b"a\x00\x00" + zeros(64)), chunk(b"iTXt", b"a\x00\x01\x00\x00\x00" + zeros(64))]
    yield "png_text_bombs_on_blank", png(blank, before=bombs), "blank_image"
    yield "png_profile_bomb_on_blank", png(blank, before=[chunk(b"iCCP", b"a\x00\x00" + zeros(64))]), "blank_image"


def _sound_but_refused() -> Iterator[_Case]:
    yield "blank_black_jpeg", encode_jpeg(np.zeros((512, 512), np.uint8)), "blank_image"
    yield "blank_black_png", encode_png(np.zeros((512, 512), np.uint8)), "blank_image"
    yield "blank_white_png", encode_png(np.full((512, 512), 255, np.uint8)), "blank_image"
    yield "blank_16_bits", encode_png(np.full((512, 512), 2_000, np.uint16)), "blank_image"
    speck = np.zeros((512, 512), np.uint8)
    speck[:10, :10] = 255
    yield "blank_but_a_speck", encode_png(speck), "blank_image"
    largest = SIGNATURE + ihdr(4_096, 4_096, 16, 6) + chunk(b"IDAT", _zeros(4_096 * (1 + 4_096 * 8))) + chunk(b"IEND")
    yield "blank_largest_rgba_16", largest, "blank_image"
    yield "one_pixel", png(np.zeros((1, 1), np.uint8)), "too_small"
    yield "too_small_jpeg", encode_jpeg(phantom(3, height=127, width=300)), "too_small"
    yield "too_small_png", encode_png(phantom(3, height=300, width=127)), "too_small"
    yield "too_large_jpeg", encode_jpeg(np.zeros((200, 4_097), np.uint8)), "image_too_large"
    yield "too_large_png", encode_png(np.zeros((4_097, 200), np.uint8)), "image_too_large"


def _zeros(count: int) -> bytes:
    packer = zlib.compressobj(9)
    whole, rest = divmod(count, 2**20)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(whole)) + packer.compress(bytes(rest)) + packer.flush()
