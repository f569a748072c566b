"""The leaderboard for readers: Markdown, one HTML page that loads nothing, JSON, and tables for the terminal."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from rich.table import Table

from app.bundle.manifest import Estimate

if TYPE_CHECKING:
    from training.tracking.leaderboard import Group, Leaderboard, Line

HEADER: tuple[str, ...] = ("rank", "run", "kind", "model", "selection", "behind the best", "corrupted", "clean")
HEADER += ("external", "ECE", "Brier", "images/s", "state")
_STYLE = (
    "body{font:14px sans-serif;margin:2em}table{border-collapse:collapse;margin:.5em 0}"
    "td,th{border:1px solid #ccc;padding:2px 8px;text-align:left;vertical-align:top}tr.first{background:#eef6ee}"
)


def note(board: Leaderboard) -> str:
    """How to read the tables; the same words everywhere."""
    return (
        "Computed from the hard validation alone; the test split plays no part. Runs of one table were judged on the same films. "
        "Selection: mean AUROC under the corruptions, averaged with that of the selecting external sets (several classes: macro). Runs "
        "share a rank where the 95 % interval of the difference to the best of that rank reaches 0 (paired bootstrap over patients, "
        f"{board.bootstraps} resamples, not corrected for the number of runs). ECE and Brier: clean report half, calibrated. "
        "images/s: films in training. Probes: only the head was trained. Classical: no network, never exported."
    )


def cells(line: Line) -> tuple[str, ...]:
    """One run in the order of HEADER."""
    outside = ", ".join(f"{name} {value:.4f}" for name, value in line.external_auroc.items() if value is not None)
    return (
        str(line.rank),
        line.run,
        line.kind,
        line.model,
        _shown(line.selection),
        _shown(line.difference),
        f"{line.corrupted_auroc:.4f}",
        f"{line.clean_auroc:.4f}",
        outside or "-",
        _shown(line.ece),
        _shown(line.brier),
        "-" if line.images_per_s is None else f"{line.images_per_s:.0f}",
        line.state,
    )


def heading(group: Group) -> str:
    selecting = f"; selecting: {', '.join(group.selecting)}" if group.selecting else ""
    what = f"{group.task}: {' / '.join(group.classes)}"
    return f"{what}; {group.films} validation films of {group.patients} patients ({group.digest[:8]}){selecting}"


def markdown(board: Leaderboard) -> str:
    parts = ["# Leaderboard", "", note(board), ""]
    for group in board.groups:
        parts += [f"## {heading(group)}", "", *_markdown_table(HEADER, [cells(line) for line in group.lines]), ""]
    if board.seeds:
        parts += ["## Several seeds", "", *_markdown_table(SEEDS_HEADER, seed_rows(board)), ""]
    if board.left_out:
        parts += ["## Left out", "", *(f"- {name}: {why}" for name, why in board.left_out.items()), ""]
    return "\n".join(parts)


def readme_block(board: Leaderboard) -> str:
    """The leaderboard in a few columns, for a README: no folder names, which differ between machines."""
    names = ("rank", "kind", "model", "selection", "behind the best", "clean")
    kept = [HEADER.index(name) for name in names]
    parts = [note(board)]
    for group in board.groups:
        rows = [(f"{line.recipe}, {line.seed}", *(cells(line)[i] for i in kept)) for line in group.lines]
        parts += ["", f"{heading(group)}:", "", *_markdown_table(("recipe, seed", *names), rows)]
    return "\n".join(parts)


SEEDS_HEADER = ("recipe", "seeds", "mean selection", "range")


def seed_rows(board: Leaderboard) -> list[tuple[str, ...]]:
    return [(s.recipe, str(s.seeds), f"{s.mean:.4f}", f"{s.low:.4f} to {s.high:.4f}") for s in board.seeds]


def page(board: Leaderboard) -> str:
    body = [f"<h1>Leaderboard</h1><p>{html.escape(note(board))}</p>"]
    for group in board.groups:
        first = [line.rank == 1 for line in group.lines]
        rows = [cells(line) for line in group.lines]
        body += [f"<h2>{html.escape(heading(group))}</h2>", _html_table(HEADER, rows, first)]
    if board.seeds:
        rows = seed_rows(board)
        body += ["<h2>Several seeds</h2>", _html_table(SEEDS_HEADER, rows, [False] * len(rows))]
    if board.left_out:
        why = "".join(f"<li>{html.escape(f'{name}: {text}')}</li>" for name, text in board.left_out.items())
        body.append(f"<h2>Left out</h2><ul>{why}</ul>")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Leaderboard</title>'
        f"<style>{_STYLE}</style>{''.join(body)}</html>\n"
    )


def as_json(board: Leaderboard) -> str:
    return json.dumps(_plain(board), indent=1, sort_keys=True) + "\n"


def tables(board: Leaderboard) -> list[Table]:
    """One for each group; what does not fit a terminal is in the files."""
    made = []
    kept = [
        HEADER.index(name)
        for name in ("rank", "run", "kind", "selection", "behind the best", "ECE", "images/s", "state")
    ]
    for group in board.groups:
        table = Table(*(HEADER[i] for i in kept), title=heading(group))
        for line in group.lines:
            row = cells(line)
            table.add_row(*(row[i] for i in kept), style="bold" if line.rank == 1 else None)
        made.append(table)
    if board.left_out:
        table = Table("left out", "why")
        for name, why in board.left_out.items():
            table.add_row(name, why)
        made.append(table)
    return made


def _shown(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate.value:.4f}" + (f" ({estimate.ci[0]:.4f} to {estimate.ci[1]:.4f})" if estimate.ci else "")


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *([c.replace("|", "\\|") for c in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]], first: Sequence[bool]) -> str:
    lines = ["<tr>" + "".join(f"<th>{html.escape(c)}</th>" for c in header) + "</tr>"]
    for row, marked in zip(rows, first, strict=True):
        lines.append(
            f"<tr{' class=first' if marked else ''}>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>"
        )
    return f"<table>{''.join(lines)}</table>"


def _plain(value: Any) -> Any:
    """Dataclasses and estimates as JSON."""
    if isinstance(value, Estimate):
        return value.model_dump(mode="json")
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
