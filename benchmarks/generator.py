"""`python -m benchmarks.generator FOLDER`: sends the load described in FOLDER/plan.json and writes what it saw there.

A process of its own, so that its work neither waits for ours nor hides in the server's figures; its CPU seconds are part of the result.
Closed loop: n connections, each sends its next request when its answer is in, until the time is over; one that is told to come back
later (`Retry-After`) comes back then, as RFC 9110 section 10.2.3 asks of clients. Open loop: each request leaves
at its scheduled instant, on an idle connection or a new one; with `connections_max` in use it waits, is sent late, and that shows.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from benchmarks.http_client import Answer, Connection, Request, connect
from benchmarks.outcome import NO_ANSWER

KEEP_BYTES_MAX = 256 * 2**20


@dataclass
class Log:
    """What was seen: one entry per request, in the order of their ends. kept: bodies of answers with status 200, by entry."""

    rows: list[tuple[float, float, float, int, int]] = field(default_factory=list)
    kept: dict[int, bytes] = field(default_factory=dict)
    room: int = KEEP_BYTES_MAX
    cpu_before_s: float = 0.0  # what starting the process took

    def add(self, scheduled: float, sent: float, done: float, answer: Answer | None, template: int) -> None:
        if answer is not None and answer.status == 200 and len(answer.body) <= self.room:
            self.kept[len(self.rows)] = answer.body
            self.room -= len(answer.body)
        self.rows.append((scheduled, sent, done, NO_ANSWER if answer is None else answer.status, template))

    def write(self, folder: Path) -> None:
        table = np.array(self.rows, np.float64).reshape(-1, 5)
        entries = sorted(self.kept)
        with (folder / "bodies.bin").open("wb") as file:
            file.writelines(self.kept[i] for i in entries)
        np.savez(
            folder / "result.npz",
            table=table,
            entries=np.array(entries, np.int64),
            lengths=np.array([len(self.kept[i]) for i in entries], np.int64),
            cpu_s=np.array(_cpu_s() - self.cpu_before_s),
        )


class Load:
    """One plan being carried out."""

    def __init__(self, plan: dict[str, Any], folder: Path) -> None:
        self.plan, self.log = plan, Log(room=KEEP_BYTES_MAX if plan["keep"] else 0)
        self.requests = [
            Request(form["head"].encode("latin-1"), (folder / form["body"]).read_bytes()) for form in plan["forms"]
        ]
        self.timeout_s: float = plan["timeout_s"]
        self.idle: list[Connection] = []
        self.begin = 0.0

    def now(self) -> float:
        return time.perf_counter() - self.begin

    async def ask(self, scheduled: float | None, form: int) -> Answer | None:
        """One request from connection to log; a broken connection is an answer that never came."""
        sent = self.now()
        answer: Answer | None = None
        try:
            connection = await self.connection()
            sent = self.now()
            answer = await connection.ask(self.requests[form], self.timeout_s)
            if connection.open:
                self.idle.append(connection)
        except OSError:  # TimeoutError and ConnectionError are such
            pass
        self.log.add(sent if scheduled is None else scheduled, sent, self.now(), answer, form)
        return answer

    async def connection(self) -> Connection:
        while self.idle:
            connection = self.idle.pop()
            if connection.open:
                return connection
        return await asyncio.wait_for(connect(self.plan["port"]), self.timeout_s)

    async def closed(self) -> None:
        turn = 0
        left = self.plan["requests"] or sys.maxsize

        async def client() -> None:
            nonlocal turn, left
            while left > 0 and self.now() < self.plan["seconds"]:
                left -= 1
                form, turn = turn % len(self.requests), turn + 1
                answer = await self.ask(None, form)
                if answer is None:
                    await asyncio.sleep(0.01)  # a server that is gone must not become a busy loop
                elif answer.retry_after_s:
                    await asyncio.sleep(min(answer.retry_after_s, max(0.0, self.plan["seconds"] - self.now())))

        await asyncio.gather(*(client() for _ in range(self.plan["connections"])))

    async def open(self, at: list[float], forms: list[int]) -> None:
        places = asyncio.Semaphore(self.plan["connections"])
        running: set[asyncio.Task[None]] = set()

        async def one(scheduled: float, form: int) -> None:
            try:
                await self.ask(scheduled, form)
            finally:
                places.release()

        for scheduled, form in zip(at, forms, strict=True):
            while (wait := scheduled - self.now()) > 0:  # noqa: ASYNC110 - a timer may be early by its resolution
                await asyncio.sleep(wait)
            await places.acquire()
            task = asyncio.create_task(one(scheduled, form))
            running.add(task)
            task.add_done_callback(running.discard)
        if running:
            await asyncio.wait(running)

    async def run(self, folder: Path) -> None:
        gc.disable()  # a pause here would look like one of the server
        self.begin, self.log.cpu_before_s = time.perf_counter(), _cpu_s()
        if self.plan["mode"] == "closed":
            await self.closed()
        else:
            schedule = np.load(folder / "schedule.npz")
            await self.open(schedule["at"].tolist(), schedule["form"].tolist())
        for connection in self.idle:
            connection.close()


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    folder = Path(sys.argv[1])
    load = Load(json.loads((folder / "plan.json").read_text()), folder)
    uvloop.run(load.run(folder))
    load.log.write(folder)


if __name__ == "__main__":
    main()
