"""The `[network]` and `[pretraining]` tables of a recipe."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from training.data.spec import Source
from training.spec import Part

Architecture = Literal["resnet18", "resnet50", "densenet121", "efficientnet_b0", "swin_t", "cnn3", "tiny_cnn"]


class HeadPart(Part):
    """What follows the pooled features: `linear` (one layer) or `mlp` (hidden layers with ReLU). dropout: before each linear layer."""

    kind: Literal["linear", "mlp"] = "linear"
    hidden: tuple[int, ...] = ()
    dropout: tuple[float, ...] = (0.0,)

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if (self.kind == "mlp") != bool(self.hidden):
            raise ValueError("an mlp head has hidden layers, a linear one has none")
        if len(self.dropout) != len(self.hidden) + 1 or any(not 0 <= p < 1 for p in self.dropout):
            raise ValueError("dropout: one share in [0, 1) for each linear layer")
        return self


class WeightsPart(Part):
    """Start from a local state dict: `.safetensors`, or `.pt` read with weights_only.

    file: path, absolute or below the data folder. sha256: checked where given. Keys are those of torchvision's model (or of this
    package's body); each must fit, except `drop`, prefixes that are left out on purpose (a foreign classifier). A first convolution
    for three channels is summed over them for a one-channel input.

    licence, commercial_use: as whoever made the file says. Without the word that it allows commercial use, a bundle that began with it
    is for research only, whatever its films allow; that word needs the licence that says so.
    """

    file: str
    sha256: str | None = None
    drop: tuple[str, ...] = ("fc.", "classifier.", "head.")
    licence: str | None = None
    commercial_use: bool = False

    @model_validator(mode="after")
    def _said_by_a_licence(self) -> Self:
        if self.commercial_use and not self.licence:
            raise ValueError("weights: commercial_use = true needs the licence that allows it")
        return self


class Unfreezing(Part):
    """From `epoch` (from 0) on, the last `blocks` blocks of the body are trained too; None: all of it."""

    epoch: int = Field(ge=0)
    blocks: int | None = Field(default=None, ge=1)


class NetworkPart(Part):
    """weights: None = from scratch (or from the recipe's pre-training). frozen: only the head is trained (a linear probe), batch
    statistics stay those of the weights; of a body from scratch, those of the first training films. unfreezing: staged, rising epochs;
    needs frozen."""

    architecture: Architecture = "resnet18"
    head: HeadPart = HeadPart()
    weights: WeightsPart | None = None
    frozen: bool = False
    unfreezing: tuple[Unfreezing, ...] = ()


class PretrainingPart(Part):
    """Self-supervised pre-training of the body on films whose labels are not used, before the fit.

    sources: as in `[data]`; their labels are ignored, test films and held-out films of the recipe are left out by patient and
    duplicate. size: px of the training input.
    """

    method: Literal["simsiam", "masked"] = "masked"
    sources: tuple[Source, ...] = ()
    epochs: int = Field(default=10, ge=1)
    size: int = Field(default=112, ge=32)
    batch: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
