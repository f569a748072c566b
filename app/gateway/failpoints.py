"""Places where a test can end the process as `kill -9` would, or hold it: one before and one after every durable step.

`CXR_GATEWAY_FAILPOINT=<name>` ends the process there, `<name>:<seconds>` holds it so long. Without the variable nothing happens.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Final, Literal, get_args

VARIABLE: Final = "CXR_GATEWAY_FAILPOINT"
Failpoint = Literal[
    "receive.before_commit",
    "receive.after_commit",
    "select.before_commit",
    "select.after_commit",
    "judge.before_request",
    "judge.after_answer",
    "judge.before_commit",
    "judge.after_commit",
    "deliver.before_send",
    "deliver.after_send",
    "deliver.before_commit",
    "deliver.after_commit",
    "sweep.before_commit",
    "sweep.after_commit",
]
FAILPOINTS: tuple[Failpoint, ...] = get_args(Failpoint)


def reached(name: Failpoint) -> None:
    """The process is here."""
    wanted, _, seconds = os.environ.get(VARIABLE, "").partition(":")
    if wanted != name:
        return
    if seconds:
        time.sleep(float(seconds))
    else:
        os.kill(os.getpid(), signal.SIGKILL)
