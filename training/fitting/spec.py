"""The `[training]` and `[augmentation]` tables of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from training.spec import Part, Share


class Stage(Part):
    """`epochs` passes at `size` px; early stages at a smaller size cost less and blur fine texture."""

    epochs: int = Field(ge=1)
    size: int = Field(ge=32)


class LossPart(Part):
    """kind: `bce` (binary, multilabel), `cross_entropy` (multiclass), `focal` (Lin et al. 2017; sigmoid or softmax by the task).

    class_weights: `none`; `balanced`: BCE pos_weight = negatives / positives per label, cross-entropy weight = N / (K * N_k), both
    at most `max_weight` (a label with two films must not drown the others).
    alpha, gamma: of the focal loss. Of a sigmoid, alpha weighs positives against negatives in place of class_weights (None: those do);
    of a softmax it is one factor of the whole loss, as it cannot tell classes apart, and class_weights stand.
    """

    kind: Literal["bce", "cross_entropy", "focal"] = "bce"
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    class_weights: Literal["none", "balanced"] = "balanced"
    max_weight: float = Field(default=20.0, gt=0)
    alpha: Share | None = None
    gamma: float = Field(default=2.0, ge=0)


class SchedulePart(Part):
    """kind: `cosine` (linear warm-up, then to `floor` * rate at the end), `plateau` (times `factor` after `patience` epochs without a
    better early-stopping metric), `one_cycle` (Smith 2018), `constant`."""

    kind: Literal["cosine", "plateau", "one_cycle", "constant"] = "cosine"
    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    floor: float = Field(default=0.0, ge=0, lt=1)
    factor: float = Field(default=0.1, gt=0, lt=1)
    patience: int = Field(default=3, ge=1)


class EarlyStopping(Part):
    """Watched on the clean fit-half of the validation after each epoch; the best epoch's weights are the result."""

    metric: Literal["auroc", "macro_f1", "val_loss"] = "auroc"
    patience: int = Field(default=5, ge=1)


class AveragePart(Part):
    """kind: `ema` (every step, `decay`), `swa` (equal weights over the epochs from `swa_start`, a share of all; batch statistics are
    computed anew), `none` (the last weights)."""

    kind: Literal["none", "ema", "swa"] = "ema"
    decay: float = Field(default=0.995, gt=0, lt=1)
    swa_start: Share = 0.75


class TrainingPart(Part):
    """Weight decay acts on weights with more than one dimension.

    batch: films per optimiser step, over all processes together. oversample_to: classes with fewer training films are drawn
    repeatedly until an epoch shows at least this many of each. balance_sources: within each class, films of every source are drawn
    equally often. mixup: Beta(mixup, mixup) mixing weight (Zhang et al. 2018); 0 = off. autocast: arithmetic of the forward pass;
    `float16` (with loss scaling) needs an accelerator; `bfloat16` pays where the processor has matrix units for it (AMX, GPU).
    gradient_clip: largest norm of the gradient; 0 = not clipped.
    """

    stages: tuple[Stage, ...] = Field(min_length=1)
    batch: int = Field(default=32, ge=2)
    optimiser: Literal["adamw", "adam"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    schedule: SchedulePart = SchedulePart()
    loss: LossPart = LossPart()
    gradient_clip: float | None = Field(default=1.0, gt=0)
    autocast: Literal["none", "bfloat16", "float16"] = "none"
    average: AveragePart = AveragePart()
    early_stopping: EarlyStopping | None = None
    mixup: float = Field(default=0.0, ge=0)
    oversample_to: int = Field(default=0, ge=0)
    balance_sources: bool = False

    @field_validator("gradient_clip", mode="before")
    @classmethod
    def _zero_is_off(cls, clip: Any) -> Any:
        return None if clip == 0 else clip  # TOML has no None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.schedule.kind == "plateau" and self.early_stopping is None:
            raise ValueError("the plateau schedule follows the metric of early_stopping: name one")
        if self.average.kind == "swa" and self.early_stopping is not None:
            raise ValueError("swa averages the last epochs: it cannot be stopped early")
        return self

    @property
    def epochs(self) -> int:
        return sum(stage.epochs for stage in self.stages)

    def size_of(self, epoch: int) -> int:
        """Side in px of the training input in this epoch (from 0)."""
        for stage in self.stages:
            if epoch < stage.epochs:
                return stage.size
            epoch -= stage.epochs
        raise ValueError("the epoch lies beyond the last stage")


class RadiographAugmentation(Part):
    """Seeded random changes of whole batches, each film by itself (`training.fitting.augment`). There is no flip: it would swap the
    heart's side.

    gamma: exponent drawn log-uniformly from [1/gamma, gamma]. window: exposure window edges move by up to this share of the
    gray range (values outside are clipped, as over- and under-exposure do). curve: weight of a random monotone tone curve.
    rotation in degrees; scale, aspect: log-uniform ranges around 1; shift: share of the side.
    illumination: strength of a smooth multiplicative field. sharpness: unsharp weight in [-sharpness, sharpness] (-1 = blurred).
    coarse: share of films shown at half resolution. noise: largest gray-level std. erase: share of films with an erased box.
    """

    kind: Literal["radiograph"] = "radiograph"
    tone_share: float = Field(default=0.9, ge=0, le=1)
    gamma: float = Field(default=2.0, ge=1)
    window: float = Field(default=0.2, ge=0, lt=0.5)
    curve: float = Field(default=0.5, ge=0, le=1)
    rotation: float = Field(default=10.0, ge=0, le=45)
    scale: float = Field(default=1.2, ge=1)
    aspect: float = Field(default=1.25, ge=1)
    shift: float = Field(default=0.08, ge=0, lt=0.5)
    illumination: float = Field(default=0.15, ge=0)
    sharpness: float = Field(default=1.0, ge=0, le=2)
    coarse: float = Field(default=0.15, ge=0, le=1)
    noise: float = Field(default=6.0, ge=0)
    erase: float = Field(default=0.3, ge=0, le=1)


class TorchvisionAugmentation(Part):
    """torchvision's v2 transforms within clinically plausible limits, in their order here; parameters drawn for each film.

    flip: share of films mirrored; 0 by default, since it swaps the heart's side. rotation in degrees; shift: share of the side; scale:
    1 ± scale; brightness, contrast: factor 1 ± this; blur: share of films blurred with sigma up to 1.5 px (kernel 3); noise:
    gray-level std of added noise. All limits are enforced here: rotation <= 15, shift, scale <= 0.15, brightness, contrast <= 0.3.
    """

    kind: Literal["torchvision"] = "torchvision"
    flip: float = Field(default=0.0, ge=0, le=1)
    rotation: float = Field(default=0.0, ge=0, le=15)
    shift: float = Field(default=0.0, ge=0, le=0.15)
    scale: float = Field(default=0.0, ge=0, le=0.15)
    brightness: float = Field(default=0.0, ge=0, le=0.3)
    contrast: float = Field(default=0.0, ge=0, le=0.3)
    blur: float = Field(default=0.0, ge=0, le=1)
    noise: float = Field(default=0.0, ge=0, le=10)


Augmentation = Annotated[RadiographAugmentation | TorchvisionAugmentation, Field(discriminator="kind")]
