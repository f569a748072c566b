"""Judged runs made by hand: folders as fitting and judging leave them, with answers of a chosen quality."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tests.training.phantom_data import TINY
from training.judging.evaluate import FIELDS, selection
from training.judging.scored import Scored
from training.places import Places
from training.recipe import Recipe, parse_recipe
from training.runs import Run, open_run

SETS = ("clean", "blur-1", "blur-3")


def places(root: Path) -> Places:
    return Places(root / "data", root / "cache", root / "runs", root / "bundles", root / "ledger.csv")


def recipe(**changes: object) -> Recipe:
    """TINY without sets from elsewhere; keys are dotted paths with `__` for the dot."""
    made = parse_recipe(tomllib.loads(TINY) | {"evaluation": {"severities": [1, 3]}}, "tiny")
    return made.changed({path.replace("__", "."): value for path, value in changes.items()})


def scored(
    name: str,
    quality: float,
    *,
    patients: int = 60,
    films_each: int = 1,
    seed: int = 0,
    noise: int = 0,
    prefix: str = "",
) -> Scored:
    """Films whose logits are quality * truth plus Gaussian noise: drawn with `seed` (the films' own) and `noise` (the run's)."""
    truth = np.arange(patients) % 2
    own = np.random.default_rng([seed, len(name)]).normal(size=patients)
    other = np.random.default_rng([noise, 1]).normal(size=patients) if noise else 0.0
    logits = np.asarray(quality * (2.0 * truth - 1.0) + own + other, dtype=np.float64)
    names = [f"{prefix}{p:03}" for p in range(patients) for _ in range(films_each)]
    return Scored(
        name=name,
        task="binary",
        outputs=("pneumonia",),
        targets=np.repeat(truth, films_each)[:, None].astype(np.float64),
        logits=np.repeat(logits, films_each)[:, None],
        patients=np.array(names),
        sources=np.array(["made"] * len(names)),
        paths=np.array([f"made/{n}_{i % films_each}.jpg" for i, n in enumerate(names)]),
    )


def judged_run(
    where: Places,
    chosen: Recipe,
    quality: float,
    *,
    films_each: int = 1,
    noise: int = 0,
    patients: int = 60,
    external: Mapping[str, float] | None = None,
) -> Run:
    """A run folder after `fit` and `evaluate --split hard`."""
    run = open_run(chosen, where)
    halves = {
        half: [
            scored(
                name,
                quality,
                patients=patients,
                films_each=films_each,
                seed=1 + i,
                noise=noise and 10 * noise + i,
                prefix=half,
            )
            for name in SETS
        ]
        for i, half in enumerate(("fit", "report"))
    }
    outside = {name: scored(name, q, seed=9, prefix=name) for name, q in (external or {}).items()}
    torch.save({"w": torch.tensor([quality, float(noise)])}, run.weights_file)
    save_logits(run, "hard", {f"{half}/{s.name}": s for half, sets in halves.items() for s in sets})
    save_logits(run, "external", outside)
    run.write_json("figures-hard.json", selection(chosen, halves, outside) | {"weights_digest": run.weights_digest()})
    run.write_json("environment.json", {"git_commit": "abc123"})
    lines = [
        {"epoch": e, "size": 64, "loss": 1 / e, "learning_rate": 1e-3, "seconds": 1.0, "images_per_s": 10.0 * e}
        for e in (1, 2, 3)
    ]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def save_logits(run: Run, step: str, sets: Mapping[str, Scored]) -> None:
    arrays: dict[str, NDArray[np.float64]] = {f"{n}:{f}": getattr(s, f) for n, s in sets.items() for f in FIELDS}
    np.savez_compressed(run.path / f"logits-{step}.npz", allow_pickle=False, **arrays)
