"""The published figures against FEATURES.md, where they can be computed from one another."""

from __future__ import annotations

import math

import pytest

from training.publishing.anchors import DESIGNS, S0, S1, S2, S4


def test_all_five_designs_have_figures_notes_and_recipes() -> None:
    assert [d.name for d in DESIGNS] == ["S0", "S1", "S2", "S3", "S4"]
    for design in DESIGNS:
        assert design.notes
        assert design.recipes
        assert len(design.figures) >= 5
        named = [(f.metric, f.beside) for f in design.figures if f.metric]
        assert len(named) == len(set(named))


def test_s0s_ece_is_no_calibration_error() -> None:
    assert math.sqrt(0.0067) < 0.0820 < 0.2723
    assert any("0.082" in note for note in S0.notes)
    assert "wrongly defined" in S0.shown("ece")


@pytest.mark.parametrize("point", ["screening", "rule-in"])
def test_s2s_balanced_accuracy_follows_from_its_rates(point: str) -> None:
    sensitivity, specificity = (float(S2.shown(f"{rate}@{point}")) for rate in ("sensitivity", "specificity"))
    assert (sensitivity + specificity) / 2 == pytest.approx(float(S2.shown(f"balanced_accuracy@{point}")), abs=1e-3)


def test_s1s_missed_films_follow_from_its_sensitivities() -> None:
    argmax, policy = (float(S1.shown(f"sensitivity[tuberculosis]@{p}")) for p in ("argmax", "risk-prioritised"))
    assert round(1064 * (1 - argmax)) == 389
    assert round(1064 * (1 - policy)) == 104


def test_s4s_means_are_the_computed_ones() -> None:
    wanted = {
        "auroc": "0.773",
        "macro_ppv@max-f1": "0.323",
        "macro_sensitivity@max-f1": "0.727",
        "macro_f1@max-f1": "0.442",
    }
    assert {name: S4.shown(name) for name in wanted} == wanted
    assert S4.shown("nothing") == ""
