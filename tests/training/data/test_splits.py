from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ConfigurationError
from tests.training.phantom_data import film
from training.data.films import Film, read_manifests
from training.data.splits import Splits, check_no_leak, make_splits
from training.places import DEFAULT_DATA
from training.recipe import DataPart, load_recipe

unhurried = settings(deadline=None)  # the cores are shared

PART = DataPart(validation_each=0.1)
NONE = Splits((), (), (), (), (), ())


def _pool(n: int) -> list[Film]:
    return [
        film(f"kermany_hires/{i}.jpg", patient=f"p{i // 2}", label="pneumonia" if i // 2 % 3 else "normal")
        for i in range(n)
    ]


def test_official_parts_go_where_they_belong() -> None:
    films = [
        *_pool(200),
        film("kermany_224/t1.jpg", split="test", patient="p3", label="pneumonia"),
        film("kermany_224/t2.jpg", split="test", patient="q"),
        film("kermany_224/v.jpg", split="val", patient="v"),
    ]
    splits = make_splits(films, PART, seed=1)
    assert [f.path for f in splits.test] == ["kermany_224/t1.jpg", "kermany_224/t2.jpg"]
    assert [f.path for f in splits.crossing] == ["kermany_hires/6.jpg", "kermany_hires/7.jpg"]
    assert [f.path for f in splits.left_out] == ["kermany_224/v.jpg"]
    assert len(splits.train) + len(splits.fit) + len(splits.report) == 198
    assert (len(splits.fit), len(splits.report)) == (20, 20)


def test_a_duplicate_group_is_kept_together_and_crosses_with_its_patient() -> None:
    films = _pool(60)
    films[0] = replace(films[0], duplicate_group="d")  # p0
    films[59] = replace(films[59], duplicate_group="d")  # p29: the same picture under another patient
    for seed in range(20):
        splits = make_splits(films, PART, seed)
        places = [
            name for name in ("train", "fit", "report") for f in getattr(splits, name) if f.patient in {"p0", "p29"}
        ]
        assert len(set(places)) == 1
    tested = film("kermany_224/t.jpg", split="test", patient="p29")
    crossing = make_splits([*films, tested], PART, 0).crossing
    assert {f.patient for f in crossing} == {"p0", "p29"}


@unhurried
@given(
    patients=st.lists(st.integers(0, 30), min_size=30, max_size=120),
    tests=st.sets(st.integers(0, 30), max_size=5),
    seed=st.integers(0, 5),
)
def test_no_patient_ever_stands_on_two_sides(patients: list[int], tests: set[int], seed: int) -> None:
    films = [
        film(f"kermany_hires/{i}.jpg", patient=f"p{p}", group=f"d{p % 7}" if i % 11 == 0 else "")
        for i, p in enumerate(patients)
    ]
    films += [film(f"kermany_224/{p}.jpg", split="test", patient=f"p{p}") for p in tests]
    splits = make_splits(films, PART, seed)
    parts = [splits.train, splits.fit, splits.report, splits.test]
    for field in ("patient", "path", "duplicate_group"):
        seen = [{getattr(f, field) for f in part} - {""} for part in parts]
        assert sum(map(len, seen)) == len(set().union(*seen))
    assert sum(len(part) for part in vars(splits).values()) == len(films)


def test_the_deal_depends_on_the_seed_alone() -> None:
    films = _pool(100)
    assert make_splits(films, PART, 3) == make_splits(list(reversed(films)), PART, 3)
    assert make_splits(films, PART, 3).digest != make_splits(films, PART, 4).digest


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
        make_splits([film("kermany_hires/a.jpg", split="holdout")], PART, 0)


@pytest.mark.real_data
def test_the_real_splits() -> None:
    """What the data folder's README says: 170 crossing patients, 457 pneumonia films; 624 test films; 16 upstream val films."""
    if not DEFAULT_DATA.is_dir():
        pytest.skip("../shared/data is not here")
    recipe = load_recipe("pneumonia-resnet18")
    films = read_manifests(DEFAULT_DATA, recipe.data.folders)
    splits = make_splits(films, recipe.data, recipe.seed)
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
