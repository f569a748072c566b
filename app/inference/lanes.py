"""Who goes next, and who may still come in: the lanes, without threads, clocks or errors. `scheduler` guards all of it with its lock.

Order: `stat` first, then `routine`, then `bulk`; within a lane owners take turns, and an owner's own jobs go in the order in which they
came. So an owner waits at most for one job of each other owner of its lane between two of its own, however many these have sent.

Places: `shared` ones for routine and bulk together, of which bulk may hold `bulk` at most, and `stat` more that only stat takes, which
may hold any. So a stat film finds a place however many others wait.

Shares: an owner that holds places in a lane gets further ones up to SHARE times what would still be free (plus one), so that one owner
alone holds three quarters of a lane and something is left for whoever comes next (dynamic thresholds: Choudhury and Hahne, IEEE/ACM
Transactions on Networking 6(2), 1998). Small pools are not touched: up to three places one owner can have them all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, Protocol, TypeVar

from app.domain import LANES, Lane

SHARE: Final = 3
Reason = Literal["full", "share", "wait", "late"]
REASONS: Final[tuple[Reason, ...]] = ("full", "share", "wait", "late")


class Waiting(Protocol):
    """What stands in a queue. owner: whose turn it takes; queued_at: s on the monotonic clock."""

    @property
    def lane(self) -> Lane: ...

    @property
    def owner(self) -> str: ...

    @property
    def queued_at(self) -> float: ...


J = TypeVar("J", bound=Waiting)


class FairQueue(Generic[J]):
    """Owners take turns; each owner's jobs in their order. Every step costs the same, however many wait (but `ahead`: the owners)."""

    def __init__(self) -> None:
        self._turns: OrderedDict[str, dict[J, None]] = OrderedDict()  # the next one's turn first; no owner without jobs
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def __iter__(self) -> Iterator[J]:
        for jobs in self._turns.values():
            yield from jobs

    def push(self, job: J) -> None:
        self._turns.setdefault(job.owner, {})[job] = None
        self._waiting += 1

    def pop(self) -> J:
        """Raises: KeyError when nothing waits."""
        owner, jobs = next(iter(self._turns.items()), (None, None))
        if owner is None or jobs is None:
            raise KeyError("nothing waits")
        job = next(iter(jobs))
        self._turns.move_to_end(owner)
        self.remove(job)
        return job

    def remove(self, job: J) -> None:
        """Take out a job that waits. The turns of the others stay as they are. Raises: KeyError if it does not wait."""
        jobs = self._turns[job.owner]
        del jobs[job]
        self._waiting -= 1
        if not jobs:
            del self._turns[job.owner]

    def ahead(self, owner: str) -> int:
        """How many jobs would begin before the next one of this owner, if nothing else came."""
        mine = len(self._turns.get(owner, ()))
        before, turns = mine, mine + 1
        for other, jobs in self._turns.items():
            if other == owner:
                turns -= 1  # whoever stands behind this owner has one turn less until then
            else:
                before += min(len(jobs), turns)
        return before

    def oldest(self) -> J | None:
        """The job that has waited longest."""
        firsts = (next(iter(jobs)) for jobs in self._turns.values())
        return min(firsts, key=lambda job: job.queued_at, default=None)


class Lanes(Generic[J]):
    """The queues of all lanes, and which job a free worker takes.

    Args:
        workers: threads that take jobs.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._queues: dict[Lane, FairQueue[J]] = {lane: FairQueue() for lane in LANES}
        self.running: dict[Lane, int] = dict.fromkeys(LANES, 0)

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def __iter__(self) -> Iterator[J]:
        for queue in self._queues.values():
            yield from queue

    def __getitem__(self, lane: Lane) -> FairQueue[J]:
        return self._queues[lane]

    def take(self, *, expected: bool, lanes: Sequence[Lane] = LANES) -> J | None:
        """The job that a free worker shall begin, out of its queue and counted as running; None if there is none for it.

        Bulk gets the last worker only while nothing else waits or is expected: a film that comes then waits for one pass of bulk
        work, and never behind a second one. With a single worker there is no other way for bulk to go on at all.

        Args:
            expected: a request of another lane than bulk was admitted and its job is still to come.
            lanes: those that the worker takes from, the most urgent first.
        """
        for lane in lanes:
            queue = self._queues[lane]
            if queue and (lane != "bulk" or self._bulk_may_begin(expected=expected)):
                self.running[lane] += 1
                return queue.pop()
        return None

    def _bulk_may_begin(self, *, expected: bool) -> bool:
        return not expected or self.running["bulk"] < max(1, self._workers - 1)


@dataclass(frozen=True)
class Partition:
    """shared: places of routine and bulk together; bulk: most that bulk may hold of them; stat: places beside them, for stat alone."""

    shared: int
    bulk: int
    stat: int

    @property
    def all(self) -> int:
        return self.shared + self.stat

    def of(self, lane: Lane) -> int:
        """Most places that a lane can hold."""
        return {"stat": self.all, "routine": self.shared, "bulk": self.bulk}[lane]


class Places:
    """Which places are taken, by lane and by owner."""

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        self.held: dict[Lane, int] = dict.fromkeys(LANES, 0)
        self._shares: dict[tuple[Lane, str], int] = {}  # only what is not 0

    @property
    def taken(self) -> int:
        return sum(self.held.values())

    def free(self, lane: Lane) -> int:
        """Places that a lane could still take."""
        free = self._partition.all - self.taken
        if lane == "stat":
            return free
        free = min(free, self._partition.shared - self.held["routine"] - self.held["bulk"])
        return free if lane == "routine" else min(free, self._partition.bulk - self.held["bulk"])

    def refusal(self, n: int, lane: Lane, owner: str) -> Reason | None:
        """Why these places cannot be had now; None if they can. owner "": the process itself, which has no share to keep to."""
        free, mine = self.free(lane), self._shares.get((lane, owner), 0)
        if n > free:
            return "full"
        if owner and mine and mine + n > SHARE * (free - n + 1):
            return "share"
        return None

    def take(self, n: int, lane: Lane, owner: str) -> None:
        self._change(n, lane, owner)

    def give_back(self, n: int, lane: Lane, owner: str) -> None:
        self._change(-n, lane, owner)

    def _change(self, n: int, lane: Lane, owner: str) -> None:
        self.held[lane] += n
        share = self._shares.pop((lane, owner), 0) + n
        if share:
            self._shares[lane, owner] = share
