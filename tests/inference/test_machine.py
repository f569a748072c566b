from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from app.inference.cores import usable_cores
from app.inference.machine import fingerprint, process_age_s
from app.settings import PROJECT_ROOT

X86 = """processor\t: 0
model name\t: AMD EPYC 9575F 64-Core Processor
cpu MHz\t\t: 3300.000
flags\t\t: fpu sse avx512_bf16

processor\t: 1
model name\t: another
flags\t\t: fpu
"""


def machine(tmp_path: Path, text: str, name: str = "a") -> Path:
    folder = tmp_path / name / "proc"
    folder.mkdir(parents=True)
    (folder / "cpuinfo").write_text(text, encoding="utf-8")
    return tmp_path / name


def test_model_flags_and_cores(tmp_path: Path) -> None:
    found = fingerprint(2, machine(tmp_path, X86))
    assert found == "AMD EPYC 9575F 64-Core Processor; flags 7f6413fa7f40; 2 cores"
    assert fingerprint(2, machine(tmp_path, X86.replace("3300", "1200"), "b")) == found
    assert fingerprint(2, machine(tmp_path, X86.replace("fpu sse avx512_bf16", "sse avx512_bf16 fpu"), "c")) == found
    assert fingerprint(4, tmp_path / "a") != found
    assert fingerprint(2, machine(tmp_path, X86.replace(" avx512_bf16", ""), "d")) != found


def test_other_kinds_of_machine(tmp_path: Path) -> None:
    arm = machine(tmp_path, "processor\t: 0\nCPU part\t: 0xd40\nFeatures\t: fp asimd\n")
    assert fingerprint(1, arm).startswith("0xd40; flags ")
    assert fingerprint(1, tmp_path / "nothing").startswith("unknown CPU; flags ")


def test_this_machine_is_itself() -> None:
    assert fingerprint() == fingerprint(usable_cores())


def test_the_age_counts_from_the_start_of_the_process() -> None:
    code = "import time; time.sleep(0.3); from app.inference.machine import process_age_s; print(process_age_s())"
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
    )  # fmt: skip
    assert 0.3 <= float(done.stdout) <= time.monotonic() - begun + 0.02
    age = process_age_s()
    assert age is not None
