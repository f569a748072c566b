"""A tiny bundle that is loaded, and a watcher that keeps what it hears."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from app.bulk.identity import Run
from app.bulk.rows import Row
from app.bundle.store import BundleStore
from app.live import LiveBundle, load_bundle
from app.settings import Settings
from tests.support.tiny_bundle import make_tiny_bundle


class Heard:
    """A `Watcher`."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.runs: list[tuple[Run, int]] = []
        self.rows: list[Row] = []

    def begun(self, run: Run, done: int) -> None:
        self.runs.append((run, done))

    def row(self, row: Row) -> None:
        self.rows.append(row)

    def audit(self, kind: str, facts: Mapping[str, Any]) -> None:
        self.events.append((kind, dict(facts)))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LiveBundle:
    root = tmp_path_factory.mktemp("bulk-bundles")
    return load_bundle(BundleStore(root), make_tiny_bundle(root))


@pytest.fixture
def settings(tmp_path: Path, tiny: LiveBundle) -> Settings:
    return Settings(state_dir=tmp_path / "state", bundles_dir=tiny.bundle.path.parents[1])
