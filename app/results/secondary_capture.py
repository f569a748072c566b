"""The heat map on the film as a Secondary Capture image (PS3.3 A.8.1), with what it is written into its pixels.

The text stands on bars above and below the picture, so that it covers no anatomy and no viewer can switch it off.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from highdicom.sc import SCImage
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as dictionary

from app.results import dicom_object, identity, wording
from app.results.identity import require_film, text
from app.results.report import HeatMapDrawn, Report

_MIN_WIDTH_PX: Final = 512  # a smaller picture is enlarged, or the text could not be read
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_WHITE: Final = (255, 255, 255)
_AMBER: Final = (255, 191, 0)  # RGB


def render(report: Report) -> bytes:
    """RGB, 8 bits, uncompressed. No identifier of the patient is written into the pixels."""
    source = require_film(report.source, "A secondary capture")
    heat = report.heat_map
    if heat is None:  # `make` has refused already
        raise ValueError("a secondary capture needs a heat map")
    image: Dataset = SCImage(
        pixel_array=lettered(heat.picture, _above(report), _below(report, heat)),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),  # highdicom wants one; the film's follows, which may be unknown
        study_instance_uid=dicom_object.stand_in_film().StudyInstanceUID,
        **dicom_object.common_arguments(report, "sc"),
    )
    image.PatientOrientation = identity.orientation(source.patient_orientation)
    image.BodyPartExamined = "CHEST"  # all that any bundle judges
    when = dicom_object.local_time(report)
    image.DateOfSecondaryCapture, image.TimeOfSecondaryCapture = when.strftime("%Y%m%d"), when.strftime("%H%M%S")
    image.ImageType = ["DERIVED", "SECONDARY"]
    image.ConversionType = "WSD"  # made on a workstation (C.8.6.1)
    image.BurnedInAnnotation = "YES"  # it holds text, none of it about the patient
    image.DerivationDescription = text(
        f"{wording.NOT_FOR_DIAGNOSIS}. {heat.method} map of {heat.target} by {wording.algorithm(report)} "
        "on the windowed film, resampled",
        1024,
    )
    purpose = CodedConcept.from_code(dictionary.DCM.SourceImageForImageProcessingOperation)
    image.SourceImageSequence = [dicom_object.source_reference(purpose)]
    return dicom_object.finished(image, report, source)


def lettered(picture: NDArray[np.uint8], above: tuple[str, ...], below: tuple[str, ...]) -> NDArray[np.uint8]:
    """The picture between two black bars of text: uint8 [H', W', 3], W' >= 512. The lines above are drawn in amber."""
    height, width = picture.shape[:2]
    if width < _MIN_WIDTH_PX:
        scale = _MIN_WIDTH_PX / width
        size = (_MIN_WIDTH_PX, max(1, round(height * scale)))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    wide = picture.shape[1]
    return np.ascontiguousarray(np.vstack([_bar(above, wide, _AMBER), picture, _bar(below, wide, _WHITE)]))


def _bar(lines: tuple[str, ...], width: int, color: tuple[int, int, int]) -> NDArray[np.uint8]:
    """One bar of text, as large as 1/28 of the width allows and small enough that the longest line fits."""
    letter = max(14, width // 28)
    margin = letter // 2
    bar = np.zeros((letter * 3 // 2 * len(lines) + margin, width, 3), np.uint8)
    for row, line in enumerate(lines):
        ascii_line = line.encode("ascii", "replace").decode("ascii")  # the built-in font has no more
        scale = cv2.getFontScaleFromHeight(_FONT, letter * 7 // 10, 1)
        (wide, _), _ = cv2.getTextSize(ascii_line, _FONT, scale, 1)
        scale *= min(1.0, (width - 2 * margin) / max(1, wide))
        origin = (margin, letter * 3 // 2 * row + letter + margin // 4)
        cv2.putText(bar, ascii_line, origin, _FONT, scale, color, 1, cv2.LINE_AA)
    return bar


def _above(report: Report) -> tuple[str, ...]:
    return (wording.NOT_FOR_DIAGNOSIS, *wording.restriction(report))


def _below(report: Report, heat: HeatMapDrawn) -> tuple[str, ...]:
    decision = report.decision
    score = next((c for c in decision.classes if c.name == heat.target), decision.classes[0])
    reviewed = " - review required" if decision.review_required else ""
    found = f"{score.name}: probability {wording.probability(score.probability)}, {wording.verdict(score)}"
    return (
        f"Label: {decision.label}{reviewed}",
        f"{found} at '{report.point.name}'",
        f"Heat: {heat.method} of {heat.target} - {wording.algorithm(report)}",
    )
