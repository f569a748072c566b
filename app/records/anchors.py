"""The anchor file: heads of chains outside the database, so that a tail or a whole chain that was cut off is missed.

One line per commit, `v1 <at> <chain_id> <seq> <mac>`, appended before the commit is acknowledged and not fsynced: after a power cut
the file may lag behind the database, never run ahead of it. At start a large file is reduced to the newest line of each chain.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from app.records.chain import Head

FILE_NAME: Final = "audit_anchors.log"
COMPACT_ABOVE_BYTES: Final = 4 * 2**20
_LINE: Final = re.compile(rb"v1 \S{27} ([0-9a-f]{16}) ([0-9]{1,18}) ([0-9a-f]{8}:[0-9a-f]{64})")


class Anchors:
    """The anchor file of one state folder; several processes may append to it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, head: Head, at: str) -> None:
        """Add one head.

        Raises:
            OSError: the file cannot be written.
        """
        line = f"v1 {at} {head.chain_id} {head.seq} {head.mac}\n".encode("ascii")
        with self._locked(fcntl.LOCK_SH) as descriptor:
            if os.write(descriptor, line) != len(line):
                raise OSError("the anchor line was written in part")

    def read(self) -> tuple[dict[str, Head], int]:
        """The newest anchored head of each chain, and how many lines could not be read (a power cut can tear one)."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return {}, 0
        heads: dict[str, Head] = {}
        unreadable = 0
        for line in data.splitlines():
            head = _parse(line)
            if head is None:
                unreadable += 1
            elif head.chain_id not in heads or heads[head.chain_id].seq < head.seq:
                heads[head.chain_id] = head
        return heads, unreadable

    def tidy(self) -> None:
        """Close a line that a power cut tore, and reduce a large file. Call once at start.

        Raises:
            OSError: the file cannot be written.
        """
        with self._locked(fcntl.LOCK_EX) as descriptor:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                os.write(descriptor, b"\n")
            if size > COMPACT_ABOVE_BYTES:
                self._compact()

    def _compact(self) -> None:
        newest: dict[bytes, tuple[int, bytes]] = {}
        for line in self._path.read_bytes().splitlines(keepends=True):
            head = _parse(line)
            if head is not None:
                chain = head.chain_id.encode()
                if chain not in newest or newest[chain][0] < head.seq:
                    newest[chain] = (head.seq, line)
        draft = self._path.with_suffix(".draft")
        with draft.open("wb") as file:
            file.writelines(line for _, line in newest.values())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)

    @contextmanager
    def _locked(self, how: int) -> Iterator[int]:
        """The open file under a lock; opened anew if another process has just replaced it."""
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, how)
                if self._is_current(descriptor):
                    yield descriptor
                    return
            finally:
                os.close(descriptor)

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.fstat(descriptor).st_ino == self._path.stat().st_ino
        except FileNotFoundError:
            return False


def _parse(line: bytes) -> Head | None:
    match = _LINE.fullmatch(line.rstrip(b"\n"))
    return Head(match[1].decode(), int(match[2]), match[3].decode()) if match else None
