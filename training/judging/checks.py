"""Everything about a run that a single figure hides, measured on the half of the validation that fitted nothing, and the shortcuts.

    figures-checks.json      suite (with the embedding shift), slices, tta, explanations, worklists (their lengths), limits, seconds
    figures-shortcuts.json   training.judging.shortcuts
    checks/<list>.csv, checks/worklists.json, checks/gallery.html; checks/test/ the same lists of the test films, once tested

No test film is opened: the test lists come from the logits that the test left. Heavy checks look at a seeded sample, whose size stands
with each figure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from app.errors import ConfigurationError
from training.data.cache import Pixels
from training.data.films import Film
from training.data.splits import Splits
from training.judging.answers import Rule, answer
from training.judging.evaluate import checked_splits, decision_digest, fixed_decision, load_logits
from training.judging.explanations import explanation_report, groups_of
from training.judging.gallery import write_gallery
from training.judging.judge import plain_pixels
from training.judging.reading import Read, reader
from training.judging.robustness import suite_report
from training.judging.sampling import Limits, some, spread
from training.judging.scored import Scored
from training.judging.shortcuts import probe_shortcuts
from training.judging.slices import slice_report
from training.judging.tta import tta_gain, views
from training.judging.worklists import worklists, write_worklists
from training.networks.network import TriageNetwork
from training.places import Places
from training.runs import Run


@dataclass(frozen=True)
class _Subject:
    """What every check looks at. pixels, clean: of the report-half, in one order; read: the network."""

    run: Run
    splits: Splits
    pixels: Pixels
    clean: Scored
    network: TriageNetwork
    read: Read
    rule: Rule
    limits: Limits


def run_checks(run: Run, places: Places, console: Console, limits: Limits | None = None) -> dict[str, Any]:
    """All checks; returns figures-checks.json. Raises ConfigurationError before the hard validation."""
    subject = _subject(run, places, limits or Limits())
    seconds: dict[str, float] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        found = step()
        seconds[name] = round(time.perf_counter() - started, 1)
        console.print(f"{name}: {seconds[name]:.0f} s")
        return found

    figures: dict[str, Any] = {
        "weights_digest": run.weights_digest(),
        "decision_digest": decision_digest(run),
        "data": "report-half of the validation",
        "n": len(subject.clean),
        "operating_point": subject.rule.point.name,
        "suite": timed("corruption suite", lambda: _suite(subject)),
    }
    figures |= timed("slices", lambda: _slices(subject))
    if run.recipe.evaluation.tta:
        figures["tta"] = timed("test-time augmentation", lambda: _tta(subject))
    if run.recipe.evaluation.explanations:
        figures["explanations"] = timed("explanations", lambda: _explanations(subject))
    figures["worklists"] = timed("worklists", lambda: _worklists(subject))
    timed("shortcuts", lambda: probe_shortcuts(run, places, subject.limits))
    figures["limits"], figures["seconds"] = asdict(subject.limits), seconds
    run.write_json("figures-checks.json", figures)
    return figures


def _subject(run: Run, places: Places, limits: Limits) -> _Subject:
    """Raises ConfigurationError where the logits of the hard validation are not those of the report-half's films."""
    fixed, splits, network = fixed_decision(run), checked_splits(run, places), run.network()
    pixels = plain_pixels(splits.report, run.recipe, places)
    clean = load_logits(run, "report")["clean"]
    if clean.paths.tolist() != [film.path for film in pixels.films]:
        raise ConfigurationError(
            "stale_data", "the report-half has changed since the hard validation; take that step again"
        )
    rule = Rule(run.recipe.data.classes, fixed.calibration, fixed.point(fixed.default_operating_point))
    return _Subject(run, splits, pixels, clean, network, reader(network, run.recipe), rule, limits)


def _suite(subject: _Subject) -> dict[str, Any]:
    rows = spread(subject.clean, subject.limits.suite, subject.run.recipe.seed)
    return suite_report(
        some(subject.pixels, rows).plain,
        subject.clean.take(rows),
        subject.read,
        subject.rule,
        bootstraps=subject.limits.bootstraps,
        seed=subject.run.recipe.seed,
    )


def _slices(subject: _Subject) -> dict[str, Any]:
    """`slices`: fact -> value -> {n, auroc, accuracy, ...}; `slice_summary`: worst, flagged, comparisons, edges."""
    report = slice_report(
        answer(subject.clean, subject.rule),
        subject.pixels.films,
        subject.pixels.statistics,
        bootstraps=subject.limits.bootstraps,
        seed=subject.run.recipe.seed,
    )
    flat = {
        fact: {value: {**row.pop("figures"), **row} for value, row in values.items()}
        for fact, values in report.pop("facts").items()
    }
    return {"slices": flat, "slice_summary": report}


def _tta(subject: _Subject) -> dict[str, Any]:
    recipe = subject.run.recipe
    rows = spread(subject.clean, subject.limits.tta, recipe.seed)
    return tta_gain(
        some(subject.pixels, rows).plain,
        subject.clean.take(rows),
        subject.read,
        subject.rule,
        views(recipe.augmentation),
        bootstraps=subject.limits.bootstraps,
        seed=recipe.seed,
    )


def _explanations(subject: _Subject) -> dict[str, Any]:
    recipe = subject.run.recipe
    each = min(recipe.evaluation.explanations, max(1, subject.limits.explained // len(recipe.data.classes)))
    groups = groups_of(recipe, subject.pixels.plain, subject.clean, each)
    return explanation_report(
        subject.network, recipe, subject.read, groups, bootstraps=subject.limits.bootstraps, seed=recipe.seed
    )


def _worklists(subject: _Subject) -> dict[str, Any]:
    """Lengths of the lists; the files as a side effect."""
    run, rule, each = subject.run, subject.rule, subject.limits.gallery
    folder, review = run.path / "checks", fixed_decision(run).review
    lists = worklists(answer(subject.clean, rule), rule, review, _by_path(subject.pixels.films))
    write_worklists(lists, folder, rule.point.name)
    shown = {row.path for rows in lists.values() for row in rows[:each]}
    plain = subject.pixels.plain
    films = {film.path: plain[i] for i, film in enumerate(subject.pixels.films) if film.path in shown}
    write_gallery(folder / "gallery.html", lists, films, subject.network, run.recipe, each=each)
    found = {"report": {name: len(rows) for name, rows in lists.items()}}
    if (run.path / "figures-test.json").is_file():
        tested = answer(load_logits(run, "test")["test"], rule)
        lists = worklists(tested, rule, review, _by_path(subject.splits.test))
        write_worklists(lists, folder / "test", rule.point.name)
        found["test"] = {name: len(rows) for name, rows in lists.items()}
    return found


def _by_path(films: tuple[Film, ...]) -> dict[str, Film]:
    return {film.path: film for film in films}
