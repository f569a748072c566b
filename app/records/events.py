"""What callers hand in: events and prediction records; and how they are made ready for the writer, in the caller's thread."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Table

from app.domain import InputStatistics, Json, Judgement, Principal
from app.records.chain import canonical, sha256_hex
from app.records.projection import PROJECTED, Row, own_columns, sections, storable
from app.records.tables import STATISTICS, film_sources, idempotency_keys, predictions

if TYPE_CHECKING:
    from app.bundle.manifest import Manifest

PAYLOAD_MAX_BYTES: Final = 65_536
PROJECTION_LENGTH: Final = 16
_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class EventId:
    """Where an event stands: its chain, and its place in it from 0."""

    chain_id: str
    seq: int

    def __str__(self) -> str:
        return f"{self.chain_id}:{self.seq}"


@dataclass(frozen=True)
class AuditEvent:
    """Something that was decided: what kind, for which API key (None: the service or the command line itself), and the facts."""

    kind: str
    key_id: str | None
    payload: Json


@dataclass(frozen=True)
class PredictionRecord:
    """The row of one answer. Numbers about the film, never the film.

    engine: name and version; precision: the effective one; positive: classes called positive; confidence, probabilities: [0, 1];
    margins: logit units; projection: 16 numbers of the pooled features, for drift; latency_ms: milliseconds until recording.
    """

    request_id: str
    key_id: str | None
    bundle_name: str
    bundle_version: str
    bundle_digest: str
    engine: str
    precision: str
    image_sha256: str
    image_format: str
    statistics: InputStatistics
    task: str
    label: str
    positive: tuple[str, ...]
    confidence: float | None
    probabilities: Mapping[str, float]
    margins: Mapping[str, float]
    operating_point: str
    review_reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    projection: tuple[float, ...]
    latency_ms: float

    @classmethod
    def of(
        cls, judgement: Judgement, manifest: Manifest, digest: str, principal: Principal, request_id: str
    ) -> PredictionRecord:
        """What was seen (numbers only), what was decided, by which bundle (`digest` is its own) and engine, for which key."""
        decision, film, engine = judgement.decision, judgement.radiograph, judgement.engine
        return cls(
            request_id=request_id,
            key_id=principal.key_id,
            bundle_name=manifest.name,
            bundle_version=manifest.version,
            bundle_digest=digest,
            engine=f"{engine.name} {engine.version}",
            precision=engine.precision,
            image_sha256=film.sha256,
            image_format=film.format,
            statistics=judgement.statistics,
            task=decision.task,
            label=decision.label,
            positive=decision.positive,
            confidence=decision.confidence,
            probabilities={c.name: c.probability for c in decision.classes},
            margins={c.name: c.margin for c in decision.classes},
            operating_point=decision.operating_point,
            review_reasons=tuple(str(r) for r in decision.review_reasons),
            warnings=tuple(n.code for n in judgement.notices),
            projection=tuple(float(x) for x in judgement.feature_projection),
            latency_ms=sum(judgement.timing_ms.values()),
        )

    def as_payload(self) -> dict[str, Any]:
        """Plain members, named like the columns of `predictions`; `key_id` is the event's and not repeated."""
        members = {name: value for name, value in self.__dict__.items() if name not in {"key_id", "statistics"}}
        members |= {"image_height": self.statistics.height, "image_width": self.statistics.width}
        return members | {f"stat_{name}": getattr(self.statistics, name) for name in STATISTICS}


@dataclass(frozen=True)
class FilmSource:
    """Whose film was judged, as keyed pseudonyms; None where the header is silent."""

    patient: str | None
    study: str | None
    instance: str | None


@dataclass(frozen=True)
class FirstUse:
    """What is kept of the first use of an Idempotency-Key.

    pseudonym: of the key's text; fingerprint: of the request, hex; judged_at: when its answer was made, UTC timestamp.
    """

    pseudonym: str
    fingerprint: str
    bundle_digest: str
    request_id: str
    judged_at: str


@dataclass(frozen=True)
class Draft:
    """An event that can no longer fail by its content: canonical payload, its hash, and the rows without the event's columns."""

    kind: str
    key_id: str | None
    payload: str
    payload_sha256: str
    rows: tuple[tuple[Table, Row], ...]


def prepare(
    event: AuditEvent,
    prediction: PredictionRecord | None = None,
    *,
    source: FilmSource | None = None,
    use: FirstUse | None = None,
) -> Draft:
    """Serialise an event, and what belongs to it into the payload's members that are named like their tables.

    Raises:
        TypeError, ValueError: not JSON, too large, a text no database holds, or members that do not fit their table.
    """
    if not _KIND.fullmatch(event.kind):
        raise ValueError("an event's kind is a lower-case word")
    if event.payload.keys() & PROJECTED.keys():
        raise ValueError("members named like a table are written by the records only")
    payload: Mapping[str, Any] = event.payload
    if prediction is not None:
        if prediction.key_id != event.key_id:
            raise ValueError("a prediction and its event must name the same key")
        if len(prediction.projection) != PROJECTION_LENGTH:
            raise ValueError(f"a prediction carries {PROJECTION_LENGTH} projected numbers")
        payload = {**payload, predictions.name: prediction.as_payload()}
    if source is not None:
        payload = {**payload, film_sources.name: dict(vars(source))}
    if use is not None:
        payload = {**payload, idempotency_keys.name: dict(vars(use))}
    return seal_draft(event.kind, event.key_id, payload)


def seal_draft(kind: str, key_id: str | None, payload: Mapping[str, Any]) -> Draft:
    """Canonical payload and its projected rows. For the records' own events, whose members may name tables.

    The rows are taken from the payload as `verify` will read it, not from the caller's objects.

    Raises:
        TypeError, ValueError: as `prepare`.
    """
    data = canonical(payload)
    if len(data) > PAYLOAD_MAX_BYTES:
        raise ValueError(f"a payload has at most {PAYLOAD_MAX_BYTES} bytes")
    if key_id is not None:
        storable(key_id)
    rows: tuple[tuple[Table, Row], ...] = ()
    if payload.keys() & PROJECTED.keys():
        rows = tuple((table, own_columns(table, section)) for table, section in sections(json.loads(data)))
    return Draft(kind, key_id, data.decode("ascii"), sha256_hex(data), rows)
