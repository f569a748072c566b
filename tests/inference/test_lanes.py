"""Turns, the choice of a worker and the partition of the places, by themselves: against models that say the same in other words."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import LANES, Lane
from app.inference.lanes import SHARE, FairQueue, Lanes, Partition, Places

_numbers = count()


@dataclass(frozen=True)
class Entry:
    owner: str
    lane: Lane = "routine"
    queued_at: float = field(default_factory=lambda: float(next(_numbers)))


OWNERS = st.sampled_from(["a", "b", "c", "d"])


@dataclass
class Turns:
    """The model: whoever waits and was served (or joined) longest ago is next."""

    jobs: dict[str, list[Entry]] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    clock: int = 0

    def push(self, entry: Entry) -> None:
        if not self.jobs.get(entry.owner):
            self._turn_ends(entry.owner)
        self.jobs.setdefault(entry.owner, []).append(entry)

    def pop(self) -> Entry:
        owner = min((o for o, jobs in self.jobs.items() if jobs), key=self.since.__getitem__)
        self._turn_ends(owner)
        return self.jobs[owner].pop(0)

    def remove(self, entry: Entry) -> None:
        self.jobs[entry.owner].remove(entry)

    def waiting(self) -> list[Entry]:
        return [entry for jobs in self.jobs.values() for entry in jobs]

    def _turn_ends(self, owner: str) -> None:
        self.clock += 1
        self.since[owner] = self.clock


@given(st.lists(st.one_of(OWNERS, st.just("pop"), st.integers(0, 20)), max_size=60))
def test_owners_take_turns(steps: list[str | int]) -> None:
    """An owner's name: it sends a job; `pop`: a worker takes one; a number: that one of those that wait is withdrawn."""
    queue: FairQueue[Entry] = FairQueue()
    model = Turns()
    for step in steps:
        waiting = model.waiting()
        if step == "pop":
            if waiting:
                assert queue.pop() is model.pop()
            else:
                with pytest.raises(KeyError):
                    queue.pop()
        elif isinstance(step, int):
            if waiting:
                entry = waiting[step % len(waiting)]
                queue.remove(entry)
                model.remove(entry)
        else:
            entry = Entry(step)
            queue.push(entry)
            model.push(entry)
        assert (len(queue), set(queue)) == (len(model.waiting()), set(model.waiting()))
        oldest = min(model.waiting(), key=lambda e: e.queued_at, default=None)
        assert queue.oldest() is oldest


@given(st.lists(OWNERS, max_size=30), st.integers(0, 10), OWNERS)
def test_how_many_are_ahead(sent: list[str], taken: int, newcomer: str) -> None:
    queue: FairQueue[Entry] = FairQueue()
    for owner in sent:
        queue.push(Entry(owner))
    for _ in range(min(taken, len(queue))):
        queue.pop()
    told = queue.ahead(newcomer)
    mine = Entry(newcomer)
    queue.push(mine)
    order = [queue.pop() for _ in range(len(queue))]
    assert order.index(mine) == told


def test_one_key_s_flood_costs_another_key_one_job_a_turn() -> None:
    queue: FairQueue[Entry] = FairQueue()
    for _ in range(1_000):
        queue.push(Entry("flood"))
    for _ in range(3):
        queue.push(Entry("ward"))
    assert [queue.pop().owner for _ in range(7)] == ["flood", "ward", "flood", "ward", "flood", "ward", "flood"]


def lanes_of(workers: int, waiting: dict[Lane, int]) -> Lanes[Entry]:
    lanes: Lanes[Entry] = Lanes(workers)
    for lane, n in waiting.items():
        for _ in range(n):
            lanes[lane].push(Entry("a", lane))
    return lanes


@given(
    workers=st.integers(1, 6),
    stat=st.integers(0, 4),
    routine=st.integers(0, 4),
    bulk=st.integers(0, 8),
    expected=st.booleans(),
)
def test_what_idle_workers_begin(workers: int, stat: int, routine: int, bulk: int, expected: bool) -> None:
    lanes = lanes_of(workers, {"stat": stat, "routine": routine, "bulk": bulk})
    begun: list[Lane] = []
    while len(begun) < workers and (entry := lanes.take(expected=expected)) is not None:
        begun.append(entry.lane)
    assert begun == sorted(begun, key=LANES.index)
    assert begun.count("stat") == min(stat, workers)
    assert begun.count("routine") == min(routine, workers - begun.count("stat"))
    spare = workers - begun.count("stat") - begun.count("routine")
    most_bulk = min(spare, max(1, workers - 1)) if expected else spare
    assert begun.count("bulk") == min(bulk, most_bulk)
    assert {lane: n for lane, n in lanes.running.items() if n} == {lane: begun.count(lane) for lane in set(begun)}


@given(
    shared=st.integers(1, 20),
    bulk=st.integers(1, 20),
    stat=st.integers(0, 6),
    steps=st.lists(
        st.tuples(st.sampled_from(LANES), st.sampled_from(["", "a", "b"]), st.integers(1, 4), st.booleans()),
        max_size=60,
    ),
)
def test_the_partition_holds_whatever_comes(
    shared: int, bulk: int, stat: int, steps: list[tuple[Lane, str, int, bool]]
) -> None:
    """The last member of a step: give back what was taken first, before."""
    partition = Partition(shared, min(bulk, shared), stat)
    places = Places(partition)
    taken: list[tuple[int, Lane, str]] = []
    for lane, owner, n, gives in steps:
        if gives and taken:
            places.give_back(*taken.pop(0))
        held = {each: sum(t[0] for t in taken if t[1] == each) for each in LANES}
        mine = sum(t[0] for t in taken if t[1:] == (lane, owner))
        assert places.held == held
        refusal = places.refusal(n, lane, owner)
        fits = (
            sum(held.values()) + n <= partition.all
            and (lane == "stat" or held["routine"] + held["bulk"] + n <= partition.shared)
            and (lane != "bulk" or held["bulk"] + n <= partition.bulk)
        )
        assert (refusal != "full") == fits
        assert refusal is None or refusal == "full" or (owner and mine), "a share binds only who holds something"
        if refusal is None:
            places.take(n, lane, owner)
            taken.append((n, lane, owner))
    if sum(n for n, lane, _ in taken if lane == "stat") == 0 and stat:
        assert places.refusal(1, "stat", "late") is None, "routine and bulk took the last places from stat"
    for each in taken:
        places.give_back(*each)
    assert (places.taken, places._shares) == (0, {})


@pytest.mark.parametrize(("shared", "most"), [(1, 1), (2, 2), (3, 3), (4, 3), (8, 6), (34, 26)])
def test_one_owner_s_share(shared: int, most: int) -> None:
    """Three quarters (plus the rounding) for one alone; whoever comes next finds a place."""
    places = Places(Partition(shared, 1, 0))
    got = 0
    while places.refusal(1, "routine", "greedy") is None:
        places.take(1, "routine", "greedy")
        got += 1
    assert got == most
    assert places.refusal(1, "routine", "greedy") == ("full" if most == shared else "share")
    assert (places.refusal(1, "routine", "modest") is None) == (most < shared)
    assert places.refusal(1, "routine", "") == ("full" if most == shared else None)
    assert got <= SHARE * (shared - got + 1)


def test_an_owner_with_nothing_gets_a_whole_batch() -> None:
    places = Places(Partition(4, 1, 0))
    assert places.refusal(4, "routine", "a") is None
