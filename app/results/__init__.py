"""Results as standard objects: DICOM (structured report, secondary capture, presentation state, encapsulated PDF), PDF, FHIR, HL7 v2.

Importing this room costs nothing: highdicom, pydicom and reportlab are loaded by the first object that needs them.
"""

from app.results.make import make
from app.results.report import (
    MEDIA_TYPES,
    NEEDS_PICTURE,
    NEEDS_SOURCE,
    SHOWS_PICTURE,
    SOP_CLASSES,
    HeatMapDrawn,
    Polygon,
    Report,
    ResultKind,
)

__all__ = [
    "MEDIA_TYPES",
    "NEEDS_PICTURE",
    "NEEDS_SOURCE",
    "SHOWS_PICTURE",
    "SOP_CLASSES",
    "HeatMapDrawn",
    "Polygon",
    "Report",
    "ResultKind",
    "make",
]
