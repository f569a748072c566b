"""Result objects read back by programs that did not write them."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset


def dataset(data: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(data))


def tool(name: str) -> str:
    """The path of a validator, or a loud skip."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; tests/system-packages.sh installs dcmtk and dicom3tools")
    return found


def complaints(data: bytes, folder: Path) -> list[str]:
    """What dciodvfy (dicom3tools) calls an error."""
    path = folder / "object.dcm"
    path.write_bytes(data)
    done = subprocess.run(
        [tool("dciodvfy"), "-new", str(path)], capture_output=True, text=True, timeout=60, errors="replace", check=False
    )
    lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
    assert lines, "dciodvfy said nothing, not even the IOD"
    return [line for line in lines if line.startswith("Error")]


def dsrdump(data: bytes, folder: Path) -> str:
    """The report as dcmtk reads it. It gives up with an error where a tree is malformed."""
    path = folder / "report.dcm"
    path.write_bytes(data)
    done = subprocess.run([tool("dsrdump"), "+Pl", str(path)], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode("utf-8", "replace")


def items(data: Dataset) -> Iterator[tuple[str, Dataset]]:
    """(meaning of the concept name, item) of every content item, depth first."""
    for item in data.get("ContentSequence", []):
        names = item.get("ConceptNameCodeSequence")
        yield (str(names[0].CodeMeaning) if names else "", item)
        yield from items(item)


def named(data: Dataset, meaning: str) -> list[Dataset]:
    return [item for name, item in items(data) if name == meaning]
