"""Malformed and hostile input against the real process: a coded 4xx each, bounded memory, nothing left behind."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from benchmarks.server import Server, serving
from tests.support.hostile import hostile_images
from tests.support.tracing import needs_strace, traced

KEPT_MIB = 96  # what the allocator keeps of the largest films, by thread
MIB = 2**20


def test_every_hostile_image_is_refused_with_its_code_in_bounded_memory(bundles_dir: Path, film: bytes) -> None:
    with serving(bundles_dir=bundles_dir, rate_limit_per_minute=1_000_000) as server:
        key = server.key("service")
        assert server.request("POST", "/predict", key=key, body=film, Content_Type="image/jpeg").status == 200
        idle = server.rss_bytes()
        seen = {}
        corpus = hostile_images()
        assert len(corpus) >= 40
        for case in corpus:
            reply = server.request("POST", "/predict", key=key, body=case.data, Content_Type=case.content_type)
            seen[case.name] = (reply.status, reply.json().get("code"))
        wanted = {case.name: (case.status, case.code) for case in corpus}
        assert seen == {**wanted, "empty": (400, "missing_file")}  # over HTTP, nothing is no file
        assert server.process.poll() is None
        peak = server.peak_rss_bytes()
        until = time.monotonic() + 10  # the machine may be busy
        while (after := server.rss_bytes()) > idle + KEPT_MIB * MIB and time.monotonic() < until:
            time.sleep(0.2)
        print(
            f"hostile corpus: {len(corpus)} images, idle {idle / MIB:.0f}, peak {peak / MIB:.0f}, after {after / MIB:.0f} MiB"
        )
        assert peak <= idle + 300 * MIB
        assert after <= idle + KEPT_MIB * MIB
        assert server.request("POST", "/predict", key=key, body=film, Content_Type="image/jpeg").status == 200
        assert server.cxr("audit", "verify").returncode == 0


def _read_by(trace: Path, marker: str) -> int:
    """Bytes the process read from sockets, by the return values in an strace log."""
    total = 0
    for line in trace.read_text(errors="replace").splitlines():
        if (
            any(call in line for call in ("recvfrom(", "recvmsg(", "read(", "recv("))
            and marker in line
            and " = " in line
        ):
            result = line.rsplit(" = ", 1)[1].split()[0]
            total += max(0, int(result)) if result.lstrip("-").isdigit() else 0
    return total


@needs_strace
def test_nine_megabytes_with_a_bad_key_cost_64_kilobytes_and_no_file(server: Server, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with traced(server.process.pid, "read,recvfrom,recvmsg,open,openat,creat", trace):
        head = (
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nX-API-Key: cxr_aaaaaaaa_" + b"b" * 43 + b"_cccccc\r\n"
            b"Content-Type: image/jpeg\r\nContent-Length: 9000000\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
            client.sendall(head)
            answer = b""
            try:
                for _ in range(140):
                    client.sendall(b"\0" * 65_536)
            except OSError:
                pass  # the server hung up, as it should
            try:
                while chunk := client.recv(65_536):
                    answer += chunk
            except OSError:
                pass
    assert b" 401 " in answer.split(b"\r\n")[0]
    read = _read_by(trace, f":{server.port}->")
    print(f"9 MB with a bad key: {read} bytes read from the socket")
    assert 0 < read <= 65_536
    calls = [line.split(maxsplit=1)[-1] for line in trace.read_text(errors="replace").splitlines()]
    created = [call for call in calls if call.startswith("open") and "O_CREAT" in call and "= -1" not in call]
    assert created == []


def test_nothing_is_written_but_the_state_folder(server: Server, key: str, film: bytes) -> None:
    held = {str(p.readlink()) for p in Path(f"/proc/{server.process.pid}/fd").iterdir() if p.is_symlink()}
    files = {f for f in held if f.startswith("/") and not f.startswith(("/dev", "/proc", str(server.state)))}
    assert not {f for f in files if "/tmp" in f and not f.startswith(str(server.state))}
