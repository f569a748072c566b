"""A file system that can lose power: a FUSE mount whose unsynced writes are kept apart and dropped at `cut`.

`python -m tests.support.powercut_fs MOUNTPOINT` mounts it in memory and takes commands on standard input, each answered by `ok`:

    cut DIR         write what is durable to DIR; every later operation fails with EIO
    torn DIR SEED   as `cut`, but a random part of the unsynced writes (in sectors of 512 bytes) has reached the disk too
    fail ERRNO      writes and syncs fail with this errno (0: no more)
    slow SECONDS    every sync takes so long

Names (create, rename, unlink) are durable at once, as on a journalling file system. Needs fusepy and libfuse2.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuse import FUSE, FuseOSError, Operations

SECTOR = 512


@dataclass
class File:
    """now: what a reader sees; durable: what would survive; pending: unsynced writes (offset, data), and sizes (size, None)."""

    mode: int
    now: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def apply(self, target: bytearray, offset: int, data: bytes | None) -> None:
        end = offset if data is None else offset + len(data)
        if len(target) < end:
            target.extend(bytes(end - len(target)))
        if data is None:
            del target[offset:]
        else:
            target[offset:end] = data

    def write(self, offset: int, data: bytes | None) -> None:
        self.apply(self.now, offset, data)
        self.pending.append((offset, data))

    def sync(self) -> None:
        for offset, data in self.pending:
            self.apply(self.durable, offset, data)
        self.pending.clear()

    def tear(self, chance: random.Random) -> None:
        """Let sectors of the unsynced writes reach the disk, each or not, in any order."""
        for offset, data in self.pending:
            for start in range(0, len(data or b""), SECTOR):
                if chance.random() < 0.5:
                    self.apply(self.durable, offset + start, (data or b"")[start : start + SECTOR])


class PowerCut(Operations):  # type: ignore[misc]  # fusepy has no types
    """The operations; one lock, since commands come from another thread."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.folders = {"/": 0o755}
        self.error = 0
        self.dead = False
        self.delay_s = 0.0
        self.guard = threading.RLock()

    def __call__(self, operation: str, *args: Any) -> Any:
        with self.guard:
            if self.dead and operation not in {"getattr", "release", "destroy", "statfs"}:
                raise FuseOSError(errno.EIO)
            if self.error and operation in {"write", "truncate", "fsync", "create"}:
                raise FuseOSError(self.error)
            if operation != "fsync":
                return super().__call__(operation, *args)
        time.sleep(self.delay_s)
        with self.guard:
            if self.dead:
                raise FuseOSError(errno.EIO)
            return super().__call__(operation, *args)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        common = {"st_uid": os.getuid(), "st_gid": os.getgid()}
        if path in self.folders:
            return common | {"st_mode": stat.S_IFDIR | self.folders[path], "st_nlink": 2}
        if path not in self.files:
            raise FuseOSError(errno.ENOENT)
        file = self.files[path]
        return common | {"st_mode": stat.S_IFREG | file.mode, "st_nlink": 1, "st_size": len(file.now)}

    def readdir(self, path: str, fh: int) -> list[str]:
        prefix = path.rstrip("/") + "/"
        return [
            ".",
            "..",
            *(n[len(prefix) :] for n in (*self.files, *self.folders) if n != "/" and Path(n).parent == Path(path)),
        ]

    def mkdir(self, path: str, mode: int) -> None:
        self.folders[path] = stat.S_IMODE(mode)

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        self.files[path] = File(stat.S_IMODE(mode))
        return 0

    def open(self, path: str, flags: int) -> int:
        return 0

    def chmod(self, path: str, mode: int) -> None:
        self.files[path].mode = stat.S_IMODE(mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        pass

    def utimens(self, path: str, times: Any = None) -> None:
        pass

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return bytes(self.files[path].now[offset : offset + size])

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self.files[path].write(offset, data)
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        self.files[path].write(length, None)

    def unlink(self, path: str) -> None:
        del self.files[path]

    def rename(self, old: str, new: str) -> None:
        self.files[new] = self.files.pop(old)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        self.files[path].sync()

    def fsyncdir(self, path: str, datasync: int, fh: int) -> None:
        pass

    def save(self, target: Path) -> None:
        """The power goes; what is durable is written to a real folder."""
        self.dead = True
        for path in self.folders:
            (target / path[1:]).mkdir(exist_ok=True)
        for path, file in self.files.items():
            (target / path[1:]).write_bytes(file.durable)
            (target / path[1:]).chmod(file.mode)


def serve_commands(operations: PowerCut) -> None:
    for line in sys.stdin:
        command, *arguments = line.split()
        with operations.guard:
            if command == "torn":
                chance = random.Random(int(arguments[1]))
                for file in operations.files.values():
                    file.tear(chance)
            if command in {"cut", "torn"}:
                operations.save(Path(arguments[0]))
            elif command == "fail":
                operations.error = int(arguments[0])
            elif command == "slow":
                operations.delay_s = float(arguments[0])
        print("ok", flush=True)


if __name__ == "__main__":
    file_system = PowerCut()
    threading.Thread(target=serve_commands, args=(file_system,), daemon=True).start()
    FUSE(file_system, sys.argv[1], foreground=True, nothreads=False, fsname="powercut")
