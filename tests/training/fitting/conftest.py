"""One phantom data folder and pixel cache for all fits; every test has its own runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.phantom_data import write_data
from training.places import Places


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data` and `cache`."""
    root = tmp_path_factory.mktemp("fitting")
    write_data(root / "data", patients=24)
    return root


@pytest.fixture
def places(phantoms: Path, tmp_path: Path) -> Places:
    return Places(
        data=phantoms / "data",
        cache=phantoms / "cache",
        runs=tmp_path / "runs",
        bundles=tmp_path / "bundles",
        ledger=tmp_path / "ledger.csv",
    )
