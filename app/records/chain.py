"""The audit chain's arithmetic: canonical JSON, the MAC of an event, and what a chain's head is. No I/O.

Format version 1. An event's MAC is HMAC-SHA-256 (FIPS 198-1) with a key of the ring's `audit_mac` purpose over the canonical
JSON array `[1, ring key id, chain_id, seq, at, kind, payload_sha256, key_id, prev_mac]`; the `mac` column holds
`<ring key id>:<hex digest>`. To change the format: raise `FORMAT`, keep the old `mac_input` beside the new one, choose by what
the event says, and add a test with a database written by the old one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

FORMAT = 1
GENESIS = "genesis"  # the prev_mac of a chain's first event


def canonical(value: object) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, ASCII, floats as their shortest round-trip form (RFC 8785 in spirit).

    Raises:
        TypeError, ValueError: the value is not JSON (NaN and infinities included).
    """
    return _encode(value).encode("ascii")


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


_encode: Final = json.JSONEncoder(  # made once: making it costs more than most payloads
    sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False, default=_plain
).encode


def sha256_hex(data: bytes) -> str:
    """SHA-256 (FIPS 180-4) as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def timestamp(moment: datetime) -> str:
    """ISO-8601 UTC with microseconds and `Z`, always 27 characters, so that text order is time order."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(frozen=True)
class Head:
    """The newest event of a chain; seq -1 and GENESIS before the first."""

    chain_id: str
    seq: int
    mac: str


@dataclass(frozen=True)
class Event:
    """One row of `audit_events` without its own MAC."""

    chain_id: str
    seq: int
    at: str
    kind: str
    payload_sha256: str
    key_id: str | None
    prev_mac: str

    def mac_input(self, ring_key_id: str) -> bytes:
        """What the MAC is taken over: every column, the format version and the ring key's id, unambiguously delimited."""
        return canonical(
            [
                FORMAT,
                ring_key_id,
                self.chain_id,
                self.seq,
                self.at,
                self.kind,
                self.payload_sha256,
                self.key_id,
                self.prev_mac,
            ]
        )

    def row(self, mac: str) -> dict[str, Any]:
        return {**self.__dict__, "mac": mac}
