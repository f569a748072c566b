"""`GET /drift_report` as one self-contained page: tables, and bars as inline SVG. Loads nothing; can be saved and mailed."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape

from app.api.drift_schema import ClassRow, DriftAnswer, StatisticRow

_STYLE = """
:root { --ink: #1c2733; --soft: #5b6875; --line: #d8dee5; --paper: #fff; --reference: #a9b6c4; --window: #1f6feb;
  --ok: #1a7f4b; --watch: #9a6700; --alert: #c62828; --none: #5b6875 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf0; --soft: #9aa7b4; --line: #333e49; --paper: #14191f;
  --reference: #5d6a78; --window: #58a6ff; --ok: #4cc38a; --watch: #e3b341; --alert: #ff7b72; --none: #9aa7b4 } }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: 0 0 .25rem } h2 { font-size: 1.1rem; margin: 2.25rem 0 .5rem }
p { margin: .35rem 0; max-width: 46rem } .soft { color: var(--soft) }
table { border-collapse: collapse; width: 100% }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: .85rem }
th, td { padding: .45rem .6rem .45rem 0; border-bottom: 1px solid var(--line); vertical-align: middle }
td.n, th.n { text-align: right; padding-right: 1.2rem; font-variant-numeric: tabular-nums }
.level { font-weight: 600; white-space: nowrap } .ok { color: var(--ok) } .watch { color: var(--watch) }
.alert { color: var(--alert) } .insufficient_data { color: var(--none) }
svg { display: block } .r { fill: var(--reference) } .w { fill: var(--window) } .axis { stroke: var(--line) }
.key { display: inline-block; width: .7em; height: .7em; margin-right: .35em } .key.r { background: var(--reference) }
.key.w { background: var(--window); margin-left: 1em }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
STYLE_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_WORDS = {"insufficient_data": "insufficient data"}
_BAR_PX, _GAP_PX, _HEIGHT_PX = 9, 6, 44


def drift_page(answer: DriftAnswer) -> str:
    """A whole HTML document; its only style is the one whose hash `STYLE_POLICY` allows."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Drift report</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"{_head(answer)}{_statistics(answer.statistics)}{_classes(answer.classes)}{_embedding(answer)}</body></html>"
    )


def _head(a: DriftAnswer) -> str:
    little = ""
    if a.n < a.minimum:
        little = f"<p>At least {a.minimum:,} predictions are needed: with fewer, noise alone looks like drift.</p>"
    elif a.n_reference < a.minimum_reference:
        little = f"<p>The bundle's reference is too small: at least {a.minimum_reference:,} films are needed.</p>"
    return (
        f"<h1>Drift report: {_level(a.level)}</h1>"
        f'<p class="soft">{a.since:%Y-%m-%d %H:%M} to {a.until:%Y-%m-%d %H:%M} UTC &middot; {a.n:,} predictions &middot; '
        f"reference of {a.n_reference:,} films in the bundle {escape(a.bundle)}</p>{little}"
        f"<p>Population stability index (PSI): {a.levels.watch} or more is <b>watch</b>, {a.levels.alert} or more <b>alert</b>. "
        "Drift says that the films differ from those the model was measured on, not that answers are wrong.</p>"
    )


def _statistics(rows: Sequence[StatisticRow]) -> str:
    body = "".join(
        f"<tr><td>{escape(r.name)}</td><td>{_level(r.level)}</td>{_n(r.psi)}{_n(r.chance)}"
        f'<td class="n">{r.n:,}</td><td>{_bars(r)}</td></tr>'
        for r in rows
    )
    return (
        '<h2>Input statistics and confidence</h2><p class="soft"><span class="key r"></span>reference'
        '<span class="key w"></span>window, share of films per bin, low values left</p>'
        '<table><tr><th>statistic</th><th>level</th><th class="n">PSI</th><th class="n">by chance</th>'
        f'<th class="n">films</th><th>distribution</th></tr>{body}</table>'
    )


def _classes(rows: Sequence[ClassRow]) -> str:
    body = "".join(
        f"<tr><td>{escape(r.name)}</td><td>{_level(r.level)}</td>{_n(r.psi)}{_n(r.chance)}"
        f'<td class="n">{r.expected:.1%}</td><td class="n">{_share(r.observed)}</td></tr>'
        for r in rows
    )
    return (
        '<h2>Predicted classes</h2><table><tr><th>class</th><th>level</th><th class="n">PSI</th><th class="n">by chance</th>'
        f'<th class="n">reference</th><th class="n">window</th></tr>{body}</table>'
    )


def _embedding(a: DriftAnswer) -> str:
    e = a.embedding
    return (
        '<h2>Features of the network</h2><table><tr><th>level</th><th class="n">divergence</th><th class="n">by chance</th>'
        '<th class="n">mean shift (sd)</th><th class="n">films</th></tr>'
        f'<tr><td>{_level(e.level)}</td>{_n(e.divergence)}{_n(e.chance)}{_n(e.distance)}<td class="n">{e.n:,}</td></tr></table>'
        f'<p class="soft">Request {escape(a.request_id)}</p>'
    )


def _bars(row: StatisticRow) -> str:
    """Two bars a bin, reference and window, on one scale."""
    if not row.observed or not row.expected:
        return '<span class="soft">no values</span>'
    highest = max(*row.expected, *row.observed, 1e-9)
    step = 2 * _BAR_PX + _GAP_PX
    parts = []
    for i, (expected, observed) in enumerate(zip(row.expected, row.observed, strict=True)):
        for offset, kind, share in ((0, "r", expected), (_BAR_PX, "w", observed)):
            height = round(_HEIGHT_PX * share / highest, 1)
            x, y = i * step + offset, round(_HEIGHT_PX - height, 1)
            parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{_BAR_PX - 1}" height="{height}"/>')
    width = len(row.expected) * step - _GAP_PX
    label = f"{escape(row.name)}: shares of the window {', '.join(f'{share:.0%}' for share in row.observed)}"
    return (
        f'<svg role="img" aria-label="{label}" width="{width}" height="{_HEIGHT_PX + 1}">{"".join(parts)}'
        f'<line class="axis" x1="0" x2="{width}" y1="{_HEIGHT_PX + 0.5}" y2="{_HEIGHT_PX + 0.5}"/></svg>'
    )


def _level(level: str) -> str:
    return f'<span class="level {escape(level)}">{escape(_WORDS.get(level, level))}</span>'


def _n(value: float | None) -> str:
    return f'<td class="n">{"&ndash;" if value is None else f"{value:.3f}"}</td>'


def _share(value: float | None) -> str:
    return "&ndash;" if value is None else f"{value:.1%}"
