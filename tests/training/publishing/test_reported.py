from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.errors import ConfigurationError
from tests.training.publishing.figure_files import change, good_run, recipe_of
from training.places import CHECKOUT
from training.publishing.anchors import DESIGNS
from training.publishing.readme import design_figures, seed_figures, write_readme_figures
from training.publishing.reported import REPORTED, command, load_reported, record
from training.recipe import load_recipe
from training.runs import Run


def _seed(root: Path, seed: int, auroc: float, **changes: object) -> Run:
    run = good_run(root / f"{seed}{changes}", recipe_of("binary", seed=seed, name="pneumonia-resnet18", **changes))
    change(run, "figures-test.json", "test", "classes", "pneumonia", "scores", "auroc", "value", to=auroc)
    return run


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "reported.json"
    for seed, auroc in ((2, 0.97), (1, 0.99), (3, 0.98)):
        record(_seed(tmp_path, seed, auroc), path)
    return path


def test_entries_are_sorted_and_complete(kept: Path) -> None:
    found = load_reported(kept)
    assert [e.seed for e in found.runs] == [1, 2, 3]
    assert len({e.family for e in found.runs}) == 1
    assert len({e.recipe_digest for e in found.runs}) == 3
    first = found.runs[0].metric("auroc")
    assert first is not None
    assert (first.value, first.n) == (0.99, 624)
    assert first.ci is not None
    assert first.baseline is not None
    before = found.runs[0].metric("brier, uncalibrated")
    assert before is not None
    assert (before.value, before.n, before.ci is None) == (0.05, 624, False)


def test_recording_again_replaces_and_changes_nothing_else(kept: Path, tmp_path: Path) -> None:
    before = load_reported(kept)
    run = _seed(tmp_path / "again", 2, 0.96)
    assert "seed 2" in record(run, kept)
    after = load_reported(kept)
    assert [e.seed for e in after.runs] == [1, 2, 3]
    assert (after.runs[0], after.runs[2]) == (before.runs[0], before.runs[2])
    changed = after.runs[1].metric("auroc")
    assert changed is not None
    assert changed.value == 0.96


def test_a_changed_recipe_drops_what_it_gave_before(kept: Path, tmp_path: Path) -> None:
    said = record(_seed(tmp_path, 9, 0.9, training__batch=16), kept)
    assert "3 of the recipe before it was changed dropped" in said
    assert [e.seed for e in load_reported(kept).runs] == [9]


def test_a_run_that_was_not_tested_is_not_recorded(tmp_path: Path) -> None:
    run = good_run(tmp_path)
    (run.path / "figures-test.json").unlink()
    with pytest.raises(ConfigurationError, match="step_missing"):
        record(run, tmp_path / "reported.json")
    assert not (tmp_path / "reported.json").exists()


def test_a_file_of_another_format_is_refused(kept: Path) -> None:
    content = json.loads(kept.read_text())
    kept.write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(ConfigurationError, match="format 99"):
        load_reported(kept)
    kept.write_text(json.dumps(content | {"extra": 1}))
    with pytest.raises(ConfigurationError, match="invalid_reported"):
        load_reported(kept)


def test_the_committed_file_can_be_read() -> None:
    load_reported(REPORTED)


def test_seeds_show_each_the_mean_and_the_range(kept: Path) -> None:
    text = seed_figures(load_reported(kept))
    assert "official test of 624 films, 3 seeds" in text
    assert "| 1 | 0.9900 (0.9700 to 0.9900) |" in text
    assert "| mean (lowest to highest) | 0.9800 (0.9700 to 0.9900) |" in text
    assert "| auprc | brier, uncalibrated | brier | nll, uncalibrated | nll |" in text
    assert "policy" not in text
    content = json.loads(kept.read_text())
    content["runs"][1]["promotion"] = "passed"
    kept.write_text(json.dumps(content))
    assert seed_figures(load_reported(kept)).endswith("\n\nHeld against its promotion policy: seed 2: passed.")
    assert seed_figures(load_reported(kept), "nothing") == "No run of `nothing` was recorded yet."


def test_designs_stand_beside_ours(kept: Path) -> None:
    text = design_figures(load_reported(kept))
    assert (
        "| S0 | AUROC | 0.9605 | `pneumonia-resnet18` | 0.9800 (0.9700 to 0.9900); thumbnails 0.8500 | official test, 624 |"
        in text
    )
    assert "| S2 | sensitivity, rule-in | 0.949 | `pneumonia-resnet18` | 0.9300 (0.9300 to 0.9300)" in text
    assert "| S4 | mean F1 | 0.442 (typed as 0.46) | - | - | - | - |" in text
    assert "159 are Kermany normals" in text
    assert text.count("159 are Kermany normals") == 1


def test_every_row_has_as_many_cells_as_the_head(kept: Path) -> None:
    for block in (design_figures(load_reported(kept)), seed_figures(load_reported(kept))):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) == 1


def test_the_command_makes_that_very_recipe() -> None:
    shipped = load_recipe("pneumonia-resnet18")
    assert command(shipped) == "python -m training run pneumonia-resnet18"
    assert command(shipped.changed({"seed": 3})) == "python -m training run pneumonia-resnet18 --seed 3"
    assert "--set" in command(shipped.changed({"training.batch": 3}))
    assert command(shipped.changed({"name": "mine"})) == "python -m training run <mine.toml>"


def test_our_recipes_beside_the_designs_are_there() -> None:
    for design in DESIGNS:
        for name in design.recipes:
            load_recipe(name)


def test_all_blocks_are_written_or_none(kept: Path, tmp_path: Path) -> None:
    from app.bundle.store import BundleRef, BundleStore

    bundle = BundleStore(CHECKOUT / "model_bundles").verify(BundleRef("pneumonia-resnet18", "1.1.0"))
    ledger = CHECKOUT / "training" / "test_ledger.csv"
    readme = tmp_path / "README.md"
    blocks = ["model", "gate", "designs", "seeds"]
    text = "".join(f"a\n<!-- figures:{b} -->\nold\n<!-- /figures:{b} -->\n" for b in blocks)
    readme.write_text(text.replace("<!-- /figures:seeds -->", ""))
    with pytest.raises(ConfigurationError, match="figures:seeds"):
        write_readme_figures(bundle.manifest, bundle.digest, ledger, readme, kept)
    assert readme.read_text().count("\nold\n") == 4
    readme.write_text(text)
    write_readme_figures(bundle.manifest, bundle.digest, ledger, readme, kept)
    written = readme.read_text()
    assert "\nold\n" not in written
    assert "| AUROC | 0.9824 (0.9703 to 0.9913) | 0.9605 | 0.9790 |" in written
    assert "share refused with 95 % interval" in written
    write_readme_figures(bundle.manifest, bundle.digest, ledger, readme, kept)
    assert readme.read_text() == written
