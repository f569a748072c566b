"""The command line as its users start it: a process of its own, with the settings of the test and no others."""

from __future__ import annotations

import os
import subprocess
import sys


def environment(**settings: object) -> dict[str, str]:
    """This process's, with these settings (names without CXR_) instead of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CXR_")}
    return clean | {f"CXR_{name.upper()}": str(value) for name, value in settings.items()}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "app.cli", *arguments]


def cxr(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, which must come within two minutes."""
    return cxr_within(120, *arguments, **settings)


def cxr_within(limit_s: float, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command(*arguments),
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )


def cxr_in_parts(rows: int, *arguments: str, **settings: object) -> subprocess.Popen[bytes]:
    """`cxr score` with parts of so few rows that it can be killed between them; started, its output thrown away."""
    small = (
        f"from app.bulk import score; from app.cli.main import main; import sys; score.PART_ROWS = {rows}; "
        "sys.argv[0] = 'cxr'; main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", small, *arguments],
        env=environment(**settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
