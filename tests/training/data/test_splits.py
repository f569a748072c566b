from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ConfigurationError
from tests.training.phantom_data import TINY, TINY_MULTICLASS, TINY_MULTILABEL, film, write_data
from training.data.films import Film
from training.data.spec import DataPart, ManifestSource
from training.data.splits import PARTS, Splits, check_no_leak, make_splits, recipe_splits
from training.data.targets import targets
from training.places import DEFAULT_DATA, Places
from training.recipe import Recipe, load_recipe

unhurried = settings(deadline=None)  # the cores are shared

SOURCES = (ManifestSource(folder="kermany_hires"), ManifestSource(folder="kermany_224"))
PART = DataPart(sources=SOURCES, validation_each=0.1, crossing="leave_out")
SHARE = PART.model_copy(update={"test": 0.25})
NONE = Splits((), (), (), (), (), ())


def _seeded(seed: int) -> DataPart:
    return PART.model_copy(update={"split_seed": seed})


def _pool(n: int) -> list[Film]:
    return [
        film(f"kermany_hires/{i}.jpg", patient=f"p{i // 2}", label="pneumonia" if i // 2 % 3 else "normal")
        for i in range(n)
    ]


def _recipe(tmp_path: Path, text: str) -> Recipe:
    (tmp_path / "r.toml").write_text(text)
    return load_recipe(tmp_path / "r.toml")


def test_official_parts_go_where_they_belong() -> None:
    films = [
        *_pool(200),
        film("kermany_224/t1.jpg", split="test", patient="p3", label="pneumonia"),
        film("kermany_224/t2.jpg", split="test", patient="q"),
        film("kermany_224/v.jpg", split="val", patient="v"),
    ]
    splits = make_splits(films, PART)
    assert [f.path for f in splits.test] == ["kermany_224/t1.jpg", "kermany_224/t2.jpg"]
    assert [f.path for f in splits.crossing] == ["kermany_hires/6.jpg", "kermany_hires/7.jpg"]
    assert [f.path for f in splits.left_out] == ["kermany_224/v.jpg"]
    assert len(splits.train) + len(splits.fit) + len(splits.report) == 198
    assert (len(splits.fit), len(splits.report)) == (20, 20)


@pytest.mark.parametrize("group", ["", "d"], ids=["patient", "the same picture"])
def test_a_test_patient_outside_the_test_stops_the_run(group: str) -> None:
    """Unless the recipe says that such films are left out."""
    planted = film("kermany_224/t.jpg", split="test", patient="somebody" if group else "p3", group=group)
    films = [replace(f, duplicate_group=group if f.patient == "p3" else "") for f in _pool(60)]
    stopping = PART.model_copy(update={"crossing": "stop"})
    make_splits([*films, film("kermany_224/q.jpg", split="test", patient="q")], stopping)
    with pytest.raises(ConfigurationError, match=r"2 films .*kermany_hires/6.jpg.*p3.*leave_out") as caught:
        make_splits([*films, planted], stopping)
    assert caught.value.code == "leak"


def test_a_duplicate_group_is_kept_together_and_crosses_with_its_patient() -> None:
    films = _pool(60)
    films[0] = replace(films[0], duplicate_group="d")  # p0
    films[59] = replace(films[59], duplicate_group="d")  # p29: the same picture under another patient
    for seed in range(20):
        splits = make_splits(films, _seeded(seed))
        places = [
            name for name in ("train", "fit", "report") for f in getattr(splits, name) if f.patient in {"p0", "p29"}
        ]
        assert len(set(places)) == 1
    tested = film("kermany_224/t.jpg", split="test", patient="p29")
    crossing = make_splits([*films, tested], _seeded(0)).crossing
    assert {f.patient for f in crossing} == {"p0", "p29"}


@unhurried
@given(
    patients=st.lists(st.integers(0, 30), min_size=30, max_size=120),
    tests=st.sets(st.integers(0, 30), max_size=5),
    sided=st.sets(st.integers(0, 30), max_size=4),
    seed=st.integers(0, 5),
    share=st.booleans(),
)
def test_no_patient_ever_stands_on_two_sides(
    patients: list[int], tests: set[int], sided: set[int], seed: int, share: bool
) -> None:
    films = [
        film(f"kermany_hires/{i}.jpg", patient=f"p{p}", group=f"d{p % 7}" if i % 11 == 0 else "")
        for i, p in enumerate(patients)
    ]
    films += [film(f"kermany_224/{p}.jpg", split="test", patient=f"p{p}") for p in tests]
    films += [replace(film(f"bound/{p}.jpg", patient=f"p{p}"), side="train") for p in sided]
    films += [replace(film(f"held/{p}.jpg", patient=f"p{p + 2}"), side="test") for p in sided]
    splits = make_splits(films, (SHARE if share else PART).model_copy(update={"split_seed": seed}))
    parts = [getattr(splits, name) for name in PARTS]
    for field in ("patient", "path", "duplicate_group"):
        seen = [{getattr(f, field) for f in part} - {""} for part in parts]
        assert sum(map(len, seen)) == len(set().union(*seen))
    assert sum(len(part) for part in vars(splits).values()) == len(films)
    assert not [f for f in (*splits.fit, *splits.report) if f.side != "any"]
    assert not [f for f in splits.test if f.side == "train"]
    assert not [f for f in splits.train if f.side == "test"]


@pytest.mark.parametrize("part", [PART, SHARE])
def test_the_deal_depends_on_the_seed_alone(part: DataPart) -> None:
    films = _pool(100)
    assert make_splits(films, part) == make_splits(list(reversed(films)), part)
    other = part.model_copy(update={"split_seed": 4})
    assert make_splits(films, part).digest != make_splits(films, other).digest
    if part is SHARE:
        assert make_splits(films, part).test != make_splits(films, other).test


def test_a_share_for_the_test_is_of_patients_and_stratified() -> None:
    films = [replace(f, upstream_split="") for f in _pool(600)]
    splits = make_splits(films, SHARE)
    assert len(splits.test) == pytest.approx(150, abs=2)
    for name, size in (("test", 150), ("fit", 45), ("report", 45), ("train", 360)):
        found = getattr(splits, name)
        assert len(found) == pytest.approx(size, abs=4)
        assert sum(f.label == "normal" for f in found) == pytest.approx(size / 3, abs=3)
    assert not splits.crossing


def test_a_held_out_source_is_tested_whole_and_may_lack_patients() -> None:
    held = [replace(film(f"held/{i}.jpg", split="", patient=""), side="test") for i in range(5)]
    films = [replace(f, upstream_split="") for f in _pool(80)]
    splits = make_splits([*films, *held], SHARE)
    assert set(held) <= set(splits.test)
    assert len(splits.test) == pytest.approx(25, abs=2)
    nobody = replace(held[0], side="any")
    with pytest.raises(ConfigurationError, match="has no patient id") as caught:
        make_splits([*films, nobody], SHARE)
    assert caught.value.code == "no_patient"


def test_a_source_for_training_only_brings_its_patients_along() -> None:
    bound = [replace(film(f"bound/{i}.jpg", split="", patient=f"b{i}"), side="train") for i in range(40)]
    twin = film("kermany_hires/twin.jpg", patient="b7")
    splits = make_splits([*_pool(80), *bound, twin], PART)
    assert {*bound, twin} <= set(splits.train)
    official = replace(film("bound/t.jpg", split="test", patient="b99"), side="train")
    assert make_splits([*_pool(80), official], PART).left_out == (official,)  # upstream's test films teach nobody


def test_a_limit_takes_training_films_only_and_the_same_ones_each_time() -> None:
    films = _pool(200)
    limited = PART.model_copy(
        update={"sources": (ManifestSource(folder="kermany_hires", limit=30), ManifestSource(folder="kermany_224"))}
    )
    whole, some = make_splits(films, PART), make_splits(films, limited)
    assert Counter(f.label for f in some.train) == {"normal": 30, "pneumonia": 30}
    assert (some.fit, some.report) == (whole.fit, whole.report)
    assert set(some.train) | set(some.left_out) == set(whole.train)
    fewer = limited.model_copy(update={"sources": (ManifestSource(folder="kermany_hires", limit=10), SOURCES[1])})
    assert set(make_splits(films, fewer).train) < set(some.train)


def test_a_rare_finding_reaches_every_part_if_it_can() -> None:
    part = PART.model_copy(
        update={"task": "multilabel", "classes": ("no_finding", "pneumonia", "hernia"), "test": 0.25}
    )

    def shows(i: int) -> tuple[tuple[str, int], ...]:
        return (("no_finding", int(i % 2)), ("pneumonia", int(i % 2 == 0)), ("hernia", int(i % 25 == 0)))

    films = [replace(film(f"nih/{i}.jpg", split="", label="", patient=f"p{i}"), findings=shows(i)) for i in range(500)]
    splits = make_splits(films, part)
    found = {name: targets(getattr(splits, name), part)[:, 2].sum() for name in PARTS}
    assert found == {"train": 12, "fit": 1, "report": 2, "test": 5}


@pytest.mark.parametrize(
    ("planted", "what"),
    [
        (film("kermany_hires/b.jpg", patient="p1"), "patient p1"),
        (film("kermany_hires/a.jpg", patient="p2"), "film kermany_hires/a.jpg"),
        (film("kermany_hires/b.jpg", patient="p2", group="d"), "duplicate group d"),
        (film("kermany_hires/b.jpg", patient=""), "no patient id"),
    ],
)
@pytest.mark.parametrize("part", ["fit", "report", "test"])
def test_a_planted_leak_is_found(planted: Film, what: str, part: str) -> None:
    first = film("kermany_hires/a.jpg", patient="p1", group="d")
    splits = replace(NONE, train=(first,), **{part: (planted,)})
    with pytest.raises(ConfigurationError, match=what) as caught:
        check_no_leak(splits)
    assert caught.value.code == "leak"


def test_an_unknown_upstream_split_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="holdout"):
        make_splits([film("kermany_hires/a.jpg", split="holdout")], PART)


@pytest.mark.parametrize("text", [TINY, TINY_MULTICLASS, TINY_MULTILABEL])
def test_every_part_of_the_phantoms_shows_the_classes(tmp_path: Path, text: str) -> None:
    recipe = _recipe(tmp_path, text)
    splits = recipe_splits(recipe, Places(data=write_data(tmp_path / "data")))
    for name in PARTS:
        wanted = targets(getattr(splits, name), recipe.data)
        common = [i for i, output in enumerate(recipe.data.outputs) if output != "hernia"]
        assert wanted[:, common].sum(0).min() >= 1
        assert (wanted[:, common] == 0).sum(0).min() >= 1


def test_a_part_without_films_is_an_error(tmp_path: Path) -> None:
    recipe = _recipe(
        tmp_path,
        TINY.replace('folder = "kermany_hires"', 'folder = "tbx11k"')
        .replace('folder = "kermany_224"', 'folder = "nih_chestxray14"')
        .replace('"normal", "pneumonia"', '"normal", "tuberculosis"'),
    )
    with pytest.raises(ConfigurationError, match="test") as caught:
        recipe_splits(recipe, Places(data=write_data(tmp_path / "data", patients=4)))
    assert caught.value.code == "empty_split"


def test_a_class_without_films_is_an_error(tmp_path: Path) -> None:
    labels = '{ kind = "manifest", folder = "kermany_224", labels = { Pnuemonia = "pneumonia", normal = "normal" } }'
    text = TINY.replace('{ kind = "manifest", folder = "kermany_224" }', labels)
    text = text.replace('{ kind = "manifest", folder = "kermany_hires" }, ', "")
    assert labels in text
    with pytest.raises(ConfigurationError, match="train has no film of pneumonia") as caught:
        recipe_splits(_recipe(tmp_path, text), Places(data=write_data(tmp_path / "data")))
    assert caught.value.code == "class_missing"


@pytest.mark.real_data
def test_the_real_splits() -> None:
    """What the data folder's README says: 170 crossing patients, 457 pneumonia films; 624 test films; 16 upstream val films.

    The digest is that of the deal that the binary bundles before recipes of this form were made with.
    """
    if not DEFAULT_DATA.is_dir():
        pytest.skip("../shared/data is not here")
    recipe = load_recipe("pneumonia-resnet18")
    splits = recipe_splits(recipe, Places())
    assert splits.digest == "da42171d5750e47481d232b6937e6b739d32c8e59bb762a38d443e8acbe15d11"
    assert (len(splits.test), len(splits.crossing), len(splits.left_out)) == (624, 457, 16)
    assert len({f.patient for f in splits.crossing}) == 170
    assert {f.label for f in splits.crossing} == {"pneumonia"}
    assert {f.upstream_split for f in (*splits.train, *splits.fit, *splits.report)} == {"train"}
    tested = {f.patient for f in splits.test}
    assert not tested & {f.patient for f in (*splits.train, *splits.fit, *splits.report)}
    shares = [len(part) / 4645 for part in (splits.train, splits.fit, splits.report)]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.005)
    for part in (splits.train, splits.fit, splits.report):
        assert sum(f.label == "normal" for f in part) / len(part) == pytest.approx(1306 / 4645, abs=0.01)


@pytest.mark.real_data
def test_the_real_three_classes() -> None:
    """RSNA's normal films have no patient ids and stand on one side, whole."""
    if not DEFAULT_DATA.is_dir():
        pytest.skip("../shared/data is not here")
    recipe = load_recipe("threeclass-resnet18")
    splits = recipe_splits(recipe, Places())
    assert {f.folder for f in (*splits.fit, *splits.report, *splits.test)} == {"nih_chestxray14", "tbx11k"}
    assert sum(f.folder == "rsna_normal" for f in splits.train) == 465
    assert {f.age_group for f in splits.test if f.folder == "nih_chestxray14"} == {"adult"}
    for name in PARTS:
        assert {f.label for f in getattr(splits, name)} == set(recipe.data.classes)
