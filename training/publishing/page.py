"""Pieces of an HTML page that loads nothing: escaped text, tables, sections, links inside the run's folder."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

STYLE = (
    "body{font:14px/1.4 sans-serif;max-width:1150px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:.5em 0}h2{border-bottom:1px solid #ccc;margin-top:2em}"
    "td,th{border:1px solid #ccc;padding:2px 8px;text-align:right;vertical-align:top}"
    "td:first-child,th:first-child{text-align:left}table.words td,table.words th{text-align:left}"
    "img{max-width:100%}tr.failed td{background:#fbd5d5;color:#8b0000}tr.passed td:first-child{color:#186a3b}"
    ".missing{color:#8a6d00;font-style:italic}.failed-label{color:#8b0000;font-weight:bold}pre{overflow:auto;background:#f6f6f6}"
    "nav a{margin-right:1em}"
)


def text(value: object) -> str:
    return html.escape(str(value))


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, words: bool = False, classes: Sequence[str] | None = None
) -> str:
    """A table of escaped cells. words: all cells to the left; classes: one CSS class per row."""
    body = list(rows)
    kinds = list(classes) if classes is not None else [""] * len(body)
    head = "<tr>" + "".join(f"<th>{text(cell)}</th>" for cell in header) + "</tr>"
    lines = [
        f"<tr{f' class={kind!r}' if kind else ''}>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>"
        for row, kind in zip(body, kinds, strict=True)
    ]
    return f"<table{' class=words' if words else ''}>{head}{''.join(lines)}</table>"


def section(title: str, *parts: str) -> str:
    """A section with an anchor."""
    return f"<h2 id={anchor(title)!r}>{text(title)}</h2>{''.join(parts)}"


def anchor(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower())


def missing(what: str) -> str:
    """What stands where a step was not taken: never an empty section."""
    return f"<p class=missing>Missing: {text(what)}</p>"


def note(words: str) -> str:
    return f"<p>{text(words)}</p>"


def link(path: str) -> str:
    """A link to a file of the run's folder, by its relative path."""
    return f"<a href={html.escape(path)!r}>{text(path)}</a>"


def cell(estimate: Mapping[str, Any] | None) -> str:
    """`0.9710 (0.9600 to 0.9800)`, or a dash."""
    if estimate is None:
        return "-"
    interval = estimate.get("ci")
    return f"{estimate['value']:.4f}" + (f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else "")


def plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def page(title: str, body: Iterable[str]) -> str:
    """The whole document."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{text(title)}</title>'
        f"<style>{STYLE}</style>{''.join(body)}</html>\n"
    )
