"""Further passes of one film through the scheduler: who waits for whom, until when, and what becomes of them when nobody waits."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from numpy.typing import NDArray
from starlette.types import Message

from app.domain import LANES, EngineInfo, Lane, NetworkOutput, Role
from app.imaging.decode import ImageLimits, decode
from app.imaging.phantom import encode_jpeg, phantom
from app.inference.engine import Engine
from app.main import create_app
from app.preprocessing import prepare
from app.settings import Settings
from tests.api.routes.test_predict import events
from tests.support.asgi import Told, chunk_messages, scope_of, tell
from tests.support.tiny_bundle import make_tiny_bundle

FILM, OTHER = (encode_jpeg(phantom(seed)) for seed in (7, 8))
SMOOTH = "method=smoothgradcam%2B%2B"
MANY = 1_000


class Slow:
    """An engine that notes each run as it begins, and ends it only with leave or after a time."""

    def __init__(self, engine: Engine, *, leave: int = MANY, takes_s: float = 0.0) -> None:
        self._engine = engine
        self._takes_s = takes_s
        self.leave = threading.Semaphore(leave)
        self.begun: list[str] = []

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def run(self, tensor: NDArray[np.float32]) -> NetworkOutput:
        self.begun.append(name_of(tensor))
        assert self.leave.acquire(timeout=120)
        time.sleep(self._takes_s)
        return self._engine.run(tensor)

    def run_many(self, tensors: NDArray[np.float32]) -> list[NetworkOutput]:
        return [self.run(tensor) for tensor in tensors]


def name_of(tensor: NDArray[np.float32]) -> str:
    return hashlib.sha256(tensor.tobytes()).hexdigest()


@asynccontextmanager
async def serving(root: Path, *, queue_timeout_s: float = 100.0) -> AsyncIterator[FastAPI]:
    """The shipped application with one worker."""
    bundles = root / "bundles"
    (bundles.parent / "state").mkdir()
    make_tiny_bundle(bundles, latest=True)
    app = create_app(
        Settings(state_dir=root / "state", bundles_dir=bundles, workers=1, queue_timeout_s=queue_timeout_s)
    )
    async with app.router.lifespan_context(app):
        yield app


def slow(app: FastAPI, *, leave: int = MANY, takes_s: float = 0.0) -> Slow:
    """Put a slow engine in place of the live one."""
    bundles = app.state.service._bundles
    engine = Slow(bundles.current.engine, leave=leave, takes_s=takes_s)
    bundles.current = replace(bundles.current, engine=engine)
    return engine


def asking(app: FastAPI, path: str, film: bytes, query: str = "", **headers: str) -> Awaitable[Told]:
    key = app.state.records.keys.create(Role.SERVICE, "t")
    sent = {"Content-Type": "image/jpeg", "Content-Length": str(len(film)), "X-API-Key": key, **headers}
    return tell(app, scope_of("POST", path, sent, query), chunk_messages([film]))


async def until(true: Callable[[], bool]) -> None:
    for _ in range(12_000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came about")


def idle(app: FastAPI) -> bool:
    scheduler = app.state.service._scheduler
    return bool(scheduler.admitted == scheduler.queued == scheduler.running == 0)


@pytest.mark.parametrize(("path", "query", "passes"), [("/gradcam", SMOOTH, 16), ("/predict", "tta=true", 4)])
def test_another_film_waits_for_one_pass_at_most(tmp_path: Path, path: str, query: str, passes: int) -> None:
    async def run() -> None:
        async with serving(tmp_path) as app:
            engine = slow(app, leave=2)  # the plain pass and one further pass
            seen = app.state.service._bundles.current.manifest.input
            plain = name_of(prepare(decode(OTHER, ImageLimits(64, 4_096), None), seen).tensor)
            long = asyncio.ensure_future(asking(app, path, FILM, query))
            await until(lambda: len(engine.begun) == 3)
            short = asyncio.ensure_future(asking(app, "/predict", OTHER))
            await until(lambda: app.state.service._scheduler.queued == 1)
            engine.leave.release(MANY)
            assert (await short).status == 200
            assert (await long).status == 200
            assert engine.begun.index(plain) == 3
            assert len(engine.begun) == 1 + passes + 1
            await until(lambda: idle(app))

    asyncio.run(run())


@pytest.mark.parametrize("lane", LANES)
def test_the_passes_share_the_deadline_of_their_request(tmp_path: Path, lane: Lane) -> None:
    """Each of them begins well within the time a job may wait; all together do not."""

    async def run() -> None:
        async with serving(tmp_path, queue_timeout_s=2.0) as app:
            engine = slow(app, takes_s=0.4)
            headers = {"X-Request-ID": "too-many-passes", "X-Priority": lane}
            told = await asking(app, "/gradcam", FILM, SMOOTH, **headers)
            assert (told.status, told.json()["code"]) == (503, "overloaded")
            assert "retry-after" in told.headers
            assert len(engine.begun) < 17
            assert idle(app)
            assert (await asking(app, "/predict", FILM)).status == 200

    asyncio.run(run())
    assert events(tmp_path / "state", "too-many-passes") == []  # counted, like every refusal by load


def test_passes_that_nobody_waits_for_are_not_run(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path) as app:
            engine = slow(app, leave=1)
            gone = asyncio.Event()
            body = iter(chunk_messages([FILM]))

            async def receive() -> Message:
                message = next(body, None)
                if message is None:
                    await gone.wait()
                    return {"type": "http.disconnect"}
                return message

            async def send(message: Message) -> None:
                raise AssertionError(message["type"])

            key = app.state.records.keys.create(Role.SERVICE, "t")
            headers = {"Content-Type": "image/jpeg", "Content-Length": str(len(FILM)), "X-API-Key": key}
            headers["X-Request-ID"] = "left-between-passes"
            asked = asyncio.ensure_future(app(scope_of("POST", "/gradcam", headers, SMOOTH), receive, send))
            await until(lambda: len(engine.begun) == 2)  # the first of the further passes is running
            gone.set()
            await asyncio.sleep(0.2)
            engine.leave.release(MANY)
            await asyncio.gather(asked, return_exceptions=True)
            await until(lambda: idle(app))
            assert len(engine.begun) == 2

    asyncio.run(run())
    assert [facts["code"] for _, facts in events(tmp_path / "state", "left-between-passes")] == ["client_gone"]
