from __future__ import annotations

import numpy as np
import pytest

from tests.training.judging.made import network, pixels, scored, threshold_rule, truth
from training.judging.answers import answer
from training.judging.robustness import compared, over_confident, suite_report


def test_a_network_that_gets_surer_while_it_gets_worse_is_named() -> None:
    """Inverted films get a large logit of the wrong side."""
    part = pixels(40)
    films = np.array(part.plain)
    y = truth(part)
    for i, label in enumerate(y):
        films[i, :8, :8] = 200 if label else 60  # the network's only cue, inverted by an inversion

    fooled = network(
        lambda film: 9.0 * np.sign(float(film[4, 4]) - 128) if film[36, 36] < 40 else (float(film[4, 4]) - 128) / 60
    )
    films[:, 32:40, 32:40] = 255
    clean = scored(fooled(films).logits[:, 0], y)
    report = suite_report(
        films, clean, fooled, threshold_rule(), kinds=("inversion", "jpeg"), severities=(1, 5), bootstraps=30
    )
    assert report["clean"]["accuracy"]["value"] == 1.0
    assert report["kinds"]["inversion"]["5"]["accuracy"]["value"] == 0.0
    assert report["kinds"]["inversion"]["5"]["auroc_change"]["value"] == -1.0
    assert report["over_confident"] == ["inversion-5"]
    assert report["by_severity"]["5"]["accuracy"] == pytest.approx(
        np.mean([report["kinds"][k]["5"]["accuracy"]["value"] for k in ("inversion", "jpeg")])
    )
    assert set(report["embedding"]["inversion"]) == {"1", "5"}
    shift = [report["embedding"]["inversion"][s]["mmd2"] for s in ("1", "5")]
    assert shift[1]["p_value"] < 0.05
    assert shift[1]["value"] > shift[0]["value"]


def test_surer_and_right_is_no_fault() -> None:
    y = [0, 1] * 20
    before, after = scored(np.tile([-1.0, 1.0], 20), y), scored(np.tile([-3.0, 3.0], 20), y)
    found = compared(answer(before, threshold_rule()), answer(after, threshold_rule()), bootstraps=20, seed=0)
    assert found["confidence_change"]["value"] > 0.1
    assert not found["over_confident"]


def test_over_confidence_needs_both_intervals() -> None:
    def figures(confidence: list[float], accuracy: list[float]) -> dict[str, dict[str, object]]:
        return {
            "confidence_change": {"value": 0.0, "ci": confidence},
            "accuracy_change": {"value": 0.0, "ci": accuracy},
        }

    assert over_confident(figures([0.01, 0.1], [-0.2, -0.01]))
    assert not over_confident(figures([-0.01, 0.1], [-0.2, -0.01]))
    assert not over_confident(figures([0.01, 0.1], [-0.2, 0.0]))


def test_a_rise_with_severity_is_named() -> None:
    part = pixels(20)
    y = truth(part)
    mean = float(part.plain.mean())
    better = network(lambda film: float(film[0, 0]) if abs(float(film.mean()) - mean) > 40 else 0.0)
    films = np.array(part.plain)
    films[:, 0, 0] = np.where(np.array(y) == 1, 150, 100)
    clean = scored(better(films).logits[:, 0], y)
    report = suite_report(films, clean, better, threshold_rule(), kinds=("inversion",), severities=(1, 5), bootstraps=5)
    low, high = (report["kinds"]["inversion"][s]["auroc"]["value"] for s in ("1", "5"))
    assert report["rises"] == (["inversion"] if high > low else [])
