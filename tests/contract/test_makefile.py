"""What `make` calls, seen by a python that only notes it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from training.places import CHECKOUT

NOTES = """#!/bin/sh
echo "$@" >> "$NOTES"
case "$*" in *" fit "*) echo ours-0123abcd;; esac
"""


def test_train_gates_the_run_that_it_made(tmp_path: Path) -> None:
    """By its folder's name: a recipe has a run for every seed, and may be a file that the gate's command must be told of."""
    stand_in, notes = tmp_path / "python", tmp_path / "notes"
    stand_in.write_text(NOTES)
    stand_in.chmod(0o755)
    command = ["make", "-C", str(CHECKOUT), "train", f"VENV={tmp_path}", f"BIN={tmp_path}", "RECIPE=ours.toml"]
    ready = [flag for name in ("python", ".test") for flag in ("-o", str(tmp_path / name))]
    subprocess.run([*command, *ready], check=True, env={**os.environ, "NOTES": str(notes)}, stdout=subprocess.DEVNULL)
    assert notes.read_text().splitlines() == [
        "-m training run ours.toml",
        "-m training fit ours.toml",
        "-m training gate ours-0123abcd --recipe ours.toml",
    ]
