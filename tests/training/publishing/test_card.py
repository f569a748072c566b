from __future__ import annotations

from app.bundle.manifest import Baseline, Manifest, Promotion
from app.bundle.store import BundleRef, BundleStore
from training.places import CHECKOUT
from training.publishing.attributes import NAMES
from training.publishing.card import model_card
from training.publishing.policy import load_policy


def _shipped() -> Manifest:
    return BundleStore(CHECKOUT / "model_bundles").read_manifest(BundleRef("pneumonia-resnet18", "1.1.0"))


def _judged(passed: bool) -> Promotion:
    lines = [{"name": "calibration: ece of pneumonia, mix", "wanted": "<= 0.1", "measured": "0.2", "passed": passed}]
    label = "passed" if passed else "research-only, gate failed: calibration"
    digest = load_policy("default").digest
    return Promotion.model_validate(
        {"policy": "default", "policy_digest": digest, "passed": passed, "label": label, "lines": lines}
    )


def test_a_bundle_from_before_policies_says_so() -> None:
    card = model_card(_shipped())
    assert "no policy was asked" in card
    assert "research-only" not in card
    assert "| beside |" not in card


def test_every_figure_and_attribute_stands_in_the_card() -> None:
    m = _shipped()
    card = model_card(m)
    for metric in m.metrics:
        assert f"| {metric.data} | {metric.name} | {metric.value:.4f}" in card
    for number, name in NAMES.items():
        assert f"| {number} | {name} |" in card
    assert card.count("**missing**") == 1


def test_a_failed_bundle_says_it_first() -> None:
    m = _shipped().model_copy(update={"promotion": _judged(False), "research_only": True})
    first = model_card(m).split("\n\n")[2]
    assert first.startswith("**research-only, gate failed: calibration.** Not for patients.")
    assert "calibration: ece of pneumonia, mix" in first
    assert "| **failed** | calibration: ece of pneumonia, mix | <= 0.1 | 0.2 |" in model_card(m)


def test_a_passed_bundle_shows_its_lines() -> None:
    card = model_card(_shipped().model_copy(update={"promotion": _judged(True)}))
    assert "| passed | calibration: ece of pneumonia, mix | <= 0.1 | 0.2 |" in card
    assert "Not for patients" not in card


def test_the_baseline_has_a_column_of_its_own() -> None:
    m = _shipped()
    beside = m.metrics[0].model_copy(update={"baseline": Baseline(name="thumbnails", value=0.5)})
    card = model_card(m.model_copy(update={"metrics": (beside, *m.metrics[1:])}))
    assert f"| {beside.value:.4f} | 0.5000 | {beside.n} |" in card
    assert "what thumbnails reaches" in card


def test_a_licence_that_forbids_commerce_is_spelled_out() -> None:
    m = _shipped()
    bound = m.licence.model_copy(update={"commercial_use": False})
    assert "For research only" in model_card(m.model_copy(update={"licence": bound}))
    assert "For research only" not in model_card(m)


def test_thresholds_beyond_any_margin_are_words() -> None:
    m = _shipped()
    for value, words in ((1e6, "never reached"), (-1e6, "always reached")):
        point = m.operating_points[0].model_copy(update={"thresholds": {"pneumonia": value}})
        assert f"threshold pneumonia {words}" in model_card(m.model_copy(update={"operating_points": (point,)}))
