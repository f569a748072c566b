from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from app.bundle.store import BundleRef, BundleStore
from tests.training.publishing.figure_files import BASELINE, change, good_run, recipe_of
from training.places import CHECKOUT
from training.publishing.attributes import NAMES, Facts, facts_of_manifest, facts_of_run, source_attributes
from training.publishing.evidence import load_figures
from training.publishing.policy import load_policy

# 45 CFR 170.315(b)(11)(iv)(B): attributes of each of its nine paragraphs
PARAGRAPHS = {"1": 4, "2": 4, "3": 2, "4": 4, "5": 2, "6": 4, "7": 5, "8": 4, "9": 2}


def _facts(tmp_path: Path, task: str = "binary") -> Facts:
    run = good_run(tmp_path, recipe_of(task))
    return facts_of_run(load_figures(run), load_policy("default"))


def test_there_are_the_rules_31() -> None:
    counted = {number: sum(name.startswith(f"{number}.") for name in NAMES) for number in PARAGRAPHS}
    assert counted == PARAGRAPHS
    assert len(NAMES) == 31


def test_they_say_what_the_run_measured(tmp_path: Path) -> None:
    found = {a.number: a.text for a in source_attributes(_facts(tmp_path))}
    assert all(found.values())
    assert "AUROC 0.9800 (0.9700 to 0.9900) on official test (n = 624)" in found["7.i"]
    assert found["7.iii"] == "AUROC 0.6000 (0.5900 to 0.6100) on external: nih-clean (n = 50)."
    assert "exposure dark 0.950 (n = 120)" in found["7.ii"]
    assert "AUROC is 0.600" in found["3.ii"]
    assert f"{BASELINE} reaches auroc 0.900" in found["3.ii"]
    assert "children of 1 to 5 years" in found["2.ii"]


def test_without_external_sets_that_is_said(tmp_path: Path) -> None:
    facts = _facts(tmp_path)
    inside = replace(facts, metrics=tuple(m for m in facts.metrics if not m.data.startswith("external")))
    found = {a.number: a.text for a in source_attributes(inside)}
    assert {found[n] for n in ("6.i", "6.ii", "7.iii")} == {"None: it was tested on no films from elsewhere."}


def test_sets_that_chose_between_runs_are_named_as_such(tmp_path: Path) -> None:
    facts = _facts(tmp_path)  # selection 0.8, corrupted 0.95: an external set selects
    assert "theirs flatter" in {a.number: a.text for a in source_attributes(facts)}["6.iv"]
    alone = [m.model_copy(update={"value": 0.95}) if m.name == "selection" else m for m in facts.metrics]
    unselected = {a.number: a.text for a in source_attributes(replace(facts, metrics=tuple(alone)))}
    assert unselected["6.iv"].endswith("stayed as they were.")


def test_a_card_claims_no_more_than_its_policy_asked(tmp_path: Path) -> None:
    run = good_run(tmp_path)
    texts = {}
    for name in ("default", "demonstration"):
        facts = facts_of_run(load_figures(run), load_policy(name))
        texts[name] = {a.number: a.text for a in source_attributes(facts)}
    assert "found no shortcut" in texts["default"]["5.ii"]
    assert "bounds the largest gap" in texts["default"]["5.i"]
    assert "shortcut probes: the network may read" in texts["demonstration"]["5.ii"]
    assert "bounds a gap between groups" in texts["demonstration"]["5.i"]
    change(run, "figures-shortcuts.json", "verdict", 0, "passed", to=False)
    facts = facts_of_run(load_figures(run), load_policy("default"))
    assert "did not pass" in {a.number: a.text for a in source_attributes(facts)}["5.ii"]


def test_slices_that_nobody_looked_at_are_missing_and_small_ones_are_not(tmp_path: Path) -> None:
    facts = _facts(tmp_path)
    bare = replace(facts, metrics=tuple(m for m in facts.metrics if not m.data.startswith("slices")))
    assert "large enough" in {a.number: a.text for a in source_attributes(bare)}["7.ii"]
    unseen = {a.number: a.text for a in source_attributes(replace(bare, sliced=False))}
    assert [number for number, text in unseen.items() if not text] == ["7.ii"]


def test_the_shipped_bundle_of_format_2_has_them_but_for_what_was_not_measured_then() -> None:
    manifest = BundleStore(CHECKOUT / "model_bundles").read_manifest(BundleRef("pneumonia-resnet18", "1.1.0"))
    missing = [a.number for a in source_attributes(facts_of_manifest(manifest)) if not a.text]
    assert missing == ["7.ii"]
