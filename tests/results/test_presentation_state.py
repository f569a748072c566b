from __future__ import annotations

import numpy as np
import pytest

from app.domain import FilmDisplay
from app.errors import RefusedError
from app.results import make
from tests.results import readback, samples


def test_the_outlines_are_closed_and_in_pixels_of_the_film() -> None:
    data = readback.dataset(make("gsps", samples.report()))
    objects = data.GraphicAnnotationSequence[0].GraphicObjectSequence
    square = np.reshape(objects[0].GraphicData, (-1, 2)).tolist()
    assert square == [[100.5, 200.5], [200.5, 200.5], [200.5, 300.5], [100.5, 300.5], [100.5, 200.5]]
    assert {(o.GraphicType, o.GraphicAnnotationUnits) for o in objects} == {("POLYLINE", "PIXEL")}


def test_the_film_is_shown_as_it_was_judged() -> None:
    display = FilmDisplay(slope=2.0, intercept=-1024.0, center=40.5, width=400.0, function="SIGMOID", inverse=True)
    data = readback.dataset(make("gsps", samples.report(display=display)))
    assert (data.RescaleSlope, data.RescaleIntercept) == (2, -1024)
    (voi,) = data.SoftcopyVOILUTSequence
    assert (voi.WindowCenter, voi.WindowWidth, voi.VOILUTFunction) == (40.5, 400, "SIGMOID")
    assert data.PresentationLUTShape == "INVERSE"
    area = data.DisplayedAreaSelectionSequence[0]
    assert list(area.DisplayedAreaBottomRightHandCorner) == [448, 512]


def test_it_says_that_it_is_not_for_diagnosis() -> None:
    data = readback.dataset(make("gsps", samples.report()))
    text = data.GraphicAnnotationSequence[0].TextObjectSequence[0].UnformattedTextValue
    assert text.startswith("AI overlay - not for diagnosis.")


def test_it_says_that_the_bundle_is_not_for_patients() -> None:
    data = readback.dataset(make("gsps", samples.report(restriction="research-only")))
    text = data.GraphicAnnotationSequence[0].TextObjectSequence[0].UnformattedTextValue
    assert text.startswith("AI overlay - not for diagnosis. NOT FOR PATIENTS: research-only. ")


def test_without_the_films_window_none_is_made() -> None:
    with pytest.raises(RefusedError) as caught:
        make("gsps", samples.report(display=None))
    assert caught.value.code == "presentation_unknown"


def test_a_map_without_evidence_gives_a_state_without_outlines() -> None:
    data = readback.dataset(make("gsps", samples.report(heat_map=samples.heat_map(contours=()))))
    assert "GraphicObjectSequence" not in data.GraphicAnnotationSequence[0]
