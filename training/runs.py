"""A run's folder: where fitting, judging and exporting meet. Nothing in it is committed.

runs/<recipe>-<digest8>/
  recipe.json        the recipe, defaults filled in
  splits.json        digest and sizes of the splits, fingerprint of the data set
  environment.json   library versions, processor, git commit
  metrics.jsonl      one line per epoch
  checkpoint.pt      everything that continuing needs (torch tensors and plain values; read with weights_only)
  weights.pt         the result, present when the fit is complete
  decision.json      calibration, operating points, limits: fixed by the hard validation
  figures-*.json     hard, report, test, checks, shortcuts, reduced
  logits-*.npz       what the figures were computed from
  checks/            worklists, galleries, tables of the checks
  promotion.json     the lines of the promotion policy, passed or failed
  report.html        everything on one page
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.errors import ConfigurationError
from training.networks.network import TriageNetwork, build_network
from training.places import CHECKOUT, Places
from training.recipe import Recipe, parse_recipe

LIBRARIES = ("numpy", "opencv-python-headless", "onnx", "onnxruntime", "scikit-learn", "torch", "torchvision")


@dataclass(frozen=True)
class Run:
    """One run's folder and its recipe."""

    path: Path
    recipe: Recipe

    @property
    def weights_file(self) -> Path:
        return self.path / "weights.pt"

    @property
    def complete(self) -> bool:
        return self.weights_file.is_file()

    def write_json(self, name: str, content: Any) -> None:
        write_atomically(self.path / name, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """Raises ConfigurationError where an earlier step has not been taken."""
        path = self.path / name
        if not path.is_file():
            raise ConfigurationError(
                "step_missing", f"{path.name} is not in {self.path.name}: run the earlier step first"
            )
        return json.loads(path.read_text(encoding="utf-8"))

    def optional_json(self, name: str) -> Any:
        """None where the step that writes the file has not been taken."""
        return self.read_json(name) if (self.path / name).is_file() else None

    def network(self) -> TriageNetwork:
        """The run's result, on the CPU, in evaluation mode."""
        if (self.path / "classical.json").is_file():
            raise ConfigurationError(
                "no_network", f"{self.path.name} is a classical baseline: it has no network and is never exported"
            )
        if not self.complete:
            raise ConfigurationError("step_missing", f"{self.path.name} is not fitted to its end: run `fit` again")
        recipe = self.recipe
        network = build_network(
            recipe.network, outputs=len(recipe.data.outputs), channels=recipe.input.channels, seed=recipe.seed
        )
        network.load_state_dict(torch.load(self.weights_file, weights_only=True, map_location="cpu"))
        return network.eval()

    def weights_digest(self) -> str:
        """SHA-256 over the names and bytes of all tensors, in name order."""
        return state_digest(torch.load(self.weights_file, weights_only=True, map_location="cpu"))


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names and bytes of the tensors, in name order."""
    total = hashlib.sha256()
    for name in sorted(state):
        total.update(name.encode())
        total.update(state[name].contiguous().numpy().tobytes())
    return total.hexdigest()


def open_run(recipe: Recipe, places: Places) -> Run:
    """The recipe's run folder, made if it is not there."""
    path = places.runs / recipe.run_name
    path.mkdir(parents=True, exist_ok=True)
    run = Run(path, recipe)
    run.write_json("recipe.json", recipe.model_dump(mode="json"))
    return run


def find_run(text: str, places: Places) -> Run:
    """A run by folder path, folder name, or recipe name where there is exactly one. Raises ConfigurationError."""
    candidates = [Path(text), places.runs / text]
    found = [p for p in candidates if (p / "recipe.json").is_file()]
    if not found:
        found = sorted(p.parent for p in places.runs.glob(f"{text}-????????/recipe.json"))
        if len(found) > 1:
            names = ", ".join(p.name for p in found)
            raise ConfigurationError("ambiguous_run", f"several runs of {text!r}: {names}; name one")
    if not found:
        raise ConfigurationError("unknown_run", f"no run {text!r} in {places.runs.name}/; `fit` makes one")
    content = json.loads((found[0] / "recipe.json").read_text(encoding="utf-8"))
    return Run(found[0], parse_recipe(content, f"{found[0].name}/recipe.json"))


def write_atomically(path: Path, content: bytes) -> None:
    """The file appears whole or not at all."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(content)
    temporary.replace(path)


def environment() -> dict[str, Any]:
    """What made the weights: library versions, processor, git commit ("-dirty" with uncommitted changes), time (UTC)."""
    return {
        "libraries": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "hardware": f"{_processor()}, {torch.get_num_threads()} threads",
        "git_commit": git_commit(),
        "at": now(),
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_commit() -> str:
    """The checkout's commit; `unknown` outside a checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        return f"{commit}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(CHECKOUT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603  fixed words


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
