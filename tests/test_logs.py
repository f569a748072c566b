"""What the log says, and what libraries must not say in it. In a process of its own, since logging belongs to the process."""

from __future__ import annotations

import json
import subprocess
import sys

from app.logs import QUOTING

_SCRIPT = """
import logging, structlog
from app import logs
logs.configure("debug")
structlog.get_logger("cxr.x").info("hello", n=1)
logging.getLogger("some.library").warning("told")
for name in logs.QUOTING:
    logging.getLogger(name).info("PATIENT")
    logging.getLogger(name + ".part").error("PATIENT")
"""


def test_lines_are_json_and_quoting_libraries_are_silent() -> None:
    said = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    lines = [json.loads(line) for line in said.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["hello", "told"]
    assert lines[0]["n"] == 1
    assert said.stdout == ""
    assert "highdicom" in QUOTING
