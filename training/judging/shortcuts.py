"""Can a class, or a film's source, be told without looking at a lung? Probes, the network beside them, and the verdict.

Everything is measured on the validation (both halves; no test film, unless the run has been tested): probes are fitted on the training
films, whose patients are others. A source that can be told matters as far as source and class go together, so that stands beside:
`told`, the AUROC with which the source alone tells the class; `within` and `across`, the network's AUROC over pairs of films of one
source and of different sources.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from app.decision import margins
from training.data.cache import Pixels, training_pixels
from training.data.films import Film
from training.data.splits import Splits
from training.data.targets import targets
from training.judging.answers import Figure, Floats, Index, intervals
from training.judging.baseline import NAME, baseline_figures, fit_baseline
from training.judging.edges import edge_reading
from training.judging.evaluate import checked_splits, fixed_decision, load_logits
from training.judging.figures import auroc
from training.judging.judge import plain_pixels, scored_films
from training.judging.probes import FACTS, LUNGLESS, REGIONS, fitted, measured, sharpness, thumbnails
from training.judging.reading import Reading, reader
from training.judging.sampling import Limits, some, spread
from training.judging.scored import Scored, mix
from training.judging.verdict import shortcut_lines
from training.places import Places
from training.recipe import Recipe
from training.runs import Run

NEARLY_ALL = 0.95  # share of one class from which a source counts as that class's own
FEWEST = 10  # films of either side for a within-source figure


def probe_shortcuts(run: Run, places: Places, limits: Limits | None = None) -> dict[str, Any]:
    """All of it, also written to figures-shortcuts.json. Raises ConfigurationError before the hard validation."""
    limits, recipe = limits or Limits(), run.recipe
    splits = checked_splits(run, places)
    train = _trained(splits, recipe, places, limits)
    halves = [plain_pixels(films, recipe, places) for films in (splits.fit, splits.report)]
    network = run.network()
    read = reader(network, recipe)
    readings = [read(half.plain) for half in halves]
    scored = mix([scored_films(n, h.films, r.logits, recipe) for n, h, r in zip("fr", halves, readings, strict=True)])
    figures: dict[str, Any] = {
        "weights_digest": run.weights_digest(),
        "outputs": list(recipe.data.outputs),
        "n_train": len(train.films),
        "n": len(scored),
        "source_by_label": source_table(splits.train),
        "network": _network_figures(scored, limits),
    }
    probed = label_probes(train, joined(halves), recipe, limits)
    figures |= {"labels": probed["labels"], "edge_gain": probed["edge_gain"]}
    figures["sources"] = {
        "by_class": source_figures(splits.train, scored, recipe, limits),
        "probes": _source_probes(train, halves, readings, recipe, limits),
    }
    few = spread(scored, limits.edges // (1 + len(recipe.data.outputs) // 4), recipe.seed)
    plain = joined(halves).plain[few]
    figures["edges"] = edge_reading(plain, scored.take(few), read, bootstraps=limits.bootstraps, seed=recipe.seed)
    figures["held_out"] = held_out(run, limits)
    figures["aspect"] = aspect_figures(joined(halves), scored)
    figures["baseline"] = _baseline(run, places, train, halves, splits)
    figures["verdict"] = shortcut_lines(figures)
    run.write_json("figures-shortcuts.json", figures)
    return figures


def label_probes(train: Pixels, shown: Pixels, recipe: Recipe, limits: Limits) -> dict[str, Any]:
    """`labels`: probe -> class -> AUROC; `edge_gain`: class -> edge -> AUROC from the edge less that from the inside of the film."""
    truth, other = (targets(p.films, recipe.data).astype(np.float64) for p in (train, shown))
    patients = patients_of(shown.films)
    outputs = recipe.data.outputs
    scores = {name: fitted(view(train), truth)(view(shown)) for name, view in (REGIONS | FACTS).items()}
    found = {
        name: measured(values, other, patients, outputs, bootstraps=limits.bootstraps, seed=recipe.seed)
        for name, values in scores.items()
    }
    gains: dict[str, dict[str, Figure]] = {name: {} for name in outputs}
    for k, name in enumerate(outputs):
        known = np.isfinite(other[:, k]) & np.isfinite(scores["corners"][:, k])
        if not known.any():
            continue
        y = other[known, k].astype(np.int64)
        columns = {region: scores[region][known, k] for region in (*LUNGLESS, "inside of the thumbnail")}

        def gain(chosen: Index, y: NDArray[np.int64] = y, columns: Mapping[str, Floats] = columns) -> dict[str, float]:
            inner = auroc(y[chosen], columns["inside of the thumbnail"][chosen])
            return {region: auroc(y[chosen], columns[region][chosen]) - inner for region in LUNGLESS}

        gains[name] = intervals(gain, patients[known], bootstraps=limits.bootstraps, seed=recipe.seed)
    return {"labels": found, "edge_gain": gains}


def source_figures(trained: Sequence[Film], scored: Scored, recipe: Recipe, limits: Limits) -> dict[str, Any]:
    """Per class: `told`, `exclusive` (share of its training films from sources that show hardly anything else), and the network's AUROC
    `within` and `across` sources where there are such pairs."""
    truth = targets(trained, recipe.data).astype(np.float64)
    folders = np.array([film.folder for film in trained])
    raw = margins(scored.task, scored.logits)
    found: dict[str, Any] = {}
    for k, name in enumerate(scored.outputs):
        known, seen = np.isfinite(scored.targets[:, k]), np.isfinite(truth[:, k])
        share = {f: float(truth[seen & (folders == f), k].mean()) for f in np.unique(folders[seen])}
        y = scored.targets[known, k].astype(np.int64)
        base = float(truth[seen, k].mean()) if seen.any() else 0.0
        told = auroc(y, np.array([share.get(s, base) for s in scored.sources[known]])) if len(y) else float("nan")
        if not np.isfinite(told):
            continue
        own = [f for f, value in share.items() if value >= NEARLY_ALL]
        exclusive = float(np.isin(folders[seen & (truth[:, k] == 1)], own).mean())
        pairs = pair_figures(
            y,
            raw[known, k],
            scored.sources[known],
            scored.patients[known],
            bootstraps=limits.bootstraps,
            seed=recipe.seed,
        )
        found[name] = {"told": told, "exclusive": exclusive} | pairs
    return found


def pair_figures(
    y: NDArray[np.int64],
    scores: Floats,
    sources: NDArray[np.str_],
    patients: NDArray[np.str_],
    *,
    bootstraps: int,
    seed: int,
) -> dict[str, Figure]:
    """AUROC over pairs (positive, negative) of one source, `within`, and of different ones, `across`.

    Sources with fewer than `FEWEST` films of either side do not enter `within`.
    """
    shared = [
        s for s in np.unique(sources) if min(np.sum(y[sources == s] == 1), np.sum(y[sources == s] == 0)) >= FEWEST
    ]

    def figures(chosen: Index) -> dict[str, float]:
        label, score, source = y[chosen], scores[chosen], sources[chosen]
        wins = pairs = every = 0.0
        for s in np.unique(source):
            here = source == s
            number = float(np.sum(label[here] == 1)) * float(np.sum(label[here] == 0))
            won = auroc(label[here], score[here]) * number if number else 0.0
            every, pairs, wins = every + won, pairs + number, wins + (won if s in shared else 0.0)
        counted = sum(float(np.sum(label[source == s] == 1)) * float(np.sum(label[source == s] == 0)) for s in shared)
        total = float(np.sum(label == 1)) * float(np.sum(label == 0))
        return {
            "within": wins / counted if counted else float("nan"),
            "across": (auroc(label, score) * total - every) / (total - pairs) if total > pairs else float("nan"),
        }

    return intervals(figures, patients, bootstraps=bootstraps, seed=seed)


def held_out(run: Run, limits: Limits) -> dict[str, Any]:
    """Per class the network's AUROC within sources that it was not trained on: the external sets, and held-out test sources once tested."""
    recipe = run.recipe
    sets: list[Scored] = []
    if (run.path / "logits-external.npz").is_file():
        sets += load_logits(run, "external").values()
    apart = {source.folder for source in recipe.data.sources if source.side == "test"}
    if apart and (run.path / "figures-test.json").is_file():
        sets += load_logits(run, "test").values()
    if not sets:
        return {}
    every = mix(sets)
    trained = set(recipe.data.folders) - apart
    _, first = np.unique(every.paths, return_index=True)
    films = every.take(np.array([i for i in first if every.sources[i] not in trained], dtype=np.intp))
    raw = margins(films.task, films.logits)
    found: dict[str, Any] = {}
    for k, name in enumerate(films.outputs):
        known = np.isfinite(films.targets[:, k])
        if not known.any():
            continue
        y = films.targets[known, k].astype(np.int64)
        pairs = pair_figures(
            y,
            raw[known, k],
            films.sources[known],
            films.patients[known],
            bootstraps=limits.bootstraps,
            seed=recipe.seed,
        )
        if "within" in pairs:
            found[name] = pairs["within"] | {
                "n": int(known.sum()),
                "sources": sorted(set(films.sources[known].tolist())),
            }
    return found


def aspect_figures(shown: Pixels, scored: Scored) -> dict[str, float]:
    """Spearman's rank correlation of the aspect ratio and each class's margin, within its films and within the others; only films that are
    not square, and only where there are at least `FEWEST`."""
    aspect = np.array([s.aspect for s in shown.statistics])
    raw = margins(scored.task, scored.logits)
    found = {}
    for k, name in enumerate(scored.outputs):
        for value, side in ((1, "with"), (0, "without")):
            chosen = (aspect != 1.0) & (scored.targets[:, k] == value)
            if chosen.sum() >= FEWEST and np.ptp(aspect[chosen]) > 0 and np.ptp(raw[chosen, k]) > 0:
                found[f"films {side} {name}"] = float(spearmanr(aspect[chosen], raw[chosen, k]).statistic)
    return found


def source_table(films: Sequence[Film]) -> dict[str, dict[str, int]]:
    """Source -> class -> training films; a film with several findings counts for each."""
    counts: Counter[tuple[str, str]] = Counter()
    for film in films:
        names = [film.label] if film.label else [name for name, value in film.findings if value == 1] or ["none"]
        counts.update((film.folder, name) for name in names)
    folders = sorted({folder for folder, _ in counts})
    return {folder: {label: n for (f, label), n in sorted(counts.items()) if f == folder} for folder in folders}


def joined(parts: Sequence[Pixels]) -> Pixels:
    """Several sets as one, first versions alone."""
    return Pixels(
        films=tuple(film for part in parts for film in part.films),
        images=np.concatenate([part.plain for part in parts])[:, None],
        sha256=tuple(sha for part in parts for sha in part.sha256),
        statistics=tuple(s for part in parts for s in part.statistics),
    )


def patients_of(films: Sequence[Film]) -> NDArray[np.str_]:
    """str [N]; a film whose patient is not known is a patient of its own."""
    return np.array([film.patient or film.path for film in films], dtype=np.str_)


def _trained(splits: Splits, recipe: Recipe, places: Places, limits: Limits) -> Pixels:
    """Training films, at most `limits.train`, from the cache that fitting made."""
    whole = training_pixels(recipe, splits.train, places)
    scored = scored_films("train", whole.films, np.zeros((len(whole.films), len(recipe.data.outputs))), recipe)
    return some(whole, spread(scored, limits.train, recipe.seed))


def _network_figures(scored: Scored, limits: Limits) -> dict[str, Figure]:
    raw = margins(scored.task, scored.logits)
    return measured(raw, scored.targets, scored.patients, scored.outputs, bootstraps=limits.bootstraps, seed=0)


def _source_probes(
    train: Pixels, halves: Sequence[Pixels], readings: Sequence[Reading], recipe: Recipe, limits: Limits
) -> dict[str, Any]:
    """Probe -> source -> AUROC of telling it from the rest; nothing where there is one source. The network's features are probed from the
    fit-half to the report-half."""
    names = tuple(sorted({film.folder for film in train.films}))
    if len(names) < 2:
        return {}
    fit, report = halves
    shown = joined(halves)
    views = {"32 x 32 thumbnail": thumbnails, "sharpness": sharpness}
    pairs = {name: (view(train), train.films, view(shown), shown.films) for name, view in views.items()}
    pairs["the network's pooled features"] = (readings[0].pooled, fit.films, readings[1].pooled, report.films)
    return {
        probe: measured(
            fitted(x, _is_source(own, names))(x_other),
            _is_source(others, names),
            patients_of(others),
            names,
            bootstraps=limits.bootstraps,
            seed=recipe.seed,
        )
        for probe, (x, own, x_other, others) in pairs.items()
    }


def _is_source(films: Sequence[Film], names: Sequence[str]) -> Floats:
    return np.array([[film.folder == name for name in names] for film in films], dtype=np.float64)


def _baseline(run: Run, places: Places, train: Pixels, halves: Sequence[Pixels], splits: Splits) -> dict[str, Any]:
    """The thumbnail classifier on the clean report-half, and on the test films if the network has been tested on them."""
    recipe, fixed = run.recipe, fixed_decision(run)
    baseline = fit_baseline(train, halves[0], halves[1], recipe)
    clean = load_logits(run, "hard")["report/clean"]
    found = {"name": NAME, "clean": baseline_figures(baseline, halves[1], clean, fixed, recipe)}
    if (run.path / "figures-test.json").is_file():
        tested = plain_pixels(splits.test, recipe, places)
        found["test"] = baseline_figures(baseline, tested, load_logits(run, "test").get("test"), fixed, recipe)
    return found
