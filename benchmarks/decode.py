"""`python -m benchmarks.decode`: what a film costs before the network sees it, by format and size, in full and at half of its size.

CPU milliseconds of this thread (and of the decoder process, for compressed DICOM) for hash, decode, resize with the film's statistics,
and normalisation. All cases take turns, round by round, and the fastest round of each counts: neighbours on the machine can only add to
it. A case is decoded in full and as the reduced decode has it, where the rule of `app.imaging.reduced` reduces it; the last columns
are the ratio of both and the largest and mean difference of the network's uint8 input in gray levels. Films are generated phantoms.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from app.bundle.input_spec import InputSpec
from app.domain import Radiograph
from app.imaging.codecs import decode_jpeg_gray
from app.imaging.decode import ImageLimits, decode, limit_threads
from app.imaging.dicom.decoders import DecoderPool
from app.imaging.jpeg_header import read_jpeg_header
from app.imaging.phantom import encode_jpeg, encode_png, phantom
from app.imaging.phantom_dicom import encode_dicom
from app.preprocessing import normalise, prepare, resize_to_input
from tests.support.dicom_films import as_bytes, file_dataset

SIDES = (1_024, 2_048, 4_096)
NEAR_SIDE = 1_024  # where the error of a reduced decode that the rule forbids is shown
LIMITS = ImageLimits(min_px=1, max_px=8_192, max_bytes=256_000_000)
STEPS = ("hash", "decode", "resize", "normalise")
_DECODE_S, _DECODE_BYTES = 120.0, 4_000_000_000


def film(side: int) -> NDArray[np.uint8]:
    """uint8 [side, side]: a phantom of 1,024 px enlarged, with the grain of a detector in every pixel."""
    small = phantom(3, height=1_024, width=1_024)
    large = small if side == 1_024 else cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(1).integers(-4, 5, (side, side), dtype=np.int16)
    return np.asarray(np.clip(large.astype(np.int16) + grain, 0, 255), np.uint8)


def files(side: int) -> Iterator[tuple[str, bytes]]:
    """The film in every format that can be made here, by name."""
    gray = film(side)
    low = np.random.default_rng(2).integers(0, 16, gray.shape, dtype=np.uint16)
    deep = np.asarray((gray.astype(np.uint16) << 4) + low, np.uint16)
    yield "JPEG", encode_jpeg(gray)
    options = [cv2.IMWRITE_JPEG_QUALITY, 90]
    yield "JPEG, progressive", bytes(cv2.imencode(".jpg", gray, [*options, cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1])
    yield "JPEG, color", bytes(cv2.imencode(".jpg", cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR), options)[1])
    yield "PNG, 8 bits", encode_png(gray)
    yield "PNG, 16 bits", encode_png(deep)
    yield "DICOM, uncompressed, 8 bits", encode_dicom(gray)
    yield "DICOM, uncompressed, 12 bits", as_bytes(file_dataset(1, pixels=deep, bits_stored=12))
    for name, syntax in (("RLE", RLELossless), ("JPEG-LS", JPEGLSLossless), ("JPEG 2000", JPEG2000Lossless)):
        coded = file_dataset(1, pixels=deep, bits_stored=12)
        coded.compress(syntax, generate_instance_uid=False)
        yield f"DICOM, {name}, 12 bits", as_bytes(coded)


@dataclass
class Case:
    """One file, decoded for one specification. best: fewest CPU ms of each step so far."""

    name: str
    side: int
    data: bytes
    spec: InputSpec
    best: dict[str, float] = field(default_factory=dict)

    def run(self, decoder: DecoderPool, clock: Callable[[], float]) -> None:
        laps = [clock()]
        hashlib.sha256(self.data).hexdigest()
        laps.append(clock())
        radiograph = decode(self.data, LIMITS, decoder, self.spec)
        laps.append(clock())
        resized, geometry, _ = resize_to_input(radiograph, self.spec)
        laps.append(clock())
        normalise(resized, geometry, self.spec)
        laps.append(clock())
        took = dict(zip(STEPS, np.diff(laps) * 1e3, strict=True))
        took["decode"] -= took["hash"]  # `decode` hashes too
        self.best = {step: min(ms, self.best.get(step, np.inf)) for step, ms in took.items()}

    @property
    def total(self) -> float:
        return sum(self.best.values())


@dataclass(frozen=True)
class Pair:
    """A file in full and at half of its size; `half` is None where the rule does not reduce it. error: largest and mean, gray levels."""

    full: Case
    half: Case | None
    error: tuple[int, float] | None


def specification(size: int) -> InputSpec:
    """The shipped bundles' input at this size, px, with the reduced decode."""
    return InputSpec.model_validate(
        {
            "size": size,
            "channels": 1,
            "resize": "stretch",
            "sixteen_bit": "significant_bits",
            "reduced_decode": True,
            "normalisation": {"kind": "per_image", "std_floor": 8.0},
        }
    )


def pair(name: str, side: int, data: bytes, spec: InputSpec, decoder: DecoderPool) -> Pair:
    plain = spec.model_copy(update={"reduced_decode": False})
    reduced = decode(data, LIMITS, decoder, spec)
    full = Case(name, side, data, plain)
    if reduced.reduced_from is None:
        return Pair(full, None, None)
    found = difference(prepare(reduced, spec).resized, prepare(decode(data, LIMITS), plain).resized)
    return Pair(full, Case(name, side, data, spec), found)


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> tuple[int, float]:
    apart = np.abs(one.astype(int) - other.astype(int))
    return int(apart.max()), float(apart.mean())


def forbidden(spec: InputSpec) -> tuple[int, float]:
    """The error of a reduced decode at `NEAR_SIDE` px, nearer to the network's size than the rule allows."""
    data = encode_jpeg(film(NEAR_SIDE))
    half = decode_jpeg_gray(memoryview(data), read_jpeg_header(memoryview(data), LIMITS), reduced=True)
    plain = spec.model_copy(update={"reduced_decode": False})
    return difference(
        prepare(Radiograph(half, "", "jpeg"), plain).resized, prepare(decode(data, LIMITS), plain).resized
    )


def own_children() -> list[int]:
    """Ids of the processes that this one has started (proc(5))."""
    return [
        int(pid)
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text(encoding="ascii").split()
    ]


def cpu_s(children: Sequence[int]) -> float:
    """CPU seconds of this thread and of the decoder processes, which do nothing but our frames (schedstat: ns on the CPU)."""
    nanoseconds = sum(int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) for pid in children)
    return time.thread_time() + nanoseconds / 1e9


def measure(pairs: Sequence[Pair], decoder: DecoderPool, rounds: int) -> None:
    """Fill in `best` of all cases; they take turns in every round."""
    children = own_children()
    for _ in range(rounds):
        for found in pairs:
            for case in (found.full, found.half):
                if case is not None:
                    case.run(decoder, lambda: cpu_s(children))


def table(pairs: Sequence[Pair]) -> Iterator[str]:
    """Markdown; ms of CPU."""
    columns = ["film", "px", "MB", *STEPS, "**all**", "decode at half", "resize", "**all**", "ratio", "most", "mean"]
    yield f"| {' | '.join(columns)} |"
    yield f"|---|{'---:|' * (len(columns) - 1)}"
    for found in pairs:
        full, half = found.full, found.half
        cells = [full.name, f"{full.side:,}", f"{len(full.data) / 1e6:.2f}"]
        cells += [*(f"{full.best[step]:.2f}" for step in STEPS), f"**{full.total:.2f}**"]
        if half is None or found.error is None:
            cells += ["-"] * 6
        else:
            cells += [f"{half.best['decode']:.2f}", f"{half.best['resize']:.2f}", f"**{half.total:.2f}**"]
            cells += [f"{half.total / full.total:.2f}", str(found.error[0]), f"{found.error[1]:.3f}"]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7, help="times that every film is decoded in each way")
    parser.add_argument("--size", type=int, default=224, help="side of the network's input, px")
    parser.add_argument("--sides", type=int, nargs="+", default=list(SIDES), help="sides of the films, px")
    options = parser.parse_args()
    limit_threads()
    spec = specification(options.size)
    with closing(DecoderPool(1, _DECODE_S, _DECODE_BYTES)) as decoder:
        pairs = [pair(name, side, data, spec, decoder) for side in options.sides for name, data in files(side)]
        measure(pairs, decoder, options.rounds)
    print(
        f"CPU ms a film, fewest of {options.rounds}, {platform.machine()}, {datetime.now(UTC):%Y-%m-%d}; input {options.size} px; "
        "most, mean: gray levels between the input in full and at half\n"
    )
    print("\n".join(table(pairs)))
    most, mean = forbidden(spec)
    print(
        f"\nnot allowed: at {NEAR_SIDE:,} px ({NEAR_SIDE / options.size:.1f} x the input) half of the size would change it by up to "
        f"{most} gray levels ({mean:.3f} in the mean)"
    )


if __name__ == "__main__":
    main()
