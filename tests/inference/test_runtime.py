"""The runtime keeps no telemetry and nobody imports it past the switch."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import PROJECT_ROOT

IMPORTS_AND_RUNS = """
import sys
from pathlib import Path
{first}
from app.bundle.store import BundleStore
from app.inference.engine import OnnxRuntimeEngine
store = BundleStore(Path(sys.argv[1]))
OnnxRuntimeEngine(store.verify(store.list()[0]).network)
"""


def files_left(cache: Path, bundles: Path, first: str) -> list[str]:
    """What a process that loads a network leaves in the user's cache folder."""
    # a bare environment: the runtime is silent where CI=true says that nobody is there
    env = {
        "PATH": os.environ["PATH"],
        "XDG_CACHE_HOME": str(cache),
        "HOME": str(cache),
        "PYTHONPATH": str(PROJECT_ROOT),
    }
    command = [sys.executable, "-c", IMPORTS_AND_RUNS.format(first=first), str(bundles)]
    subprocess.run(command, env=env, check=True, capture_output=True, timeout=120)
    return sorted(p.name for p in cache.rglob("*") if p.is_file())


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    from tests.support.tiny_bundle import make_tiny_bundle

    make_tiny_bundle(tmp_path / "bundles")
    return tmp_path / "bundles"


def test_loading_a_network_leaves_nothing_in_the_cache_folder(bundles: Path, tmp_path: Path) -> None:
    assert files_left(tmp_path / "cache", bundles, "") == []


def test_without_the_switch_it_would(bundles: Path, tmp_path: Path) -> None:
    left = files_left(tmp_path / "cache", bundles, "import onnxruntime")
    if not left:
        pytest.skip("this build of onnxruntime has no telemetry to switch off")
    assert "onnxruntime.db" in left


def test_only_the_switch_imports_the_runtime() -> None:
    direct = set()
    for folder in ("app", "training", "benchmarks"):
        for path in (PROJECT_ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if any(name.split(".")[0] == "onnxruntime" for name in names):
                    direct.add(str(path.relative_to(PROJECT_ROOT)))
    # the other servers of the benchmark run in an environment of their own, without this project
    assert direct == {"app/inference/runtime.py", "benchmarks/competitors/networks.py"}
