"""Malformed, hostile and mutated DICOM against the real process, and decoder processes that are killed while films are judged.

Nothing but an answer or a coded 4xx may come of any file, in bounded memory, and the trail must verify afterwards.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless, RLELossless

from app.errors import ERROR_TABLE
from app.gateway.multipart import parse_related
from app.results import ResultKind
from benchmarks.server import Reply, Server, ask, serving
from tests.support.dicom_attacks import hostile_dicom
from tests.support.dicom_films import as_bytes, dicom_film, file_dataset
from tests.support.dicom_mutants import mutant, sound_films
from tests.support.processes import MIB, children, wait_for_children, watched_memory

WORKERS = 2
MUTANTS = 10_000
CLIENTS = 4
BATCHES = 100
OBJECT_MUTANTS = 400
KINDS = get_args(ResultKind)
DICOM = "application/dicom"


@pytest.fixture
def judging(bundles_dir: Path) -> Iterator[tuple[Server, str]]:
    """A service of its own with all its decoder children started, and a key.

    Without places for stat films: a third decoder would be kept for these, and nobody would miss it when it is killed.
    """
    with serving(bundles_dir=bundles_dir, workers=WORKERS, stat_places=0, rate_limit_per_minute=1_000_000) as server:
        key = server.key("service")
        for film in sound_films().values():
            assert post(server, key, film).status == 200
        wait_for_children(server.process.pid, WORKERS)
        yield server, key


def post(server: Server, key: str, film: bytes) -> Reply:
    return server.request("POST", "/predict", key=key, body=film, Content_Type=DICOM)


def outcome(reply: Reply) -> tuple[int, str]:
    """Status and code; a problem must be one of the table, at its status."""
    if reply.status == 200:
        return 200, "answered"
    code = str(reply.json()["code"])
    assert ERROR_TABLE[code].status == reply.status
    return reply.status, code


def as_form(*files: bytes, part: str = "file") -> tuple[bytes, str]:
    """Body and content type of a form whose parts claim to be something else."""
    head = f'--b0undary\r\nContent-Disposition: form-data; name="{part}"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = b"".join(head.encode() + data + b"\r\n" for data in files) + b"--b0undary--\r\n"
    return body, "multipart/form-data; boundary=b0undary"


def test_every_hostile_dicom_is_refused_with_its_code_in_bounded_memory(judging: tuple[Server, str]) -> None:
    server, key = judging
    corpus = hostile_dicom()
    assert len(corpus) >= 200
    idle, before = server.rss_bytes(), children(server.process.pid)
    raw, formed = {}, {}
    with watched_memory(server.process.pid) as memory:
        for number, case in enumerate(corpus):
            raw[case.name] = outcome(post(server, key, case.data))
            if number % 4 == 0:
                body, content_type = as_form(case.data)
                formed[case.name] = outcome(
                    server.request("POST", "/predict", key=key, body=body, Content_Type=content_type)
                )
    time.sleep(1)
    peak, after = server.peak_rss_bytes(), server.rss_bytes()
    print(
        f"hostile DICOM: {len(corpus)} files raw, {len(formed)} in forms; service idle {idle / MIB:.0f}, peak {peak / MIB:.0f}, after "
        f"{after / MIB:.0f} MiB; largest decoder {memory.child / MIB:.0f} MiB, all processes at most {memory.together / MIB:.0f} MiB"
    )
    wanted = {case.name: (case.status, case.code) for case in corpus}
    assert raw == wanted
    assert formed == {name: wanted[name] for name in formed}
    assert server.process.poll() is None
    assert children(server.process.pid) == before
    assert peak <= idle + 300 * MIB  # the bomb of 1 GB inflates to the 64 MB it may have
    assert after <= idle + 64 * MIB
    assert memory.child <= 300 * MIB
    assert post(server, key, dicom_film(1)).status == 200
    assert server.cxr("audit", "verify").returncode == 0


class Mutants:
    """Mutants, each handed out once, to any number of clients; and what came of them."""

    def __init__(self, count: int, seed: int) -> None:
        self._numbers = iter(range(count))
        self._seed = seed
        self._guard = threading.Lock()
        self.seen: Counter[tuple[int, str]] = Counter()
        self.overloaded = 0
        self.broken: list[str] = []
        self.faults: list[str] = []

    def client(self, server: Server, key: str) -> None:
        connection = server.connection()
        while (number := self._next()) is not None:
            made = mutant(self._seed, number)
            reply = self._ask(connection, key, made.data, f"{number} {made.name}")
            if reply is None:
                continue
            with self._guard:
                self.seen[outcome(reply)] += 1
                if reply.status >= 500:
                    self.faults.append(f"{number} {made.name}: {outcome(reply)}")
        connection.close()

    def _next(self) -> int | None:
        with self._guard:
            return next(self._numbers, None)

    def _ask(self, connection: http.client.HTTPConnection, key: str, data: bytes, name: str) -> Reply | None:
        """The answer that is not 503 `overloaded`; None where none came."""
        while True:
            try:
                reply = ask(connection, "POST", "/predict", key=key, body=data, Content_Type=DICOM)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                with self._guard:
                    self.broken.append(f"{name}: {error!r}")
                return None
            if reply.headers.get("connection") == "close":
                connection.close()
            if outcome(reply) != (503, "overloaded"):
                return reply
            with self._guard:
                self.overloaded += 1
            time.sleep(0.2)


def test_ten_thousand_mutants_are_answered_or_coded(judging: tuple[Server, str]) -> None:
    server, key = judging
    idle, pid = server.rss_bytes(), server.process.pid
    work = Mutants(MUTANTS, seed=20_260)
    threads = [threading.Thread(target=work.client, args=(server, key)) for _ in range(CLIENTS)]
    began = time.perf_counter()
    with watched_memory(pid) as memory:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    seconds = time.perf_counter() - began
    peak = server.peak_rss_bytes()
    print(
        f"{MUTANTS} mutants in {seconds:.0f} s over {CLIENTS} connections, {work.overloaded} times overloaded; service idle "
        f"{idle / MIB:.0f}, peak {peak / MIB:.0f} MiB; largest decoder {memory.child / MIB:.0f} MiB, all processes at most "
        f"{memory.together / MIB:.0f} MiB; decoders restarted {restarts(server)} times"
    )
    for (status, code), count in sorted(work.seen.items(), key=lambda entry: -entry[1]):
        print(f"  {count:6d}  {status}  {code}")
    assert work.faults == []
    assert work.broken == []
    assert sum(work.seen.values()) == MUTANTS
    assert work.seen[200, "answered"] > MUTANTS // 10
    assert len(work.seen) >= 8
    assert (server.process.pid, server.process.poll()) == (pid, None)
    assert server.request("GET", "/health/ready").status == 200
    assert peak <= idle + 200 * MIB
    assert memory.child <= 300 * MIB
    check_log(server)
    for film in sound_films().values():
        assert post(server, key, film).status == 200
    verified = server.cxr("audit", "verify")
    assert verified.returncode == 0, verified.stdout


def restarts(server: Server) -> int:
    """Decoders that were started anew, as /metrics says."""
    page = server.request("GET", "/metrics", key=server.key("admin")).body.decode()
    (line,) = [line for line in page.splitlines() if line.startswith("cxr_dicom_decoder_restarts")]
    return int(float(line.split()[-1]))


def test_large_films_are_taken_and_larger_ones_are_not(judging: tuple[Server, str]) -> None:
    """More than a JPEG or PNG may have; a file that only says that it is DICOM may not."""
    server, key = judging
    large = dicom_film(3, size=(3_000, 2_900))
    assert 17_000_000 < len(large) < 18_000_000
    assert post(server, key, large).status == 200
    body, content_type = as_form(large)
    assert server.request("POST", "/predict", key=key, body=body, Content_Type=content_type).status == 200
    limit = 64_000_000  # the default
    too_large = large + bytes(limit + 1 - len(large))
    assert post(server, key, too_large[:limit]).status == 200  # zeros may follow a film
    refused = {
        "a byte too many": refusal(server, key, too_large),
        "no DICM": refusal(server, key, large[:128] + b"MCID" + large[132:]),
    }
    print(f"{len(large) / 1e6:.1f} MB taken; {refused}; service peak {server.peak_rss_bytes() / MIB:.0f} MiB")
    assert refused == {
        "a byte too many": (413, "payload_too_large"),
        "no DICM": (413, "payload_too_large"),
    }
    assert post(server, key, dicom_film(1)).status == 200


def refusal(server: Server, key: str, film: bytes) -> tuple[int, str]:
    """Of a film that need not be read to its end: the service answers and closes while the client still sends."""
    with contextlib.closing(server.connection()) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", "/predict", body=film, headers={"X-API-Key": key, "Content-Type": DICOM})
        assert connection.sock is not None
        response = http.client.HTTPResponse(connection.sock, method="POST")
        response.begin()
        return outcome(Reply(response.status, {}, response.read()))


def test_mutants_in_batches_spoil_nobody_else(judging: tuple[Server, str]) -> None:
    """A sound film between two damaged ones gets the answer it gets alone."""
    server, key = judging
    films = list(sound_films().values())
    alone = [post(server, key, film).json()["classes"] for film in films]
    seen: Counter[str] = Counter()
    for number in range(BATCHES):
        mine = number % len(films)
        files = (mutant(5, 2 * number).data, films[mine], mutant(5, 2 * number + 1).data)
        body, content_type = as_form(*files, part="files")
        reply = server.request("POST", "/batch_predict", key=key, body=body, Content_Type=content_type)
        assert reply.status == 200
        first, sound, last = reply.json()["results"]
        assert sound["result"]["classes"] == alone[mine]
        for damaged in (first, last):
            problem = damaged["problem"]
            seen[problem["code"] if problem else "answered"] += 1
            assert problem is None or 400 <= problem["status"] < 500
    print(f"{BATCHES} batches: {dict(seen)}")
    assert len(seen) >= 5


def test_mutants_as_objects_are_answered_or_coded(judging: tuple[Server, str]) -> None:
    """Whatever stands in a header that could be read also goes through every writer of result objects."""
    server, key = judging
    seen: Counter[tuple[int, str]] = Counter()
    for number in range(OBJECT_MUTANTS):
        made = mutant(77, number)
        reply = server.request(
            "POST", f"/reports?objects={','.join(KINDS)}", key=key, body=made.data, Content_Type=DICOM
        )
        seen[outcome(reply)] += 1
        assert reply.status < 500, f"{number} {made.name}: {outcome(reply)}"
        if reply.status == 200:
            made_of = {
                part.headers["content-location"] for part in parse_related(reply.body, reply.headers["content-type"])
            }
            assert set(KINDS) - {"gsps"} <= made_of <= set(KINDS)  # a film without a window has no presentation state
    print(f"{OBJECT_MUTANTS} mutants as {len(KINDS)} objects each: {dict(seen)}")
    assert seen[200, "answered"] > OBJECT_MUTANTS // 10
    assert seen[422, "dicom_source_required"] > 0
    check_log(server)


def check_log(server: Server) -> None:
    """No fault, and nothing that a library said past the log: every line is one of ours."""
    lines = server.log().splitlines()
    ours = [json.loads(line) for line in lines if line.startswith("{")]
    assert [line for line in lines if not line.startswith(("{", "First start."))] == []
    assert {line["level"] for line in ours} <= {"info", "warning"}


def test_killed_decoders_cost_one_film_each_and_nothing_else(judging: tuple[Server, str]) -> None:
    server, key = judging
    pid = server.process.pid
    films = [large_film(seed, uid) for seed, uid in enumerate((RLELossless, JPEGLSLossless, JPEG2000Lossless), 20)]
    alone = [post(server, key, film).json()["classes"] for film in films]
    plain = dicom_film(31)
    alone_plain = post(server, key, plain).json()["classes"]
    before = restarts(server)
    stop, guard = threading.Event(), threading.Lock()
    seen: Counter[tuple[int, str]] = Counter()
    wrong: list[Any] = []

    def check(film: bytes, expected: Any, spared: bool) -> None:
        reply = post(server, key, film)
        with guard:
            seen[outcome(reply)] += 1
            if reply.status == 200 and reply.json()["classes"] != expected:
                wrong.append("another answer")
            if reply.status != 200 and spared:
                wrong.append(outcome(reply))

    threads = [
        threading.Thread(target=_until, args=(stop, lambda i=n: check(films[i], alone[i], False))) for n in range(3)
    ]
    threads.append(threading.Thread(target=_until, args=(stop, lambda: check(plain, alone_plain, True))))
    for thread in threads:
        thread.start()
    killed = _kill_decoders(pid, kills=12)
    stop.set()
    for thread in threads:
        thread.join()
    restarted = restarts(server) - before
    print(f"{sum(killed.values())} decoders killed ({dict(killed)}), {restarted} restarts; {dict(seen)}")
    assert wrong == []
    assert set(seen) <= {(200, "answered"), (400, "undecodable_image")}
    assert 0 < seen[400, "undecodable_image"] <= sum(killed.values())
    assert restarted == sum(killed.values())
    check_log(server)
    assert (server.process.pid, server.process.poll(), server.request("GET", "/health/ready").status) == (
        pid,
        None,
        200,
    )
    assert [post(server, key, film).json()["classes"] for film in films] == alone
    assert server.cxr("audit", "verify").returncode == 0


def large_film(seed: int, syntax: UID) -> bytes:
    """A film that keeps its decoder busy for a while."""
    data = file_dataset(seed, size=(1_500, 1_400))
    data.compress(syntax, generate_instance_uid=False)
    return as_bytes(data)


def _until(stop: threading.Event, step: Callable[[], None]) -> None:
    while not stop.is_set():
        step()


def _kill_decoders(pid: int, kills: int) -> Counter[str]:
    """Kill children that have started up, one after another, by both signals in turn, and wait until all were replaced."""
    chance, killed, gone = random.Random(4), Counter[str](), set[int]()
    for sig in itertools.islice(itertools.cycle((signal.SIGKILL, signal.SIGABRT)), kills):
        child = chance.choice(wait_for_children(pid, WORKERS, gone))
        os.kill(child, sig)
        gone.add(child)
        killed[sig.name] += 1
        time.sleep(chance.random() * 0.05)
    wait_for_children(pid, WORKERS, gone)
    return killed
