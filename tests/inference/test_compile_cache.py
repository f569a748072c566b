"""The folder of compiled networks: what of it stays, whatever comes and goes."""

from __future__ import annotations

import os
from pathlib import Path

from app.inference.compile_cache import KEPT, folder_for


def used(cache: Path, network: bytes, at_s: int, release: str = "1") -> Path:
    """A folder with a compiled network, used last at such a time."""
    folder = folder_for(network, release, cache)
    (folder / "1.blob").write_bytes(network)
    os.utime(folder, (at_s, at_s))
    return folder


def test_a_network_and_a_release_have_one_folder(tmp_path: Path) -> None:
    cache = tmp_path / "state" / "openvino"
    own = folder_for(b"a", "1", cache)
    assert own.parent == cache
    assert {path.stat().st_mode & 0o777 for path in (cache, own)} == {0o700}
    assert folder_for(b"a", "1", cache) == own
    assert len({own, folder_for(b"b", "1", cache), folder_for(b"a", "2", cache)}) == 3


def test_those_not_used_for_longest_go(tmp_path: Path) -> None:
    folders = [used(tmp_path, b"%d" % i, 1_000 + i) for i in range(KEPT)]
    folder_for(b"0", "1", tmp_path)  # the oldest is used again
    assert set(tmp_path.iterdir()) == set(folders)
    new = folder_for(b"new", "1", tmp_path)
    assert set(tmp_path.iterdir()) == {folders[0], *folders[2:], new}
    assert (folders[0] / "1.blob").read_bytes() == b"0"


def test_the_one_asked_for_stays_whatever_the_clock_says(tmp_path: Path) -> None:
    """A clock that was set back: all others are of the future."""
    for i in range(KEPT + 2):
        used(tmp_path, b"%d" % i, 9_000_000_000 + i)
    own = folder_for(b"own", "1", tmp_path)
    assert own.is_dir()
    assert len(list(tmp_path.iterdir())) == KEPT


def test_nothing_else_of_the_folder_is_touched_but_the_blobs_of_older_releases(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "note.txt").write_text("x")
    (tmp_path / "123.blob").write_bytes(b"x")
    own = folder_for(b"a", "1", tmp_path)
    assert set(tmp_path.iterdir()) == {tmp_path / "theirs", tmp_path / "note.txt", own}
