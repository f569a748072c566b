"""The figure tables of README.md, between their markers: from a bundle's manifest, the ledger, the recorded runs and the anchors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from app.bundle.manifest import Manifest, Metric
from app.errors import ConfigurationError
from training.judging import ledger
from training.judging.figures import READ_OFF
from training.publishing.anchors import COMMON_NOTE, DESIGNS, S0, S2, AnchorFigure, Design
from training.publishing.card import number, table, variant_section
from training.publishing.evidence import HARD, OFFICIAL, REPORT_CLEAN, REPORT_MIX
from training.publishing.reported import REPORTED, Entry, Reported, load_reported
from training.runs import write_atomically

SEEDS_OF = "pneumonia-resnet18"
SEED_FIGURES = (
    "auroc",
    "auprc",
    *(f"{name}{ending}" for name in ("brier", "nll", "ece") for ending in (", uncalibrated", "")),
    READ_OFF,
    *(f"{rate}@rule-in" for rate in ("sensitivity", "specificity")),
)


def write_readme_figures(m: Manifest, digest: str, ledger_path: Path, readme: Path, reported: Path = REPORTED) -> None:
    """Write all blocks of figures. Raises ConfigurationError where a marker is missing; the file is then left as it was."""
    kept = load_reported(reported)
    blocks = {
        "figures:model": model_figures(m, digest, ledger_path),
        "figures:gate": gate_figures(m),
        "figures:designs": design_figures(kept),
        "figures:seeds": seed_figures(kept),
    }
    text = readme.read_text(encoding="utf-8")
    for block, content in blocks.items():
        text = replace_between_markers(text, block, content)
    write_atomically(readme, text.encode())


def model_figures(m: Manifest, digest: str, ledger_path: Path) -> str:
    """Markdown: test figures beside the anchors', variants, hard validation, last ledger row. Raises ConfigurationError without a test."""
    found = {(x.data, x.name): x for x in m.metrics}
    if (OFFICIAL, "auroc") not in found:
        raise ConfigurationError("step_missing", "the bundle was exported before the test split was looked at")
    rows = ledger.read(ledger_path)
    if not rows:
        raise ConfigurationError("step_missing", f"{ledger_path.name} has no row")
    head = (
        f"`{m.name}/{m.version}` (digest `{digest[:16]}`), official test split of {found[OFFICIAL, 'auroc'].n} films, 95 % "
        "intervals by a bootstrap over patients (`python -m training evaluate <run> --split test`):"
    )
    return "\n\n".join(
        [head, _test_table(m, found), *variant_section(m)[1:], _hard_lines(m, found), _ledger_line(rows)]
    )


def gate_figures(m: Manifest) -> str:
    """Markdown: what the bundle's gate refuses, of films it should take and of everything else. A line for a bundle that has none."""
    picture = m.picture_gate
    if picture is None:
        return f"`{m.name}/{m.version}` has no gate that looks at pictures."
    rows = [
        (f.data, *(number(f.value, f.ci) if f.name == name else "" for name in ("false_refusal", "refusal")), str(f.n))
        for f in picture.false_refusal
        if f.name in ("false_refusal", "refusal")
    ]
    head = (
        f"The gate of `{m.name}/{m.version}` on pictures that set neither its weights nor its limits, share refused with 95 % interval "
        "(Wilson). Sound films belong in the first column, as few as can be; what must not be judged in the second, all of it (of "
        "cropped films most are warned of instead). Rows of a few films say little: a lateral without a header is not reliably caught, "
        "and mirrored films are not detected."
    )
    return f"{head}\n\n{table(('pictures', 'refused though sound', 'refused as they should be', 'n'), rows)}"


def design_figures(kept: Reported) -> str:
    """Markdown: one row per design, figure and recipe of ours that was recorded; what is wrong in the designs' figures below."""
    rows = [row for design in DESIGNS for row in _design_rows(design, kept)]
    head = (
        "Published figures of the source designs and ours of the same name, each on its own test set (ours with 95 % intervals by a "
        "bootstrap over patients; seeds in one row: mean, lowest to highest). From `training/reported.json` "
        "(`python -m training record <run>`); `-`: not recorded yet, or without a counterpart."
    )
    columns = ("design", "figure", "published", "ours", "figure of ours", "films, n", "command")
    notes = [COMMON_NOTE, *map(_about, DESIGNS), *dict.fromkeys(note for design in DESIGNS for note in design.notes)]
    return "\n\n".join([head, table(columns, rows), "\n".join(f"- {note}" for note in notes)])


def seed_figures(kept: Reported, recipe: str = SEEDS_OF) -> str:
    """Markdown: one row per recorded seed of the recipe, then mean and range. A line where none was recorded."""
    entries = kept.of(recipe)
    if not entries:
        return f"No run of `{recipe}` was recorded yet."
    rows = [(str(e.seed), *(_cell(e.metric(name)) for name in SEED_FIGURES)) for e in entries]
    if len(entries) > 1:
        rows.append(("mean (lowest to highest)", *(_spread(entries, name) for name in SEED_FIGURES)))
    n = entries[0].metric("auroc")
    seeds = f"{len(entries)} {'seed' if len(entries) == 1 else 'seeds'}"
    head = (
        f"`{recipe}` (family `{entries[0].family[:8]}`), {entries[0].test}"
        + (f" of {n.n} films" if n else "")
        + f", {seeds}:"
    )
    judged = "; ".join(f"seed {e.seed}: {e.promotion}" for e in entries if e.promotion)
    held = f"\n\nHeld against its promotion policy: {judged}." if judged else ""
    return f"{head}\n\n{table(('seed', *SEED_FIGURES), rows)}{held}"


def replace_between_markers(text: str, block: str, content: str) -> str:
    """`text` with what stands between the markers of `block` replaced. Raises ConfigurationError without exactly one pair of them."""
    start, end = f"<!-- {block} -->", f"<!-- /{block} -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ConfigurationError("markers_missing", f"wanted one {start} and one {end} after it")
    head, rest = text.split(start)
    _, tail = rest.split(end)
    return f"{head}{start}\n{content}\n{end}{tail}"


def _about(design: Design) -> str:
    """What a design is, and the figures of its that nothing of ours stands beside."""
    others = "; ".join(f"{f.what} {f.shown}" for f in design.figures if not f.metric)
    return f"{design.name}: {design.what}; {design.data}." + (f" It also gives: {others}." if others else "")


def _design_rows(design: Design, kept: Reported) -> Iterable[tuple[str, ...]]:
    for figure in (f for f in design.figures if f.metric):
        recorded = [(recipe, kept.of(recipe)) for recipe in figure.beside or design.recipes if kept.of(recipe)]
        named = (design.name, figure.what, f"{figure.shown}{f' ({figure.note})' if figure.note else ''}")
        shown = [cells for recipe, entries in recorded if (cells := _ours(figure, recipe, entries))]
        yield from ((*named, *cells) for cells in shown or [("-", "-", "-", "-")])


def _ours(figure: AnchorFigure, recipe: str, entries: Sequence[Entry]) -> tuple[str, ...] | None:
    """Recipe, value, set and command; None where no run of the recipe has the figure."""
    having = [(e, m) for e in entries if figure.metric and (m := e.metric(figure.metric)) is not None]
    if not having:
        return None
    first, metric = having[0]
    value = _cell(metric) if len(having) == 1 else _spread([e for e, _ in having], figure.metric)
    baseline = f"; thumbnails {metric.baseline.value:.4f}" if metric.baseline else ""
    seeds = "" if len(having) == 1 else f" ({len(having)} seeds)"
    return f"`{recipe}`", f"{value}{baseline}", f"{first.test}, {metric.n}", f"`{first.command}`{seeds}"


def _spread(entries: Sequence[Entry], name: str) -> str:
    values = [m.value for e in entries if (m := e.metric(name)) is not None]
    return f"{fmean(values):.4f} ({min(values):.4f} to {max(values):.4f})" if values else "-"


def _test_table(m: Manifest, found: dict[tuple[str, str], Metric]) -> str:
    anchors = (S0, S2)
    wanted = [("AUROC", "auroc"), ("AUPRC", "auprc"), ("Brier", "brier"), ("ECE (15 equal-mass bins)", "ece")]
    for point in m.operating_points:
        wanted += [(f"{rate}, `{point.name}`", f"{rate}@{point.name}") for rate in ("sensitivity", "specificity")]
    rows = [
        (words, _cell(found.get((OFFICIAL, name))), *(a.shown(name) or _absent(name) for a in anchors))
        for words, name in wanted
    ]
    return table(("", "this bundle", *(f"{a.name}: {a.what}" for a in anchors)), rows)


def _absent(name: str) -> str:
    return "" if "@" in name else "not given"


def _hard_lines(m: Manifest, found: dict[tuple[str, str], Metric]) -> str:
    """The figures by which runs are compared, and the validation they come from."""
    chosen = [x for x in m.metrics if x.data == HARD]
    listed = ", ".join(f"{x.name} {number(x.value, x.ci)}" for x in chosen)
    return (
        f"Hard validation, by which runs are compared (`evaluate --split hard`): {listed}. Validation AUROC, "
        f"report half: clean {_cell(found.get((REPORT_CLEAN, 'auroc')))}, "
        f"clean and corrupted {_cell(found.get((REPORT_MIX, 'auroc')))}."
    )


def _ledger_line(rows: list[dict[str, str]]) -> str:
    last = defaultdict(lambda: "-", rows[-1])
    return (
        f"Test ledger (`training/test_ledger.csv`): {len(rows)} {'row' if len(rows) == 1 else 'rows'}; the last: "
        f"{last['date']}, {last['recipe']} {last['recipe_digest'][:8]}, weights {last['weights_digest'][:8]}, n {last['n']}, "
        f"AUROC {last['auroc']}, AUPRC {last['auprc']}, Brier {last['brier']}, ECE {last['ece']}."
    )


def _cell(metric: Metric | None) -> str:
    return "-" if metric is None else number(metric.value, metric.ci)
