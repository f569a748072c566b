"""A recipe: every choice that shapes the weights and how they are judged, in one TOML file. Unknown keys are errors.

Each table is a `spec` of the room that carries it out. The digest of a recipe is the SHA-256 of its canonical JSON (all defaults
filled in, keys sorted), so two files that mean the same have the same digest, and a run's folder name says which choices made it.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from app.bundle.input_spec import InputSpec
from app.bundle.manifest import Name
from app.errors import ConfigurationError
from training.classical.spec import ClassicalPart
from training.data.spec import DataPart
from training.fitting.spec import Augmentation, RadiographAugmentation, TrainingPart
from training.judging.spec import DecisionPart, EvaluationPart, HierarchicalPoint
from training.networks.spec import NetworkPart, PretrainingPart
from training.spec import Part, input_content
from training.tracking.spec import SearchPart

RECIPES = Path(__file__).resolve().parent / "recipes"
POINTS_OF = {
    "binary": {"youden", "sensitivity", "specificity", "max_f1", "cost", "conformal"},
    "multiclass": {"argmax", "hierarchical", "conformal"},
    "multilabel": {"youden", "sensitivity", "specificity", "max_f1", "cost"},
}
LOSSES_OF = {"binary": {"bce", "focal"}, "multiclass": {"cross_entropy", "focal"}, "multilabel": {"bce", "focal"}}


class Recipe(Part):
    """One training system. `input` is the bundle's input specification, executed by `app.preprocessing`.

    title: one line for tables. design: the source design that this recipe reproduces. policy: the promotion policy
    (`training/policies/`) that a run must meet to be exported. search: what a study may change; classical: the baselines beside the
    run; neither shapes it.
    """

    name: Name
    title: str = ""
    design: Literal["S0", "S1", "S2", "S3", "S4"] | None = None
    seed: int = Field(ge=0)
    policy: Name = "default"
    data: DataPart
    input: InputSpec
    network: NetworkPart = NetworkPart()
    pretraining: PretrainingPart | None = None
    training: TrainingPart
    augmentation: Augmentation = RadiographAugmentation()
    decision: DecisionPart
    evaluation: EvaluationPart = EvaluationPart()
    search: SearchPart | None = None
    classical: ClassicalPart | None = None

    @model_validator(mode="after")
    def _supported(self) -> Self:
        if self.input.normalisation.kind == "per_image" and self.input.resize != "stretch":
            raise ValueError("per-image normalisation in training takes resize = 'stretch'")
        if self.training.stages[-1].size != self.input.size:
            raise ValueError("the last training stage must use the input size")
        if self.network.architecture == "swin_t" and any(s.size != self.input.size for s in self.training.stages):
            raise ValueError("swin_t is trained at one size")
        late = [stage.epoch for stage in self.network.unfreezing if stage.epoch >= self.training.epochs]
        if late:
            raise ValueError(
                f"unfreezing from epoch {late[0]}: the fit has {self.training.epochs} epochs, counted from 0"
            )
        if self.training.loss.kind not in LOSSES_OF[self.data.task]:
            raise ValueError(f"loss {self.training.loss.kind} does not fit a {self.data.task} recipe")
        for point in self.decision.points:
            if point.kind not in POINTS_OF[self.data.task]:
                raise ValueError(f"operating point {point.name}: {point.kind} does not fit a {self.data.task} recipe")
            if isinstance(point, HierarchicalPoint) and {*point.priority, point.fallback} != set(self.data.classes):
                raise ValueError(
                    f"operating point {point.name}: priority {list(point.priority)} and fallback {point.fallback!r} are not "
                    f"the classes of the recipe, {list(self.data.classes)}"
                )
        for part in self.evaluation.external:
            for source in part.sources:
                unknown = set(source.labels.values()) - set(self.data.classes)
                if unknown:
                    raise ValueError(
                        f"external set {part.name}, {source.folder}: labels {sorted(unknown)} are not classes of the recipe"
                    )
        if self.network.weights is not None and self.pretraining is not None:
            raise ValueError("weights from a file and pre-training: take one")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of everything that shapes the run: title, design, search and classical do not."""
        content = self.model_dump(mode="json", exclude={"title", "design", "search", "classical"})
        content["input"] = input_content(self.input)
        del content["data"]["crossing"]
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def run_name(self) -> str:
        return f"{self.name}-{self.digest[:8]}"

    def changed(self, values: dict[str, Any]) -> Recipe:
        """The recipe with values at dotted paths replaced ("training.learning_rate"; list items by number). Raises ConfigurationError."""
        content = self.model_dump(mode="json")
        for path, value in values.items():
            *parents, last = path.split(".")
            node: Any = content
            try:
                for key in parents:
                    node = node[int(key)] if isinstance(node, list) else node[key]
                if isinstance(node, list):
                    node[int(last)] = value
                else:
                    node[last]  # an unknown key is a mistake, not a new one
                    node[last] = value
            except (KeyError, IndexError, ValueError, TypeError) as error:
                raise ConfigurationError("invalid_recipe", f"{self.name} has no value at {path!r}") from error
        return parse_recipe(content, self.name)


def parse_recipe(content: dict[str, Any], where: str) -> Recipe:
    """Raises ConfigurationError with the fault named."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError("invalid_recipe", f"{where}: {error}") from error


def load_recipe(text: str | Path) -> Recipe:
    """A recipe by file path, or by name from `training/recipes/`. Raises ConfigurationError with the fault named.

    A file with `base = "<recipe>"` changes another one, by name or by a path from the file itself: its tables are laid over those
    of the base, lists and tables of another `kind` as a whole. The digest is that of the result.
    """
    path = _recipe_file(text)
    return parse_recipe(_content(path, ()), path.name)


def _recipe_file(text: str | Path) -> Path:
    path = Path(text)
    if not path.is_file():
        path = RECIPES / f"{text}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise ConfigurationError("unknown_recipe", f"no recipe {str(text)!r}; there are: {known}")
    return path


def _content(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The tables of a file over those of its base."""
    if path in seen:
        raise ConfigurationError("invalid_recipe", f"{path.name} is its own base")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError("invalid_recipe", f"{path.name}: {error}") from error
    base = content.pop("base", None)
    if base is None:
        return content
    beside = path.parent / str(base)
    below = _recipe_file(beside if beside.is_file() else str(base))
    return _laid_over(_content(below, (*seen, path)), content)


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        old: Any = below.get(key)
        same = (
            isinstance(value, dict) and isinstance(old, dict) and old.get("kind") == value.get("kind", old.get("kind"))
        )
        result[key] = _laid_over(old, value) if same else value
    return result
