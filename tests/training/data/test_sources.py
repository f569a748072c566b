from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.errors import ConfigurationError
from tests.training.phantom_data import TINY, TINY_MULTICLASS, TINY_MULTILABEL, film, write_data
from training.data.cache import load_pixels
from training.data.collect import collect
from training.data.fingerprint import data_sources, fingerprint
from training.data.sources import SOURCES, folder_origin, intended_use, licence
from training.places import DEFAULT_DATA
from training.recipe import Recipe, load_recipe

ORIGIN = {
    "licence": "hospital's own",
    "attribution": "St. Elsewhere",
    "commercial_use": True,
    "population": "adults of St. Elsewhere",
    "age_years": [18.0, 99.0],
    "views": ["PA"],
}


def _recipe(tmp_path: Path, text: str, **changes: Any) -> Recipe:
    (tmp_path / "r.toml").write_text(text)
    return load_recipe(tmp_path / "r.toml").changed(changes)


def test_one_population(tmp_path: Path) -> None:
    use = intended_use(_recipe(tmp_path, TINY))
    assert use.population.startswith("children of 1 to 5 years, Guangzhou")
    assert (use.age_years, use.views) == ((1.0, 5.0), ("AP",))
    assert "signs of pneumonia first" in use.purpose
    assert "Not for adults, lateral or PA views, nor for anything but pneumonia" in use.limits
    assert "sources differ" not in use.limits


def test_mixed_populations_are_listed_plainly(tmp_path: Path) -> None:
    use = intended_use(_recipe(tmp_path, TINY_MULTICLASS))
    assert use.population.startswith("mixed populations: ")
    assert "NIH Clinical Center, frontal AP and PA radiographs (adult patients only); " in use.population
    assert "tuberculosis, China" in use.population
    assert "without lung opacity" not in use.population  # held out: nothing was learnt there
    assert (use.age_years, use.views) == (None, ("AP", "PA"))
    assert "sorts films into normal, pneumonia or tuberculosis" in use.purpose
    assert "what tells the sources apart" in use.limits
    assert "nor for anything but pneumonia, tuberculosis" in use.limits


def test_labels_of_a_multilabel_recipe(tmp_path: Path) -> None:
    use = intended_use(_recipe(tmp_path, TINY_MULTILABEL))
    assert "marks 4 labels (no_finding, effusion, pneumonia, hernia)" in use.purpose
    assert "anything but effusion, pneumonia, hernia: other" in use.limits


def test_a_source_of_ones_own(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, TINY, **{"data.sources.0.origin": ORIGIN, "data.sources.1.side": "test"})
    use = intended_use(recipe)
    assert (use.population, use.age_years, use.views) == ("adults of St. Elsewhere", (18.0, 99.0), ("PA",))
    assert "Not for children, lateral or AP views" in use.limits
    both = intended_use(_recipe(tmp_path, TINY, **{"data.sources.0.origin": ORIGIN}))
    assert both.population.startswith("mixed populations: adults of St. Elsewhere; children")
    assert both.age_years == (1.0, 99.0)


def test_a_source_of_which_nothing_is_known_is_not_published(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, TINY, **{"data.sources.0.folder": "mystery"})
    for call in (
        lambda: intended_use(recipe),
        lambda: folder_origin("mystery", recipe.data.sources),
        lambda: licence([film("mystery/a.jpg")], recipe),
    ):
        with pytest.raises(ConfigurationError, match="mystery") as caught:
            call()
        assert caught.value.code == "unknown_source"


def test_films_of_the_pretraining_have_origins_too(tmp_path: Path) -> None:
    origin = ORIGIN | {"commercial_use": False, "licence": "CC BY 4.0"}
    recipe = _recipe(
        tmp_path, TINY, pretraining={"sources": [{"kind": "tree", "folder": "unlabelled", "origin": origin}]}
    )
    assert not licence([film("kermany_hires/a.jpg"), film("unlabelled/b.jpg")], recipe).commercial_use
    assert licence([film("kermany_hires/a.jpg")], recipe).commercial_use


def test_free_films_give_free_weights(tmp_path: Path) -> None:
    found = licence([film("kermany_hires/a.jpg"), film("kermany_224/b.jpg")], _recipe(tmp_path, TINY))
    assert found.commercial_use
    assert found.weights == "derived from CC BY 4.0 images; attribution required"
    assert found.notes.startswith("Attribution: Kermany")


def test_the_strictest_licence_wins_and_is_named(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, TINY_MULTICLASS)
    films = collect(recipe.data.sources, write_data(tmp_path / "data", patients=4), recipe.data)
    found = licence(films, recipe)
    assert not found.commercial_use
    assert "No commercial use, because of rsna_normal" in found.notes
    assert "tbx11k (TBX11K: non-commercial research" in found.notes
    assert "All films of tuberculosis come from there." in found.notes
    assert licence([f for f in films if f.folder == "nih_chestxray14"], recipe).commercial_use


def test_licences_of_single_films_count(tmp_path: Path) -> None:
    free, bound = film("cohen_covid_chestxray/a.jpg"), film("cohen_covid_chestxray/b.jpg")
    assert licence([free]).commercial_use  # CC BY 4.0
    assert not licence([free, type(bound)(**{**vars(bound), "licence": "CC BY-NC-SA 4.0"})]).commercial_use
    own = {"data.sources.0.origin": ORIGIN | {"commercial_use": False, "licence": "CC BY 4.0"}}
    assert not licence([film("kermany_hires/a.jpg")], _recipe(tmp_path, TINY, **own)).commercial_use


def test_the_provenance_names_every_folder(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, TINY_MULTICLASS)
    data = write_data(tmp_path / "data", patients=4)
    films = collect(recipe.data.sources, data, recipe.data)
    entries = data_sources(load_pixels(data, films, recipe.input, tmp_path / "cache"), recipe.data.sources)
    assert [(e.name, e.images) for e in entries] == [
        ("nih_chestxray14, training films", 44),
        ("rsna_normal, training films", 8),
        ("tbx11k, training films", 24),
    ]
    assert entries[2].licence.startswith("TBX11K: non-commercial")
    assert "Liu Y" in entries[2].attribution
    again = data_sources(load_pixels(data, films[::-1], recipe.input, tmp_path / "cache"), recipe.data.sources)
    assert again == entries
    fewer = data_sources(load_pixels(data, films[1:], recipe.input, tmp_path / "cache"), recipe.data.sources)
    assert [a.digest == b.digest for a, b in zip(entries, fewer, strict=True)] == [False, True, True]


def test_the_fingerprint_knows_labels_and_patients(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, TINY_MULTICLASS)
    films = collect(recipe.data.sources, write_data(tmp_path / "data", patients=4), recipe.data)
    found = fingerprint(films, recipe.data)
    assert (found["films"], found["patients"]) == (76, 76)
    assert found["folders"]["tbx11k"] == {
        "films": 24,
        "patients": 24,
        "labels": {"normal": 0, "pneumonia": 0, "tuberculosis": 24},
    }
    assert fingerprint(films[::-1], recipe.data) == found
    for change in ({"label": "tuberculosis"}, {"patient": "x"}, {"duplicate_group": "d"}, {"path": "x"}):
        changed = [type(films[0])(**{**vars(films[0]), **change}), *films[1:]]
        assert fingerprint(changed, recipe.data)["digest"] != found["digest"]


@pytest.mark.real_data
def test_every_folder_of_the_data_is_described() -> None:
    if not DEFAULT_DATA.is_dir():
        pytest.skip("../shared/data is not here")
    folders = {p.parent.name for p in DEFAULT_DATA.glob("*/manifest.csv")} - {"originals", "dicom"}
    assert folders == set(SOURCES)
