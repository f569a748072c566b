"""How a network sees a film: the part of a manifest that `app.preprocessing` executes, for the classifier and the gate alike."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from app.bundle.fields import BundleModel, Finite

REDUCED_FROM: Final = 8
"""Smallest ratio of a JPEG's short side to the network's size from which it may be decoded at half of its size."""


class BorderCrop(BundleModel):
    """Remove black borders: outer rows and columns whose mean gray value (0..255) is at most `max_mean`.

    At most `max_fraction` of a side is removed from each edge.
    """

    max_mean: float = Field(ge=0, le=64)
    max_fraction: float = Field(gt=0, le=0.4)


class Clahe(BundleModel):
    """Contrast-limited adaptive histogram equalisation (Zuiderveld 1994), only where the film's gray-level std is below a limit."""

    clip_limit: float = Field(default=2.0, gt=0)
    tiles: int = Field(default=8, ge=2, le=32)
    when_std_below: float = Field(gt=0, le=128)


class FixedNormalisation(BundleModel):
    """tensor = (gray / 255 - mean) / std, per channel."""

    kind: Literal["fixed"]
    mean: tuple[Finite, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]


class PerImageNormalisation(BundleModel):
    """tensor = (gray - mean of the resized image) / max(std of the resized image, std_floor); gray levels 0..255.

    Padding is left out of mean and std, and is zero in the tensor.
    """

    kind: Literal["per_image"]
    std_floor: float = Field(gt=0)


class InputSpec(BundleModel):
    """From a Radiograph to the network's input; `app.preprocessing` executes it, for training and serving alike.

    sixteen_bit: how more than 8 bits become 0..255. `significant_bits`: divide by 2^b - 1, b the smallest of 8, 10, 12, 14, 16
    that holds the maximum; `min_max`: the film's own range; `percentile`: its 0.5th to 99.5th percentile, clipped.
    resize: `pad` scales the longest side to `size` and centres on black; `stretch` ignores the aspect ratio.
    antialias_sigma: standard deviation, px of the network's input, of a Gaussian low-pass after the resize; None for none. It
    takes away the finest detail, which differs between copies of one film at different resolutions: at 0.7 and 224 px a film and
    its 384 px copy differ by 0.29 gray levels in the mean instead of 0.71.
    reduced_decode: a JPEG whose short side is at least `REDUCED_FROM` times `size` is decoded at half of its size, in training and
    serving alike (`app.imaging.reduced` has the rule and what it costs). Not beside a border crop or CLAHE: a crop that moves by one
    pixel, or a histogram without the film's grain, would change the input by more than the one gray level that the rule allows.
    """

    size: int = Field(ge=32, le=1024)
    channels: Literal[1, 3]
    resize: Literal["pad", "stretch"]
    sixteen_bit: Literal["significant_bits", "min_max", "percentile"]
    border_crop: BorderCrop | None = None
    clahe: Clahe | None = None
    antialias_sigma: float | None = Field(default=None, ge=0.3, le=3.0)
    reduced_decode: bool = False
    normalisation: Annotated[FixedNormalisation | PerImageNormalisation, Field(discriminator="kind")]

    @model_validator(mode="after")
    def _channels_fit(self) -> Self:
        norm = self.normalisation
        if isinstance(norm, FixedNormalisation) and not (len(norm.mean) == len(norm.std) == self.channels):
            msg = f"fixed normalisation needs {self.channels} means and stds, has {len(norm.mean)} and {len(norm.std)}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _reduction_fits(self) -> Self:
        if self.reduced_decode and (self.border_crop is not None or self.clahe is not None):
            raise ValueError("reduced_decode goes with neither border_crop nor clahe; leave one of them out")
        return self
