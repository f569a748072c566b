"""One real service on loopback for the tests that only ask it; tests that break a service start their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.imaging.phantom import encode_jpeg, phantom
from benchmarks.server import Server, serving
from tests.support.tiny_bundle import make_tiny_bundle


@pytest.fixture(scope="session")
def bundles_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one tiny but real bundle, seeded as the live one."""
    root = tmp_path_factory.mktemp("bundles")
    ref = make_tiny_bundle(root)
    (root / "latest").write_text(f"{ref}\n")
    return root


@pytest.fixture(scope="session")
def server(bundles_dir: Path) -> Iterator[Server]:
    with serving(bundles_dir=bundles_dir, rate_limit_per_minute=1_000_000) as running:
        yield running


@pytest.fixture(scope="session")
def key(server: Server) -> str:
    return server.key("service")


@pytest.fixture(scope="session")
def film() -> bytes:
    return encode_jpeg(phantom(7))
