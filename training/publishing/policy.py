"""A promotion policy: what a run must show before a bundle of it may serve, in one TOML file of `training/policies/`.

A recipe names its policy. Unknown keys are errors; the digest is the SHA-256 of the canonical JSON with all defaults filled in,
and stands in every bundle that the policy judged.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from app.bundle.manifest import ClassName, Name
from app.errors import ConfigurationError
from training.spec import Part

POLICIES = Path(__file__).resolve().parent.parent / "policies"
STATEMENTS = "statements"  # statements.toml: what policies without statements of their own say

Set = Literal["clean", "mix", "test"]
Level = Annotated[float, Field(ge=0, le=1)]


class Minimum(Part):
    """A figure that must be at least `at_least` in every class, one against the rest.

    on: the set: `clean` or `mix` (clean and corrupted) of the validation's report half, or `test`. per_class: another level for
    single classes. The lower bound of the 95 % interval is held to the level, or with bound = "value" the figure itself.
    """

    figure: Literal["auroc", "auprc"]
    on: Set = "mix"
    at_least: Level
    per_class: dict[ClassName, Level] = Field(default_factory=dict)
    bound: Literal["lower", "value"] = "lower"


class Rate(Part):
    """The same for a rate of every class at an operating point (None: the default one)."""

    figure: Literal["sensitivity", "specificity", "ppv", "npv", "f1"]
    point: Name | None = None
    on: Set = "mix"
    at_least: Level
    per_class: dict[ClassName, Level] = Field(default_factory=dict)
    bound: Literal["lower", "value"] = "lower"


class Ceiling(Part):
    """A calibration error of every class, one against the rest, whose upper bound must be at most `at_most`."""

    figure: Literal["ece", "ece_equal_width", "brier", "nll"]
    on: Set = "mix"
    at_most: float = Field(gt=0)
    per_class: dict[ClassName, float] = Field(default_factory=dict)
    bound: Literal["upper", "value"] = "upper"


class Corruptions(Part):
    """(Macro) AUROC of the clean report half less that of the worst corruption of `severity`."""

    severity: int = Field(default=2, ge=1, le=5)
    drop_at_most: Level


class Slices(Part):
    """How far a slice (of age, sex, view, source, resolution, exposure) may lie below all other films with the same fact known.

    Of slices with at least `min_films` films; AUROC over the classes that both sides show (`training.judging.slices`).
    """

    figure: Literal["auroc", "accuracy"] = "auroc"
    min_films: int = Field(default=50, ge=2)
    gap_at_most: Level


class Explanations(Part):
    """Border: mean share of the map's mass in the outer tenth of the film, where an even map has 0.36. A map must also be another one
    when the weights are drawn anew (`training.judging.explanations`)."""

    border_mass_at_most: Level
    randomisation: Literal[True] = True


class Statements(Part):
    """What no figure can say, for the source attributes of the card (45 CFR 170.315(b)(11)(iv)(B)). Blank = missing = a failed line."""

    developer: str = ""
    funding: str = ""
    users: str = ""
    role: str = ""
    fairness: str = ""
    external_party: str = ""
    outcomes: str = ""
    monitoring: str = ""
    local_validity: str = ""
    fairness_monitoring: str = ""
    local_fairness: str = ""
    updates: str = ""
    corrections: str = ""


class Policy(Part):
    """min_positives: a class with fewer films on either side of the measured set fails its lines, whatever the figure says.

    shortcuts: the verdict of the shortcut probes must stand and hold. card: all 31 source attributes must be known.
    research_only: a bundle that passes is for research all the same and never becomes `latest`.
    """

    name: Name
    title: str
    research_only: bool = False
    min_positives: int = Field(default=10, ge=1)
    minimum: tuple[Minimum, ...] = ()
    rate: tuple[Rate, ...] = ()
    ceiling: tuple[Ceiling, ...] = ()
    corruptions: Corruptions | None = None
    slices: Slices | None = None
    explanations: Explanations | None = None
    shortcuts: bool = True
    card: bool = True
    statements: Statements = Statements()

    @property
    def digest(self) -> str:
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def parse_policy(content: dict[str, Any], where: str) -> Policy:
    """Raises ConfigurationError with the fault named."""
    try:
        return Policy.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError("invalid_policy", f"{where}: {error}") from error


def load_policy(name: str) -> Policy:
    """A policy by name, with the folder's statements where it has none of its own.

    Raises ConfigurationError for an unknown one, one that is not valid, or one that calls itself otherwise.
    """
    folder = POLICIES
    path = folder / f"{name}.toml"
    if name == STATEMENTS or not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.toml") if p.stem != STATEMENTS))
        raise ConfigurationError("unknown_policy", f"no policy {name!r}; there are: {known}")
    content = _read(path)
    common = folder / f"{STATEMENTS}.toml"
    if "statements" not in content and common.is_file():
        content["statements"] = _read(common)
    policy = parse_policy(content, path.name)
    if policy.name != name:
        raise ConfigurationError("invalid_policy", f"{path.name} calls itself {policy.name!r}")
    return policy


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError("invalid_policy", f"{path.name}: {error}") from error
