"""The training command line on a folder of phantoms, in this process."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from app.bundle.store import BundleStore
from tests.training.phantom_data import TINY, write_data, write_lenient_policy
from training.cli.main import main
from training.places import Places
from training.publishing import policy
from training.runs import Run, find_run


@dataclass(frozen=True)
class Factory:
    """A phantom data folder and everything that the command line writes."""

    root: Path

    @property
    def recipe(self) -> Path:
        return self.root / "tiny.toml"

    @property
    def arguments(self) -> list[str]:
        places = ["data", "cache", "runs", "bundles"]
        return [
            *(part for name in places for part in (f"--{name}", str(self.root / name))),
            *("--ledger", str(self.root / "ledger.csv"), "--threads", "1"),
        ]

    @property
    def places(self) -> Places:
        return Places(data=self.root / "data", cache=self.root / "cache", runs=self.root / "runs")

    @property
    def run(self) -> Run:
        return find_run("tiny", self.places)

    @property
    def store(self) -> BundleStore:
        return BundleStore(self.root / "bundles")

    def __call__(self, *arguments: str) -> None:
        """One command; SystemExit(0) is a good end."""
        threads = torch.get_num_threads()
        try:
            main([*self.arguments, *arguments])
        except SystemExit as end:
            if end.code != 0:
                raise
        finally:
            torch.set_num_threads(threads)

    def copied(self, root: Path) -> Factory:
        """The same in another folder, to go on from."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        return Factory(root)


def write_factory(root: Path, *, text: str = TINY) -> Factory:
    write_data(root / "data")
    (root / "tiny.toml").write_text(text)
    return Factory(root)


def export_without_test(factory: Factory) -> None:
    """tiny/1.0.0, made under a policy without minima; then the official test split is gone: reading one of its films would fail."""
    factory("fit", str(factory.recipe))
    for split in ("hard", "report"):
        factory("evaluate", "tiny", "--split", split)
    factory("checks", "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "POLICIES", write_lenient_policy(factory.root / "policies"))
        factory("promote", "tiny")
        factory("export", "tiny", "--version", "1.0.0")
    for folder in ("kermany_hires", "kermany_224"):
        shutil.rmtree(factory.root / "data" / folder / "test")
