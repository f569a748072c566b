"""How urgent a request is: `X-Priority`, else the lane of its key; and how long it may wait: `X-Deadline-Ms`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from app.api.call import Call
from app.domain import LANES, Lane
from app.errors import RequestError

PRIORITY: Final = "X-Priority"
DEADLINE: Final = "X-Deadline-Ms"
DEADLINE_MAX_MS: Final = 600_000
_MILLISECONDS: Final = re.compile(r"[1-9][0-9]{0,5}")


@dataclass(frozen=True)
class Urgency:
    """lane: whose queue; owner: id of the key, for turns and shares; begin_within_s: the client's own bound, None without one."""

    lane: Lane
    owner: str
    begin_within_s: float | None


def urgency_of(call: Call) -> Urgency:
    """What a request of a known key asks for.

    Raises:
        RequestError: `malformed_request` for a lane or a time that is none, or one that is given twice.
    """
    caller = call.principal
    named, within = _only(call, PRIORITY), _only(call, DEADLINE)
    lane = caller.lane if named is None else next((each for each in LANES if each == named), None)
    if lane is None:
        raise RequestError("malformed_request", what=f"{PRIORITY} must be one of {', '.join(LANES)}")
    if within is None:
        return Urgency(lane, caller.key_id, None)
    if not _MILLISECONDS.fullmatch(within) or int(within) > DEADLINE_MAX_MS:
        raise RequestError("malformed_request", what=f"{DEADLINE} must be a whole number from 1 to {DEADLINE_MAX_MS}")
    return Urgency(lane, caller.key_id, int(within) / 1e3)


def _only(call: Call, name: str) -> str | None:
    sent = call.headers.getlist(name)
    if len(sent) > 1:
        raise RequestError("malformed_request", what=f"{name} is given twice")
    return sent[0] if sent else None
