"""Grad-CAM and Grad-CAM++ in closed form: no backward pass, no second forward pass, no hooks, no torch.

The network's features A [C, h, w] are exactly what global average pooling averages, and the head (`head.safetensors`) is all
that follows. For a target score y(p), p_c = mean of A_c, the gradient at every position of channel c is then the same,

    dy / dA_c,ij = g_c / (h w)   with   g = dy / dp,

and g is one row of a weight matrix (`gap_linear`) or a few small matrix products (`gap_mlp_relu`), taken in float64. So

- Grad-CAM (Selvaraju et al. 2017): map = ReLU(sum over c of g_c A_c), up to a factor that the normalisation removes;
- Grad-CAM++ (Chattopadhyay et al. 2018, eq. 10 to 19, with y taken as the exponent of the score, so that the second and third
  derivatives are powers of the first): weight_c = ReLU(g_c) / (2 + p_c g_c), up to the same factor. See `_plus_plus_weights`.

The target is the uncalibrated logit: a calibration would only scale it. For the negative class of a binary bundle it is minus
the logit. A map without a positive part is all zeros and says so; it is never stretched.

Pictures: red = important. The tint's weight is alpha times the heat, so a cold region shows the film unchanged. Since a film is
gray, the colour planes of a JPEG depend on the heat alone and are made at half resolution (4:2:0), and its luma is one look-up in
a table of gray x heat; no RGB picture is made on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from app.domain import ActivationMap, Decision, Task
from app.errors import BundleError, ConflictError

Floats: TypeAlias = NDArray[np.float64]
Bytes2D: TypeAlias = NDArray[np.uint8]
Method = Literal["gradcam", "gradcam++"]
METHOD_NAMES: Mapping[str, str] = {"gradcam": "Grad-CAM", "gradcam++": "Grad-CAM++"}

# Grad-CAM++ divides by 2 + p_c g_c. For features >= 0 and g_c > 0 that is at least 2. Signed features (SiLU, LayerNorm) can bring it
# to zero or below, where one channel would swallow the map or change its sign; it is held at this floor, twice the usual weight.
PLUS_PLUS_FLOOR = 1.0

# A positive part smaller than this share of the summed terms is the rounding of float32 features, not evidence.
ROUNDING = 1e-7

JPEG_QUALITY = 90
# Level 1 with the `up` filter alone: a third faster than the encoder's own choice among all filters, at the same size.
PNG_PARAMETERS = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)


@dataclass(frozen=True)
class Head:
    """What follows the pooling: dense layers with ReLU between them, float64. No layers: the bundle exports no explanation.

    layers: (weight [out, in], bias [out]) in order; the first `in` is the number of feature channels C, the last `out` is K.
    """

    layers: tuple[tuple[Floats, Floats], ...]

    @classmethod
    def from_tensors(cls, kind: str, tensors: Mapping[str, NDArray[np.float32]]) -> Head:
        """Build from the tensors of `head.safetensors`.

        Args:
            kind: `gap_linear` (`weight` [K, C], `bias` [K]), `gap_mlp_relu` (`0.weight`, `0.bias`, `1.weight`, ...), or `none`.

        Raises:
            BundleError: `head_mismatch` if names, shapes or values do not make such a head.
        """
        names = _expected_names(kind, tensors)
        if set(tensors) != {name for pair in names for name in pair}:
            wanted = sorted(name for pair in names for name in pair)
            raise BundleError("head_mismatch", f"a {kind} head has the tensors {wanted}, not {sorted(tensors)}")
        layers = tuple((tensors[w].astype(np.float64), tensors[b].astype(np.float64)) for w, b in names)
        width: int | None = None
        for (weight, bias), (name, _) in zip(layers, names, strict=True):
            if weight.ndim != 2 or bias.shape != weight.shape[:1] or width not in (None, weight.shape[1]):
                raise BundleError("head_mismatch", f"{name} {weight.shape} with bias {bias.shape} after width {width}")
            if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
                raise BundleError("head_mismatch", f"{name} or its bias holds values that are not finite")
            width = weight.shape[0]
        return cls(layers)

    @property
    def available(self) -> bool:
        """Whether maps can be made at all."""
        return bool(self.layers)

    def logits(self, pooled: Floats) -> Floats:
        """Logits [K] from pooled features [C]; equal to the network's within the engine's tolerance.

        Raises:
            ConflictError: `explanation_unavailable` without a head.
        """
        self._require()
        return self._pre_activations(pooled)[-1]

    def gradient(self, pooled: Floats, logit_index: int) -> Floats:
        """d logits[logit_index] / d pooled, [C]. The slope of ReLU at exactly zero is zero, as in torch.

        Raises:
            ConflictError: `explanation_unavailable` without a head.
        """
        self._require()
        before_relu = self._pre_activations(pooled)[:-1]
        slope: Floats = self.layers[-1][0][logit_index]
        for (weight, _), before in zip(reversed(self.layers[:-1]), reversed(before_relu), strict=True):
            slope = (slope * (before > 0)) @ weight
        return slope.copy()

    def _pre_activations(self, pooled: Floats) -> list[Floats]:
        values: list[Floats] = []
        x = pooled
        for weight, bias in self.layers:
            values.append(weight @ x + bias)
            x = np.maximum(values[-1], 0.0)
        return values

    def _require(self) -> None:
        if not self.layers:
            raise ConflictError("explanation_unavailable", what="heat maps: its network has no closed-form head")


def pooled(features: NDArray[np.float32]) -> Floats:
    """Global average of features [C, h, w]: float64 [C], summed in float64."""
    mean: Floats = features.mean(axis=(1, 2), dtype=np.float64)
    return mean


def logit_of(task: Task, classes: tuple[str, ...], target: str) -> tuple[int, bool]:
    """Which logit explains a class: (logit_index, negated). `target` is one of `classes`; ValueError otherwise."""
    index = classes.index(target)
    return (0, index == 0) if task == "binary" else (index, False)


def activation_map(
    features: NDArray[np.float32], head: Head, *, target: str, logit_index: int, negated: bool, method: Method
) -> ActivationMap:
    """The explanation of one logit on the feature grid.

    Args:
        features: [C, h, w], the network's second output for the film.
        target: name of the class, for the reader of the map.
        logit_index, negated: see `logit_of`.

    Returns:
        values float32 [h, w] in [0, 1], maximum exactly 1; all zeros with `no_positive_evidence` if no position speaks for the target.

    Raises:
        ConflictError: `explanation_unavailable` if the bundle has no head.
        ValueError: features that are not finite (the decision refuses such a film first).
    """
    if not np.isfinite(features).all():
        raise ValueError("features that are not finite cannot be explained")
    gradient = head.gradient(pooled(features), logit_index)
    if negated:
        gradient = -gradient
    weights = gradient if method == "gradcam" else _plus_plus_weights(gradient, pooled(features))
    channels = features.reshape(features.shape[0], -1).astype(np.float64)
    evidence = np.maximum(weights @ channels, 0.0)
    peak = float(evidence.max())
    terms = float((np.abs(weights) @ np.abs(channels)).max())
    if peak <= ROUNDING * terms:
        values = np.zeros(features.shape[1:], dtype=np.float32)
    else:
        values = (evidence / peak).astype(np.float32).reshape(features.shape[1:])
    return ActivationMap(
        target=target, method=method, values=values, negated=negated, no_positive_evidence=not values.any()
    )


def _plus_plus_weights(gradient: Floats, pooled: Floats) -> Floats:
    """Channel weights of Grad-CAM++, [C], times h w.

    With the gradient d = g / (h w) constant over a channel, eq. 19 reads alpha = d^2 / (2 d^2 + sum(A) d^3) at every position, and the
    weight is sum over positions of alpha ReLU(d) = ReLU(g) / (2 + p g), since sum(A) d = p g. The denominator is floored.
    """
    return np.maximum(gradient, 0.0) / np.maximum(2.0 + pooled * gradient, PLUS_PLUS_FLOOR)


def _expected_names(kind: str, tensors: Mapping[str, NDArray[np.float32]]) -> list[tuple[str, str]]:
    if kind == "none":
        return []
    if kind == "gap_linear":
        return [("weight", "bias")]
    if kind == "gap_mlp_relu":
        return [(f"{i}.weight", f"{i}.bias") for i in range(max(1, len(tensors) // 2))]
    raise BundleError("head_mismatch", f"unknown kind of head {kind!r}")


def overlay_size(height: int, width: int, max_px: int | None) -> tuple[int, int]:
    """(height, width) of a film's overlay: the longest side at most `max_px`, never enlarged; None = the film's own size."""
    scale = 1.0 if max_px is None else min(1.0, max_px / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def render_overlay(pixels: Bytes2D, heat: NDArray[np.float32], alpha: float, *, max_px: int | None = None) -> Bytes2D:
    """The film with the heat on it.

    Args:
        pixels: uint8 [H, W], the upright film, higher = brighter.
        heat: float32 [h, w] in [0, 1] over the whole film, at any resolution (`preprocessing.to_original`; half is plenty).
        alpha: weight of the tint in [0, 1] where the heat is 1.
        max_px: longest side of the result (`overlay_size`).

    Returns:
        RGB uint8 [H', W', 3].
    """
    index = _gray_heat_index(*_placed(pixels, heat, max_px))
    tables = _tables(float(alpha))
    rgb = cv2.merge([_lookup(index, table) for table in (tables.red, tables.green, tables.blue)])
    return np.asarray(rgb, dtype=np.uint8)


def overlay_bytes(
    pixels: Bytes2D,
    heat: NDArray[np.float32],
    alpha: float,
    image_format: Literal["png", "jpeg"],
    *,
    max_px: int | None = None,
) -> bytes:
    """`render_overlay` as a file: PNG (the same pixels), or JPEG 4:2:0 at quality 90 straight from luma and colour planes."""
    if image_format == "png":
        rgb = render_overlay(pixels, heat, alpha, max_px=max_px)
        done, png = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), PNG_PARAMETERS)
        if not done:
            raise RuntimeError("the PNG encoder failed")
        return bytes(png)
    gray, heat8 = _placed(pixels, heat, max_px)
    tables = _tables(float(alpha))
    height, width = gray.shape
    half = _resized(heat8, (height + 1) // 2, (width + 1) // 2, cv2.INTER_AREA)
    luma = _lookup(_gray_heat_index(gray, heat8), tables.luma)
    chroma = [_lookup(half, table) for table in (tables.chroma_blue, tables.chroma_red)]
    return bytes(simplejpeg.encode_jpeg_yuv_planes(luma, *chroma, quality=JPEG_QUALITY))


def contours(values: NDArray[np.float32], level: float = 0.5) -> list[list[tuple[int, int]]]:
    """Outlines of the regions at or above a level, as closed polygons of (x, y), px of the map given, to within 1 px.

    Outer borders only: a hole inside a region is not cut out. Call it on a map that was scaled up to the film; a region of one or
    two pixels gives as many points. Algorithm: Suzuki & Abe 1985, thinned by Douglas & Peucker 1973.
    """
    region = (values >= level).astype(np.uint8)
    found, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    thinned = [cv2.approxPolyDP(border, 1.0, True) for border in found]
    return [[(int(x), int(y)) for x, y in border.reshape(-1, 2)] for border in thinned]


def caption(explained: ActivationMap, decision: Decision) -> str:
    """One line under the picture: the target's probability, its threshold where it has one, and what the map is not."""
    score = next(s for s in decision.classes if s.name == explained.target)
    facts = [decision.operating_point]
    if score.threshold_probability is not None:
        facts.insert(0, f"threshold {_shown(score.threshold_probability)}")
    what = f"{METHOD_NAMES[explained.method]} evidence for {explained.target}"
    if explained.no_positive_evidence:
        what = f"no positive {what}"
    return f"{explained.target} {_shown(score.probability)} ({', '.join(facts)}): {what}; a hint, not a lesion outline"


def _shown(probability: float) -> str:
    """Two decimals, and no claim of certainty: 0.00 and 1.00 are never shown."""
    if probability < 0.005:
        return "<0.01"
    return ">0.99" if probability >= 0.995 else f"{probability:.2f}"


@dataclass(frozen=True)
class _Tables:
    """Look-up tables of one alpha, uint8: [65536] by 256 * heat + gray, and the chroma [256] by heat."""

    red: Bytes2D
    green: Bytes2D
    blue: Bytes2D
    luma: Bytes2D
    chroma_blue: Bytes2D
    chroma_red: Bytes2D


@lru_cache(maxsize=8)
def _tables(alpha: float) -> _Tables:
    """colour(heat) runs from yellow to red; mixed = (1 - alpha heat) gray + alpha heat colour; YCbCr as in JFIF (ITU-R BT.601)."""
    heat = np.arange(256) / 255.0
    weight = alpha * heat
    red, green, blue = np.full(256, 255.0), 255.0 * (1.0 - heat), np.zeros(256)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    gray = np.arange(256.0)

    def mixed(tint: Floats) -> Bytes2D:
        return _levels((1.0 - weight)[:, None] * gray[None, :] + (weight * tint)[:, None]).ravel()

    return _Tables(
        red=mixed(red),
        green=mixed(green),
        blue=mixed(blue),
        luma=mixed(luma),
        chroma_blue=_levels(128.0 + weight * (blue - luma) / 1.772),
        chroma_red=_levels(128.0 + weight * (red - luma) / 1.402),
    )


def _levels(values: Floats) -> Bytes2D:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _placed(pixels: Bytes2D, heat: NDArray[np.float32], max_px: int | None) -> tuple[Bytes2D, Bytes2D]:
    """Film and heat, both uint8 at the size of the overlay."""
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or heat.ndim != 2:
        raise ValueError(f"uint8 [H, W] and [h, w] wanted, got {pixels.dtype} {pixels.shape} and {heat.shape}")
    height, width = overlay_size(pixels.shape[0], pixels.shape[1], max_px)
    heat8 = np.asarray(cv2.convertScaleAbs(heat, alpha=255), dtype=np.uint8)
    return _resized(pixels, height, width, cv2.INTER_AREA), _resized(heat8, height, width, cv2.INTER_LINEAR)


def _resized(image: Bytes2D, height: int, width: int, interpolation: int) -> Bytes2D:
    if image.shape == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), dtype=np.uint8)


def _gray_heat_index(gray: Bytes2D, heat8: Bytes2D) -> NDArray[np.uint16]:
    """256 * heat + gray, [H, W]: the two bytes side by side, read as one little-endian number."""
    height, width = gray.shape
    return cv2.merge([gray, heat8]).reshape(height, 2 * width).view("<u2")


def _lookup(index: NDArray[np.uint8] | NDArray[np.uint16], table: Bytes2D) -> Bytes2D:
    return np.asarray(cv2.LUT(index, table), dtype=np.uint8)
