"""The same run on a Ray cluster, through Ray Data: every actor judges with one core what this process lists and writes down.

The bundle travels with the job and is verified on arrival; code and extras must be installed on every node, in the same version, and
films must be had from every node: the same mount, or an archive (with its password file at the same path).
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from typing import Any, Final

import pyarrow as pa

from app.bulk.films import Film, FilmName
from app.bulk.kit import Kit, Workplace, packed, unpacked
from app.bulk.plan import SCHEMA
from app.bulk.rows import Row, schema
from app.errors import BulkError, CxrError
from app.live import LiveBundle

BLOCK_FILMS: Final = 64  # films of one task: what is judged again when an actor dies
ROUND_BLOCKS: Final = 2_000  # blocks of one Ray data set: bounds what lies in this process and in the object store
LOCAL: Final = "local"
_STOPPED: Final = "stopped"  # status of the one row that tells why an actor cannot go on


@dataclass(frozen=True)
class _Order:
    """What an actor gets. rate: films per second of this actor alone."""

    kit: Kit
    bundle: Mapping[str, bytes]
    rate: float | None
    version: str


class Actor:
    """Judges blocks of the plan on one core."""

    def __init__(self, order: _Order) -> None:
        self._order = order
        self._workplace: Workplace | None = None

    def __call__(self, block: pa.Table) -> pa.Table:
        """Rows of the results for rows of the plan; where it cannot go on, one row that says why."""
        try:
            self._workplace = self._workplace or self._settle()
            rows = list(self._workplace.rows(films_of(block)))
        except CxrError as error:
            rows = [{"film": -1, "status": _STOPPED, "code": error.code, "message": error.detail}]
        return pa.Table.from_pylist([dict(row) for row in rows], schema(self._order.kit.by.classes))

    def _settle(self) -> Workplace:
        """Here and not in the constructor, whose errors Ray would answer by trying again."""
        order = self._order
        if version("cxr-triage") != order.version:
            raise BulkError("other_version", f"a node has cxr-triage {version('cxr-triage')}, not {order.version}")
        live = unpacked(order.bundle, order.kit.by)
        return Workplace(order.kit, live, workers=1, rate=order.rate, stop=threading.Event())


def judge_on_ray(
    kit: Kit, live: LiveBundle, films: Iterator[Film], *, address: str, workers: int | None, rate: float | None
) -> Iterator[Row]:
    """Rows in the order of the films.

    Args:
        address: of a cluster (`auto`, `host:6379`), or `local` for one that is started here and ended afterwards.
        workers: actors, one core each; None is one for every core of the cluster.

    Raises:
        BulkError: missing_extra; ray_unreachable; ray_failed; and what an actor could not go on for.
    """
    with _cluster(address, workers) as ray:
        actors = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        order = _Order(kit, packed(live), rate and rate / actors, version("cxr-triage"))
        waiting = blocks(films)
        try:
            while some := list(islice(waiting, ROUND_BLOCKS)):
                yield from _round(ray, order, some, actors)
        except ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[-1][:300]
            raise BulkError(
                "ray_failed", f"{type(error).__name__}: {last}; run the same command again to go on"
            ) from error


def _round(ray: Any, order: _Order, some: list[pa.Table], actors: int) -> Iterator[Row]:
    data = ray.data.from_arrow(some).map_batches(
        Actor,
        fn_constructor_args=(order,),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(some))),
        num_cpus=1,
    )
    for table in data.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in table.to_pylist():
            if row["status"] == _STOPPED:
                raise BulkError(row["code"], row["message"])
            yield row


def blocks(films: Iterator[Film]) -> Iterator[pa.Table]:
    """Films as tables of the plan's columns, `BLOCK_FILMS` each."""
    while some := list(islice(films, BLOCK_FILMS)):
        rows = [
            {
                "film": film.place,
                "path": film.name.path,
                "study_uid": film.name.study_uid,
                "series_uid": film.name.series_uid,
                "sop_instance_uid": film.name.instance_uid,
            }
            for film in some
        ]
        yield pa.Table.from_pylist(rows, SCHEMA)


def films_of(block: pa.Table) -> Iterator[Film]:
    """The films of such a table."""
    for row in block.to_pylist():
        name = FilmName(row["path"], row["study_uid"], row["series_uid"], row["sop_instance_uid"])
        yield Film(row["film"], name)


@contextmanager
def _cluster(address: str, workers: int | None) -> Iterator[Any]:
    """Ray, connected, quiet, and sending nothing to its makers."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters comes as an error
    try:
        import ray  # noqa: PLC0415 - the extra
        import ray.data  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise BulkError("missing_extra", f"install cxr-triage[ray]; {error.name} is missing") from None
    handlers = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }  # Ray puts its own in place
    own: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise BulkError(
            "ray_unreachable", f"no Ray cluster at {address!r}: {str(error).splitlines()[0][:300]}"
        ) from None
    for number, handler in handlers.items():
        signal.signal(number, handler)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context.execution_options.preserve_order = True
        yield ray
    finally:
        ray.shutdown()
