"""Identifiers that follow from what an object is about, so that a retry never makes a second object.

A film is known by its SOP Instance UID, not by its bytes: a PACS may send it again in another transfer syntax. Together with the
bundle's digest, the operating point and the kind of object (and, where a heat map is shown, its target and method; where several views
were decided on, their names; where not the reference computed, the engine and its precision, which give other scores) it names the object.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import Final

from app.bundle.manifest import REFERENCE_VARIANT
from app.results.report import SHOWS_PICTURE, Report, ResultKind

_SPACE: Final = (
    "cxr-triage results 1"  # raise the number when objects change so much that old and new must not share a UID
)


def uid_of(*facts: str) -> str:
    """A DICOM UID from a UUID (PS3.5 B.2), `2.25.<decimal>`, at most 44 characters; equal facts give equal UIDs.

    The UUID is made as RFC 9562 makes version 5, with SHA-256 in the place of SHA-1.
    """
    return f"2.25.{uuid.UUID(bytes=_digest(facts)[:16], version=5).int}"


def token_of(*facts: str) -> str:
    """20 hexadecimal digits, as long as an HL7 v2.5.1 message control id may be (MSH-10)."""
    return _digest(facts).hex()[:20]


def object_facts(report: Report, kind: ResultKind) -> tuple[str, ...]:
    """What makes one object of one kind the same as another."""
    film = report.source.sop_instance_uid if report.source else report.film_sha256
    heat = report.heat_map if kind in SHOWS_PICTURE else None
    drawn = (heat.target, heat.method) if heat else ()
    views = ("views", *report.views) if report.views else ()
    variant = f"{report.engine.name}-{report.engine.precision}"
    engine = () if variant == REFERENCE_VARIANT else ("engine", variant)
    return (kind, film, report.bundle_digest, report.point.name, *drawn, *views, *engine)


def object_uid(report: Report, kind: ResultKind) -> str:
    return uid_of("object", *object_facts(report, kind))


def series_uid(report: Report, kind: ResultKind) -> str:
    """One series per study, bundle and kind: the results of a study's films lie side by side."""
    study = report.source.study_uid if report.source else report.film_sha256
    return uid_of("series", kind, study, report.bundle_digest)


def device_uid(report: Report) -> str:
    """The observer of a report: one bundle, wherever it runs."""
    return uid_of("device", report.bundle_digest)


def tracking_uid(report: Report, class_name: str) -> str:
    """One finding of one film, whichever bundle judged it, so that later judgements can be laid beside earlier ones."""
    film = report.source.sop_instance_uid if report.source else report.film_sha256
    return uid_of("finding", film, report.bundle_name, class_name)


def _digest(facts: tuple[str, ...]) -> bytes:
    """Length before each fact: ("ab", "c") and ("a", "bc") are different."""
    sha = hashlib.sha256()
    for fact in (_SPACE, *facts):
        data = fact.encode("utf-8", "surrogatepass")
        sha.update(len(data).to_bytes(8, "big"))
        sha.update(data)
    return sha.digest()
