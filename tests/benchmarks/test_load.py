"""The generator against a small real server: what is sent, at which instants, and what is counted."""

from __future__ import annotations

import http.server
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from benchmarks.http_client import Request
from benchmarks.load import Arrivals, Question, Target, closed_loop, open_loop
from benchmarks.outcome import Conditions
from benchmarks.questions import with_urgent

CONDITIONS = Conditions(seconds=0.0, answers=1)


@dataclass(frozen=True)
class Local:
    """A server in this process."""

    port: int
    pid: int


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers a film's number as its logit; refuses bodies that say so; an urgent film gets 1,000 more.

    `stall` is answered when three other requests were, or after ten seconds; `later <s>` is refused, to come back after s seconds.
    """

    protocol_version = "HTTP/1.1"
    others = threading.Semaphore(0)
    came: list[float]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.came.append(time.monotonic())
        if body == "stall":
            end = time.monotonic() + 10
            for _ in range(3):
                self.others.acquire(timeout=max(0.0, end - time.monotonic()))
        logit = float(body) if body.isdigit() else 0.0
        logit += 1_000 * (self.headers.get("X-Priority") == "stat")
        answer = json.dumps({"logits": [logit]}).encode()
        self.send_response(503 if body == "refuse" or body.startswith("later") else 200)
        if body.startswith("later"):
            self.send_header("Retry-After", body.split()[1])
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        if body != "stall":
            self.others.release()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def server() -> Iterator[Target]:
    Echo.others, Echo.came = threading.Semaphore(0), []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield Local(int(running.server_address[1]), os.getpid())
        running.shutdown()


def asking(*bodies: str, expect: list[float] | None = None) -> Question:
    requests = tuple(Request.of("POST", "/predict", {}, body.encode()) for body in bodies)
    reference = np.array([[value] for value in expect or [float(b) if b.isdigit() else 0.0 for b in bodies]])
    return Question("echo", requests, lambda body: json.loads(body)["logits"], reference)


def test_a_closed_loop_sends_so_many_and_compares_each_answer_with_its_own_film(server: Target) -> None:
    row = closed_loop(server, "s", asking("1", "2", "3"), connections=3, seconds=30, requests=30, conditions=CONDITIONS)
    assert (row.sent, row.answered, row.errors) == (30, 30, 0)
    assert (row.answers.checked, row.answers.wrong) == (30, 0)
    assert row.valid
    assert row.latency == row.uncorrected
    swapped = asking("1", "2", "3", expect=[2.0, 1.0, 3.0])
    row = closed_loop(server, "s", swapped, connections=2, seconds=30, requests=30, conditions=CONDITIONS)
    assert row.answers.wrong == 20
    assert not row.valid


def test_refusals_and_a_dead_server_are_no_answers(server: Target) -> None:
    row = closed_loop(server, "s", asking("1", "refuse"), connections=1, seconds=30, requests=10, conditions=CONDITIONS)
    assert (row.answered, row.refused, row.errors) == (5, 5, 0)
    dead = Local(1, os.getpid())
    row = closed_loop(dead, "s", asking("1"), connections=2, seconds=30, requests=4, conditions=CONDITIONS)
    assert (row.answered, row.errors) == (0, 4)


def test_a_refused_client_comes_back_when_it_was_told_to_and_not_after_the_end(server: Target) -> None:
    row = closed_loop(server, "s", asking("later 1", "7"), connections=1, seconds=30, requests=2, conditions=CONDITIONS)
    assert (row.answered, row.refused) == (1, 1)
    assert Echo.came[1] - Echo.came[0] >= 1.0
    row = closed_loop(server, "s", asking("later 3600"), connections=2, seconds=0.3, conditions=CONDITIONS)
    assert (row.answered, row.refused) == (0, 2)


def test_an_open_loop_keeps_its_instants_while_an_answer_is_awaited(server: Target) -> None:
    at = np.array([0.0, 0.05, 0.1, 0.15])
    arrivals = Arrivals(at, np.array([0, 1, 1, 1]), 0.5)
    row, samples = open_loop(server, "s", asking("stall", "7"), arrivals, load="open", conditions=CONDITIONS)
    assert row.answered == 4
    order = np.argsort(samples.scheduled_s)
    assert samples.scheduled_s[order].tolist() == at.tolist()
    assert samples.template[order].tolist() == [0, 1, 1, 1]
    assert samples.service_s[order][0] < 10  # none waited for the stalled one: it was answered because they were
    assert (samples.sent_s >= samples.scheduled_s).all()


def test_the_second_set_of_requests_is_urgent(server: Target) -> None:
    question = with_urgent(asking("1", "2"))
    assert len(question.requests) == 4
    assert question.reference is not None
    urgent = Arrivals(np.array([0.0, 0.01]), np.array([2, 3]), 0.1)
    row, _ = open_loop(server, "s", question, urgent, load="open", conditions=CONDITIONS)
    assert row.answers.wrong == 2  # the header arrived: this server adds to the logits of urgent films
