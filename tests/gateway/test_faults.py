"""The fault table: whatever fails around the gateway or ends it, every film's results arrive at every destination, and only once.

A sender sends again until it is acknowledged, as modalities do. *lost*: results that never arrived; *doubled*: results that exist twice at
a destination under different ids, or under one id with different content; *resent*: arrivals beyond the first under the same id, which
at-least-once delivery makes after a kill or a lost answer, and which every receiver drops by that id.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.gateway.failpoints import FAILPOINTS, VARIABLE
from tests.gateway.conftest import Peers, wait_until
from tests.records.test_durability import needs_fuse, power
from tests.support.dicom_films import dicom_film
from tests.support.gateway_peers import Peer, result_uid

pytestmark = pytest.mark.slow

SEEDS = (1, 2, 3)
PER_TARGET = {"stow": ("sr", "sc"), "store": ("sr",), "webhook": ("fhir",), "mllp": ("oru",)}


class Child:
    """The gateway's process. `send` is a sender: it learns whether the film was acknowledged."""

    def __init__(self, state: Path, config: Path, failpoint: str = "") -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CXR_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.gateway_child", str(state), str(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment | ({VARIABLE: failpoint} if failpoint else {}),
        )
        self.ready = self._read() == "ready"

    def ask(self, line: str) -> str:
        """The answer, or nothing where the process has ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except OSError:
            return ""
        return self._read()

    def send(self, film: Path) -> bool:
        return self.ask(f"receive {film}") == f"ack {film}"

    def status(self) -> dict[str, Any]:
        answer = self.ask("status")
        return dict(json.loads(answer)) if answer.startswith("{") else {}

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def end(self) -> int:
        """Let it stop by itself, or collect it."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        return self.process.wait(timeout=30)

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@dataclass
class Run:
    """One row of the table in the making."""

    peers: Peers
    state: Path
    config: Path
    films: tuple[Path, ...]
    children: list[Child] = field(default_factory=list)

    def child(self, failpoint: str = "") -> Child:
        self.children.append(Child(self.state, self.config, failpoint))
        return self.children[-1]

    def arrived(self, *names: str) -> bool:
        return all(self.missing(name) == 0 for name in names or PER_TARGET)

    def missing(self, name: str) -> int:
        """Results that did not arrive; a webhook's ids cannot be foretold, so they are counted by film."""
        came = self.peers.webhook.films if name == "webhook" else set(target(self.peers, name).times)
        return len(set(expected(name)) - came)

    def finish(self, child: Child, to_send: tuple[Path, ...] = ()) -> tuple[int, int, int]:
        """Send what was not acknowledged until it is, wait for everything, and count: lost, doubled, resent."""
        for film in to_send:
            wait_until(lambda film=film: child.send(film))  # type: ignore[misc] # bound now
        with suppress(AssertionError):  # the counts will say what is missing
            wait_until(lambda: self.arrived() and settled(child.status()), seconds=60)
        time.sleep(0.5)  # something doubled would come now
        child.end()
        return self.count()

    def count(self) -> tuple[int, int, int]:
        lost = doubled = resent = 0
        for name in PER_TARGET:
            peer, wanted = target(self.peers, name), set(expected(name))
            lost += self.missing(name)
            doubled += max(0, len(peer.times) - len(wanted)) + sum(len(c) - 1 for c in peer.contents.values())
            resent += sum(n - 1 for n in peer.times.values())
        return lost, doubled, resent


def target(peers: Peers, name: str) -> Peer:
    return {"stow": peers.stow, "store": peers.store, "webhook": peers.webhook, "mllp": peers.mllp}[name]


def expected(name: str) -> list[str]:
    return [result_uid(f"1.2.826.0.1.3680043.10.1000.{seed}.3", kind) for seed in SEEDS for kind in PER_TARGET[name]]


def settled(status: dict[str, Any]) -> bool:
    return bool(status) and not any(status["pending"].values()) and set(status["films"]) == {"judged"}


@pytest.fixture(scope="module")
def table() -> Iterator[Callable[..., None]]:
    rows: list[str] = []

    def row(fault: str, counts: tuple[int, int, int]) -> None:
        rows.append(f"| {fault} | {counts[0]} | {counts[1]} | {counts[2]} |")
        assert counts[:2] == (0, 0), f"{fault}: lost, doubled, resent = {counts}"

    yield row
    head = ["", "| fault | lost | doubled | resent, same id |", "|---|---:|---:|---:|"]
    print("\n".join([*head, *rows]))


@pytest.fixture
def run(peers: Peers, tmp_path: Path, config_file: Path) -> Iterator[Run]:
    films = []
    for seed in SEEDS:
        films.append(tmp_path / f"film-{seed}.dcm")
        films[-1].write_bytes(dicom_film(seed, size=(96, 64)))
    run = Run(peers, tmp_path / "state", config_file, tuple(films))
    yield run
    for child in run.children:
        child.kill()


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_kill_9(run: Run, table: Callable[..., None], failpoint: str) -> None:
    child = run.child(failpoint)
    acknowledged = [film for film in run.films if child.send(film)]
    assert child.process.wait(timeout=30) == -signal.SIGKILL, "the failpoint was not reached"
    child.end()
    again = run.child()
    counts = run.finish(again, tuple(f for f in run.films if f not in acknowledged))
    table(f"kill -9 at {failpoint}", counts)
    assert max(run.peers.service.times.values()) <= 2
    assert len(run.peers.service.times) == len(SEEDS)  # one Idempotency-Key a film, so one prediction in the service


def test_kill_9_at_any_time(run: Run, table: Callable[..., None]) -> None:
    """Without failpoints: killed every few hundred milliseconds while slow peers are at it."""
    for peer in run.peers.all:
        peer.slow_s = 0.1
        peer.set("slow")
    to_send = list(run.films)
    for after_s in (0.05, 0.15, 0.25, 0.35, 0.5, 0.7):
        child = run.child()
        to_send = [film for film in to_send if not child.send(film)]
        time.sleep(after_s)
        child.kill()
    table("kill -9 at six moments", run.finish(run.child(), tuple(to_send)))


@pytest.mark.parametrize("mode", ["down", "500", "slow", "half_open", "forgetful"])
@pytest.mark.parametrize("name", [*PER_TARGET, "service"])
def test_a_peer_that_fails(run: Run, table: Callable[..., None], name: str, mode: str) -> None:
    peer = run.peers.service if name == "service" else target(run.peers, name)
    peer.set(mode)
    child = run.child()
    assert all(child.send(film) for film in run.films)
    if name == "service":
        wait_until(lambda: mode == "down" or peer.tries >= 2)
    else:  # one that is ill holds up no other
        wait_until(lambda: run.arrived(*(n for n in PER_TARGET if n != name)))
        wait_until(lambda: mode in {"down", "slow"} or peer.tries >= 2)
    peer.set("ok")
    counts = run.finish(child)
    table(f"{name} {mode.replace('_', '-')}", counts)
    assert mode in {"forgetful", "slow"} or counts[2] == 0


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Another process holds the write lock."""
    with closing(sqlite3.connect(state / "gateway.sqlite3", isolation_level=None, timeout=10)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def disturb(run: Run, child: Child, step: str, block: Callable[[], AbstractContextManager[None]]) -> tuple[Path, ...]:
    """Block the store for two seconds around a step (receive, judge, deliver); the films that were not acknowledged."""
    if step == "receive":
        with block():
            assert not any(child.send(film) for film in run.films)  # what is not durable is not acknowledged
        return run.films
    peers: tuple[Peer, ...] = (run.peers.service,) if step == "judge" else run.peers.targets
    for peer in peers:
        peer.slow_s = 1.0
        peer.set("slow")
    assert all(child.send(film) for film in run.films)
    wait_until(lambda: all(peer.tries for peer in peers))
    with block():
        time.sleep(2.0)
    for peer in peers:
        peer.set("ok")
    return ()


@pytest.mark.parametrize("step", ["receive", "judge", "deliver"])
def test_database_locked(run: Run, table: Callable[..., None], step: str) -> None:
    child = run.child()
    counts = run.finish(child, disturb(run, child, step, lambda: locked(run.state)))
    table(f"database locked at {step}", counts)
    assert counts[2] == 0  # what was delivered while it could not be recorded is not sent again


@needs_fuse
@pytest.mark.parametrize("step", ["receive", "judge", "deliver"])
def test_disk_full(run: Run, table: Callable[..., None], step: str, tmp_path: Path) -> None:
    with power(tmp_path) as disk:

        @contextmanager
        def full() -> Iterator[None]:
            disk.say(f"fail {errno.ENOSPC}")
            yield
            disk.say("fail 0")

        run.state = disk.mount / "state"
        child = run.child()
        counts = run.finish(child, disturb(run, child, step, full))
        table(f"disk full at {step}", counts)
        assert counts[2] == 0


@needs_fuse
@pytest.mark.parametrize("cut", ["cut {}", "torn {} 7"], ids=["lost", "torn"])
def test_power_cut(run: Run, table: Callable[..., None], cut: str, tmp_path: Path) -> None:
    """What was acknowledged survives a power cut, in which unsynced writes are gone, or there only in part."""
    saved = tmp_path / "saved"
    saved.mkdir()
    run.peers.service.set("down")
    with power(tmp_path) as disk:
        run.state = disk.mount / "state"
        child = run.child()
        assert all(child.send(film) for film in run.films)
        disk.say(cut.format(saved))
        child.kill()
    run.peers.service.set("ok")
    run.state = saved / "state"
    table(f"power cut after the acknowledgement, {cut[:4].strip()}", run.finish(run.child()))
