"""A recipe: every choice that shapes the weights and how they are judged, in one TOML file. Unknown keys are errors.

The digest of a recipe is the SHA-256 of its canonical JSON (all defaults filled in, keys sorted), so two files that mean the
same have the same digest, and a run's folder name says which choices made it.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.bundle.input_spec import InputSpec
from app.bundle.manifest import Name
from app.errors import ConfigurationError

RECIPES = Path(__file__).resolve().parent / "recipes"

Share = Annotated[float, Field(gt=0, lt=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataPart(_Part):
    """Which films, and how patients are dealt out. `validation_each`: share of the pool for each half of the validation.

    cached_copies: how many versions of each film the cache holds: 1 = as decoded, 2 = also recompressed at 224 px JPEG
    quality 75 as one source folder is, 3 = also at a random lower quality.
    """

    folders: tuple[str, ...] = ("kermany_hires", "kermany_224")
    positive: str = "pneumonia"
    negative: str = "normal"
    validation_each: Share = 0.1
    cached_copies: int = Field(default=3, ge=1, le=3)


class NetworkPart(_Part):
    architecture: Literal["resnet18", "tiny_cnn"] = "resnet18"
    dropout: float = Field(default=0.0, ge=0, lt=1, description="before the linear head")


class Stage(_Part):
    """`epochs` passes at `size` px; early stages at a smaller size cost less and blur fine texture."""

    epochs: int = Field(ge=1)
    size: int = Field(ge=32)


class TrainingPart(_Part):
    """AdamW with linear warm-up and cosine decay to zero. Weight decay acts on weights with more than one dimension.

    balance: weigh the positive class in the loss so that both classes count alike (BCE pos_weight).
    weights: which weights are the run's result: the exponential moving average, or the last ones. Never chosen by looking.
    """

    stages: tuple[Stage, ...] = Field(min_length=1)
    batch: int = Field(default=32, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    label_smoothing: float = Field(default=0.1, ge=0, lt=0.5)
    balance: bool = True
    gradient_clip: float = Field(default=1.0, gt=0)
    weights: Literal["ema", "last"] = "ema"
    ema_decay: float = Field(default=0.995, gt=0, lt=1)
    bfloat16: bool = True

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


class AugmentationPart(_Part):
    """Seeded random changes of the training films (`training.fitting.augment`). There is no flip: it would swap the heart's side.

    gamma: exponent drawn log-uniformly from [1/gamma, gamma]. window: exposure window edges move by up to this share of the
    gray range (values outside are clipped, as over- and under-exposure do). curve: weight of a random monotone tone curve.
    rotation in degrees; scale, aspect: log-uniform ranges around 1; shift: share of the side.
    illumination: strength of a smooth multiplicative field. sharpness: unsharp weight in [-sharpness, sharpness] (-1 = blurred).
    coarse: share of films shown at half resolution. noise: largest gray-level std. erase: share of films with an erased box.
    """

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


class HardValidationPart(_Part):
    """The validation that chooses between runs; fixed before training.

    severities: levels of every corruption (`training.judging.corruptions`). nih: the adult folder that is never trained on.
    selection: `mean_auroc` = (mean AUROC over corruptions and severities of the Kermany validation + NIH AUROC) / 2.
    """

    severities: tuple[int, ...] = (1, 2, 3)
    nih_folder: str | None = "nih_chestxray14"
    selection: Literal["mean_auroc"] = "mean_auroc"


class DecisionPart(_Part):
    """How the shown probability and the operating points are made from the fit-half of the validation."""

    default_operating_point: Name = "screening"
    sensitivity_target: Share = 0.90
    specificity_target: Share = 0.90
    borderline_share: Share = 0.10
    bootstraps: int = Field(default=1000, ge=20)


class Recipe(_Part):
    """One training system. `input` is the bundle's input specification, executed by `app.preprocessing`."""

    name: Name
    seed: int = Field(ge=0)
    data: DataPart = DataPart()
    input: InputSpec
    network: NetworkPart = NetworkPart()
    training: TrainingPart
    augmentation: AugmentationPart = AugmentationPart()
    hard_validation: HardValidationPart = HardValidationPart()
    decision: DecisionPart = DecisionPart()

    @model_validator(mode="after")
    def _supported(self) -> Self:
        if self.input.channels != 1 or self.input.normalisation.kind != "per_image":
            raise ValueError("training takes one channel with per-image normalisation")
        if self.input.resize != "stretch":
            raise ValueError("training takes resize = 'stretch': the aspect ratio of a film must not reach the network")
        if self.training.stages[-1].size != self.input.size:
            raise ValueError("the last training stage must use the input size")
        return self

    @property
    def digest(self) -> str:
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def run_name(self) -> str:
        return f"{self.name}-{self.digest[:8]}"


def load_recipe(text: str | Path) -> Recipe:
    """A recipe by file path, or by name from `training/recipes/`. Raises ConfigurationError with the fault named."""
    path = Path(text)
    if not path.is_file():
        path = RECIPES / f"{text}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise ConfigurationError("unknown_recipe", f"no recipe {str(text)!r}; there are: {known}")
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigurationError("invalid_recipe", f"{path.name}: {error}") from error
