"""`python -m benchmarks.flood PORT KEY SECONDS < film`: 48 clients that keep the queue full; prints how many answers of each status."""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections import Counter

from benchmarks.server import ask

CLIENTS = 48
PAUSE_S = 0.05


def flood(port: int, key: str, seconds: float, film: bytes) -> Counter[int]:
    """Send the film from every client until the time is over."""
    seen: Counter[int] = Counter()
    until = time.perf_counter() + seconds

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.perf_counter() < until:
            status = ask(connection, "POST", "/predict", key=key, body=film, Content_Type="image/jpeg").status
            seen[status] += 1
            if status == 503:
                time.sleep(PAUSE_S)
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


if __name__ == "__main__":
    print(json.dumps(flood(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.stdin.buffer.read())))
