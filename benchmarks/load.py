"""A closed-loop load: n connections, each sends its next request when the last answer is in. Times are the client's."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.server import Server, ask


@dataclass(frozen=True)
class Load:
    """What was seen. latencies_s: of the answers with status 200, in no order; statuses: how many of each."""

    seconds: float
    latencies_s: tuple[float, ...]
    statuses: dict[int, int]
    server_cpu_s: float

    @property
    def per_second(self) -> float:
        return len(self.latencies_s) / self.seconds

    def percentile_ms(self, q: float) -> float:
        return float(np.percentile(self.latencies_s, q)) * 1e3


def closed_loop(
    server: Server,
    path: str,
    films: Sequence[bytes],
    *,
    key: str,
    connections: int,
    requests: int,
    content_type: str = "image/jpeg",
    accept: str = "application/json",
) -> Load:
    """Send `requests` films in all, taken in turn, over `connections` kept-alive connections."""
    lock = threading.Lock()
    latencies: list[float] = []
    statuses: dict[int, int] = {}
    turn = iter(range(requests))

    def client() -> None:
        connection = server.connection()
        while True:
            with lock:
                i = next(turn, None)
            if i is None:
                connection.close()
                return
            start = time.perf_counter()
            reply = ask(
                connection, "POST", path, key=key, body=films[i % len(films)], Content_Type=content_type, Accept=accept
            )
            took = time.perf_counter() - start
            with lock:
                statuses[reply.status] = statuses.get(reply.status, 0) + 1
                if reply.status == 200:
                    latencies.append(took)

    cpu, start = server.cpu_s(), time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Load(time.perf_counter() - start, tuple(latencies), statuses, server.cpu_s() - cpu)
