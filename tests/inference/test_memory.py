from __future__ import annotations

from pathlib import Path

from app.inference.memory import return_freed_memory


def resident_kb() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def test_freed_memory_goes_back() -> None:
    """Blocks too small for their own mapping, freed below one that is still used, stay with the allocator until asked for."""
    blocks = [bytearray(60_000) for _ in range(1_000)]
    last = bytearray(60_000)
    full = resident_kb()
    del blocks
    return_freed_memory()
    assert resident_kb() < full - 40_000
    assert len(last) == 60_000
