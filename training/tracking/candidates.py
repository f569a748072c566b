"""What the leaderboard knows of a judged run: its answers on the hard validation, from logits-hard.npz, and the figures beside them.

The test split plays no part: figures-test.json and logits-test.npz are not opened here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from app.bundle.manifest import Estimate
from app.errors import ConfigurationError
from training.judging.calibrate import NONE
from training.judging.evaluate import load_logits
from training.judging.figures import class_scores, patient_weights
from training.judging.judge import CLEAN
from training.judging.scored import Scored, mix
from training.places import Places
from training.recipe import Recipe
from training.runs import Run

Floats = NDArray[np.float64]
_AGREE = 1e-9  # between figures-hard.json and what its logits give


@dataclass(frozen=True)
class Candidate:
    """A judged run.

    hard: figures-hard.json. sets: the validation (both halves in one, in path order), clean and under every corruption. external: the
    sets from elsewhere that select, by name, in path order.
    """

    run: Run
    hard: dict[str, Any]
    sets: Mapping[str, Scored]
    external: Mapping[str, Scored]

    @property
    def selection(self) -> float:
        return float(self.hard["selection"])

    @property
    def kind(self) -> str:
        """classical, probe (a frozen network) or network."""
        if is_classical(self.run):
            return "classical"
        part = self.run.recipe.network
        return "probe" if part.frozen and not part.unfreezing else "network"

    @property
    def model(self) -> str:
        """The classical model's name, or the network's architecture."""
        if is_classical(self.run):
            return str(self.run.read_json("classical.json")["model"])
        return self.run.recipe.network.architecture

    @property
    def images_per_s(self) -> float | None:
        """Training films per second: median over the epochs of the last size; of a classical model, features and fit together."""
        path = self.run.path / "metrics.jsonl"
        if not path.is_file():
            return (self.run.optional_json("fitted.json") or {}).get("images_per_s")
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        speeds = [e["images_per_s"] for e in lines if "images_per_s" in e and e["size"] == lines[-1]["size"]]
        return float(np.median(speeds)) if speeds else None

    def report_figure(self, name: str) -> Estimate | None:
        """Macro figure of the clean report-half, calibrated; None before the report step or where it has no value."""
        figures = self.run.optional_json("figures-report.json") or {}
        found = figures.get("clean", {}).get("macro", {}).get(name)
        return None if found is None else Estimate.model_validate(found)

    @property
    def state(self) -> str:
        """What became of the run."""
        if is_classical(self.run):
            return "baseline, never exported"
        exported, promotion = (self.run.optional_json(f"{name}.json") for name in ("exported", "promotion"))
        label = "not held against its policy" if promotion is None else str(promotion["label"])
        return label if exported is None else f"{exported['bundle']}: {label}"

    @cached_property
    def films_digest(self) -> str:
        """SHA-256 over what the selection figure is computed on: films, their truth and names of sets. Equal = comparable."""
        whole = hashlib.sha256(json.dumps([self.run.recipe.data.task, *self.run.recipe.data.outputs]).encode())
        for name, films in [*self.sets.items(), *self.external.items()]:
            whole.update(json.dumps([name, films.paths.tolist()]).encode())
            whole.update(np.ascontiguousarray(films.targets, dtype=np.float64).tobytes())
        return whole.hexdigest()

    def replicates(self, bootstraps: int, seed: int) -> Floats:
        """The selection figure of `bootstraps` resamples, float64 [bootstraps]; nan where a class is missing from one.

        Patients of the validation are drawn once for all its corruptions, patients of the external sets once for all of these.
        Comparable runs are resampled alike, so that differences are paired.
        """
        kept = {name: films for name, films in self.sets.items() if name != CLEAN} or dict(self.sets)
        whole = _mean_auroc(kept, self.sets[CLEAN].paths, self.sets[CLEAN].patients, bootstraps, seed)
        if not self.external:
            return whole
        every = {p: patient for s in self.external.values() for p, patient in zip(s.paths, s.patients, strict=True)}
        paths = np.array(sorted(every))
        patients = np.array([every[p] for p in paths])
        return (whole + _mean_auroc(self.external, paths, patients, bootstraps, seed + 1)) / 2


def _mean_auroc(
    sets: Mapping[str, Scored], paths: NDArray[np.str_], patients: NDArray[np.str_], bootstraps: int, seed: int
) -> Floats:
    """Mean over the sets of the macro AUROC in each resample. paths: sorted; every set's films are among them, in this order."""
    figures = [(np.searchsorted(paths, films.paths), class_scores(films, NONE, ("auroc",))) for films in sets.values()]
    return np.concatenate(
        [
            np.mean([of(weights[:, rows])["macro/auroc"] for rows, of in figures], axis=0)
            for weights in patient_weights(patients, bootstraps, seed)
        ]
    )


def is_classical(run: Run) -> bool:
    """Whether the folder is that of a classical baseline (`training.classical`)."""
    return (run.path / "classical.json").is_file()


def find_candidates(places: Places) -> tuple[list[Candidate], dict[str, str]]:
    """Every run that went through the hard validation, in name order; and by folder why one is left out."""
    found, left_out = [], {}
    for figures in sorted(places.runs.glob("*/figures-hard.json")):
        try:
            found.append(load_candidate(figures.parent))
        except ConfigurationError as error:
            left_out[figures.parent.name] = str(error)
    return found, left_out


def load_candidate(path: Path) -> Candidate:
    """Raises ConfigurationError where the folder is of an older format or its figures are not those of its weights and logits."""
    try:
        recipe = Recipe.model_validate_json((path / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise ConfigurationError("old_run", f"recipe.json of {path.name} is not one of today's recipes") from error
    run = Run(path, recipe)
    hard = run.read_json("figures-hard.json")
    if not is_classical(run) and (not run.complete or hard["weights_digest"] != run.weights_digest()):
        raise ConfigurationError("stale_step", f"the weights of {path.name} changed after its hard validation")
    logits = load_logits(run, "hard")
    names = [name.removeprefix("fit/") for name in logits if name.startswith("fit/")]
    sets = {name: _ordered(mix([logits[f"fit/{name}"], logits[f"report/{name}"]], name)) for name in names}
    selecting = [part.name for part in recipe.evaluation.external if part.selects]
    outside = load_logits(run, "external") if selecting else {}
    candidate = Candidate(run, hard, sets, {name: _ordered(outside[name]) for name in selecting})
    if abs(float(_selection(candidate)) - candidate.selection) > _AGREE:
        raise ConfigurationError("stale_step", f"figures-hard.json of {path.name} does not follow from its logits")
    return candidate


def _ordered(films: Scored) -> Scored:
    return films.take(np.argsort(films.paths, kind="stable"))


def _selection(candidate: Candidate) -> float:
    """The selection figure from the logits, each film once."""
    terms = []
    for sets in (
        {name: films for name, films in candidate.sets.items() if name != CLEAN} or candidate.sets,
        candidate.external,
    ):
        values = [class_scores(s, NONE, ("auroc",))(np.ones((1, len(s))))["macro/auroc"][0] for s in sets.values()]
        terms += [float(np.mean(values))] if values else []
    return float(np.mean(terms))
