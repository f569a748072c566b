"""What a result object is made from, and which kinds of object there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import OperatingPoint
from app.domain import Decision, EngineInfo, FilmDisplay, Notice, Source

ResultKind = Literal["sr", "sc", "gsps", "pdf_dicom", "pdf", "fhir", "oru"]

MEDIA_TYPES: Final[Mapping[ResultKind, str]] = MappingProxyType(
    {
        "sr": "application/dicom",
        "sc": "application/dicom",
        "gsps": "application/dicom",
        "pdf_dicom": "application/dicom",
        "pdf": "application/pdf",
        "fhir": "application/fhir+json",
        "oru": "x-application/hl7-v2+er7",
    }
)
SOP_CLASSES: Final[Mapping[ResultKind, str]] = MappingProxyType(
    {
        "sr": "1.2.840.10008.5.1.4.1.1.88.33",
        "sc": "1.2.840.10008.5.1.4.1.1.7",
        "gsps": "1.2.840.10008.5.1.4.1.1.11.1",
        "pdf_dicom": "1.2.840.10008.5.1.4.1.1.104.1",
    }
)
# objects that go into the study of the film, or to a patient's record by its identifiers
NEEDS_SOURCE: Final[frozenset[ResultKind]] = frozenset({"sr", "sc", "gsps", "pdf_dicom", "oru"})
# objects that are nothing without a heat map; where the bundle cannot explain itself they cannot be made
NEEDS_PICTURE: Final[frozenset[ResultKind]] = frozenset({"sc", "gsps"})
# objects that show the heat map where there is one
SHOWS_PICTURE: Final[frozenset[ResultKind]] = NEEDS_PICTURE | {"pdf", "pdf_dicom"}

Polygon = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class HeatMapDrawn:
    """One explanation as it was drawn.

    picture: uint8 [H, W, 3] RGB, the film with the heat on it, at the film's size or smaller (same aspect ratio).
    contours: outlines where the map reaches `level` of its maximum, closed polygons of (x, y) in pixels of the film, from 0.
    """

    target: str
    method: str
    caption: str
    picture: NDArray[np.uint8]
    level: float = 0.5
    contours: tuple[Polygon, ...] = ()


@dataclass(frozen=True, repr=False)
class Report:
    """One recorded answer, complete for every kind of result object. Holds identifiers, so it has no `repr`.

    source: whose film it is; None where the film was no DICOM. judged_at: time zone aware; of the first answer where a request is
    repeated, so that a repeated request gives the same bytes. purpose, limits, population: the bundle's intended use, in its words.
    restriction: why the bundle is not for patients, None without such a restriction. point: the operating point the decision was made
    at. film_*: pixels, and the SHA-256 of the bytes as received. views: those whose mean was decided on, none for the plain film alone.
    """

    source: Source | None
    judged_at: datetime
    request_id: str
    bundle_name: str
    bundle_version: str
    bundle_digest: str
    purpose: str
    limits: str
    population: str
    engine: EngineInfo
    decision: Decision
    point: OperatingPoint
    notices: tuple[Notice, ...]
    film_width: int
    film_height: int
    film_sha256: str
    heat_map: HeatMapDrawn | None = None
    display: FilmDisplay | None = None
    restriction: str | None = None
    views: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "Report(...)"
