"""The figure table of README.md, between its markers, from a bundle's manifest, the ledger and the published anchors."""

from __future__ import annotations

from pathlib import Path

from app.bundle.manifest import Manifest, Metric
from app.errors import ConfigurationError
from training import ledger
from training.anchors import ANCHORS
from training.card import number, table

START, END = "<!-- figures:model -->", "<!-- /figures:model -->"
TEST = "official test"


def model_figures(m: Manifest, digest: str, ledger_path: Path) -> str:
    """Markdown: test figures beside the anchors', hard validation, last ledger row. Raises ConfigurationError without a test."""
    found = {(x.data, x.name): x for x in m.metrics}
    if (TEST, "auroc") not in found:
        raise ConfigurationError("step_missing", "the bundle was exported before the test split was looked at")
    rows = ledger.read(ledger_path)
    if not rows:
        raise ConfigurationError("step_missing", f"{ledger_path.name} has no row")
    head = (
        f"`{m.name}/{m.version}` (digest `{digest[:16]}`), official test split of {found[TEST, 'auroc'].n} films, 95 % "
        "intervals by a bootstrap over patients (`python -m training evaluate <run> --split test`):"
    )
    return "\n\n".join([head, _test_table(m, found), _hard_lines(m, found), _ledger_line(rows)])


def replace_between_markers(text: str, content: str) -> str:
    """`text` with what stands between the markers replaced. Raises ConfigurationError without exactly one pair of markers."""
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ConfigurationError("markers_missing", f"wanted one {START} and one {END} after it")
    head, rest = text.split(START)
    _, tail = rest.split(END)
    return f"{head}{START}\n{content}\n{END}{tail}"


def _test_table(m: Manifest, found: dict[tuple[str, str], Metric]) -> str:
    rows = [
        ("AUROC", _cell(found.get((TEST, "auroc"))), *(f"{a.auroc:.4f}" for a in ANCHORS)),
        ("AUPRC", _cell(found.get((TEST, "auprc"))), *(f"{a.auprc:.4f}" for a in ANCHORS)),
        ("Brier", _cell(found.get((TEST, "brier"))), *(a.brier for a in ANCHORS)),
        ("ECE (15 equal-mass bins)", _cell(found.get((TEST, "ece"))), *(a.ece for a in ANCHORS)),
    ]
    for point in m.operating_points:
        for i, rate in enumerate(("sensitivity", "specificity")):
            others = (f"{a.points[point.name][i]:.3f}" if point.name in a.points else "" for a in ANCHORS)
            rows.append((f"{rate}, `{point.name}`", _cell(found.get((TEST, f"{rate}@{point.name}"))), *others))
    return table(("", "this bundle", *(f"{a.name}: {a.what}" for a in ANCHORS)), rows)


def _hard_lines(m: Manifest, found: dict[tuple[str, str], Metric]) -> str:
    """The figures by which runs are compared, and the validation they come from."""
    chosen = [x for x in m.metrics if x.data == "hard validation"]
    listed = ", ".join(f"{x.name} {number(x.value, x.ci)}" for x in chosen)
    mixed = found.get(("validation, report half, clean and corrupted", "auroc"))
    clean = found.get(("validation, report half", "auroc"))
    return (
        f"Hard validation, by which runs are compared (`evaluate --split hard`): {listed}. Validation AUROC, "
        f"report half: clean {_cell(clean)}, "
        f"clean and corrupted {_cell(mixed)}."
    )


def _ledger_line(rows: list[dict[str, str]]) -> str:
    last = rows[-1]
    return (
        f"Test ledger (`training/test_ledger.csv`): {len(rows)} {'row' if len(rows) == 1 else 'rows'}; the last: "
        f"{last['date']}, {last['recipe']} {last['recipe_digest'][:8]}, weights {last['weights_digest'][:8]}, n {last['n']}, "
        f"AUROC {last['auroc']}, AUPRC {last['auprc']}, Brier {last['brier']}, ECE {last['ece']}."
    )


def _cell(metric: Metric | None) -> str:
    return "-" if metric is None else number(metric.value, metric.ci)
