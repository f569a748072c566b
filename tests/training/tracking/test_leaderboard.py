"""Who is best, and what is a tie."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.tracking.made_runs import judged_run, places, recipe, save_logits, scored
from training.judging.evaluate import load_logits, selection
from training.judging.figures import paired_difference
from training.judging.scored import mix
from training.tracking.candidates import load_candidate
from training.tracking.leaderboard import Leaderboard, leaderboard, ranks

B = 200


def board(root: Path) -> Leaderboard:
    return leaderboard(places(root), bootstraps=B)


def test_a_clear_difference_separates_ranks_and_an_unclear_one_does_not(tmp_path: Path) -> None:
    where = places(tmp_path)
    for name, quality, noise in (("good", 1.5, 1), ("as-good", 1.5, 2), ("bad", 0.1, 3)):
        judged_run(where, recipe(name=name), quality, noise=noise)
    [group] = board(tmp_path).groups
    found = {line.recipe: line.rank for line in group.lines}
    assert found == {"good": 1, "as-good": 1, "bad": 3}
    best, second, last = group.lines
    assert best.difference is None
    assert second.difference is not None
    assert second.difference.ci is not None
    assert second.difference.ci[0] < 0 < second.difference.value
    assert last.difference is not None
    assert last.difference.value == pytest.approx(best.selection.value - last.selection.value)
    assert (group.films, group.patients, group.selecting) == (120, 120, ())


def test_ranks_follow_the_intervals() -> None:
    """Replicates of the differences to the first: 0; -0.01 to 0.03; 0.01 to 0.05; and 0.02 to 0.06, 0.01 behind the third."""
    spread = np.linspace(-0.02, 0.02, 101)
    drawn = [np.full(101, 0.9), 0.89 - spread, 0.87 - spread, 0.86 - spread]
    assert ranks([0.9, 0.89, 0.87, 0.86], drawn) == [1, 1, 3, 4]
    assert ranks([0.9, 0.89, 0.87, 0.86], [np.full(101, np.nan)] * 4) == [1, 1, 1, 1]


def test_the_bootstrap_is_paired(tmp_path: Path) -> None:
    """The same answers, one positive in twenty spoiled: far less than the films' chance, yet plainly worse on the same films."""
    where = places(tmp_path)
    judged_run(where, recipe(name="whole"), 0.5)
    spoiled = judged_run(where, recipe(name="spoiled"), 0.5)
    sets = load_logits(spoiled, "hard")
    for films in sets.values():
        films.logits[np.flatnonzero(films.targets[:, 0] == 1)[::5]] -= 1.0
    save_logits(spoiled, "hard", sets)
    halves = {h: [s for n, s in sets.items() if n.startswith(h)] for h in ("fit", "report")}
    spoiled.write_json(
        "figures-hard.json", selection(spoiled.recipe, halves, {}) | {"weights_digest": spoiled.weights_digest()}
    )
    [group] = board(tmp_path).groups
    first, second = group.lines
    assert (first.recipe, first.rank, second.rank) == ("whole", 1, 2)
    assert first.selection.ci is not None
    assert second.selection.ci is not None
    assert first.selection.ci[0] < second.selection.ci[1]  # unpaired, they overlap


def test_the_difference_is_that_of_the_judging_room(tmp_path: Path) -> None:
    """Without corruptions and outside sets the selection figure is the clean AUROC: same draws, same interval."""
    where = places(tmp_path)
    chosen = {name: recipe(name=name, evaluation__severities=[]) for name in ("one", "other")}
    runs = [judged_run(where, chosen["one"], 1.2, noise=1), judged_run(where, chosen["other"], 0.8, noise=2)]
    clean = []
    for run in runs:
        kept = {name: films for name, films in load_logits(run, "hard").items() if name.endswith("clean")}
        save_logits(run, "hard", kept)
        clean.append(mix(list(kept.values())))
        figures = run.read_json("figures-hard.json")
        run.write_json("figures-hard.json", figures | {"selection": figures["clean_auroc"]})
    [group] = board(tmp_path).groups
    assert group.lines[1].difference == paired_difference(clean[0], clean[1], bootstraps=B)


def test_patients_are_resampled_not_films(tmp_path: Path) -> None:
    """Each film four times over, as four films of one patient: the same replicates."""
    once, often = (
        load_candidate(judged_run(places(tmp_path / str(n)), recipe(), 1.0, films_each=n).path).replicates(50, 0)
        for n in (1, 4)
    )
    np.testing.assert_allclose(once, often, atol=1e-12)


def test_selecting_sets_from_elsewhere_are_half_of_the_figure(tmp_path: Path) -> None:
    sources = [{"kind": "manifest", "folder": "elsewhere"}]
    outside = [{"name": "far", "selects": True, "sources": sources}, {"name": "near", "sources": sources}]
    run = judged_run(places(tmp_path), recipe(evaluation__external=outside), 2.0, external={"far": 0.0, "near": 2.0})
    candidate = load_candidate(run.path)
    assert list(candidate.external) == ["far"]
    hard = run.read_json("figures-hard.json")
    assert candidate.selection == pytest.approx((hard["corrupted_auroc"] + hard["external_auroc"]["far"]) / 2)
    assert np.nanmean(candidate.replicates(400, 0)) == pytest.approx(candidate.selection, abs=0.02)
    [group] = board(tmp_path).groups
    assert group.selecting == ("far",)
    assert set(group.lines[0].external_auroc) == {"far", "near"}


def test_runs_on_other_films_are_not_compared(tmp_path: Path) -> None:
    where = places(tmp_path)
    judged_run(where, recipe(name="many"), 0.1)
    judged_run(where, recipe(name="few"), 3.0, patients=50)
    groups = board(tmp_path).groups
    assert [len(group.lines) for group in groups] == [1, 1]
    assert {line.rank for group in groups for line in group.lines} == {1}


def test_as_many_films_of_other_names_are_other_films(tmp_path: Path) -> None:
    where = places(tmp_path)
    judged_run(where, recipe(name="one"), 1.0)
    other = judged_run(where, recipe(name="other"), 1.0)
    renamed = {
        name: replace(films, paths=np.char.replace(films.paths, "made/", "elsewhere/"))
        for name, films in load_logits(other, "hard").items()
    }
    save_logits(other, "hard", renamed)
    assert len(board(tmp_path).groups) == 2


def test_other_truth_on_the_same_films_is_not_compared(tmp_path: Path) -> None:
    where = places(tmp_path)
    judged_run(where, recipe(name="one"), 1.0)
    other = judged_run(where, recipe(name="other"), 1.0)
    sets = load_logits(other, "hard")
    for films in sets.values():
        films.targets[:] = 1 - films.targets
        films.logits[:] = -films.logits
    save_logits(other, "hard", sets)  # the figures are the same: everything is mirrored
    assert len(board(tmp_path).groups) == 2


def test_the_test_split_plays_no_part(tmp_path: Path) -> None:
    where = places(tmp_path)
    run = judged_run(where, recipe(), 1.0)
    board(tmp_path)
    before = (where.runs / "leaderboard.json").read_bytes()
    (run.path / "figures-test.json").write_text("not JSON: opened by nobody")
    (run.path / "logits-test.npz").write_bytes(b"")
    board(tmp_path)
    assert (where.runs / "leaderboard.json").read_bytes() == before


def test_stale_and_foreign_folders_are_left_out_and_said(tmp_path: Path) -> None:
    where = places(tmp_path)
    runs = [judged_run(where, recipe(name=name), 1.0) for name in ("kept", "refitted", "edited", "old")]
    torch.save({"w": torch.zeros(2)}, runs[1].weights_file)
    runs[2].write_json("figures-hard.json", runs[2].read_json("figures-hard.json") | {"selection": 0.99})
    (runs[3].path / "recipe.json").write_text('{"network": {"dropout": 0.2}}')
    made = board(tmp_path)
    assert [line.recipe for group in made.groups for line in group.lines] == ["kept"]
    why = {name.rsplit("-", 1)[0]: text for name, text in made.left_out.items()}
    assert set(why) == {"refitted", "edited", "old"}
    assert "weights" in why["refitted"]
    assert "logits" in why["edited"]
    assert "recipe" in why["old"]
    assert "refitted" in (where.runs / "leaderboard.md").read_text()


def test_seeds_of_one_recipe_are_gathered(tmp_path: Path) -> None:
    where = places(tmp_path)
    values = [
        judged_run(where, recipe(seed=s), 1.0, noise=s).read_json("figures-hard.json")["selection"] for s in (1, 2, 3)
    ]
    judged_run(where, recipe(seed=1, training__learning_rate=0.1), 1.0)
    [seeds] = board(tmp_path).seeds
    assert (seeds.seeds, seeds.low, seeds.high) == (3, min(values), max(values))
    assert seeds.mean == pytest.approx(np.mean(values))


def test_files_and_tables(tmp_path: Path) -> None:
    where = places(tmp_path)
    run = judged_run(where, recipe(title="<b>bold</b>"), 1.0)
    judged_run(where, recipe(name="probe", network__frozen=True), 0.1)
    run.write_json("promotion.json", {"label": "research-only, gate failed: <source> | shortcut", "passed": False})
    run.write_json(
        "figures-report.json",
        {"clean": {"macro": {"ece": {"value": 0.031, "ci": [0.02, 0.05]}, "brier": {"value": 0.1, "ci": None}}}},
    )
    made = board(tmp_path)
    [group] = made.groups
    line = next(line for line in group.lines if line.recipe == "tiny")
    assert (line.kind, line.model, line.images_per_s) == ("network", "tiny_cnn", 20.0)
    assert {line.kind for line in group.lines} == {"network", "probe"}
    page = (where.runs / "leaderboard.html").read_text()
    assert "&lt;source&gt;" in page
    assert "<source>" not in page
    assert "0.0310 (0.0200 to 0.0500)" in page
    text = (where.runs / "leaderboard.md").read_text()
    assert "\\| shortcut" in text
    stored = json.loads((where.runs / "leaderboard.json").read_text())
    assert stored["groups"][0]["lines"][0]["ece"] == {"value": 0.031, "ci": [0.02, 0.05]}
    assert stored["bootstraps"] == B
    [table] = made.tables()
    assert table.row_count == 2


def test_no_runs(tmp_path: Path) -> None:
    made = board(tmp_path)
    assert (made.groups, made.left_out) == ((), {})
    assert (tmp_path / "runs" / "leaderboard.md").is_file()


def test_scored_is_made_as_said() -> None:
    assert scored("clean", 100.0).logits[:2, 0] == pytest.approx([-100, 100], abs=4)
