"""The figure table of README.md, between its markers, from a bundle's manifest, the ledger and the published anchors."""

from __future__ import annotations

from pathlib import Path

from app.bundle.manifest import Manifest, Metric
from app.errors import ConfigurationError
from training.judging import ledger
from training.publishing.anchors import ANCHORS
from training.publishing.card import number, table

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
        "cropped films most are warned of instead). say little: a lateral without a header is not reliably caught, and mirrored "
        "films are not detected."
    )
    return f"{head}\n\n{table(('pictures', 'refused though sound', 'refused as they should be', 'n'), rows)}"


def replace_between_markers(text: str, block: str, content: str) -> str:
    """`text` with what stands between the markers of `block` replaced. Raises ConfigurationError without exactly one pair of them."""
    start, end = f"<!-- {block} -->", f"<!-- /{block} -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ConfigurationError("markers_missing", f"wanted one {start} and one {end} after it")
    head, rest = text.split(start)
    _, tail = rest.split(end)
    return f"{head}{start}\n{content}\n{end}{tail}"


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
