"""One film on a worker thread: from its bytes to a judgement, with maps and a picture where they are wanted. No I/O, no state.

decode -> header gate -> prepare -> blank -> picture gate -> quality -> network -> its own features -> (further passes) -> decide ->
(explain); each step's time is kept. The gate is the bundle's (`app.gate`); a bundle without one judges any picture.

Test-time augmentation and two of the explanations need the network to see the film again, in other views or changed copies. `judge`
does all of it in one go; `begin`, `Begun.run` and `Begun.finish` are its parts, for whoever lets other films pass between them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app import drift, explain, gate, preprocessing
from app.bundle.manifest import Manifest, OperatingPoint
from app.decision import decide, inconsistency
from app.domain import ActivationMap, Decision, Geometry, Judgement, NetworkOutput, Notice, PreparedInput, Radiograph
from app.errors import ImageError, RefusedError
from app.imaging.decode import ImageLimits, decode
from app.imaging.dicom.frame import FrameDecoder
from app.imaging.quality import quality_notices, refuse_blank
from app.imaging.views import FURTHER_VIEWS, PLAIN, View
from app.live import LiveBundle

Buffer = bytes | bytearray | memoryview
Method = Literal[explain.Method, explain.PassMethod]

CONTOUR_LEVEL = 0.5
_HEAT_PX = 512  # the heat is smooth: drawn at this size, then enlarged with the picture
_CONTOUR_PX = 256  # maps are up-sampled to this before their outline is taken; the outline is then scaled to the film


@dataclass(frozen=True)
class ExplainOptions:
    """What to explain and how to draw it.

    target: a class, None = the decided one, then the next most probable up to top_k; method: of `app.explain`;
    alpha: weight of the heat, 0..1; output: rendered picture as a file or as an array, or the numbers only;
    full_size: draw at the film's own size.
    """

    operating_point: str | None = None
    target: str | None = None
    method: Method = "gradcam"
    alpha: float = 0.35
    top_k: int = 1
    full_size: bool = False
    output: Literal["png", "jpeg", "array", "json"] = "png"


@dataclass(frozen=True)
class Contour:
    """Outline of the region where a map reaches `level`, in pixels of the original film: closed polygons of (x, y)."""

    level: float
    polygons: tuple[tuple[tuple[int, int], ...], ...]


@dataclass(frozen=True)
class Drawn:
    """A judgement, and what was drawn from its maps: as a file, or as an array (RGB uint8 [H, W, 3]), by the wanted output."""

    judgement: Judgement
    contours: tuple[Contour, ...] = ()
    captions: tuple[str, ...] = ()
    picture: bytes | None = None
    picture_array: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Limits:
    """image: sides of a film, px; overlay_max_px: longest side of a picture unless its full size is wanted.

    decoder: of compressed DICOM pixel data; without one such films are refused.
    """

    image: ImageLimits
    overlay_max_px: int
    decoder: FrameDecoder | None = None


class Refusal(Exception):  # noqa: N818 - not a fault; a coded refusal on its way from the worker to the loop
    """error: what the client is told; sha256: of the bytes that were refused."""

    def __init__(self, error: ImageError | RefusedError, sha256: str) -> None:
        self.error = error
        self.sha256 = sha256


def judge(
    data: Buffer,
    live: LiveBundle,
    point: OperatingPoint,
    wanted: ExplainOptions | None,
    limits: Limits,
    *,
    tta: bool = False,
) -> Drawn:
    """Decode, check, prepare, run the network, decide, and explain where that is wanted; all passes in this thread, one by one.

    Args:
        tta: decide on the mean logits of several views (`app.imaging.views`).

    Raises:
        Refusal: the film was refused; carries the coded error and the hash of the bytes.
    """
    begun = begin(data, live, point, wanted, limits, tta=tta)
    return begun.finish([begun.run(index) for index in range(begun.passes)])


def begin(
    data: Buffer,
    live: LiveBundle,
    point: OperatingPoint,
    wanted: ExplainOptions | None,
    limits: Limits,
    *,
    tta: bool = False,
) -> Begun:
    """The first part of `judge`, up to the network's answer to the plain film. Arguments and Raises are those of `judge`."""
    clock = _Clock()
    try:
        seen = _see(data, live, limits, clock)
    except (ImageError, RefusedError) as error:
        raise Refusal(error, hashlib.sha256(data).hexdigest()) from error
    return Begun(
        data,
        live,
        point,
        wanted,
        limits,
        seen,
        clock.laps,
        FURTHER_VIEWS if tta else {},
        _explainer(wanted, seen, live),
    )


@dataclass(frozen=True)
class Passed:
    """What the network made of one further pass. ms: what that took."""

    output: NetworkOutput
    ms: float


@dataclass(frozen=True)
class Begun:
    """A film that the network has seen once. `passes` calls of `run`, in any thread, then `finish`: that is `judge` in parts.

    data: the file. laps: time of each step so far, ms. views: those to be seen beside the plain film. explainer: None where no map is
    wanted.
    """

    data: Buffer
    live: LiveBundle
    point: OperatingPoint
    wanted: ExplainOptions | None
    limits: Limits
    seen: _Seen
    laps: Mapping[str, float]
    views: Mapping[str, View]
    explainer: explain.Explainer | None

    @property
    def passes(self) -> int:
        """How often the network has to see the film again: first the views, then the copies that the explainer wants."""
        return len(self.views) + (self.explainer.passes if self.explainer is not None else 0)

    def run(self, index: int) -> Passed:
        """Pass number `index`; about the work of one plain film."""
        clock = _Clock()
        output = self.live.engine.run(self._tensor(index))
        clock.lap("pass")
        return Passed(output, clock.laps["pass"])

    def finish(self, passed: Sequence[Passed]) -> Drawn:
        """Decide and explain. passed: the results of `run(0)`, `run(1)`, ... in their order."""
        if len(passed) != self.passes:
            raise ValueError(f"{self.passes} passes wanted, {len(passed)} given")
        outputs = [one.output for one in passed]
        clock = _Clock({**self.laps, "passes": sum(one.ms for one in passed)} if passed else self.laps)
        judgement = self._judgement(outputs[: len(self.views)])
        clock.lap("decide")
        if self.wanted is None or self.explainer is None:
            return Drawn(replace(judgement, timing_ms=clock.laps))
        maps = _maps(judgement, self.explainer, outputs[len(self.views) :], self.live.manifest, self.wanted)
        film = _film_to_draw(self.data, judgement.radiograph, self.wanted, self.limits)
        drawn = _drawn(replace(judgement, maps=maps), film, self.live.manifest, self.wanted, self.limits.overlay_max_px)
        clock.lap("explain")
        return replace(drawn, judgement=replace(drawn.judgement, timing_ms=clock.laps))

    def _tensor(self, index: int) -> NDArray[np.float32]:
        if self.explainer is not None and index >= len(self.views):
            return self.explainer.tensor(index - len(self.views))
        prepared, view = self.seen.prepared, list(self.views.values())[index]
        return preprocessing.normalise(view(prepared.resized), prepared.geometry, self.live.manifest.input)

    def _judgement(self, views: Sequence[NetworkOutput]) -> Judgement:
        """The decision on the mean logits of all views; features and warnings are those of the plain film."""
        seen, live = self.seen, self.live
        every = np.stack([seen.output.logits, *(view.logits for view in views)])
        logits = every.mean(axis=0, dtype=np.float64).astype(np.float32)
        decision = decide(logits, live.manifest, self.point, quality_doubt=bool(seen.notices))
        names = (PLAIN, *self.views) if self.views else ()
        return Judgement(
            radiograph=seen.radiograph,
            geometry=seen.prepared.geometry,
            statistics=seen.prepared.statistics,
            decision=decision,
            notices=_notices(seen, decision, live.manifest, names),
            engine=live.engine.info,
            feature_projection=drift.project(live.bundle.reference["projection"], seen.pooled),
            views=names,
        )


@dataclass(frozen=True)
class _Seen:
    """A film that may be judged, and what the network made of it. pooled: its features averaged over the grid, float64 [C]."""

    radiograph: Radiograph
    prepared: PreparedInput
    output: NetworkOutput
    pooled: NDArray[np.float64]
    notices: tuple[Notice, ...]


def _see(data: Buffer, live: LiveBundle, limits: Limits, clock: _Clock) -> _Seen:
    """Everything before the decision.

    Raises:
        ImageError, RefusedError: the file is not taken, or the film is not to be judged.
    """
    manifest = live.manifest
    radiograph = decode(data, limits.image, limits.decoder, manifest.input)
    clock.lap("decode")
    header = gate.check_header(radiograph.acquisition, manifest)
    prepared = preprocessing.prepare(radiograph, manifest.input)
    refuse_blank(prepared.statistics)
    clock.lap("preprocess")
    picture = _look(radiograph, live)
    quality = gate.check_quality(quality_notices(prepared.statistics, manifest.quality), manifest.gate)
    clock.lap("gate")
    output = live.engine.run(prepared.tensor)
    pooled = explain.pooled(output.features)
    clock.lap("network")
    unlike = _unlike(pooled, live)
    notices = tuple(dict.fromkeys((*header, *picture, *unlike, *quality)))  # two distances may find the same
    return _Seen(radiograph, prepared, output, pooled, notices)


def _look(radiograph: Radiograph, live: LiveBundle) -> tuple[Notice, ...]:
    """The gate's network on the picture. Raises: RefusedError, as `gate.check_picture`."""
    if live.gate is None or live.manifest.gate is None:
        return ()
    picture = live.gate.spec
    output = live.gate.engine.run(preprocessing.network_tensor(radiograph, picture.input))
    scores = gate.picture_scores(output.logits, explain.pooled(output.features), picture, live.gate.reference)
    return gate.check_picture(scores, live.manifest.gate, picture)


def _unlike(pooled: NDArray[np.float64], live: LiveBundle) -> tuple[Notice, ...]:
    """The classifier's own features. Raises: RefusedError, as `gate.check_network`."""
    if live.gate is None or live.manifest.gate is None:
        return ()
    distance = float(gate.network_distance(pooled, live.gate.reference))
    return gate.check_network(distance, live.manifest.gate, live.gate.spec)


class _Clock:
    """Laps in milliseconds."""

    def __init__(self, laps: Mapping[str, float] = MappingProxyType({})) -> None:
        self.laps = dict(laps)
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = (now - self._last) * 1e3
        self._last = now


def _notices(seen: _Seen, decision: Decision, manifest: Manifest, views: Sequence[str]) -> tuple[Notice, ...]:
    """All warnings of an answer. Those that follow from the bundle or the decision are no doubt in the film's quality."""
    contradiction = inconsistency(manifest, decision)
    return (
        *([_research_only(manifest.research_label)] if manifest.research_label else []),
        *seen.notices,
        *([contradiction] if contradiction else []),
        *([_mean_of_views(len(views))] if views else []),
        *([_intended_use(manifest)] if seen.radiograph.format != "dicom" else []),
    )


def _research_only(label: str) -> Notice:
    return Notice("research_only", f"The serving bundle is not for patients: {label}.")


def _mean_of_views(views: int) -> Notice:
    return Notice(
        "mean_of_views",
        f"The answer is the mean over {views} views of the film. Calibration, thresholds and the figures of the operating point were "
        "taken from single views.",
    )


def _intended_use(manifest: Manifest) -> Notice:
    return Notice(
        "intended_use_unverified",
        f"The file does not say who was imaged and how. This model is meant only for: {manifest.intended_use.population}.",
    )


def _explainer(wanted: ExplainOptions | None, seen: _Seen, live: LiveBundle) -> explain.Explainer | None:
    if wanted is None:
        return None
    match wanted.method:
        case "gradcam" | "gradcam++" as method:
            return explain.GradCam(seen.output.features, live.head, method)
        case "smoothgradcam++":
            return explain.SmoothGradCam(seen.prepared.tensor, seen.radiograph.sha256, live.head)
        case "scorecam":
            return explain.ScoreCam(seen.prepared.tensor, seen.output.features)


def _maps(
    judgement: Judgement,
    explainer: explain.Explainer,
    outputs: Sequence[NetworkOutput],
    manifest: Manifest,
    wanted: ExplainOptions,
) -> tuple[ActivationMap, ...]:
    """One map per class that is wanted; all from the same passes."""
    return tuple(
        explainer.map(outputs, target=target, logit_index=index, negated=negated)
        for target in _targets(judgement, wanted)
        for index, negated in [explain.logit_of(manifest.task, manifest.classes, target)]
    )


def _film_to_draw(data: Buffer, radiograph: Radiograph, wanted: ExplainOptions, limits: Limits) -> Radiograph:
    """The film that was judged; decoded anew, in full, where that was at half of its size and the picture is to be larger, or an odd
    side would make it another size."""
    if radiograph.reduced_from is None or wanted.output == "json":
        return radiograph
    halved = all(side % 2 == 0 for side in radiograph.reduced_from)
    if halved and not wanted.full_size and limits.overlay_max_px <= max(radiograph.pixels.shape):
        return radiograph
    return decode(data, limits.image)


def _drawn(judgement: Judgement, film: Radiograph, manifest: Manifest, wanted: ExplainOptions, max_px: int) -> Drawn:
    """Contours, captions and, where asked for, the picture of `film`."""
    contours = tuple(_contour(m, judgement.geometry) for m in judgement.maps)
    captions = tuple(explain.caption(m, judgement.decision) for m in judgement.maps)
    if wanted.output == "json":
        return Drawn(judgement, contours, captions)
    picture = _picture(judgement, film, manifest, wanted, None if wanted.full_size else max_px)
    if isinstance(picture, bytes):
        return Drawn(judgement, contours, captions, picture)
    return Drawn(judgement, contours, captions, picture_array=picture)


def _picture(
    judgement: Judgement, radiograph: Radiograph, manifest: Manifest, wanted: ExplainOptions, max_px: int | None
) -> bytes | NDArray[np.uint8]:
    """The overlays side by side, one per map; each film's longest side at most `max_px`."""
    film = preprocessing.to_eight_bit(radiograph.pixels, manifest.input.sixteen_bit)
    heats = [preprocessing.to_original(m.values, judgement.geometry, max_px=_HEAT_PX) for m in judgement.maps]
    panels = len(heats)
    height, width = film.shape
    if max_px is not None:
        max_px = round(max(height, panels * width) * min(1.0, max_px / max(height, width)))
    films, heat = np.tile(film, (1, panels)) if panels > 1 else film, np.hstack(heats)
    if wanted.output == "array":
        return explain.render_overlay(films, heat, wanted.alpha, max_px=max_px)
    output: Literal["png", "jpeg"] = "jpeg" if wanted.output == "jpeg" else "png"
    return explain.overlay_bytes(films, heat, wanted.alpha, output, max_px=max_px)


def _targets(judgement: Judgement, wanted: ExplainOptions) -> list[str]:
    names = [c.name for c in judgement.decision.classes]
    first = wanted.target or (judgement.decision.label if judgement.decision.label in names else names[0])
    return [first, *[n for n in names if n != first]][: wanted.top_k]


def _contour(heat: ActivationMap, geometry: Geometry) -> Contour:
    placed = preprocessing.to_original(heat.values, geometry, max_px=_CONTOUR_PX)
    scale_y = geometry.original_height / placed.shape[0]
    scale_x = geometry.original_width / placed.shape[1]
    polygons = tuple(
        tuple((round(x * scale_x), round(y * scale_y)) for x, y in polygon)
        for polygon in explain.contours(placed, CONTOUR_LEVEL)
    )
    return Contour(CONTOUR_LEVEL, polygons)
