"""Selection rules: the first that matches decides; limits take the same films however they come."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.config import DEFAULT_RULES, Rule
from app.gateway.header import FilmFacts
from app.gateway.select import Candidate, choose, matching, rule_key


def facts(**fields: object) -> FilmFacts:
    values: dict[str, object] = {
        "sop_class_uid": "1.2",
        "sop_instance_uid": "1.3",
        "study_uid": "1.4",
        "series_uid": "1.5",
        "modality": "CR",
        "body_part": "CHEST",
        "view": "PA",
        "image_type": ("ORIGINAL", "PRIMARY"),
    }
    return FilmFacts(**values | fields)  # type: ignore[arg-type] # by name


@pytest.mark.parametrize(
    ("keys", "fields", "matches"),
    [
        ({}, {}, True),
        ({"modality": ("CR", "DX")}, {}, True),
        ({"modality": ("DX",)}, {}, False),
        ({"modality": ()}, {}, False),
        ({"body_part": ("CHEST", "")}, {"body_part": ""}, True),
        ({"body_part": ("CHEST",)}, {"body_part": ""}, False),
        ({"view": ("PA", "AP")}, {"view": "LL"}, False),
        ({"derived": False}, {}, True),
        ({"derived": False}, {"image_type": ("DERIVED", "PRIMARY")}, False),
        ({"derived": True}, {"image_type": ("DERIVED", "SECONDARY")}, True),
        ({"image_type": ("PRIMARY",)}, {}, True),
        ({"image_type": ("PRIMARY", "POST")}, {}, False),
        ({"sop_class": ("1.2",)}, {}, True),
        ({"sop_class": ("1.20",)}, {}, False),
        ({"peer": ("SENDER",)}, {}, True),
        ({"peer": ("OTHER",)}, {}, False),
        ({"modality": ("CR",), "view": ("LL",)}, {}, False),
    ],
)
def test_a_rule_matches_where_each_of_its_keys_does(
    keys: dict[str, object], fields: dict[str, object], matches: bool
) -> None:
    rule = Rule(action="judge", **keys)
    assert (matching([rule], facts(**fields), "SENDER") is rule) == matches


def test_the_first_match_decides_and_no_match_ignores() -> None:
    rules = [Rule(action="ignore", view=("LL",)), Rule(action="judge", modality=("CR",))]
    films = [
        Candidate(1, "s", "A", facts(view="LL")),
        Candidate(2, "s", "A", facts()),
        Candidate(3, "s", "A", facts(modality="CT")),
    ]
    assert choose(films, rules, {}) == {1: None, 2: rule_key(rules[1]), 3: None}


def test_without_rules_radiographs_are_judged_that_are_no_derived_images() -> None:
    films = [
        Candidate(1, "s", "A", facts(modality="DX")),
        Candidate(2, "s", "A", facts(image_type=("DERIVED",))),
        Candidate(3, "s", "A", facts(modality="SR")),
    ]
    assert [rule is not None for rule in choose(films, DEFAULT_RULES, {}).values()] == [True, False, False]


def test_a_limit_takes_the_lowest_instance_numbers() -> None:
    rule = Rule(action="judge", max_per_series=1, max_per_study=2)
    films = [
        Candidate(1, "a", "A", facts(instance_number=None)),
        Candidate(2, "a", "A", facts(instance_number=7)),
        Candidate(3, "b", "A", facts(instance_number=9)),
        Candidate(4, "c", "A", facts(instance_number=8)),
    ]
    chosen = choose(films, [rule], {})
    assert {n for n, key in chosen.items() if key} == {2, 4}


def test_films_taken_before_count_and_one_that_is_sent_again_keeps_its_place() -> None:
    rule = Rule(action="judge", max_per_series=1)
    key = rule_key(rule)
    assert choose([Candidate(2, "a", "A", facts(instance_number=1))], [rule], {(key, "a"): 1, (key, ""): 1}) == {
        2: None
    }
    again = [
        Candidate(1, "a", "A", facts(instance_number=5), rule=key),
        Candidate(2, "a", "A", facts(instance_number=1)),
    ]
    assert choose(again, [rule], {}) == {1: key, 2: None}


@given(
    numbers=st.lists(st.one_of(st.none(), st.integers(-5, 5)), min_size=1, max_size=12),
    series=st.randoms(use_true_random=False),
    per_series=st.integers(1, 3),
    per_study=st.integers(1, 4),
)
def test_limits_hold_and_the_order_of_arrival_in_the_list_does_not_matter(
    numbers: list[int | None], series: random.Random, per_series: int, per_study: int
) -> None:
    rule = Rule(action="judge", max_per_series=per_series, max_per_study=per_study)
    films = [Candidate(i, series.choice("ab"), "A", facts(instance_number=n)) for i, n in enumerate(numbers)]
    chosen = choose(films, [rule], {})
    taken = [film for film in films if chosen[film.id]]
    assert len(taken) <= per_study
    assert all(sum(f.series == name for f in taken) <= per_series for name in "ab")
    shuffled = films[:]
    series.shuffle(shuffled)
    assert choose(shuffled, [rule], {}) == chosen
