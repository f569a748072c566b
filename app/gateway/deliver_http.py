"""What HTTP answers mean for a delivery; shared by STOW-RS and webhooks."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from app.gateway.exchange import ExchangeError, Reply, exchange
from app.gateway.outbox import Outcome

_AWAY = frozenset({429, 502, 503, 504})
_HEALS = frozenset({408, 425, 429})


def post(
    client: httpx.Client, url: str, *, headers: Mapping[str, str], content: bytes, timeout_s: float
) -> Reply | Outcome:
    """Send; the answer, or what its absence means."""
    try:
        return exchange(client, "POST", url, headers=headers, content=content, deadline_s=timeout_s)
    except ExchangeError as error:
        return Outcome("retry", error.code, away=True, tried=error.code != "unreachable")


def refused(reply: Reply) -> Outcome:
    """An answer that is no success: tried again where time can heal it (408, 425, 429 and 5xx but 501 and 505), dead otherwise."""
    code = f"http_{reply.status}"
    if reply.status in _HEALS or (reply.status >= 500 and reply.status not in {501, 505}):
        away = reply.status in _AWAY
        return Outcome("retry", code, away=away, tried=not away, retry_after_s=reply.retry_after_s)
    return Outcome("dead", code)
