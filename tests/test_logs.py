"""What the log says, and what libraries must not say in it. In a process of its own, since logging belongs to the process."""

from __future__ import annotations

import json
import subprocess
import sys

from app.logs import QUOTING

_SCRIPT = """
import logging, structlog
from app import logs
from app.errors import InternalError
logs.configure("debug")
structlog.get_logger("cxr.x").info("hello", n=1)
logging.getLogger("some.library").warning("told")
for name in logs.QUOTING:
    logging.getLogger(name).info("PATIENT")
    logging.getLogger(name + ".part").error("PATIENT")


def fails():
    try:
        int("PATIENT")
    except ValueError as error:
        raise RuntimeError("PATIENT^NAME") from error


for log in (structlog.get_logger("cxr.x"), logging.getLogger("some.library")):
    try:
        fails()
    except RuntimeError:
        log.exception("failed")
try:
    raise InternalError
except InternalError as error:
    logging.getLogger("some.library").error("ours", exc_info=error)
"""


def test_lines_are_json_and_quoting_libraries_are_silent() -> None:
    said = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    lines = [json.loads(line) for line in said.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["hello", "told", "failed", "failed", "ours"]
    assert lines[0]["n"] == 1
    assert said.stdout == ""
    assert "highdicom" in QUOTING


def test_an_exception_is_told_by_kind_and_place_and_never_by_its_text() -> None:
    """A library's error may quote a header; ours hold our own words."""
    said = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    assert "PATIENT" not in said.stderr
    *failed, ours = (json.loads(line)["exception"] for line in said.stderr.splitlines() if "exception" in line)
    assert len(failed) == 2
    for told in failed:
        assert [line for line in told.splitlines() if not line.startswith("  ")] == [
            "builtins.RuntimeError",
            "caused by builtins.ValueError",
        ]
        assert "<string>:" in told
        assert " fails" in told
    assert ours.startswith("app.errors.InternalError: internal_error: Something failed on our side")
