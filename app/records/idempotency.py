"""First uses of Idempotency-Keys (draft-ietf-httpapi-idempotency-key-header): which event answered, and to what request.

A key belongs to the API key that sent it and to the bundle that answered: after an activation it counts as new. Its text is kept as a
keyed pseudonym only. The look-up that counts is made inside the transaction that writes, so that of two first uses one is the first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, select

from app.errors import RequestError
from app.records.chain import timestamp
from app.records.events import AuditEvent, Draft, EventId, FirstUse, seal_draft
from app.records.keyring import KeyRing
from app.records.tables import idempotency_keys


@dataclass(frozen=True)
class KeyUse:
    """One use. key_id: of the API key; text: the header's; bundle_digest: of the bundle that is to answer."""

    key_id: str
    text: str = field(repr=False)
    bundle_digest: str


@dataclass(frozen=True)
class Repeated:
    """A first use: the event that answered, its request id, when that answer was made (UTC), and what was asked.

    fingerprint: hex digest of everything that decides an answer; the caller's.
    """

    event: EventId
    request_id: str
    judged_at: datetime
    fingerprint: str

    def check(self, fingerprint: str) -> None:
        """Raises: RequestError, idempotency_key_reused, for another request."""
        if fingerprint != self.fingerprint:
            raise RequestError("idempotency_key_reused")


def first_use(ring: KeyRing, use: KeyUse, fingerprint: str, request_id: str, judged_at: datetime) -> FirstUse:
    """The row of a use that turns out to be the first."""
    pseudonym = ring.pseudonym(_text(use))
    return FirstUse(pseudonym, fingerprint, use.bundle_digest, request_id, timestamp(judged_at))


def find_first(connection: Connection, ring: KeyRing, use: KeyUse) -> Repeated | None:
    """The first use, if there was one."""
    keys = idempotency_keys.c
    query = select(keys.chain_id, keys.seq, keys.fingerprint, keys.request_id, keys.judged_at).where(
        keys.key_id == use.key_id,
        keys.pseudonym.in_(ring.pseudonyms(_text(use))),
        keys.bundle_digest == use.bundle_digest,
    )
    row = connection.execute(query).first()
    if row is None:
        return None
    judged_at = datetime.fromisoformat(row.judged_at)
    return Repeated(EventId(row.chain_id, row.seq), row.request_id, judged_at, row.fingerprint)


def repeat_draft(event: AuditEvent, first: Repeated) -> Draft:
    """What is written of a repeated request instead of its answer: that it was asked again, and which event answered."""
    answered = {"chain_id": first.event.chain_id, "seq": first.event.seq, "request_id": first.request_id}
    return seal_draft(
        "repeat", event.key_id, {"request_id": event.payload["request_id"], "route": event.kind, "first": answered}
    )


def _text(use: KeyUse) -> str:
    return f"idempotency\0{use.text}"
