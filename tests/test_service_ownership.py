"""Through the real service and the shipped phantom bundle: whatever is asked at the same time, in whatever lane, with whoever leaving,
every answer is its own film's, as it was when that film was alone; and so is every row of the audit trail.

The last tests plant what this must find: answers that change places in the scheduler, and within a batch of the engine.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.domain import LANES, Judgement, NetworkOutput, Principal, Role
from app.errors import RefusedError, UnavailableError
from app.imaging.phantom import encode_jpeg, encode_png, phantom
from app.inference.batching import BatchingEngine
from app.inference.engine import Engine, OnnxRuntimeEngine
from app.inference.jobs import Job
from app.inference.scheduler import Scheduler, WithdrawnError
from app.judging import ExplainOptions
from app.main import create_app
from app.service import Asker, PredictOptions, TriageService
from app.settings import PROJECT_ROOT, Settings

FILMS = 12
OWNERS = ["key-a", "key-b", "key-c"]
BATCH = 4


@lru_cache
def films() -> tuple[bytes, ...]:
    made = (phantom(seed, opacity=seed % 2 == 0) for seed in range(FILMS))
    return tuple((encode_png if i % 3 == 0 else encode_jpeg)(film) for i, film in enumerate(made))


@dataclass
class House:
    """The service as it is shipped, and what each film's answer is when nothing else is asked."""

    settings: Settings
    service: TriageService
    scheduler: Scheduler
    alone: list[Judgement] = field(default_factory=list)
    explained: list[Judgement] = field(default_factory=list)
    tolerance: float = 0.0
    asked: dict[str, int] = field(default_factory=dict)  # film by request id

    def asker(self, rng: random.Random, film: int) -> Asker:
        request_id = f"request-{len(self.asked):08d}"
        self.asked[request_id] = film
        return Asker(Principal(rng.choice(OWNERS), "n", Role.SERVICE), request_id)


def is_its_own(house: House, judgement: Judgement, film: int, *, explained: bool) -> None:
    own = (house.explained if explained else house.alone)[film]
    assert judgement.radiograph.sha256 == own.radiograph.sha256, "another film's bytes"
    assert_close(margins(judgement), margins(own), house.tolerance, "another film's logits")
    assert_close(judgement.feature_projection, own.feature_projection, house.tolerance, "another film's features")
    assert judgement.statistics == own.statistics
    if explained:
        assert len(judgement.maps) == 1
        assert_close(judgement.maps[0].values, own.maps[0].values, house.tolerance, "another film's heat map")
    else:
        assert judgement.maps == ()


def assert_close(found: NDArray[Any], own: NDArray[Any], tolerance: float, message: str) -> None:
    np.testing.assert_allclose(found, own, rtol=tolerance, atol=tolerance, err_msg=message)


def margins(judgement: Judgement) -> NDArray[np.float64]:
    return np.asarray([c.margin for c in judgement.decision.classes])


async def one(house: House, rng: random.Random, film: int, ends: Counter[str]) -> None:
    """One request of one film: it is answered, or it ends as it was meant to."""
    fate = rng.choice(["stays", "stays", "stays", "explains", "withdraws", "hurries", "batch"])
    lane, owner = rng.choice(LANES), rng.choice(OWNERS)
    n = 3 if fate == "batch" else 1
    within = rng.choice([0.001, 0.01]) if fate == "hurries" else None
    try:
        n = min(n, house.service.places_of(lane))
        with house.service.admit(n, lane=lane, owner=owner, begin_within_s=within) as admission:
            await asyncio.sleep(rng.choice([0.0, 0.0, 0.003]))  # the body arrives
            if fate == "withdraws":
                asyncio.get_running_loop().call_later(rng.choice([0.0, 0.002, 0.02]), admission.withdraw)
            if fate == "explains":
                explanation = await house.service.explain(
                    films()[film], house.asker(rng, film), ExplainOptions(output="json"), admission
                )
                is_its_own(house, explanation.answer.judgement, film, explained=True)
            else:
                wanted = [(film + 5 * i) % FILMS for i in range(n)]
                askers = [house.asker(rng, each) for each in wanted]
                answers = await asyncio.gather(
                    *(
                        house.service.predict(films()[each], asker, PredictOptions(), admission)
                        for each, asker in zip(wanted, askers, strict=True)
                    )
                )
                for each, asker, answer in zip(wanted, askers, answers, strict=True):
                    assert answer.request_id == asker.request_id
                    is_its_own(house, answer.judgement, each, explained=False)
            ends[fate] += 1
    except UnavailableError as error:
        ends["refused" if error.code == "overloaded" else error.code] += 1
    except WithdrawnError:
        assert fate == "withdraws"
        ends["withdrawn"] += 1


async def storm(house: House, seed: int, requests: int) -> Counter[str]:
    rng = random.Random(seed)
    ends: Counter[str] = Counter()
    tasks = []
    for _ in range(requests):
        tasks.append(asyncio.create_task(one(house, random.Random(rng.random()), rng.randrange(FILMS), ends)))
        if rng.random() < 0.1:
            rng.choice(tasks).cancel()
        await asyncio.sleep(rng.choice([0.0, 0.002, 0.01]))
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome
    async with asyncio.timeout(30):
        while house.scheduler.admitted:  # noqa: ASYNC110 (worker threads set what is waited for)
            await asyncio.sleep(0.005)
    assert (house.scheduler.queued, house.scheduler.running) == (0, 0)
    assert set(ends) <= {"stays", "explains", "withdraws", "withdrawn", "hurries", "batch", "refused"}, ends
    return ends


async def furnished(house: House) -> None:
    """What each film is answered when it is alone."""
    rng = random.Random(0)
    for film, data in enumerate(films()):
        with house.service.admit() as admission:
            answer = await house.service.predict(data, house.asker(rng, film), PredictOptions(), admission)
            explanation = await house.service.explain(
                data, house.asker(rng, film), ExplainOptions(output="json"), admission
            )
        house.alone.append(answer.judgement)
        house.explained.append(explanation.answer.judgement)
    assert len({tuple(margins(j)) for j in house.alone}) == FILMS


def rows_are_their_own(house: House) -> int:
    """Every row of the audit trail names the film that its request sent. Returns how many there are."""
    with sa.create_engine(house.settings.database, poolclass=sa.NullPool).connect() as connection:
        rows = connection.execute(sa.text("SELECT request_id, image_sha256, margins FROM predictions")).all()
    for request_id, sha256, _ in rows:
        assert sha256 == house.alone[house.asked[request_id]].radiograph.sha256
    assert len({row.request_id for row in rows}) == len(rows)
    return len(rows)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, loop: asyncio.AbstractEventLoop) -> Iterator[House]:
    made = Settings(
        state_dir=tmp_path_factory.mktemp("state"),
        bundles_dir=Path(PROJECT_ROOT) / "model_bundles",
        bundle="phantom-demo/1.0.0",
        engine="onnxruntime-fp32",
        workers=3,
        queue_max=9,
        stat_places=2,
    )
    app = create_app(made)
    living = app.router.lifespan_context(app)
    loop.run_until_complete(living.__aenter__())
    service = app.state.service
    found = House(made, service, service._scheduler)
    try:
        loop.run_until_complete(furnished(found))
        yield found
    finally:
        loop.run_until_complete(living.__aexit__(None, None, None))


@pytest.fixture(params=["alone", "batched"])
def engine(request: pytest.FixtureRequest, house: House, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engine as it is; or one that runs films of several callers together, within float32's rounding of the same."""
    live = house.service.live
    if request.param == "alone":
        house.tolerance = 0.0
        return live.engine
    batching = BatchingEngine(live.engine, BATCH)
    current = SimpleNamespace(current=replace(live, engine=batching, batch=BATCH))
    monkeypatch.setattr(house.service, "_bundles", current)
    house.tolerance = 1e-4
    return batching


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_every_answer_belongs_to_its_film(
    house: House, engine: Engine, loop: asyncio.AbstractEventLoop, seed: int
) -> None:
    loop.run_until_complete(storm(house, seed, requests=40))
    rows_are_their_own(house)


def test_a_long_storm_sees_every_kind_of_end(house: House, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
    before = rows_are_their_own(house)
    ends = loop.run_until_complete(storm(house, 11, requests=160))
    assert set(ends) >= {"stays", "explains", "batch", "refused", "withdrawn"}, ends
    assert rows_are_their_own(house) - before >= ends["stays"]
    assert house.scheduler.admitted == 0
    house.scheduler.admit(house.scheduler.places, lane="stat").release()


def _swap_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then a job runs the call of the one before it."""
    really_next, calls = Scheduler._next, []

    def swapping(self: Scheduler, *, aside: bool) -> Job[Any] | None:
        found = really_next(self, aside=aside)
        if found is not None:
            calls.append(found.call)
            if len(calls) % 9 == 0:
                found.call = calls[-2]
        return found

    monkeypatch.setattr(Scheduler, "_next", swapping)


def _swap_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that answers now and then with the film before it."""
    seen: list[NetworkOutput] = []

    def swapping(really_run: Any) -> Any:
        def run(self: Any, tensor: NDArray[np.float32]) -> NetworkOutput:
            seen.append(really_run(self, tensor))
            return seen[-2] if len(seen) % 7 == 0 else seen[-1]

        return run

    monkeypatch.setattr(OnnxRuntimeEngine, "run", swapping(OnnxRuntimeEngine.run))


@pytest.mark.parametrize("fault", [_swap_jobs, _swap_tensors])
def test_planted_faults_are_found(
    house: House, loop: asyncio.AbstractEventLoop, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.tolerance = 0.0
    fault(monkeypatch)
    with pytest.raises((AssertionError, RefusedError)):  # another film's picture may not be let through the gate
        loop.run_until_complete(storm(house, 3, requests=80))


def test_a_batch_that_mixes_its_answers_up_is_found(
    house: House, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = house.service.live

    class Mixing(BatchingEngine):
        """Every film gets the answer of the one before it, of its own batch or of the last."""

        before: Any = None

        def _serve(self, batch: list[Any]) -> None:
            super()._serve(batch)
            outputs = [film.output for film in batch]
            for film, output in zip(batch, [self.before or outputs[0], *outputs[:-1]], strict=True):
                film.output = output
            self.before = outputs[-1]

    current = SimpleNamespace(current=replace(live, engine=Mixing(live.engine, BATCH), batch=BATCH))
    monkeypatch.setattr(house.service, "_bundles", current)
    house.tolerance = 1e-4
    with pytest.raises(AssertionError):
        loop.run_until_complete(storm(house, 3, requests=80))
