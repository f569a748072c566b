"""Under any mix of success, failure, cancellation and timeout: every answer belongs to its request, and no place is ever lost.

The last test plants the two faults that this must find, and sees them found.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.bundle.store import BundleStore
from app.domain import Radiograph
from app.errors import UnavailableError
from app.inference.engine import OnnxRuntimeEngine
from app.inference.jobs import Admission, Job, State
from app.inference.scheduler import Scheduler
from app.preprocessing import prepare
from tests.support.tiny_bundle import make_tiny_bundle, small_phantom


class Boom(Exception):  # noqa: N818 (a word for one kind of end)
    pass


def job(token: int, duration_s: float, *, fails: bool) -> int:
    if duration_s:
        time.sleep(duration_s)
    if fails:
        raise Boom(token)
    return token


async def client(s: Scheduler, rng: random.Random, tokens: list[int], ends: dict[str, int]) -> None:
    """One request with one film or several; checks that what comes back is its own."""
    fate = rng.choice(["plain", "plain", "fails", "leaves", "raises"])
    patience_s = rng.choice([0.0005, 0.003]) if fate == "leaves" else None
    try:
        with s.admit(len(tokens)) as admission:
            await asyncio.sleep(rng.choice([0.0, 0.0, 0.002]))  # the body arrives
            calls = [
                s.run(lambda t=t: job(t, rng.choice([0.0, 0.001, 0.004]), fails=fate == "fails"), admission)  # type: ignore[misc]  # mypy does not infer t
                for t in (tokens if fate != "raises" else [])
            ]
            async with asyncio.timeout(patience_s):
                results = await asyncio.gather(*calls, return_exceptions=True)
            for token, result in zip(tokens, results, strict=True):  # ValueError for the fate "raises"
                if isinstance(result, UnavailableError):
                    count(ends, "late")
                elif isinstance(result, Boom):
                    assert result.args == (token,), "another request's error"
                else:
                    assert result == token, "another request's answer"
            count(ends, fate)
    except UnavailableError:
        count(ends, "refused")
    except TimeoutError:
        count(ends, "left")
    except ValueError:
        count(ends, "raised")


def count(ends: dict[str, int], end: str) -> None:
    ends[end] = ends.get(end, 0) + 1


async def all_free(s: Scheduler, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while s.admitted and time.monotonic() < deadline:  # noqa: ASYNC110 (worker threads, not this loop, set what is waited for)
        await asyncio.sleep(0.002)
    return (s.admitted, s.queued, s.running) == (0, 0, 0)


async def storm(seed: int, *, requests: int, workers: int, queue_max: int, queue_timeout_s: float) -> dict[str, int]:
    rng = random.Random(seed)
    s = Scheduler(workers=workers, queue_max=queue_max, queue_timeout_s=queue_timeout_s)
    ends: dict[str, int] = {}
    try:
        tasks, token = [], 0
        for _ in range(requests):
            n = rng.choice([1, 1, 1, 2, 3])
            tokens = list(range(token, token + n))
            token += n
            tasks.append(asyncio.create_task(client(s, random.Random(rng.random()), tokens, ends)))
            if rng.random() < 0.1:
                rng.choice(tasks).cancel()
            await asyncio.sleep(rng.choice([0.0, 0.0, 0.001]))
            assert 0 <= s.admitted <= s.places
            assert s.queued + s.running <= s.admitted
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if outcome is not None and not isinstance(outcome, asyncio.CancelledError):
                raise outcome
        assert await all_free(s, within_s=3), "places were lost"
        with s.admit(s.places):  # every one of them can be had again
            pass
    finally:
        s.close()
    return ends


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    workers=st.integers(1, 4),
    queue_max=st.integers(0, 12),
    queue_timeout_s=st.sampled_from([0.002, 0.02, 5.0]),
)
def test_every_answer_belongs_to_its_request(seed: int, workers: int, queue_max: int, queue_timeout_s: float) -> None:
    asyncio.run(storm(seed, requests=60, workers=workers, queue_max=queue_max, queue_timeout_s=queue_timeout_s))


def test_a_long_storm_sees_every_kind_of_end() -> None:
    ends = asyncio.run(storm(7, requests=1_500, workers=3, queue_max=8, queue_timeout_s=0.005))
    assert set(ends) >= {"plain", "fails", "left", "raised", "refused", "late"}, ends


def test_sixteen_callers_get_the_logits_of_their_own_film(tmp_path: Path) -> None:
    bundle = BundleStore(tmp_path).verify(make_tiny_bundle(tmp_path))
    engine = OnnxRuntimeEngine(bundle.network)
    films = [Radiograph(small_phantom(seed), "0" * 64, "png") for seed in range(16)]

    def judge(film: Radiograph) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        return engine.run(prepare(film, bundle.manifest.input).tensor).logits

    alone = [judge(film) for film in films]
    assert len({values.tobytes() for values in alone}) == 16

    async def main() -> None:
        s = Scheduler(workers=2, queue_max=32, queue_timeout_s=60)

        async def caller(start: int) -> None:
            for i in range(10):
                which = (start + 3 * i) % 16
                with s.admit() as admission:
                    answer = await s.run(lambda which=which: judge(films[which]), admission)  # type: ignore[misc]  # mypy does not infer which
                np.testing.assert_array_equal(answer, alone[which])

        try:
            await asyncio.gather(*(caller(i) for i in range(16)))
            assert s.admitted == 0
        finally:
            s.close()

    asyncio.run(main())


def _swap_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then a job gets the call of the one before it."""
    really_next = Scheduler._next
    calls: list[object] = []

    def swapping(self: Scheduler, *, aside: bool) -> Job[object] | None:
        found = really_next(self, aside=aside)
        if found is not None:
            calls.append(found.call)
            if len(calls) % 20 == 0:
                found.call = calls[-2]  # type: ignore[assignment]
        return found

    monkeypatch.setattr(Scheduler, "_next", swapping)


def _leak_on_withdrawal(monkeypatch: pytest.MonkeyPatch) -> None:
    def leaking(self: Scheduler, job: Job[object]) -> bool:
        if job.state is not State.QUEUED:
            return False
        self._lanes[job.lane].remove(job)
        job.state = State.OVER
        return True

    monkeypatch.setattr(Scheduler, "_withdraw", leaking)


def _release_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def releasing(self: Admission) -> None:
        with self._scheduler._lock:
            self.released = True
            self._scheduler._free(self, self.n - self.jobs)

    monkeypatch.setattr(Admission, "release", releasing)

    def leaving(self: Admission, *_: object) -> None:
        releasing(self)
        releasing(self)

    monkeypatch.setattr(Admission, "__exit__", leaving)


@pytest.mark.parametrize("fault", [_swap_answers, _leak_on_withdrawal, _release_twice])
def test_planted_faults_are_found(fault: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(fault)
    fault(monkeypatch)

    async def short() -> None:
        async with asyncio.timeout(60):
            await storm(3, requests=300, workers=3, queue_max=8, queue_timeout_s=0.01)

    with pytest.raises(AssertionError):
        asyncio.run(short())
