"""Webhooks after standardwebhooks.com: a JSON envelope around the FHIR resource, signed with HMAC-SHA-256 over id, time and body."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Final

from app.errors import ConfigurationError
from app.gateway.config import WebhookDestination, read_secret
from app.gateway.deliver_http import post, refused
from app.gateway.exchange import new_client
from app.gateway.outbox import DELIVERED, Message, Outcome

_PREFIX: Final = "whsec_"


class WebhookSender:
    """Posts to one URL.

    Args:
        now: seconds since 1970, signed with each try so that an old request cannot be played again.

    Raises:
        ConfigurationError: gateway_secret.
    """

    def __init__(self, destination: WebhookDestination, now: Callable[[], float]) -> None:
        self._destination, self._now = destination, now
        self._secret = _secret(destination)
        self._client = new_client(destination.timeout_s)

    def send(self, message: Message) -> Outcome:
        try:
            resource = json.loads(message.content)
        except ValueError:
            return Outcome("dead", "unusable_object")
        name = f"msg_{message.id}"
        body = json.dumps({"type": "report.created", "id": name, "data": resource}, ensure_ascii=False).encode()
        at = str(int(self._now()))
        headers = {
            "Content-Type": "application/json",
            "webhook-id": name,
            "webhook-timestamp": at,
            "webhook-signature": signature(self._secret, name, at, body),
        }
        url, timeout_s = self._destination.url, self._destination.timeout_s
        reply = post(self._client, url, headers=headers, content=body, timeout_s=timeout_s)
        if isinstance(reply, Outcome):
            return reply
        return DELIVERED if 200 <= reply.status < 300 else refused(reply)

    def close(self) -> None:
        self._client.close()


def signature(secret: bytes, name: str, at: str, body: bytes) -> str:
    """`v1,` and base64 of HMAC-SHA-256 over `<id>.<timestamp>.<body>`."""
    digest = hmac.digest(secret, f"{name}.{at}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def _secret(destination: WebhookDestination) -> bytes:
    text = read_secret(destination.secret_file)
    try:
        secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        secret = b""
    if not text.startswith(_PREFIX) or not 24 <= len(secret) <= 64:
        raise ConfigurationError(
            "gateway_secret", f"{destination.secret_file} must hold {_PREFIX} and base64 of 24 to 64 bytes"
        )
    return secret
