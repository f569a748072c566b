"""Settings on both databases, and records opened on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.records import Records
from app.settings import Settings
from tests.support.postgres import Postgres, running_postgres

OpenRecords = Callable[..., Records]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def sqlite_settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", audit_wait_s=3.0)


@pytest.fixture
def postgres_settings(tmp_path: Path, postgres: Postgres) -> Settings:
    return Settings(state_dir=tmp_path / "state", audit_wait_s=3.0, database_url=postgres.new_database())


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest) -> Settings:
    """Each test that takes this runs on both databases."""
    found: Settings = request.getfixturevalue("sqlite_settings" if request.param == "sqlite" else "postgres_settings")
    return found


@pytest.fixture
def open_records() -> Iterator[OpenRecords]:
    """`Records.open`, closed after the test."""
    opened: list[Records] = []

    def open_(settings: Settings, **options: Any) -> Records:
        opened.append(Records.open(settings, **({"role": "serve"} | options)))
        return opened[-1]

    yield open_
    for records in opened:
        records.close()
