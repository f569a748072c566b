"""Reading from real sockets: little, bounded, and the answer is seen even by a client that is still sending."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from app.cli import connection
from app.cli.connection import BODY_BYTES, HTTP_PROTOCOL, RECEIVE_BYTES

NINE_MB = 9_000_000


@dataclass
class Counting:
    """A listening server that turns away `/no` and counts what came off its sockets."""

    reads: list[int] = field(default_factory=list)
    gone: int = 0
    headers: int = 0
    port: int = 0
    patience_s: float = 0.3

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        status, headers = 401, [(b"connection", b"close")]
        if scope["path"] == "/no-later":
            await asyncio.sleep(0.1)
        if scope["path"] == "/early":
            status, headers = 200, []
        if scope["path"] in {"/yes", "/watch"}:
            size, more = 0, True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    self.gone += 1
                    return
                body = message.get("body", b"")
                assert body.count(b"x") == len(body)
                size, more = size + len(body), message.get("more_body", False)
            self.headers = len(scope["headers"])
            status, headers = (200 if size == NINE_MB or not size else 500), []
        if scope["path"] == "/watch":
            status = 200
            done, waiting = await asyncio.wait({asyncio.ensure_future(receive())}, timeout=self.patience_s)
            if done:
                self.gone += 1
                return
            waiting.pop().cancel()
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2"), *headers]})
        await send({"type": "http.response.body", "body": b"ok"})

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


@pytest.fixture(params=["uvloop", "asyncio"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    counting = Counting()
    updated = connection.BoundedConnection.buffer_updated

    def counted(self: connection.BoundedConnection, nbytes: int) -> None:
        counting.reads.append(nbytes)
        updated(self, nbytes)

    monkeypatch.setattr(connection.BoundedConnection, "buffer_updated", counted)
    monkeypatch.setattr(connection, "HEADERS_DEADLINE_S", 0.3)
    config = uvicorn.Config(
        counting.app,
        port=0,
        http=HTTP_PROTOCOL,
        loop=request.param,
        log_config=None,
        lifespan="off",
        interface="asgi3",
        timeout_keep_alive=1,
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        time.sleep(0.01)
    counting.port = running.servers[0].sockets[0].getsockname()[1]
    yield counting
    running.should_exit = True
    thread.join()


def answer(client: socket.socket) -> bytes:
    got = b""
    while chunk := client.recv(65_536):
        got += chunk
    return got


def test_a_refused_upload_costs_one_read(server: Counting) -> None:
    for _ in range(5):
        with server.connect() as client:
            server.reads.clear()
            client.sendall(b"POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % NINE_MB)
            with suppress(OSError):  # the server hangs up, as it should
                client.sendall(b"x" * NINE_MB)
            assert client.recv(65_536).startswith(b"HTTP/1.1 401 ")
            assert sum(server.reads) <= RECEIVE_BYTES <= 64_000


def test_httpx_sees_why(server: Counting) -> None:
    for _ in range(5):
        server.reads.clear()
        assert httpx.post(f"http://127.0.0.1:{server.port}/no", content=b"x" * NINE_MB).status_code == 401
        assert sum(server.reads) <= RECEIVE_BYTES


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not here")
@pytest.mark.parametrize("expect", [["-H", "Expect:"], []], ids=["sends at once", "waits for 100"])
def test_curl_sees_why(server: Counting, tmp_path: Path, expect: list[str]) -> None:
    (tmp_path / "body").write_bytes(b"x" * NINE_MB)
    for _ in range(5):
        server.reads.clear()
        done = subprocess.run(
            ["curl", "-s", "-w", "%{http_code}", *expect, "--data-binary", f"@{tmp_path / 'body'}",
             f"http://127.0.0.1:{server.port}/no"],
            check=False, capture_output=True, text=True, timeout=20,
        )  # fmt: skip
        assert (done.stdout, done.returncode) == ("ok401", 0)
        assert sum(server.reads) <= RECEIVE_BYTES


def test_an_upload_that_is_wanted_is_read_whole(server: Counting) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
        for _ in range(3):
            assert client.post("/yes", content=b"x" * NINE_MB).status_code == 200
        assert client.get("/yes").status_code == 200
    assert max(server.reads) <= BODY_BYTES


def _until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


@pytest.mark.parametrize("how", ["ended", "reset"])
def test_a_client_that_leaves_within_a_body_is_noticed_at_once(server: Counting, how: str) -> None:
    with server.connect() as client:
        client.sendall(b"POST /yes HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 10_000)
        assert _until(lambda: sum(server.reads) > 0)
        client.sendall(b"x" * 10_000)
        if how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert _until(lambda: server.gone == 1)


def test_pipelined_requests_are_answered_in_order(server: Counting) -> None:
    with server.connect() as client:
        client.sendall(b"GET /yes HTTP/1.1\r\nHost: a\r\n\r\n" * 3 + b"GET /no HTTP/1.1\r\nHost: a\r\n\r\n")
        statuses = [line for line in answer(client).split(b"\r\n") if b"HTTP/1.1 " in line]
    assert [s.split()[-2] if s.endswith(b"OK") else s.split()[1] for s in statuses] == [b"200", b"200", b"200", b"401"]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_an_offered_upgrade_is_declined_and_the_body_is_read(server: Counting, chunked: bool) -> None:
    """Java's HTTP client offers h2c with its first request, also with an upload."""
    offer = b"POST /yes HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    body = b"x" * NINE_MB
    if chunked:
        upload = offer + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (NINE_MB, body)
    else:
        upload = offer + b"Content-Length: %d\r\n\r\n%s" % (NINE_MB, body)
    with server.connect() as client:
        client.sendall(upload + offer + b"\r\n" + b"GET /no HTTP/1.1\r\nHost: a\r\n\r\n")
        assert re.findall(rb"HTTP/1.1 (\d+)", answer(client)) == [b"200", b"200", b"401"]


def test_trailers_are_let_go_by(server: Counting) -> None:
    with server.connect() as client:
        client.sendall(b"POST /yes HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
        client.sendall(b"".join(b"Trailer-%d: %s\r\n" % (i, b"y" * 100) for i in range(250)) + b"\r\n")
        assert client.recv(65_536).startswith(b"HTTP/1.1 500 ")  # it wants another size
    assert server.headers == 2


@pytest.mark.parametrize(
    ("start", "more"),
    [(b"0\r\nX-T: ", b"a"), (b"0\r\n", b"A: b\r\n"), (b"5;e=", b"a"), (b"", b"0")],
    ids=["one trailer", "trailers", "extension", "size"],
)
def test_what_surrounds_a_chunked_body_has_a_size(server: Counting, start: bytes, more: bytes) -> None:
    with server.connect() as client:
        client.sendall(b"POST /yes HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n" + start)
        sending = threading.Thread(target=_send, args=(client, more * (1_200_000 // len(more))))
        sending.start()
        assert client.recv(65_536).startswith(b"HTTP/1.1 431 ")
        sending.join()
    assert sum(server.reads) <= 3 * RECEIVE_BYTES


def test_many_small_pieces_are_read_whole(server: Counting) -> None:
    with server.connect() as client:
        client.sendall(b"POST /yes HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.sendall(b"1;a=%s\r\nx\r\n" % (b"e" * 90) * 5_000 + b"0\r\n\r\n")
        assert client.recv(65_536).startswith(b"HTTP/1.1 500 ")  # it wants another size


def test_a_pipelined_upload_is_not_read_before_it_is_wanted(server: Counting) -> None:
    upload = b"POST /no-later HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % NINE_MB + b"x" * NINE_MB
    with server.connect() as client, suppress(ConnectionResetError):
        sending = threading.Thread(target=_send, args=(client, b"GET /yes HTTP/1.1\r\nHost: a\r\n\r\n" + upload))
        sending.start()
        assert re.findall(rb"HTTP/1.1 (\d+)", answer(client)) == [b"200", b"401"]
        sending.join()
    assert sum(server.reads) <= RECEIVE_BYTES


@pytest.mark.parametrize(("path", "status"), [(b"/no", b"401"), (b"/yes", b"200")])
def test_nor_when_the_first_request_still_listens(server: Counting, path: bytes, status: bytes) -> None:
    first = b"POST /watch HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nxxxxx"
    upload = b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (path, NINE_MB) + b"x" * NINE_MB
    with server.connect() as client, suppress(ConnectionResetError):
        sending = threading.Thread(target=_send, args=(client, first + upload))
        sending.start()
        got = client.recv(65_536)
        assert re.findall(rb"HTTP/1.1 (\d+)", got)[0] == b"200"
        if status == b"401":
            assert sum(server.reads) <= 2 * RECEIVE_BYTES
        assert re.findall(rb"HTTP/1.1 (\d+)", got + answer(client)) == [b"200", status]
        sending.join()


def test_a_client_that_leaves_with_a_second_request_waiting_is_noticed(server: Counting) -> None:
    server.patience_s = 12
    with server.connect() as client:
        client.sendall(b"GET /watch HTTP/1.1\r\nHost: a\r\n\r\n" + b"GET /yes HTTP/1.1\r\nHost: a\r\n\r\n")
        assert _until(lambda: sum(server.reads) > 0)
    assert _until(lambda: server.gone == 1)


CHUNKED = b"POST /yes HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("between", [0, 2], ids=["second", "fourth"])
@pytest.mark.parametrize(
    "bad",
    [
        b"\x16\x03\x01 hello",
        b"GET http://a:b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /yes HTTP/1.1\r\n" + b"X-Header: %s\r\n" % (b"y" * 100) * 2_000,
        CHUNKED + b"5\r\nxxxxx\r\nzz\r\n",
        b"GET /yes HTTP/1.1\r\nHos",
    ],
    ids=["no http", "no url", "too large", "bad chunk", "too late"],
)
def test_what_is_wrong_with_a_request_does_not_take_the_place_of_an_answer(
    server: Counting, bad: bytes, between: int
) -> None:
    server.patience_s = 0.5  # more than headers have
    good = b"GET /watch HTTP/1.1\r\nHost: a\r\n\r\n" + b"GET /yes HTTP/1.1\r\nHost: a\r\n\r\n" * between
    with server.connect() as client:
        sending = threading.Thread(target=_send, args=(client, good + bad))
        sending.start()
        got = b""
        with suppress(ConnectionResetError):
            while chunk := client.recv(65_536):
                got += chunk
        sending.join()
    statuses = re.findall(rb"HTTP/1.1 (\d+)", got)
    assert statuses[: between + 1] == [b"200"] * (between + 1)
    assert statuses[between + 1 :] in ([], [b"431"])  # what is read only after the answers is refused


def test_a_second_request_is_not_late_before_the_first_is_answered(server: Counting) -> None:
    server.patience_s = 0.5  # more than headers have
    with server.connect() as client:
        client.sendall(b"GET /watch HTTP/1.1\r\nHost: a\r\n\r\n" + b"GET /no HTTP/1.1\r\nHos")
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
        client.sendall(b"t: a\r\n\r\n")
        assert re.findall(rb"HTTP/1.1 (\d+)", answer(client)) == [b"401"]


def test_what_is_wrong_with_an_answered_body_only_closes(server: Counting) -> None:
    with server.connect() as client:
        client.sendall(CHUNKED.replace(b"/yes", b"/early"))
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
        client.sendall(b"zz\r\n")
        assert b"HTTP" not in answer(client)


def _send(client: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        client.sendall(data)


def test_connect_is_refused(server: Counting) -> None:
    with server.connect() as client:
        client.sendall(b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer(client).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "bad",
    [
        b"\x16\x03\x01" + b"x" * 200_000,
        b"POST /yes HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n" + b"x" * 200_000,
        b"POST /yes HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nxxxxx\r\nzz\r\n",
        b"POST http://a:b/ HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000,
    ],
    ids=["no http", "two lengths", "bad chunk", "no url"],
)
def test_what_is_malformed_is_answered_once_and_leaves_no_traceback(
    server: Counting, bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with server.connect() as client, suppress(ConnectionResetError):
        with suppress(OSError):
            client.sendall(bad)
        assert re.findall(rb"HTTP/1.1 (\d+)", answer(client)) == [b"400"]
    time.sleep(0.4)  # as long as a refused connection lingers
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_headers_have_a_size(server: Counting) -> None:
    with server.connect() as client:
        client.sendall(b"GET /yes HTTP/1.1\r\nHost: a\r\n")
        with suppress(OSError):
            for i in range(2_000):
                client.sendall(b"X-Header-%d: %s\r\n" % (i, b"y" * 100))
        assert client.recv(65_536).startswith(b"HTTP/1.1 431 ")
    assert sum(server.reads) <= 2 * RECEIVE_BYTES


def test_headers_have_a_deadline(server: Counting) -> None:
    for start in (b"", b"GET /yes HTTP/1.1\r\nHost", b"\r\n"):
        with server.connect() as client:
            begun = time.monotonic()
            client.sendall(start)
            assert answer(client) == b""
            assert time.monotonic() - begun < 3


def test_a_second_request_has_a_deadline_too(server: Counting) -> None:
    with server.connect() as client:
        client.sendall(b"GET /yes HTTP/1.1\r\nHost: a\r\n\r\n")
        got = b""
        while not got.endswith(b"\r\n\r\nok"):
            got += client.recv(65_536)
        client.sendall(b"GET /yes HTTP/1.1\r\nHos")
        assert answer(client) == b""


def test_what_is_no_http_gets_our_problem(server: Counting) -> None:
    with server.connect() as client:
        client.sendall(b"\x16\x03\x01 hello CANARY\r\n\r\n")
        got = answer(client)
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in head
    assert b"x-request-id: " in head
    assert b'"code": "malformed_request"' in body
    assert b"CANARY" not in got


def test_many_uploads_at_one_time_are_not_mixed(server: Counting) -> None:
    """All connections of a loop share one receive buffer."""
    body = b"x" * NINE_MB
    statuses: list[int] = []

    def upload() -> None:
        statuses.append(httpx.post(f"http://127.0.0.1:{server.port}/yes", content=body, timeout=60).status_code)

    threads = [threading.Thread(target=upload) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 6
