"""Who is measured: this service by the engine it is told to use, and the other servers at their best settings."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.competitors.running import Setting, running
from benchmarks.load import Question, Target
from benchmarks.questions import Reference, predict
from benchmarks.server import SERVE, serving

UNLIMITED: Final = 100_000_000  # requests per minute of a key: the benchmark has one key


@dataclass(frozen=True)
class Started:
    """A running subject and what it is asked."""

    target: Target
    question: Question


@dataclass(frozen=True)
class Subject:
    """start: runs it afresh, in a context."""

    name: str
    start: Callable[[], AbstractContextManager[Started]]


def service(
    name: str,
    root: Path,
    reference: Reference,
    *,
    engine: str,
    state: Path | None = None,
    command: tuple[str, ...] = SERVE,
    environment: dict[str, str] | None = None,
    ask: Callable[[str], Question] | None = None,
) -> Subject:
    """This service. state: kept between starts, so that its choice of an engine is. ask: by key; default one film as an upload."""

    @contextmanager
    def start() -> Iterator[Started]:
        settings: dict[str, Any] = {"bundles_dir": root, "engine": engine, "rate_limit_per_minute": UNLIMITED}
        with serving(state, command=command, environment=environment, **settings) as server:
            key = server.key("service")
            question = ask(key) if ask else predict(reference, key, multipart=True)
            yield Started(server, question)

    return Subject(name, start)


def competitor(setting: Setting, python: Path, model: Path, question: Question) -> Subject:
    @contextmanager
    def start() -> Iterator[Started]:
        with running(setting, python, model) as process:
            yield Started(process, question)

    return Subject(setting.name, start)


def engine_of_answer(started: Started) -> str:
    """The variant that answers: `<engine>-<precision>`."""
    request = started.question.requests[0]
    connection = http.client.HTTPConnection("127.0.0.1", started.target.port, timeout=60)
    lines = request.head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    connection.request("POST", "/predict", body=request.body, headers=headers)
    engine = json.loads(connection.getresponse().read())["engine"]
    connection.close()
    return f"{engine['name']}-{engine['precision']}"
