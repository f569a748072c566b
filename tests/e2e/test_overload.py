"""A full queue is 503 with Retry-After, health is untouched by it, and every answer belongs to its request."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from app.imaging.phantom import encode_jpeg, encode_png, phantom
from benchmarks.server import Server, ask, serving


def test_a_full_queue_refuses_at_once_and_health_answers(bundles_dir: Path) -> None:
    film = encode_png(phantom(5, height=3000, width=3000))  # slow to decode: the workers stay busy
    with serving(bundles_dir=bundles_dir, workers=1, queue_max=2, rate_limit_per_minute=1_000_000) as server:
        key = server.key("service")
        replies: list[tuple[int, float, dict[str, str]]] = []
        stop = threading.Event()

        broken: list[str] = []

        def push() -> None:
            connection = server.connection()
            while not stop.is_set():
                start = time.perf_counter()
                try:
                    reply = ask(connection, "POST", "/predict", key=key, body=film, Content_Type="image/png")
                except OSError as error:
                    broken.append(repr(error))
                    connection.close()
                    continue
                replies.append((reply.status, time.perf_counter() - start, dict(reply.headers)))
                if reply.headers.get("connection") == "close":
                    connection.close()
            connection.close()

        threads = [threading.Thread(target=push) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        times = []
        for _ in range(40):
            start = time.perf_counter()
            assert server.request("GET", "/health").status == 200
            times.append(time.perf_counter() - start)
            time.sleep(0.02)
        stop.set()
        for thread in threads:
            thread.join()
        log = server.log()
    # a refusal must be readable by a client that is still sending; one connection in 20,000 was seen to break all the same
    assert len(broken) <= 0.01 * len(replies), f"{broken[:5]}\n{log[-3000:]}"
    refused = [r for r in replies if r[0] == 503]
    print(f"{len(replies)} requests, {len(refused)} refused; /health worst of 40: {max(times) * 1e3:.1f} ms")
    assert {r[0] for r in replies} == {200, 503}
    assert all(int(r[2]["retry-after"]) >= 1 for r in refused)
    assert sorted(times)[len(times) // 2] < 0.1  # the worst one on a quiet machine is what `make bench` prints


def test_every_answer_belongs_to_its_request(server: Server, key: str) -> None:
    films = [encode_jpeg(phantom(seed, opacity=seed % 2 == 0)) for seed in range(24)]
    alone = [
        server.request("POST", "/predict", key=key, body=film, Content_Type="image/jpeg").json()["classes"]
        for film in films
    ]
    assert len({str(classes) for classes in alone}) == len(films)
    wrong: list[int] = []
    done: list[int] = []

    def client(offset: int) -> None:
        connection = server.connection()
        for step in range(24):
            i = (offset * 5 + step) % len(films)
            reply = ask(connection, "POST", "/predict", key=key, body=films[i], Content_Type="image/jpeg")
            if reply.status == 200:
                done.append(i)
                if reply.json()["classes"] != alone[i]:
                    wrong.append(i)
        connection.close()

    threads = [threading.Thread(target=client, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) > 200
    assert wrong == []
