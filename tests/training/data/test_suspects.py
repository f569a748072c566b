from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from training.data.suspects import auroc, find_suspects, rate_of_category


def test_the_auroc_is_that_of_others_ties_and_weights_included() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 12, 300).astype(np.float64)
    positive = rng.random(300) < 0.3 + scores / 30
    weights = rng.integers(0, 4, (5, 300)).astype(np.float64)
    weights[0] = 1
    expected = [roc_auc_score(positive, scores, sample_weight=w) for w in weights]
    np.testing.assert_allclose(auroc(scores, positive, weights), expected, rtol=1e-12)
    assert np.isnan(auroc(scores, np.zeros(300, np.bool_), weights)).all()


def _found(planted: float, *, per_patient: int = 1) -> dict[str, tuple[float, str]]:
    rng = np.random.default_rng(3)
    label = np.repeat(rng.integers(0, 2, 300), per_patient).astype(np.float64)
    noise = np.repeat(rng.normal(size=300), per_patient)
    facts = {"planted": planted * label - noise, "innocent": np.repeat(rng.normal(size=300), per_patient)}
    patients = [f"p{i // per_patient}" for i in range(len(label))]
    found = find_suspects(facts, label[:, None], ("ill",), patients=patients, sources=["one"] * len(label))
    return {s.fact: (s.auroc, s.mark) for s in found}


def test_a_planted_shortcut_is_marked_and_an_innocent_number_is_not() -> None:
    found = _found(3.0)
    assert found["planted"][0] == pytest.approx(0.983, abs=0.02)  # Phi(3 / sqrt 2)
    assert found["planted"][1] == "strong"
    assert found["innocent"][0] < 0.6
    assert found["innocent"][1] == ""
    assert _found(1.2)["planted"][1] == "suspicious"
    assert _found(-3.0)["planted"][1] == "strong"  # smaller means the class: as good


def test_patients_not_films_make_the_interval() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 60).astype(np.float64)
    value = label + rng.normal(size=60)

    def width(per_patient: int) -> float:
        many = [np.repeat(a, per_patient) for a in (label, value)]
        names = [f"p{i // per_patient}" for i in range(60 * per_patient)]
        (one,) = find_suspects({"v": many[1]}, many[0][:, None], ("ill",), patients=names, sources=["s"] * len(names))
        return one.ci[1] - one.ci[0]

    assert width(20) == pytest.approx(width(1), rel=1e-6)  # twenty films of each patient know no more


def test_within_a_source_what_tells_sources_apart_knows_nothing() -> None:
    rng = np.random.default_rng(1)
    source = np.repeat(["a", "b"], 200)
    label = (rng.random(400) < np.where(source == "a", 0.9, 0.1)).astype(np.float64)
    value = (source == "a") * 5 + rng.normal(size=400)
    names = [f"p{i}" for i in range(400)]
    found = find_suspects({"v": value}, label[:, None], ("ill",), patients=names, sources=source.tolist())
    marks = {s.scope: s.mark for s in found}
    assert marks == {"all": "strong", "a": "", "b": ""} or marks == {"all": "suspicious", "a": "", "b": ""}
    everything = next(s for s in found if s.scope == "all")
    assert (everything.direction, everything.n) == (1, 400)


def test_too_few_constant_and_unknown_numbers_are_left_out() -> None:
    label = np.r_[np.ones(4), np.zeros(40)]
    arguments: dict[str, Any] = {"patients": [str(i) for i in range(44)], "sources": ["s"] * 44}
    assert find_suspects({"v": np.arange(44.0)}, label[:, None], ("ill",), **arguments) == []
    label[:10] = 1
    found = find_suspects({"v": np.full(44, 3.0), "w": np.full(44, np.nan)}, label[:, None], ("ill",), **arguments)
    assert found == []


def test_a_word_is_ranked_by_its_share_of_the_class() -> None:
    words = ["PA", "PA", "AP", "AP", "AP", "AP", "", "LL"]
    target = np.array([0, 1, 1, 1, 1, 0, 1, np.nan])
    rates = rate_of_category(words, target)
    np.testing.assert_allclose(rates, [0.5, 0.5, 0.75, 0.75, 0.75, 0.75, np.nan, np.nan])
