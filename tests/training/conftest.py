"""Torch on one thread: the tests' networks are tiny, and threads that wait for each other cost more than they bring."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.training.factory import Factory, export_without_test, write_factory


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    """A factory with the bundle tiny/1.0.0 and without its test split; take a copy of it to write into."""
    factory = write_factory(tmp_path_factory.mktemp("exported"))
    export_without_test(factory)
    return factory
