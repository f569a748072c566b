"""STOW-RS (PS3.18 section 10.5): one object a request, and its own line in the answer is what counts, not the status alone."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

from app.errors import ImageError
from app.gateway.config import StowDestination, read_secret
from app.gateway.deliver_http import post, refused
from app.gateway.deliver_status import of_status
from app.gateway.exchange import Reply, new_client
from app.gateway.multipart import build_related
from app.gateway.outbox import DELIVERED, Message, Outcome
from app.gateway.part10 import read_meta

# PS3.18 table 10.5.3-1: the sequences of the answer, and inside them the instance and the reason
_REFERENCED, _FAILED, _INSTANCE, _REASON = "00081199", "00081198", "00081155", "00081197"
_MOST_LINES: Final = 1_000


class StowSender:
    """Posts to one `.../studies`.

    Raises:
        ConfigurationError: the token's file cannot be read.
    """

    def __init__(self, destination: StowDestination) -> None:
        self._destination = destination
        self._headers = {"Accept": "application/dicom+json"} | _authorization(destination)
        self._client = new_client(destination.timeout_s)

    def send(self, message: Message) -> Outcome:
        try:
            instance = read_meta(message.content).sop_instance_uid
        except ImageError:
            return Outcome("dead", "unusable_object")
        body, content_type = build_related([message.content], "application/dicom")
        reply = post(
            self._client,
            self._destination.url,
            headers=self._headers | {"Content-Type": content_type},
            content=body,
            timeout_s=self._destination.timeout_s,
        )
        return reply if isinstance(reply, Outcome) else judge_reply(reply, instance)

    def close(self) -> None:
        self._client.close()


def judge_reply(reply: Reply, instance: str) -> Outcome:
    """What an answer says about our object. 200, 202 and 409 come with a line for each object; without ours nothing is confirmed."""
    if reply.status not in {200, 202, 409}:
        return refused(reply)
    answer = _json(reply.body)
    if instance in (_value(line, _INSTANCE) for line in _lines(answer, _REFERENCED)):
        return DELIVERED
    for line in _lines(answer, _FAILED):
        if _value(line, _INSTANCE) == instance:
            reason = _value(line, _REASON)
            return of_status(reason if isinstance(reason, int) else 0x0110, "stow")
    return refused(reply) if reply.status == 409 else Outcome("retry", "unconfirmed")


def _authorization(destination: StowDestination) -> dict[str, str]:
    if destination.token_file is None:
        return {}
    secret = read_secret(destination.token_file)
    if destination.user is None:
        return {"Authorization": f"Bearer {secret}"}
    pair = base64.b64encode(f"{destination.user}:{secret}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _lines(answer: Any, tag: str) -> list[Any]:
    """The items of a sequence in DICOM JSON (PS3.18 annex F); empty for anything else. Some archives wrap the answer in a list."""
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    element = answer.get(tag) if isinstance(answer, dict) else None
    items = element.get("Value") if isinstance(element, dict) else None
    return items[:_MOST_LINES] if isinstance(items, list) else []


def _value(item: Any, tag: str) -> Any:
    element = item.get(tag) if isinstance(item, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None
