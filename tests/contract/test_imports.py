"""The import rule of the house: who may know whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# a room may import the rooms of its own layer's row below it, and nothing else of `app`
LEAVES = {"domain", "errors", "settings"}
BUNDLE = {"bundle"} | LEAVES
ROOMS = {
    "imaging", "preprocessing", "gate", "inference", "decision", "explain", "results", "records", "drift", "metrics", "logs",
}  # fmt: skip
ALLOWED = {
    "domain": set[str](),
    "errors": set[str](),
    "settings": set[str](),
    "bundle": LEAVES,
    **dict.fromkeys(ROOMS, BUNDLE),
    "selftest": ROOMS - {"records", "metrics", "logs"} | BUNDLE,
    "engines": ROOMS | BUNDLE | {"selftest"},
    "live": ROOMS | BUNDLE | {"selftest", "engines"},
    "judging": ROOMS | BUNDLE | {"live"},
    "reporting": ROOMS | BUNDLE | {"live", "judging"},
    "service": ROOMS | BUNDLE | {"selftest", "live", "judging", "reporting"},
    "api": ROOMS | BUNDLE | {"service", "judging", "reporting"},
    "main": ROOMS | BUNDLE | {"service", "api", "selftest", "live", "engines"},
    "cli": ROOMS | BUNDLE | {"service", "api", "main", "selftest", "live", "engines", "gateway", "bulk"},
    # speaks DICOMweb with the gateway's means, judges with those of the service
    "bulk": ROOMS - {"records", "metrics", "results", "drift"} | BUNDLE | {"live", "engines", "judging", "gateway"},
    # the gateway is a process of its own: it asks the service over HTTP and shares no code that judges
    "gateway": {"records", "imaging", "logs"} | LEAVES,
    "ui": set[str](),
}
TRAINING = {"imaging", "preprocessing", "gate", "inference", "decision", "explain", "drift", "selftest"} | BUNDLE

# a third-party package may be imported by these rooms only
HOMES = {
    "torch": set[str](),
    "torchvision": set[str](),
    "training": set[str](),
    "onnx": set[str](),
    "sklearn": set[str](),
    "sqlalchemy": {"records", "gateway"},  # SQL lives with its table: the gateway's queue is not part of the records
    "alembic": {"records"},
    "prometheus_client": {"metrics", "main", "cli", "gateway"},
    "fastapi": {"api", "main"},
    "starlette": {"api", "main", "gateway"},
    "pydicom": {"imaging", "results", "gateway", "cli"},
    "gdcm": {"imaging"},
    "openjpeg": {"imaging"},
    "jpeg_ls": {"imaging"},
    "highdicom": {"results"},
    "reportlab": {"results"},
    "pyarrow": {"bulk"},
    "ray": {"bulk"},
    "pynetdicom": {"gateway"},
    "httpx": {"gateway"},
    "cryptography": {"records"},
    "onnxruntime": {"inference"},
    "openvino": {"inference"},
    "simplejpeg": {"imaging", "explain"},
    "typer": {"cli"},
    "uvicorn": {"cli"},
}


def imports(path: Path) -> Iterator[str]:
    """Absolute names of all modules a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            if module == "app":
                yield from (f"app.{alias.name}" for alias in node.names)
            else:
                yield module


def violations(room: str, modules: Iterator[str]) -> list[str]:
    bad = []
    for module in modules:
        top, _, rest = module.partition(".")
        other = rest.split(".")[0]
        if top == "app" and other != room and other not in ALLOWED[room]:
            bad.append(f"app.{room} imports app.{other}")
        if top in HOMES and room not in HOMES[top]:
            bad.append(f"app.{room} imports {top}")
    return bad


def room_of(path: Path) -> str:
    first = path.relative_to(ROOT / "app").parts[0]
    return first.removesuffix(".py")


APP_FILES = sorted(p for p in (ROOT / "app").rglob("*.py") if p != ROOT / "app/__init__.py")


@pytest.mark.parametrize("path", APP_FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_app_follows_the_import_rule(path: Path) -> None:
    assert violations(room_of(path), imports(path)) == []


@pytest.mark.parametrize("path", sorted((ROOT / "training").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_training_uses_only_the_pure_rooms(path: Path) -> None:
    used = {m.split(".")[1] for m in imports(path) if m.startswith("app.")}
    assert used <= TRAINING


def test_the_rule_sees_a_violation() -> None:
    assert violations("imaging", iter(["app.preprocessing"])) == ["app.imaging imports app.preprocessing"]
    assert violations("inference", iter(["torch.nn"])) == ["app.inference imports torch"]
    assert violations("service", iter(["app.records.keys", "app.domain"])) == []
