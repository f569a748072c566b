"""`cxr gateway run` as a child process on loopback, with a state folder and a configuration of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.server import CXR, free_port

START_LIMIT_S = 30
TOKEN = "a-token-for-tests"
TITLE = "CXRTRIAGE"


@dataclass
class GatewayProcess:
    """A gateway that can be started, killed and started again on the same state."""

    folder: Path
    dicom_port: int
    http_port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def start(self) -> None:
        """Start it and wait until it takes films.

        Raises:
            RuntimeError: it ended, or was not ready in time.
        """
        with (self.folder / "gateway.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*CXR, "gateway", "run"], env=self._env(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until = time.monotonic() + START_LIMIT_S
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > until:
                self.stop(signal.SIGKILL)
                raise RuntimeError(f"the gateway is not ready\n{self.log()[-2000:]}")
            time.sleep(0.05)

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit status."""
        process, self.process = self.process, None
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(sig)
        try:
            return process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def cxr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `cxr gateway ...` on this gateway's state."""
        return subprocess.run(
            [*CXR, "gateway", *arguments], env=self._env(), check=False, capture_output=True, text=True, timeout=60
        )

    def log(self) -> str:
        path = self.folder / "gateway.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _env(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("CXR_")}
        return clean | {"CXR_STATE_DIR": str(self.state), "CXR_GATEWAY_CONFIG": str(self.folder / "gateway.toml")}

    def _listens(self) -> bool:
        for port in (self.dicom_port, self.http_port):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                return False
        return True


@contextmanager
def gateway(
    folder: Path,
    *,
    service_port: int,
    service_key: str,
    destinations: list[dict[str, Any]],
    peers: list[str],
    judge_all: bool = False,
    quiet_s: float = 0.3,
    dicom_port: int | None = None,
) -> Iterator[GatewayProcess]:
    """A gateway, not yet started, and stopped at the end. destinations: as in the configuration, with `token_text` for the
    secret that belongs into a file; judge_all: whatever comes is judged, where the default rules take radiographs only."""
    folder.mkdir(parents=True, exist_ok=True)
    made = GatewayProcess(folder, dicom_port or free_port(), free_port())
    (folder / "key").write_text(service_key)
    (folder / "token").write_text(TOKEN)
    lines = [
        "[dimse]",
        f'ae_title = "{TITLE}"',
        'host = "127.0.0.1"',
        f"port = {made.dicom_port}",
        f"peers = [{', '.join(f'{{ ae = {json.dumps(peer)} }}' for peer in peers)}]",
        "[stow]",
        f"port = {made.http_port}",
        f"token_file = {json.dumps(str(folder / 'token'))}",
        "[service]",
        f'url = "http://127.0.0.1:{service_port}"',
        f"key_file = {json.dumps(str(folder / 'key'))}",
        "[study]",
        f"quiet_s = {quiet_s}",
    ]
    if judge_all:
        lines += ["[[select]]", 'action = "judge"']
    for destination in destinations:
        lines.append("[[destination]]")
        for name, value in destination.items():
            if name == "token_text":
                path = folder / f"{destination['name']}.token"
                path.write_text(value)
                lines.append(f"token_file = {json.dumps(str(path))}")
            else:
                lines.append(f"{name} = {json.dumps(value)}")
        lines.append("retry = { first_s = 0.2, max_s = 1.0 }")
    (folder / "gateway.toml").write_text("\n".join(lines) + "\n")
    try:
        yield made
    finally:
        made.stop()
