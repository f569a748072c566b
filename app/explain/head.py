"""What follows the network's features, and its gradient in closed form.

The network's features A [C, h, w] are exactly what global average pooling averages, and the head (`head.safetensors`) is all
that follows. For a target score y(p), p_c = mean of A_c, the gradient at every position of channel c is then the same,

    dy / dA_c,ij = g_c / (h w)   with   g = dy / dp,

and g is one row of a weight matrix (`gap_linear`) or a few small matrix products (`gap_mlp_relu`), taken in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.domain import Task
from app.errors import BundleError, ConflictError

Floats: TypeAlias = NDArray[np.float64]


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


def _expected_names(kind: str, tensors: Mapping[str, NDArray[np.float32]]) -> list[tuple[str, str]]:
    if kind == "none":
        return []
    if kind == "gap_linear":
        return [("weight", "bias")]
    if kind == "gap_mlp_relu":
        return [(f"{i}.weight", f"{i}.bias") for i in range(max(1, len(tensors) // 2))]
    raise BundleError("head_mismatch", f"unknown kind of head {kind!r}")
