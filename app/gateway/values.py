"""The frozen values of the gateway: what was received, what the queues hold, what died."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

FilmState = Literal["received", "selected", "ignored", "judged", "refused", "failed", "expired"]
DeliveryState = Literal["pending", "delivered", "dead", "expired"]


@dataclass(frozen=True)
class Received:
    """A film that was taken: it is durable, or nothing is to be done with it.

    new: False where the same bytes are already on their way. ignored: True where no selection rule wants it (nothing was kept).
    sop_class_uid, sop_instance_uid: for the acknowledgement; in memory only, hence no repr.
    """

    new: bool
    ignored: bool
    sop_class_uid: str = field(repr=False)
    sop_instance_uid: str = field(repr=False)


@dataclass(frozen=True)
class DeadLetter:
    """What was given up until someone says `replay`.

    id: `film-<n>` (the service failed on it) or `delivery-<n>`. destination, kind: of a delivery. code: why, one of our words.
    since_s: seconds since the last try.
    """

    id: str
    code: str
    attempts: int
    since_s: float
    destination: str | None = None
    kind: str | None = None


@dataclass(frozen=True)
class Queue:
    """One destination. oldest_s: age of the oldest message that waits, 0 where none does. code: why the last try failed, else None."""

    pending: int
    delivered: int
    dead: int
    oldest_s: float
    code: str | None


@dataclass(frozen=True)
class Status:
    """Everything that is worth a look; no identifiers.

    films: number by state. oldest_s: age of the oldest film without a judgement. refusals: number of refused films by error code.
    judge_code: why the last judgement failed (None: it did not). bundle: `name/version` of the last judgement. used_bytes: of the spool.
    """

    films: Mapping[FilmState, int]
    oldest_s: float
    refusals: Mapping[str, int]
    judge_code: str | None
    bundle: str | None
    queues: Mapping[str, Queue]
    used_bytes: int
