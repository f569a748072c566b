"""One bounded HTTP exchange with the service or a destination: no proxies from the environment, no redirects, an answer of bounded size."""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import httpx

ANSWER_MAX_BYTES: Final = 1_000_000
_RETRY_AFTER_MAX_S: Final = 3_600.0


class ExchangeError(Exception):
    """There is no answer. code: `unreachable`, `timeout`, `broken_connection`, `answer_too_large`."""

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


@dataclass(frozen=True)
class Reply:
    """A whole answer. retry_after_s: what the other side asks for, in seconds (RFC 9110 10.2.3; dates are not read)."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    retry_after_s: float | None


def new_client(timeout_s: float) -> httpx.Client:
    """A client with the system's certificate authorities (`SSL_CERT_FILE` replaces them). timeout_s: longest silence."""
    return httpx.Client(
        timeout=timeout_s, verify=ssl.create_default_context(), trust_env=False, follow_redirects=False, http2=False
    )


def exchange(
    client: httpx.Client,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    content: bytes | None = None,
    deadline_s: float,
    max_bytes: int = ANSWER_MAX_BYTES,
) -> Reply:
    """Send a request with a Content-Length and read the whole answer.

    Args:
        deadline_s: longest time for the answer's body once its headers are here.

    Raises:
        ExchangeError: no whole answer.
    """
    try:
        with client.stream(method, url, headers=dict(headers), content=content) as response:
            return Reply(
                response.status_code,
                response.headers,
                _body(response, time.monotonic() + deadline_s, max_bytes),
                _retry_after_s(response.headers.get("retry-after")),
            )
    except httpx.ConnectError:
        raise ExchangeError("unreachable") from None
    except httpx.TimeoutException:
        raise ExchangeError("timeout") from None
    except httpx.HTTPError:
        raise ExchangeError("broken_connection") from None


def _body(response: httpx.Response, until: float, max_bytes: int) -> bytes:
    body = bytearray()
    for piece in response.iter_bytes():
        body += piece
        if len(body) > max_bytes:
            raise ExchangeError("answer_too_large")
        if time.monotonic() > until:
            raise ExchangeError("timeout")
    return bytes(body)


def _retry_after_s(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return min(seconds, _RETRY_AFTER_MAX_S) if math.isfinite(seconds) and seconds >= 0 else None
