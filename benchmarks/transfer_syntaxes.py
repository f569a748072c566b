"""`python -m benchmarks.transfer_syntaxes`: what each transfer syntax costs to decode, so that a PACS can be told which to send.

One film (a 2,048 x 1,760 px phantom, 16 bits stored, with the noise of a real detector), coded by dcmtk, OpenJPEG and OpenJPH, and
decoded through one decoder process exactly as in the service, sending and receiving included. The rounds go through all syntaxes in
turn, and the fastest counts: neighbours on the machine can only add to it. Prints a Markdown table, cheapest first.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import openjpeg.utils
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.uid import UID

from app.imaging.dicom import decoder_protocol as syntax
from app.imaging.dicom.decoders import DecoderPool
from app.imaging.dicom.frame import FrameRequest
from app.imaging.phantom import phantom
from app.settings import PROJECT_ROOT
from benchmarks.readme import write_block
from tests.support.dicom_films import as_bytes, file_dataset

ROWS, COLUMNS = 2_048, 1_760
GUIDE = PROJECT_ROOT / "deploy" / "INTEGRATION.md"
LOSSLESS = {
    syntax.JPEG_LOSSLESS: ("dcmcjpeg", "+el"),
    syntax.JPEG_LOSSLESS_SV1: ("dcmcjpeg", "+e1"),
    syntax.JPEG_LS_LOSSLESS: ("dcmcjpls",),
    syntax.RLE_LOSSLESS: ("dcmcrle",),
}
LOSSY = {
    syntax.JPEG_BASELINE: ("dcmcjpeg", "+eb"),
    syntax.JPEG_EXTENDED: ("dcmcjpeg", "+ee"),
    syntax.JPEG_LS_NEAR_LOSSLESS: ("dcmcjpls", "+en", "+md", "8"),
}


def film() -> NDArray[np.uint16]:
    """uint16 [ROWS, COLUMNS]; noise of 32 of 65,536 levels, so that lossless coding ends near the 2:1 of real films."""
    noise = np.random.default_rng(1).normal(0, 32, (ROWS, COLUMNS))
    gray = phantom(3, height=ROWS, width=COLUMNS).astype(np.float64) * (65_535 / 255) + noise
    return np.clip(np.rint(gray), 0, 65_535).astype(np.uint16)


def requests(pixels: NDArray[np.uint16]) -> dict[str, FrameRequest]:
    """The film in every transfer syntax for which an encoder is at hand; the others are named on the way."""
    plain = file_dataset(1, pixels=pixels, bits_stored=16)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for uid, command in (LOSSLESS | LOSSY).items():
            if shutil.which(command[0]) is None:
                print(f"not measured: {UID(uid).name}: {command[0]} (Debian package dcmtk) is not installed")
            else:
                found[uid] = by_dcmtk(plain, Path(folder), command)
        if shutil.which("ojph_compress") is None:
            print("not measured: HTJ2K: ojph_compress (Debian package openjph-tools) is not installed")
        else:
            found[syntax.HTJ2K_LOSSLESS] = request(plain, syntax.HTJ2K_LOSSLESS, by_openjph(pixels, Path(folder)))
    lossless = openjpeg.utils.encode_array(pixels, bits_stored=16)
    found[syntax.JPEG_2000_LOSSLESS] = request(plain, syntax.JPEG_2000_LOSSLESS, lossless)
    lossy = openjpeg.utils.encode_array(pixels, bits_stored=16, compression_ratios=[10])
    found[syntax.JPEG_2000] = request(plain, syntax.JPEG_2000, lossy)
    return found


def by_dcmtk(plain: Dataset, folder: Path, command: tuple[str, ...]) -> FrameRequest:
    source, target = folder / "in.dcm", folder / "out.dcm"
    source.write_bytes(as_bytes(plain))
    subprocess.run([*command, source, target], check=True, timeout=120, capture_output=True)
    coded = pydicom.dcmread(io.BytesIO(target.read_bytes()))
    frame = bytes(get_frame(coded.PixelData, 0, number_of_frames=1))
    return request(coded, str(coded.file_meta.TransferSyntaxUID), frame)


def by_openjph(pixels: NDArray[np.uint16], folder: Path) -> bytes:
    source, target = folder / "in.pgm", folder / "out.j2c"
    source.write_bytes(f"P5 {COLUMNS} {ROWS} 65535\n".encode() + pixels.astype(">u2").tobytes())
    subprocess.run(
        ["ojph_compress", "-i", source, "-o", target, "-reversible", "true"],
        check=True,
        timeout=120,
        capture_output=True,
    )
    return target.read_bytes()


def request(film_: Dataset, uid: str, codestream: bytes) -> FrameRequest:
    return FrameRequest(
        transfer_syntax=uid,
        codestream=codestream,
        rows=film_.Rows,
        columns=film_.Columns,
        samples=1,
        bits_allocated=film_.BitsAllocated,
        bits_stored=film_.BitsStored,
        signed=False,
        photometric="MONOCHROME2",
    )


def measure(coded: dict[str, FrameRequest], pixels: NDArray[Any], rounds: int) -> dict[str, float]:
    """Fewest ms of one decoded frame by transfer syntax."""
    pool = DecoderPool(1, timeout_s=60, memory_bytes=2_000_000_000)
    took: dict[str, list[float]] = {uid: [] for uid in coded}
    try:
        for uid in LOSSLESS.keys() | {syntax.JPEG_2000_LOSSLESS, syntax.HTJ2K_LOSSLESS}:
            if uid in coded and not np.array_equal(pool.decode(coded[uid]), pixels):
                raise SystemExit(f"{UID(uid).name} is not exact")
        for _ in range(rounds):
            for uid, frame in coded.items():
                start = time.perf_counter()
                pool.decode(frame)
                took[uid].append((time.perf_counter() - start) * 1e3)
    finally:
        pool.close()
    return {uid: min(times) for uid, times in took.items()}


def markdown(coded: dict[str, FrameRequest], milliseconds: dict[str, float]) -> str:
    lines = ["| transfer syntax | UID | ms a film | MB a film |", "|---|---|---:|---:|"]
    lines.append(f"| uncompressed | 1.2.840.10008.1.2.1 | 0 | {ROWS * COLUMNS * 2 / 1e6:.1f} |")
    for uid in sorted(coded, key=lambda key: milliseconds[key]):
        frame = coded[uid]
        name = UID(uid).name.split(" (")[0].split(":")[0]
        note = f", {frame.bits_stored} bits, lossy" if uid in LOSSY or uid == syntax.JPEG_2000 else ", lossless"
        size = len(frame.codestream) / 1e6
        lines.append(f"| {name}{note} | {uid} | {milliseconds[uid]:.0f} | {size:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9, help="films decoded in each transfer syntax")
    parser.add_argument("--no-guide", action="store_true", help="print only; else deploy/INTEGRATION.md gets the table")
    options = parser.parse_args()
    pixels = film()
    coded = requests(pixels)
    head = (
        f"{ROWS} x {COLUMNS} px ({ROWS * COLUMNS / 1e6:.1f} Mpx), 16 bits unless said otherwise, fastest of {options.rounds} in one "
        f"decoder process, {datetime.now(UTC):%Y-%m-%d}:"
    )
    text = f"{head}\n\n{markdown(coded, measure(coded, pixels, options.rounds))}"
    print(text)
    if not options.no_guide:
        write_block("syntaxes", text, GUIDE)


if __name__ == "__main__":
    main()
