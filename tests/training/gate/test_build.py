"""What the gate's fit may be made of: known before it begins."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest

from app.bundle.manifest import Licence
from app.errors import ConfigurationError
from tests.training.factory import Factory
from tests.training.phantom_data import TINY, film
from training.data.cache import Pixels
from training.data.sources import SOURCES
from training.gate import build
from training.recipe import Recipe, parse_recipe

OURS = {"licence": "ours alone", "attribution": "St. Elsewhere", "commercial_use": False, "population": "adults"}
FREE = Licence(weights="derived from CC0 images", commercial_use=True)
FILMS = (film("kermany_hires/a.jpg"), film("ours/b.jpg"), film("ours/c.jpg"))
UNSAID = tuple(type(one)(**{**vars(one), "licence": ""}) for one in FILMS)


def _recipe(**origin: object) -> Recipe:
    text = TINY.replace('folder = "kermany_224"', 'folder = "ours"')
    return parse_recipe(tomllib.loads(text), "ours").changed({"data.sources.1.origin": origin or None})


def test_a_source_of_ones_own_is_what_the_recipe_says() -> None:
    made = build._licence(FREE, UNSAID, _recipe(**OURS))
    assert not made.commercial_use
    assert (
        made.weights
        == "network: derived from CC0 images; gate: derived from CC BY 4.0 and ours alone images; attribution required"
    )
    assert "because of ours (ours alone)" in made.notes
    pixels = Pixels(UNSAID, np.zeros((3, 1, 8, 8), np.uint8), ("1", "2", "3"), ())
    known, ours = build._sources(pixels, _recipe(**OURS))
    assert (known.name, known.images, known.licence) == ("gate: kermany_hires", 1, "CC BY 4.0")
    assert (ours.name, ours.images, ours.licence) == ("gate: ours", 2, "ours alone")
    assert ours.attribution == "St. Elsewhere"
    freed = build._licence(FREE, UNSAID, _recipe(**OURS | {"commercial_use": True}))
    assert freed.commercial_use
    with pytest.raises(ConfigurationError, match="nothing is known of 'ours'"):
        build._licence(FREE, FILMS, _recipe())


def test_a_source_of_which_nothing_is_known_stops_it_before_the_fit(
    exported: Factory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fitted(*_: object) -> None:
        raise AssertionError("fitted")

    monkeypatch.setattr(build, "_fitted", fitted)
    monkeypatch.delitem(SOURCES, "nih_chestxray14")
    with pytest.raises(SystemExit) as end:
        exported("gate", "tiny", "--version", "1.1.0", "--recipe", str(exported.recipe))
    assert end.value.code == 1
    assert "nothing is known of 'nih_chestxray14'" in capsys.readouterr().err
