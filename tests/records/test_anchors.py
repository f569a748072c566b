from __future__ import annotations

import threading
from pathlib import Path

import pytest

from app.records import anchors as module
from app.records.anchors import Anchors
from app.records.chain import Head

AT = "2026-11-20T10:00:00.000001Z"


def head(chain: str, seq: int) -> Head:
    return Head(chain * 16, seq, "12345678:" + f"{seq:064x}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit_anchors.log"


def test_the_newest_head_of_each_chain_is_read(path: Path) -> None:
    anchors = Anchors(path)
    assert anchors.read() == ({}, 0)
    for item in (head("a", 0), head("b", 5), head("a", 3), head("a", 2)):
        anchors.append(item, AT)
    assert anchors.read() == ({"a" * 16: head("a", 3), "b" * 16: head("b", 5)}, 0)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().splitlines()[0] == f"v1 {AT} {'a' * 16} 0 12345678:{0:064x}"


@pytest.mark.parametrize("keep", range(1, 120, 7))
def test_a_torn_line_is_left_out_and_closed(path: Path, keep: int) -> None:
    anchors = Anchors(path)
    anchors.append(head("a", 1), AT)
    whole = path.read_bytes()
    anchors.append(head("a", 2), AT)
    path.write_bytes(whole + path.read_bytes()[len(whole) :][:keep])
    anchors.tidy()
    anchors.append(head("a", 3), AT)
    assert anchors.read() == ({"a" * 16: head("a", 3)}, 1)


def test_zeros_from_a_power_cut_are_left_out(path: Path) -> None:
    anchors = Anchors(path)
    anchors.append(head("a", 1), AT)
    with path.open("ab") as file:
        file.write(bytes(200))
    anchors.tidy()
    anchors.append(head("a", 2), AT)
    assert anchors.read() == ({"a" * 16: head("a", 2)}, 1)


def test_a_large_file_is_reduced_and_loses_no_head(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPACT_ABOVE_BYTES", 10_000)
    anchors = Anchors(path)
    stop = threading.Event()
    done = [0, 0]

    def append(which: int) -> None:
        while not stop.is_set() or done[which] < 300:
            anchors.append(head("ab"[which], done[which]), AT)
            done[which] += 1

    threads = [threading.Thread(target=append, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        Anchors(path).tidy()
    stop.set()
    for thread in threads:
        thread.join()
    anchors.tidy()
    assert path.stat().st_size < 10_000 + 2 * 130
    heads, unreadable = anchors.read()
    assert unreadable == 0
    assert {chain[0]: h.seq for chain, h in heads.items()} == {"a": done[0] - 1, "b": done[1] - 1}
