"""The other servers as processes: which settings are tried, how each is started, and that all of it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from app.settings import PROJECT_ROOT
from benchmarks.server import free_port

Name = Literal["FastAPI + eager PyTorch", "LitServe, eager", "LitServe, ONNX", "BentoML, ONNX"]
START_LIMIT_S: Final = 120


@dataclass(frozen=True)
class Setting:
    """One way to run a competitor. values: what its script takes."""

    name: Name
    values: dict[str, Any]

    @property
    def words(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.values.items() if name != "kind")


@dataclass(frozen=True)
class Running:
    port: int
    pid: int


def settings(cores: int) -> dict[Name, list[Setting]]:
    """What is tried of each competitor; the best of them is measured. cores: usable ones."""
    naive: Name = "FastAPI + eager PyTorch"
    shapes = [(1, 1), (cores, 1), (1, cores)]  # (threads of a call, worker processes)
    tried: dict[Name, list[Setting]] = {
        naive: [Setting(naive, {"threads": t, "workers": w}) for t, w in shapes],
        "LitServe, eager": [],
        "LitServe, ONNX": [],
        "BentoML, ONNX": [],
    }
    kinds: tuple[tuple[Name, str], ...] = (("LitServe, eager", "eager"), ("LitServe, ONNX", "onnx"))
    for name, kind in kinds:
        for threads, workers in ((cores, 1), (1, cores)):
            for batch, wait_s in ((1, 0.0), (4, 0.005), (8, 0.01)):
                values = {"kind": kind, "threads": threads, "workers": workers, "batch": batch, "wait_s": wait_s}
                tried[name].append(Setting(name, values))
    for shape in ("one", "two"):
        for threads, workers in ((cores, 1), (1, cores)):
            for batch in (4, 16):
                values = {"shape": shape, "threads": threads, "workers": workers, "batch": batch}
                tried["BentoML, ONNX"].append(Setting("BentoML, ONNX", values))
    return tried


@contextlib.contextmanager
def running(setting: Setting, python: Path, model: Path) -> Iterator[Running]:
    """Start a competitor, wait until it answers a film, and end all of its processes afterwards.

    Raises:
        RuntimeError: it did not come up; with the end of what it wrote.
    """
    port = free_port()
    values = {**setting.values, "port": port, "folder": str(model)}
    with tempfile.TemporaryDirectory(prefix="cxr-competitor-") as home, (Path(home) / "log").open("w+b") as log:
        process = subprocess.Popen(
            _command(setting.name, python, port, values),
            cwd=PROJECT_ROOT,
            env=_environment(Path(home), values),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a group of its own: its workers end with it
        )
        try:
            _wait(port, process, Path(home) / "log")
            yield Running(port, process.pid)
        finally:
            _end(process)


def _command(name: Name, python: Path, port: int, values: dict[str, Any]) -> list[str]:
    if name == "BentoML, ONNX":
        return [
            str(python),
            "-m",
            "bentoml",
            "serve",
            "benchmarks.competitors.bento:Films",
            "--host",
            "127.0.0.1",
            "-p",
            str(port),
        ]
    script = "naive" if name == "FastAPI + eager PyTorch" else "lit"
    return [str(python), "-m", f"benchmarks.competitors.{script}", json.dumps(values)]


def _environment(home: Path, values: dict[str, Any]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CXR_", "PYTHON"))}
    return kept | {
        "BENCH_SETTINGS": json.dumps(values),
        "BENTOML_HOME": str(home / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": str(values["threads"]),
    }


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise RuntimeError(f"the server did not come up: {log.read_text(errors='replace')[-2000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            process.poll()
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.1)


def logits(body: bytes) -> list[float]:
    """Of a competitor's answer; BentoML's batches answer with a list of one."""
    found = json.loads(body)
    return list((found[0] if isinstance(found, list) else found)["logits"])
