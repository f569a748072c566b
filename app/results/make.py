"""The one way to a result object."""

from __future__ import annotations

import importlib
from typing import Final, cast

from app.errors import ConflictError
from app.results.report import NEEDS_PICTURE, Report, ResultKind

# where each object is made, by a function `render(report) -> bytes`; imported when the first one is wanted
_MODULES: Final[dict[ResultKind, str]] = {
    "sr": "structured_report",
    "sc": "secondary_capture",
    "gsps": "presentation_state",
    "pdf_dicom": "encapsulated_pdf",
    "pdf": "pdf",
    "fhir": "fhir",
    "oru": "hl7",
}


def make(kind: ResultKind, report: Report) -> bytes:
    """The object's bytes; the same report gives the same bytes. Thread-safe, CPU only (tens of milliseconds).

    Raises:
        RefusedError: `dicom_source_required` where the object goes into the film's study and the film was no DICOM, or has no
            usable study, series and instance UID.
        ConflictError: `explanation_unavailable` where the object shows a heat map and there is none.
    """
    if kind in NEEDS_PICTURE and report.heat_map is None:
        raise ConflictError("explanation_unavailable", what="heat maps")
    module = importlib.import_module(f"app.results.{_MODULES[kind]}")
    return cast("bytes", module.render(report))
