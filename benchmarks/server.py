"""The real service as a child process on loopback, with a fresh state folder, for benchmarks and end-to-end tests."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import own_rss_bytes, peak_rss_bytes

CXR = [sys.executable, "-m", "app.cli"]
SERVE = (*CXR, "serve")
START_LIMIT_S = (
    240  # a start takes two seconds; a machine that is busy with something else may take a hundred times that
)


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """A running service. `env` is what the command line needs to act on the same state."""

    process: subprocess.Popen[bytes]
    port: int
    state: Path
    env: dict[str, str]
    started_in_s: float

    def connection(self, timeout_s: float = 60) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)

    def request(
        self, method: str, path: str, *, key: str | None = None, body: bytes | None = None, **headers: str
    ) -> Reply:
        """One request on a connection of its own; header names with `_` for `-`."""
        with contextlib.closing(self.connection()) as connection:
            return ask(connection, method, path, key=key, body=body, **headers)

    def cxr(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a `cxr` command on this service's state."""
        return subprocess.run(
            [*CXR, *arguments], env=self.env, check=check, capture_output=True, text=True, timeout=120
        )

    def key(self, role: str) -> str:
        """A new key of that role."""
        return self.cxr("keys", "create", "--role", role, "--name", f"test-{role}").stdout.strip()

    @property
    def pid(self) -> int:
        return self.process.pid

    def rss_bytes(self) -> int:
        """Resident memory of the service process."""
        return own_rss_bytes(self.pid)

    def peak_rss_bytes(self) -> int:
        """Highest resident memory of the service process so far."""
        return peak_rss_bytes(self.pid)

    def log(self) -> str:
        return (self.state / "server.log").read_text(errors="replace")

    def stop(self, sig: signal.Signals = signal.SIGTERM, timeout_s: float = 40) -> int:
        """Send a signal and wait; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    *,
    key: str | None = None,
    body: bytes | None = None,
    **headers: str,
) -> Reply:
    """One request on an open connection."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if key is not None:
        sent["X-API-Key"] = key
    connection.request(method, path, body=body, headers=sent)
    response = connection.getresponse()
    return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_ready(port: int, process: subprocess.Popen[bytes], limit_s: float = START_LIMIT_S) -> float:
    """Seconds until /health/ready answers 200.

    Raises:
        RuntimeError: the process ended, or the limit passed.
    """
    start = time.perf_counter()
    while time.perf_counter() - start < limit_s:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with exit status {process.returncode} before it was ready")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/health/ready")
            if connection.getresponse().status == 200:
                return time.perf_counter() - start
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.02)
    raise RuntimeError(f"the service was not ready after {limit_s} s")


def start(
    state: Path, *, command: Sequence[str] = SERVE, environment: Mapping[str, str] | None = None, **settings: object
) -> Server:
    """Start `cxr serve` on a free port; `settings` are names of `Settings` fields.

    Args:
        command: what is started instead, for benchmarks of a changed service.
        environment: variables beside the settings.
    """
    state.mkdir(parents=True, exist_ok=True)
    port = free_port()
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CXR_")}
    env = {**clean, "CXR_STATE_DIR": str(state), "CXR_PORT": str(port)}
    env |= {f"CXR_{name.upper()}": str(value) for name, value in settings.items()}
    with (state / "server.log").open("ab") as log:
        serving_env = env | dict(environment or {})
        process = subprocess.Popen(list(command), env=serving_env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        took = wait_ready(port, process)
    except RuntimeError as error:
        process.kill()
        process.wait()
        tail = (state / "server.log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{error}\n{tail}") from None
    return Server(process, port, state, env, took)


@contextlib.contextmanager
def serving(
    state: Path | None = None,
    *,
    command: Sequence[str] = SERVE,
    environment: Mapping[str, str] | None = None,
    **settings: object,
) -> Iterator[Server]:
    """A running service as `start` makes it, stopped afterwards; without `state` in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="cxr-") as folder:
        server = start(state or Path(folder), command=command, environment=environment, **settings)
        try:
            yield server
        finally:
            server.stop()
