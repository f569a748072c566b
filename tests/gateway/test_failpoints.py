"""Failpoints are where they are said to be, once each, and do nothing unless they are asked for; `test_faults.py` kills at each."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from app.gateway import failpoints

SOURCES = Path(failpoints.__file__).parent.glob("*.py")


def test_each_failpoint_stands_at_one_place() -> None:
    found = Counter(name for path in SOURCES for name in re.findall(r'\breached\("([a-z._]+)"\)', path.read_text()))
    assert found == dict.fromkeys(failpoints.FAILPOINTS, 1)


def test_nothing_happens_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(failpoints.VARIABLE, raising=False)
    failpoints.reached("judge.after_commit")
    monkeypatch.setenv(failpoints.VARIABLE, "judge.before_commit")
    failpoints.reached("judge.after_commit")


def test_a_failpoint_holds_or_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, "judge.after_commit:0.2")
    before = time.monotonic()
    failpoints.reached("judge.after_commit")
    assert time.monotonic() - before >= 0.2
    monkeypatch.setenv(failpoints.VARIABLE, "judge.after_commit")
    code = "from app.gateway.failpoints import reached; reached('judge.after_commit'); print('alive')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (-9, b"")
