"""Films as the network's square uint8 input, decoded and resized once by the service's own code.

Every film goes through `app.imaging.decode` and `app.preprocessing.resize_to_input`; this module adds only the storage and the
recompressed copies that hide which folder a film came from. Caches are files under `.cache/`, named by a digest over the input
specification and the film list, so a changed specification never meets old pixels. A film has changed where its file has another length
than the cached one, or another time and content (as DICOM, films of one detector are equally long): then the cache is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from app.bundle.input_spec import InputSpec
from app.domain import InputStatistics, Radiograph
from app.errors import ConfigurationError, CxrError
from app.imaging.decode import ImageLimits, decode
from app.imaging.dicom.decoders import DecoderPool
from app.preprocessing import resize_to_input
from training.data.films import Film
from training.places import Places
from training.recipe import Recipe
from training.spec import input_content

LIMITS = ImageLimits(min_px=32, max_px=8192)  # wider than the service's: the smallest film here is 384 x 121 px
_DECODE_S, _DECODE_BYTES = 60.0, 2_000_000_000  # for one frame; address space of the decoding child
_FORMAT = 1  # raise when the content of a cache changes


@dataclass(frozen=True)
class Pixels:
    """A cached set of films, in the order asked for.

    images: uint8 [N, V, S, S], V copies of each film (memory-mapped, read-only); sha256: of each film's file;
    statistics: of each film as decoded.
    """

    films: tuple[Film, ...]
    images: NDArray[np.uint8]
    sha256: tuple[str, ...]
    statistics: tuple[InputStatistics, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over the sorted list of (path, file sha256)."""
        pairs = sorted((film.path, sha) for film, sha in zip(self.films, self.sha256, strict=True))
        return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()

    @property
    def plain(self) -> NDArray[np.uint8]:
        """uint8 [N, S, S]: the films as decoded, which is what the service sees."""
        return self.images[:, 0]


def training_pixels(recipe: Recipe, films: Sequence[Film], places: Places) -> Pixels:
    """Films of the recipe's training part with their copies: one cache for the fit, the figures and the baselines of all seeds."""
    return load_pixels(
        places.data,
        films,
        recipe.input,
        places.cache,
        copies=recipe.data.cached_copies,
        seed=recipe.data.split_seed,
    )


def load_pixels(
    data: Path, films: Sequence[Film], spec: InputSpec, cache: Path, *, copies: int = 1, seed: int = 0
) -> Pixels:
    """The films' pixels, from the cache or decoded now (about 10 ms a film); compressed DICOM in a child process, as in the service.

    Raises ConfigurationError: `unreadable_film` names a film that cannot be decoded.
    """
    if not films:
        raise ConfigurationError("no_films", "there is no film to load")
    key = _key(films, spec, copies, seed)
    arrays, notes = cache / f"{key}.npy", cache / f"{key}.json"
    if not notes.is_file() or _changed(data, films, notes):
        _build(data, films, spec, arrays, notes, copies=copies, seed=seed)
    facts: list[dict[str, Any]] = json.loads(notes.read_text(encoding="utf-8"))
    return Pixels(
        films=tuple(films),
        images=np.load(arrays, mmap_mode="r"),
        sha256=tuple(fact["sha256"] for fact in facts),
        statistics=tuple(InputStatistics(**fact["statistics"]) for fact in facts),
    )


def decoder_pool() -> DecoderPool:
    """The service's decoder of compressed DICOM; its child starts with the first film that needs it. To be closed."""
    return DecoderPool(1, _DECODE_S, _DECODE_BYTES)


def load_film(data: Path, film: Film, decoder: DecoderPool, network: InputSpec | None = None) -> tuple[Radiograph, int]:
    """A film, decoded by the service's own code, and the length of its file in bytes.

    network: what it is decoded for, as in the service; None: in full, for whoever looks at the film itself.

    Raises ConfigurationError: `unreadable_film`.
    """
    try:
        content = (data / film.path).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            "unreadable_film", f"{film.path} cannot be read from {data}: {error.strerror}"
        ) from error
    try:
        return decode(content, LIMITS, decoder, network), len(content)
    except CxrError as error:
        raise ConfigurationError("unreadable_film", f"{film.path}: {error}") from error


def _changed(data: Path, films: Sequence[Film], notes: Path) -> bool:
    """Whether a film that is there is another one than was cached (caches of before this was kept: no).

    A file of the same length and time is taken to be the same; one of another time is read.
    """
    for film, fact in zip(films, json.loads(notes.read_text(encoding="utf-8")), strict=True):
        path = data / film.path
        if "bytes" not in fact or not path.is_file():
            continue
        found = path.stat()
        if found.st_size != fact["bytes"]:
            return True
        timed = fact.get("modified_ns", found.st_mtime_ns) == found.st_mtime_ns
        if not timed and hashlib.sha256(path.read_bytes()).hexdigest() != fact["sha256"]:
            return True
    return False


def _key(films: Sequence[Film], spec: InputSpec, copies: int, seed: int) -> str:
    content = [_FORMAT, input_content(spec), [f.path for f in films], copies, seed if copies > 1 else 0]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _build(
    data: Path, films: Sequence[Film], spec: InputSpec, arrays: Path, notes: Path, *, copies: int, seed: int
) -> None:
    arrays.parent.mkdir(parents=True, exist_ok=True)
    partial = arrays.with_suffix(f".{os.getpid()}.partial.npy")  # processes that build the same cache do not meet
    images = np.lib.format.open_memmap(
        partial, mode="w+", dtype=np.uint8, shape=(len(films), copies, spec.size, spec.size)
    )
    facts = []
    with closing(decoder_pool()) as decoder:
        for i, film in enumerate(track(films, description="decoding films", transient=True)):
            radiograph, size = load_film(data, film, decoder, spec)
            resized, _, statistics = resize_to_input(radiograph, spec)
            others = _recompressed(radiograph, spec, copies - 1, np.random.default_rng([seed, i]))
            images[i] = np.stack([resized, *others])
            modified = (data / film.path).stat().st_mtime_ns
            told = {"sha256": radiograph.sha256, "bytes": size, "modified_ns": modified}
            facts.append(told | {"statistics": asdict(statistics)})
    images.flush()
    del images
    partial.rename(arrays)
    temporary = notes.with_suffix(f".{os.getpid()}.partial.json")
    temporary.write_text(json.dumps(facts), encoding="utf-8")
    temporary.rename(notes)  # last: its presence says that the array is complete


def _recompressed(
    radiograph: Radiograph, spec: InputSpec, copies: int, rng: np.random.Generator
) -> list[NDArray[np.uint8]]:
    """The film as the 224 px folder would hold it: squashed first, saved as JPEG, then through the same door.

    The first copy has that folder's quality (75), the second a random lower one.
    """
    qualities = [75, int(rng.integers(40, 71))][:copies]
    sharp, _, _ = resize_to_input(radiograph, spec.model_copy(update={"antialias_sigma": None}))
    squashed = [decode(encode_jpeg(sharp, quality), LIMITS) for quality in qualities]
    return [resize_to_input(film, spec)[0] for film in squashed]


def encode_jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """uint8 [H, W] as a gray JPEG of this quality (1..100)."""
    ok, coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError("the film could not be coded as JPEG")
    return coded.tobytes()
