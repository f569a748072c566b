"""What the gate does to pictures it was not made from: every picture goes the way of a request, and the answer is counted.

    false_refusal     real frontal films, upright: the share that is refused
    refusal           what must not be judged: the share that is refused, for whatever reason
    right_pose        of films turned or inverted: the share that is refused with the right code and angle
    refused_or_warned of windows of films: the share that is not judged silently

Intervals are Wilson's (95 %), film by film: for sources with several films of a patient they are a little too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track

from app.bundle.gate_spec import GateFigure, GateSpec, PictureGate
from app.bundle.input_spec import InputSpec
from app.domain import Radiograph
from app.errors import RefusedError
from app.gate import PictureReference, check_network, check_picture, network_distance, picture_scores
from app.imaging.decode import decode
from app.imaging.dicom.frame import FrameDecoder
from app.imaging.quality import refuse_blank
from app.preprocessing import prepare
from training.data.cache import LIMITS, encode_jpeg
from training.data.films import Film
from training.gate import probes
from training.gate.parts import OTHERS, UNSEEN, original_paths
from training.gate.poses import CROPPED, POSES, Gray, turned_pixels, window
from training.gate.scores import Eye
from training.places import Places

T = TypeVar("T")

PICTURES = 200  # of each generated kind; twice as many held-out films are turned and cropped
_WINDOWS = ((0.8, 0.9), (0.6, 0.7), (0.4, 0.6), (0.25, 0.35), (0.12, 0.2))
_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Answer:
    """What becomes of one picture: refused with `code`, or judged, with the warning `code` or none ("")."""

    refused: bool
    code: str
    degrees: int = 0


@dataclass(frozen=True)
class Bench:
    """What a measurement needs besides the gate. decoder: for compressed DICOM; without one those pictures are left out.

    pictures: of each generated kind.
    """

    places: Places
    seed: int
    decoder: FrameDecoder | None
    console: Console
    pictures: int = PICTURES

    def track(self, items: Sequence[T], what: str) -> Iterable[T]:
        """The items, with a progress bar."""
        return track(items, what, console=self.console, transient=True)


@dataclass(frozen=True)
class Gatekeeper:
    """The gate as the service runs it."""

    gate: Eye
    classifier: Eye
    spec: GateSpec
    picture: PictureGate
    known: PictureReference

    def answer(self, radiograph: Radiograph) -> Answer:
        """Blank check, picture gate, classifier's features, in the order of `app.judging`."""
        try:
            refuse_blank(prepare(radiograph, self.classifier.spec).statistics)
            logits, features = self.gate.see(radiograph)
            scores = picture_scores(logits.astype(np.float32), features, self.picture, self.known)
            notices = check_picture(scores, self.spec, self.picture)
            _, seen = self.classifier.see(radiograph)
            notices += check_network(float(network_distance(seen, self.known)), self.spec, self.picture)
        except RefusedError as error:
            return Answer(True, error.code, _degrees(error))
        return Answer(False, notices[0].code if notices else "")

    def answers(self, pictures: Iterable[Radiograph | Gray]) -> list[Answer]:
        return [self.answer(p if isinstance(p, Radiograph) else _film(p)) for p in pictures]


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927), within [0, 1]."""
    share, z2 = hits / n, _Z**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def figure(name: str, data: str, hits: Sequence[bool]) -> GateFigure:
    """The share of hits with its interval."""
    count = sum(hits)
    return GateFigure(name=name, data=data, value=count / len(hits), ci=wilson(count, len(hits)), n=len(hits))


def figure_lines(figures: Sequence[GateFigure]) -> list[str]:
    """A few words per figure for the terminal."""
    return [f"{f.name:17}  {f.value:6.1%}  ({f.ci[0]:.1%} to {f.ci[1]:.1%})  n = {f.n:4}  {f.data}" for f in figures]


def measure(keeper: Gatekeeper, held_out: Sequence[Film], bench: Bench) -> tuple[GateFigure, ...]:
    """Every figure that the data on this machine allows."""
    films = {film.path: _read(bench, film.path, keeper.classifier.spec) for film in held_out}
    return (
        *_false_refusals(keeper, held_out, films, bench),
        *_turned(keeper, list(films.values()), bench),
        *_others(keeper, bench),
    )


def _false_refusals(
    keeper: Gatekeeper, held_out: Sequence[Film], films: dict[str, Radiograph], bench: Bench
) -> list[GateFigure]:
    found = []
    every: list[bool] = []
    for folder in bench.track(sorted({film.folder for film in held_out}), "held-out films"):
        answers = keeper.answers(films[film.path] for film in held_out if film.folder == folder)
        refused = [a.refused for a in answers]
        every += refused
        found.append(figure("false_refusal", f"held-out films, {folder}{_kinship(folder)}", refused))
    found.insert(0, figure("false_refusal", "held-out films, all sources", every))
    originals = [_read(bench, path) for path in original_paths(bench.places.data)]
    copies = {
        "full-size originals of held-out patients": [
            _read(bench, path, keeper.classifier.spec) for path in original_paths(bench.places.data)
        ],
        "the same, saved as JPEG of quality 50": [_again(film, None, 50) for film in originals],
        "the same, squashed to 224 px, JPEG of quality 75": [_again(film, 224, 75) for film in originals],
        "frontal chest films as DICOM": list(probes.chest_dicom(bench.places.data, bench.decoder).values()),
    }
    for name, pictures in copies.items():
        if pictures:
            found.append(figure("false_refusal", name, [a.refused for a in keeper.answers(pictures)]))
    return found


def _turned(keeper: Gatekeeper, films: Sequence[Radiograph], bench: Bench) -> list[GateFigure]:
    rng = np.random.default_rng([bench.seed, 2])
    chosen = [_gray(films[i]) for i in rng.permutation(len(films))[: 2 * bench.pictures]]
    found = []
    for pose in bench.track(POSES[1:CROPPED], "turned films"):
        answers = keeper.answers(turned_pixels(film, pose) for film in chosen)
        data = f"held-out films, {pose.replace('_', ' ')}"
        right = [a.refused and (a.code, a.degrees) == _expected(pose) for a in answers]
        found.append(figure("refusal", data, [a.refused for a in answers]))
        found.append(figure("right_pose", data, right))
    for shares in bench.track(_WINDOWS, "windows of films"):
        answers = keeper.answers(window(film, rng, shares) for film in chosen)
        data = f"windows of {shares[0]:.0%} to {shares[1]:.0%} of each side of held-out films"
        found.append(figure("refusal", data, [a.refused for a in answers]))
        found.append(figure("refused_or_warned", data, [a.refused or a.code != "" for a in answers]))
    return found


def _others(keeper: Gatekeeper, bench: Bench) -> list[GateFigure]:
    data = bench.places.data
    pictures: dict[str, Sequence[Radiograph | Gray]] = {
        **probes.not_frontal(data),
        "DICOM pictures of other things": probes.other_dicom(data, bench.decoder),
        "photographs and parts of them": probes.photographs(bench.seed, bench.pictures),
        **probes.generated(bench.seed, bench.pictures),
    }
    found = []
    for name, chosen in bench.track(list(pictures.items()), "other pictures"):
        if chosen:
            found.append(figure("refusal", name, [a.refused for a in keeper.answers(chosen)]))
    return found


def _kinship(folder: str) -> str:
    if folder in UNSEEN:
        return " (source never fitted)"
    return "" if folder in OTHERS else " (the bundle's population)"


def _expected(pose: str) -> tuple[str, int]:
    """An inverted film is refused as inverted, however it is turned."""
    if pose.startswith("inverted"):
        return "inverted_image", 0
    return "rotated_image", int(pose.removeprefix("rotated_"))


def _degrees(error: RefusedError) -> int:
    return int(error.facts.get("degrees", 0))


def _read(bench: Bench, path: str, network: InputSpec | None = None) -> Radiograph:
    """As the service decodes it for the classifier; without one, in full."""
    return decode((bench.places.data / path).read_bytes(), LIMITS, network=network)


def _film(pixels: Gray) -> Radiograph:
    return Radiograph(pixels=pixels, sha256="", format="png")


def _gray(radiograph: Radiograph) -> Gray:
    return np.asarray(radiograph.pixels, np.uint8)


def _again(radiograph: Radiograph, side: int | None, quality: int) -> Radiograph:
    """Decoded, perhaps squashed to a square, saved as JPEG and decoded again."""
    pixels = _gray(radiograph)
    if side is not None:
        pixels = np.asarray(cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    return decode(encode_jpeg(pixels, quality), LIMITS)
