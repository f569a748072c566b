"""The report's sections on the checks: corruption suite, slices, shift, TTA, explanations, shortcuts, galleries and worklists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from training.publishing import plots
from training.publishing.evidence import Figures
from training.publishing.page import cell, link, missing, note, plain, section, table
from training.runs import Run

CHECKS = "figures-checks.json; `checks`"
SHORTCUTS = "figures-shortcuts.json; `checks`"


def sections(run: Run, figures: Figures) -> Iterator[str]:
    """In the order of the page."""
    checks: dict[str, Any] = figures.checks or {}
    yield _suite(checks.get("suite"))
    yield _slices(figures.checks)
    yield _shift(checks.get("suite"))
    yield _tta(checks.get("tta"), figures)
    yield _explanations(checks.get("explanations"), figures)
    yield _shortcuts(figures.shortcuts)
    yield _worklists(run, checks.get("worklists"))


def _suite(suite: Mapping[str, Any] | None) -> str:
    """Monotone severities; a network that gets surer while it gets worse is named."""
    title = "Corruption suite"
    if suite is None:
        return section(title, missing(CHECKS))
    names = [n for n in ("auroc", "accuracy", "balanced_accuracy", "confidence") if n in suite["clean"]]
    rows = [("clean", "0", *(cell(suite["clean"].get(n)) for n in names))]
    for kind, severities in suite["kinds"].items():
        rows += [(kind, severity, *(cell(row.get(n)) for n in names)) for severity, row in severities.items()]
    surer = suite.get("over_confident", [])
    rises = suite.get("rises", [])
    return section(
        title,
        note(f"{suite['n']} films of the report half; severity 0 = clean. 95 % intervals by patients."),
        note(
            f"Surer and worse at once: {', '.join(surer) or 'nowhere'}. AUROC higher at the last severity: {', '.join(rises) or 'nowhere'}."
        ),
        plots.severities(suite["kinds"], suite["clean"], names),
        table(("corruption", "severity", *names), rows),
    )


def _slices(checks: Mapping[str, Any] | None) -> str:
    title = "Slices"
    if checks is None or "slices" not in checks:
        return section(title, missing(CHECKS))
    rows, classes = [], []
    for fact, values in checks["slices"].items():
        for value, row in values.items():
            gaps = row["gaps"]
            flagged = any(gap["flagged"] for gap in gaps.values())
            figures = [cell(row.get(n)) for n in ("auroc", "accuracy", "balanced_accuracy")]
            rows.append(
                (f"{fact}: {value}", str(row["n"]), *figures, *(cell(gaps.get(n)) for n in ("auroc", "accuracy")))
            )
            classes.append("failed" if flagged else "")
    summary = checks.get("slice_summary", {})
    header = (
        "slice",
        "n",
        "AUROC",
        "accuracy",
        "balanced accuracy",
        "AUROC less all others",
        "accuracy less all others",
    )
    words = f"Red: below the others beyond chance ({summary.get('comparisons', 0)} comparisons share 5 %)."
    if not rows:
        return section(title, note("No fact of the films takes two values."))
    return section(title, note(words), table(header, rows, classes=classes))


def _shift(suite: Mapping[str, Any] | None) -> str:
    title = "Embedding shift"
    if suite is None or not suite.get("embedding"):
        return section(title, missing(CHECKS))
    rows = [
        (
            f"{kind}, severity {severity}",
            *(cell(row.get(name)) for name in ("cosine", "norm_change", "frechet")),
            plain(row["frechet"].get("chance")),
            cell(row.get("mmd2")),
            plain(row["mmd2"].get("p_value")),
            f"{row['n']}, {row['dimensions']}",
        )
        for kind, severities in suite["embedding"].items()
        for severity, row in severities.items()
    ]
    header = ("films changed by", "cosine", "norm", "Frechet", "Frechet by chance", "MMD^2", "p", "films, dimensions")
    return section(
        title,
        note("Pooled features of the same films, changed and clean; MMD with a permutation null."),
        table(header, rows),
    )


def _tta(tta: Mapping[str, Any] | None, figures: Figures) -> str:
    title = "Test-time augmentation"
    if tta is None:
        asked = figures.recipe.evaluation.tta
        return section(title, missing(CHECKS) if asked else note("The recipe does not ask for it."))
    rows = [
        (name, cell(tta["single"].get(name)), cell(tta["mean"].get(name)), cell(gain))
        for name, gain in tta["gain"].items()
    ]
    verdict = "helps" if tta["helps"] else ("harms" if tta["harms"] else "makes no difference beyond chance")
    words = f"{tta['n']} films, views: {', '.join(tta['views'])}; {tta['cost']} passes a film. It {verdict}."
    return section(title, note(words), table(("figure", "one view", "mean of the views", "difference"), rows))


def _explanations(content: Mapping[str, Any] | None, figures: Figures) -> str:
    title = "Explanations"
    if content is None:
        asked = figures.recipe.evaluation.explanations
        return section(title, missing(CHECKS) if asked else note("The recipe asks for no explanation checks."))
    rows = []
    for name, row in content["classes"].items():
        shown = {k: v for k, v in row.items() if isinstance(v, Mapping) and "value" in v}
        rows += [
            (name, f"{row['n']}, {row['without_evidence']}", k.replace("_", " "), cell(v)) for k, v in shown.items()
        ]
    sanity, border = content.get("randomisation"), content.get("border_mass")
    words = [
        f"Maps of randomised weights: rank correlation {cell(sanity)}, "
        + ("not measured" if sanity is None else "passed" if sanity["passed"] else "FAILED"),
        f"Share of the map in the border {cell(border)} (an even map: {content['border_area']:.2f})",
    ]
    return section(
        title,
        *map(note, words),
        *(note(f"Warning: {warning}.") for warning in content.get("warnings", [])),
        table(("class", "films, without evidence", "figure", "value"), rows, words=True),
    )


def _shortcuts(figures: Mapping[str, Any] | None) -> str:
    """The verdict first, then what it rests on."""
    title = "Shortcuts"
    if figures is None:
        return section(title, missing(SHORTCUTS))
    verdict = figures.get("verdict", [])
    rows = [("passed" if x["passed"] else "FAILED", x["name"], x["wanted"], x["measured"]) for x in verdict]
    classes = ["passed" if x["passed"] else "failed" for x in verdict]
    return section(
        title,
        table(("", "line", "wanted", "measured"), rows, words=True, classes=classes)
        if rows
        else missing("the verdict"),
        "<h3>Training films: source and class</h3>",
        _source_table(figures.get("source_by_label", {})),
        "<h3>Each class from what is no lung, AUROC on other patients</h3>",
        _probes({**figures.get("labels", {}), "the network itself": figures.get("network", {})}),
        "<h3>Each source, AUROC on other patients</h3>",
        _probes(figures.get("sources", {}).get("probes", {})),
        "<h3>Source and class, and the network within and across sources</h3>",
        _by_class(figures.get("sources", {}).get("by_class", {}), figures.get("held_out", {})),
        "<h3>The network with corners and border of other films, AUROC</h3>",
        _edges(figures.get("edges", {})),
        _baseline(figures.get("baseline") or {}),
    )


def _source_table(counts: Mapping[str, Mapping[str, int]]) -> str:
    labels = sorted({label for row in counts.values() for label in row})
    return table(("source", *labels), [(f, *(str(row.get(label, 0)) for label in labels)) for f, row in counts.items()])


def _probes(probes: Mapping[str, Mapping[str, Any]]) -> str:
    columns = sorted({name for row in probes.values() for name in row})
    if not columns:
        return note("Not measured, or one source only.")
    return table(("probe", *columns), [(probe, *(cell(row.get(c)) for c in columns)) for probe, row in probes.items()])


def _by_class(rows: Mapping[str, Mapping[str, Any]], held: Mapping[str, Any]) -> str:
    header = (
        "class",
        "AUROC of the source alone",
        "share from sources of its own",
        "network within sources",
        "across sources",
        "within sources held out of training",
    )
    lines = [
        (
            name,
            plain(row["told"]),
            plain(row["exclusive"]),
            *map(cell, (row.get("within"), row.get("across"), held.get(name))),
        )
        for name, row in rows.items()
    ]
    return table(header, lines)


def _edges(edges: Mapping[str, Mapping[str, Any]]) -> str:
    """What a strange edge of the film's own side costs, what one of the other side does, and the difference, which is what is read."""
    keys = ("plain", "own", "other", "read")
    rows = [
        (f"{edge}: {c}", *(cell(row.get(k)) for k in keys)) for edge, each in edges.items() for c, row in each.items()
    ]
    if not rows:
        return note("Not measured.")
    return table(("edge: class", "as it is", "edges of the own side", "edges of the other side", "read"), rows)


def _baseline(content: Mapping[str, Any]) -> str:
    """At equal recall of the first class: what the thumbnail classifier finds and what the network finds."""
    rows = [
        (f"{on}, {point}: {name}", cell(row.get("recall")), cell(value), cell(row.get("network", {}).get(name)))
        for on in ("clean", "test")
        for point, row in (content.get(on) or {}).get("matched", {}).items()
        for name, value in row.get("baseline", {}).items()
    ]
    if not rows:
        return ""
    header = ("films, point: class", "recall of the first class", content["name"], "network")
    return "<h3>Found at equal recall of the first class</h3>" + table(header, rows)


def _worklists(run: Run, lengths: Mapping[str, Any] | None) -> str:
    """Links to files of the run's folder."""
    title, folder = "Worklists and galleries", run.path / "checks"
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in {".csv", ".html", ".json"})
    if lengths is None or not files:
        return section(title, missing(CHECKS))
    rows = [(part, name, str(n)) for part, lists in lengths.items() for name, n in lists.items()]
    links = "".join(f"<li>{link(p.relative_to(run.path).as_posix())}</li>" for p in files)
    return section(title, table(("films", "list", "length"), rows, words=True), f"<ul>{links}</ul>")
