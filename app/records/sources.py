"""Whose films were judged: identifiers become keyed pseudonyms on the way in, and are looked up by their pseudonyms."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Engine, select

from app.domain import Source
from app.records.events import FilmSource
from app.records.keyring import KeyRing
from app.records.tables import audit_events, audit_payloads, film_sources, predictions

Identifier = Literal["patient", "study", "instance"]
FOUND_MAX: Final = 1_000
_PADDING: Final = " \0"


@dataclass(frozen=True)
class FoundFilm:
    """One event about a film: where it stands, when it was, what it was, and the label that was decided."""

    chain_id: str
    seq: int
    at: str
    kind: str
    label: str | None


def pseudonymous(ring: KeyRing, source: Source) -> FilmSource:
    """The row of a film. A patient is an identifier together with its issuer (PS3.3 C.7.1.1: it is unique only within one)."""

    def pseudonym(what: Identifier, *parts: str) -> str | None:
        return ring.pseudonym(_text(what, parts)) if parts[-1].strip(_PADDING) else None

    return FilmSource(
        patient=pseudonym("patient", source.issuer_of_patient_id, source.patient_id),
        study=pseudonym("study", source.study_uid),
        instance=pseudonym("instance", source.sop_instance_uid),
    )


def find_films(reader: Engine, ring: KeyRing, what: Identifier, *parts: str) -> tuple[FoundFilm, ...]:
    """The events about a patient (issuer, identifier), a study or an instance, newest first, at most `FOUND_MAX`."""
    column = film_sources.c[what]
    join = film_sources.join(audit_events).join(
        audit_payloads,
        (audit_payloads.c.chain_id == audit_events.c.chain_id) & (audit_payloads.c.seq == audit_events.c.seq),
    )
    query = (
        select(audit_events.c.chain_id, audit_events.c.seq, audit_events.c.at, audit_events.c.kind)
        .add_columns(audit_payloads.c.payload)
        .select_from(join)
        .where(column.in_(ring.pseudonyms(_text(what, parts))))
        .order_by(audit_events.c.at.desc(), audit_events.c.chain_id, audit_events.c.seq.desc())
        .limit(FOUND_MAX)
    )
    with reader.connect() as connection:
        return tuple(FoundFilm(r.chain_id, r.seq, r.at, r.kind, _label(r.payload)) for r in connection.execute(query))


def _text(what: Identifier, parts: tuple[str, ...]) -> str:
    """What the pseudonym is taken of; the kind is part of it, so that a number that is two things has two pseudonyms.

    Blanks around a Long String, and the NUL behind a UID, are padding (PS3.5 section 6.2).
    """
    return "\0".join((what, *(part.strip(_PADDING) for part in parts)))


def _label(payload: str) -> str | None:
    """The decided label, from the prediction's member or (an explanation) the event's own."""
    facts = json.loads(payload)
    label: str | None = facts.get(predictions.name, facts).get("label")
    return label
