from __future__ import annotations

from dataclasses import replace

import numpy as np

from app.domain import InputStatistics
from tests.training.judging.made import scored, threshold_rule
from training.data.films import Film
from training.judging.answers import answer
from training.judging.slices import SMALLEST, slice_masks, slice_report


def _films(n: int) -> tuple[list[Film], list[InputStatistics]]:
    films = [
        Film(f"here/{i}.png", "here", "", "normal", f"p{i}", sex="FM"[i % 2], age_years=float(i % 80), view="PA")
        for i in range(n)
    ]
    return films, [InputStatistics(float(i), 40.0, 1.0, 0.0, 0.0, 5.0, 500, 3000 if i % 3 else 400) for i in range(n)]


def test_slices_come_from_what_is_known() -> None:
    films, statistics = _films(60)
    masks, edges = slice_masks(films, statistics)
    assert set(masks) == {"age", "sex", "resolution", "exposure"}  # one view and one source are no slices
    assert {k: int(v.sum()) for k, v in masks["age"].items()} == {
        "0 to under 5": 5,
        "5 to under 18": 13,
        "18 to under 40": 22,
        "40 to under 65": 20,
    }
    assert {k: int(v.sum()) for k, v in masks["resolution"].items()} == {"up to 512 px": 20, "over 2048 px": 40}
    assert [int(masks["exposure"][b].sum()) for b in ("dark", "middle", "bright")] == [20, 20, 20]
    assert len(edges["exposure"]) == 2
    groups = [replace(f, age_years=None, age_group="adult" if i % 2 else "paediatric") for i, f in enumerate(films)]
    assert set(slice_masks(groups, statistics)[0]["age"]) == {"adult", "paediatric"}
    upstream = [replace(f, width=900, height=700) for f in films]
    assert "resolution" not in slice_masks(upstream, statistics)[0]


def test_a_planted_gap_is_flagged_and_named() -> None:
    n = 240
    films, statistics = _films(n)
    y = (np.arange(n) // 2) % 2
    rng = np.random.default_rng(0)
    logits = np.where(y == 1, 1.0, -1.0) + 0.3 * rng.standard_normal(n)
    women = np.arange(n) % 2 == 0
    logits[women] = rng.standard_normal(women.sum())  # guessed for every woman
    report = slice_report(answer(scored(logits, y.tolist()), threshold_rule()), films, statistics, bootstraps=100)
    assert {"sex F: accuracy", "sex F: auroc"} <= set(report["flagged"])
    assert not any(name.startswith("sex M") for name in report["flagged"])
    assert report["worst"]["accuracy"]["slice"] == "sex F"
    assert report["worst"]["accuracy"]["n"] == 120
    row = report["facts"]["sex"]["M"]
    assert row["figures"]["auroc"]["value"] == 1.0
    assert row["classes"]["pneumonia"]["sensitivity"]["value"] == 1.0
    assert report["comparisons"] >= 4


def test_nothing_planted_is_seldom_flagged() -> None:
    flagged = 0
    for seed in range(12):
        films, statistics = _films(160)
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 2, 160)
        logits = np.where(y == 1, 0.7, -0.7) + rng.standard_normal(160)
        report = slice_report(
            answer(scored(logits, y.tolist()), threshold_rule()), films, statistics, bootstraps=30, seed=seed
        )
        flagged += bool(report["flagged"])
    assert flagged <= 3  # binomial(12, 0.05): 99.8 %


def test_a_slice_of_few_films_is_shown_but_not_flagged() -> None:
    n = 120
    films, statistics = _films(n)
    few = SMALLEST - 1
    films = [replace(f, sex="F" if i < few else "M", age_years=None) for i, f in enumerate(films)]
    y = np.arange(n) % 2
    logits = np.where(y == 1, 2.0, -2.0)
    logits[:few] *= -1  # every one wrong
    report = slice_report(answer(scored(logits, y.tolist()), threshold_rule()), films, statistics, bootstraps=50)
    assert report["facts"]["sex"]["F"]["figures"]["accuracy"]["value"] == 0.0
    assert report["facts"]["sex"]["F"]["gaps"] == {}
    assert not any(name.startswith("sex") for name in report["flagged"])
    assert report["worst"]["accuracy"]["slice"] != "sex F"
