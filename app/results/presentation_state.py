"""The outlines of the heat map as a Grayscale Softcopy Presentation State (PS3.3 A.33.1): the film itself, lines switchable on top.

A presentation state replaces how the film is displayed altogether: without a VOI transformation in it the stored values would be
shown as they are (PS3.4 N.2.1.2). So one is made only where the window that was applied to the film is known.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from highdicom import ModalityLUTTransformation, PresentationLUTTransformation
from highdicom.pr import (
    AnnotationUnitsValues,
    GraphicAnnotation,
    GraphicLayer,
    GraphicObject,
    GraphicTypeValues,
    GrayscaleSoftcopyPresentationState,
    SoftcopyVOILUTTransformation,
    TextObject,
)
from pydicom.dataset import Dataset

from app.domain import FilmDisplay
from app.errors import ConflictError, RefusedError
from app.results import dicom_object, wording
from app.results.identity import require_film, text
from app.results.report import HeatMapDrawn, Polygon, Report

_LAYER: Final = "AI_TRIAGE"
_MAX_POLYGONS: Final = 64
_ST: Final = 1024  # characters of a Short Text


def render(report: Report) -> bytes:
    """Raises: RefusedError: no DICOM film; `presentation_unknown`, the film is shown through a LUT."""
    source = require_film(report.source, "A presentation state")
    heat, display = report.heat_map, report.display
    if heat is None:
        raise ConflictError("explanation_unavailable", what="heat maps")
    if display is None:
        raise RefusedError("presentation_unknown")
    film = _film(report)
    layer = GraphicLayer(_LAYER, order=1, description=wording.NOT_FOR_DIAGNOSIS)
    state = GrayscaleSoftcopyPresentationState(
        referenced_images=[film],
        content_label=_LAYER,
        content_description=wording.NOT_FOR_DIAGNOSIS,
        graphic_layers=[layer],
        graphic_annotations=[_annotation(report, heat, film, layer)],
        modality_lut_transformation=ModalityLUTTransformation(
            rescale_slope=float(display.slope), rescale_intercept=float(display.intercept), rescale_type="US"
        ),
        voi_lut_transformations=[
            SoftcopyVOILUTTransformation(
                window_center=float(display.center),
                window_width=float(display.width),
                voi_lut_function=display.function,
            )
        ],
        presentation_lut_transformation=_presentation(display),
        **dicom_object.common_arguments(report, "gsps"),
    )
    state.BodyPartExamined = "CHEST"  # all that any bundle judges
    when = dicom_object.local_time(report)
    state.PresentationCreationDate, state.PresentationCreationTime = when.strftime("%Y%m%d"), when.strftime("%H%M%S")
    return dicom_object.finished(state, report, source)


def _film(report: Report) -> Dataset:
    film = dicom_object.stand_in_film()
    film.Rows, film.Columns, film.SamplesPerPixel = report.film_height, report.film_width, 1
    return film


def _presentation(display: FilmDisplay) -> PresentationLUTTransformation:
    return PresentationLUTTransformation(presentation_lut_shape="INVERSE" if display.inverse else "IDENTITY")


def _annotation(report: Report, heat: HeatMapDrawn, film: Dataset, layer: GraphicLayer) -> GraphicAnnotation:
    """The outlines and one line of text, in pixels of the film."""
    first = ". ".join((wording.NOT_FOR_DIAGNOSIS, *wording.restriction(report)))
    line = f"{first}. {heat.method} of {heat.target}, {wording.algorithm(report)}"
    return GraphicAnnotation(
        referenced_images=[film],
        graphic_layer=layer,
        graphic_objects=[_outline(polygon) for polygon in heat.contours[:_MAX_POLYGONS]],
        text_objects=[
            TextObject(
                text_value=text(line, _ST),
                units=AnnotationUnitsValues.DISPLAY,
                bounding_box=(0.02, 0.94, 0.98, 0.99),
            )
        ],
    )


def _outline(polygon: Polygon) -> GraphicObject:
    """A closed polyline. Our pixels are counted from 0 at their centres; the standard has (0, 0) at the top left corner of the first
    pixel (C.10.5.1.2), so that its centre is at (0.5, 0.5)."""
    points = np.asarray([*polygon, polygon[0]], np.float64) + 0.5
    return GraphicObject(
        graphic_type=GraphicTypeValues.POLYLINE,
        graphic_data=points,
        units=AnnotationUnitsValues.PIXEL,
        is_filled=False,
    )
