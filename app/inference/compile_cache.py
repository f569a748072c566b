"""Compiled networks on disk: a folder for each network and release of the runtime, and only so many of them.

Bundles and releases come and go, and nobody asks again for what was compiled of them. So each start that uses a folder marks it, and
those that were not used for longest go. What goes too early costs one compilation: a process that has it open keeps it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

KEPT: Final = 8  # a bundle has two networks at most: those of four bundles
_PREFIX: Final = "network-"


def folder_for(network: bytes, release: str, cache_dir: Path) -> Path:
    """Where the compiled forms of a network lie, made where missing and marked as used now; of the others the last used stay.

    Args:
        release: of the runtime; another one compiles anew.
        cache_dir: folder of all of them, made where missing.
    """
    cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = cache_dir / f"{_PREFIX}{release}-{hashlib.sha256(network).hexdigest()[:32]}"
    own.mkdir(mode=0o700, exist_ok=True)
    with suppress(OSError):  # somebody else's, or a disk that takes no more: it is used all the same
        os.utime(own)
    others = [path for path in cache_dir.glob(f"{_PREFIX}*") if path != own]
    for path in sorted(others, key=_used, reverse=True)[KEPT - 1 :]:
        shutil.rmtree(path, ignore_errors=True)
    for path in cache_dir.glob("*.blob"):  # of releases of ours that kept all in one folder
        with suppress(OSError):
            path.unlink()
    return own


def _used(path: Path) -> int:
    """When, in ns; 0 for one that another process has just removed."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
