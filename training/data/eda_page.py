"""The EDA as one HTML page that loads nothing: tables, and plots as inline PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from training.data.film_facts import FACTS
from training.data.suspects import STRONG, SUSPICIOUS

mpl.use("Agg")

Floats = NDArray[np.float64]
SHOWN_SUSPECTS = 25
GROUPS = {
    "Sizes and files": ("upstream longest side", "longest side", "aspect ratio", "bytes per pixel", "JPEG quality"),
    "Exposure": ("mean", "standard deviation", "dark share", "bright share"),
    "Borders and corners": ("black border", "border brightness", "brightest corner", "busiest corner"),
    "Texture and edges": ("LBP entropy", "edge strength", "sharpness", "fine detail"),
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left } img { max-width: 100% }
.strong { background: #f6c7c0 } .suspicious { background: #fbe9c6 }
h2 { margin-top: 2.5rem } p, li { max-width: 60rem }
"""
_INTRODUCTION = (
    "Test films are counted here and not opened. What tells the classes apart without showing disease is a shortcut: see the end "
    "of the page first."
)
_MEAN_FILMS = (
    "All opened films of a class, squashed to one size and averaged. Frames, letters and collimation that show here are the "
    "source's, not the disease's."
)


def page(content: Mapping[str, Any], facts: Mapping[str, Floats], targets: Floats, means: Mapping[str, Floats]) -> str:
    """The page. content: what `eda.json` holds; facts, targets: of the opened films; means: class -> gray [S, S]."""
    groups = _groups(content, targets)
    known = content["fingerprint"]
    sizes = f"{known['films']} films of {known['patients']} patients; task {escape(content['task'])}"
    digests = f"splits {content['splits_digest'][:8]}, data {known['digest'][:8]}"
    parts = [
        f"<h1>Data of {escape(content['recipe'])}</h1>",
        f"<p>{sizes}; {digests}. {_INTRODUCTION}</p>",
        "<h2>Films</h2>",
        _balance(content),
        f"<h2>Mean film</h2><p>{_MEAN_FILMS}</p>",
        _mean_films(means),
    ]
    for title, names in GROUPS.items():
        parts += [f"<h2>{title}</h2>", _histograms(names, facts, groups), _quartiles(names, content)]
        if title == "Exposure":
            parts.append(_exposure(content))
        if title == "Sizes and files":
            parts += [_low_resolution(content), _files(content)]
    parts += [
        "<h2>Shortcut suspects</h2>",
        *_suspects(content),
        "<h2>The same picture twice</h2>",
        _duplicates(content),
    ]
    body = "\n".join(parts)
    title = escape(f"Data of {content['recipe']}")
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>\n{body}\n</html>\n'


def _groups(content: Mapping[str, Any], targets: Floats) -> dict[str, NDArray[np.bool_]]:
    """Class -> which films show it, at most six for the plots; binary: the negative class too."""
    groups = {name: targets[:, k] == 1 for k, name in enumerate(content["outputs"])}
    if content["task"] == "binary":
        groups = {content["classes"][0]: targets[:, 0] == 0, **groups}
    shown = sorted(groups, key=lambda name: -int(groups[name].sum()))[:6]
    return {name: chosen for name, chosen in groups.items() if name in shown}


def _balance(content: Mapping[str, Any]) -> str:
    classes = content["classes"]
    rows = [
        (
            f"{part} / {folder}" if folder != "all" else part,
            count["films"],
            count["patients"],
            *(count[c] for c in classes),
        )
        for part, folders in content["parts"].items()
        for folder, count in folders.items()
    ]
    figure = Figure(figsize=(9, 0.5 + 0.35 * len(content["parts"])))
    axes = figure.subplots()
    names = list(content["parts"])[::-1]
    left = np.zeros(len(names))
    for name in classes:
        width = np.array([content["parts"][part]["all"][name] for part in names], dtype=np.float64)
        axes.barh(names, width, left=left, label=name)
        left += width
    axes.set_xlabel("films" if content["task"] != "multilabel" else "labels")
    axes.legend(fontsize=7, ncols=2)
    return _table(("part / source", "films", "patients", *classes), rows) + inline(figure)


def _mean_films(means: Mapping[str, Floats]) -> str:
    shown = list(means.items())[:8]
    figure = Figure(figsize=(2.2 * len(shown), 2.4))
    for axes, (name, film) in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        axes.imshow(film, cmap="gray", vmin=0, vmax=255)
        axes.set_title(name, fontsize=9)
        axes.set_axis_off()
    return inline(figure)


def _histograms(names: Sequence[str], facts: Mapping[str, Floats], groups: Mapping[str, NDArray[np.bool_]]) -> str:
    figure = Figure(figsize=(3.6 * len(names), 2.8))
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        values = facts[name]
        known = values[np.isfinite(values)]
        axes.set_title(name, fontsize=9)
        if not len(known):
            axes.text(0.5, 0.5, "not known", ha="center")
            continue
        low, high = np.quantile(known, (0.005, 0.995))
        edges = np.linspace(low, high if high > low else low + 1, 31)
        for label, chosen in groups.items():
            seen = values[chosen & np.isfinite(values)]
            if len(seen):
                axes.stairs(np.histogram(seen, edges)[0] / len(seen), edges, fill=True, alpha=0.5, label=label)
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=6)
    return inline(figure)


def _quartiles(names: Sequence[str], content: Mapping[str, Any]) -> str:
    rows = []
    for name in names:
        found = content["facts"][name]
        cells = (
            f"{f['median']:.3g} ({f['q25']:.3g} to {f['q75']:.3g})" if (f := found.get(c)) else ""
            for c in content["classes"]
        )
        rows.append((f"{name}: {FACTS[name]}", *cells))
    return _table(("median (quartiles)", *content["classes"]), rows)


def _exposure(content: Mapping[str, Any]) -> str:
    rows = [
        (name, e["films"], e["under_exposed"], e["over_exposed"], f"{e['dark_share']:.3f}", f"{e['bright_share']:.3f}")
        for name, e in content["exposure"].items()
    ]
    return _table(("class", "films", "mean below 50", "mean above 200", "dark pixels", "bright pixels"), rows)


def _low_resolution(content: Mapping[str, Any]) -> str:
    rows = [
        (name, f"{r['stored']:.1%}", f"{r['upstream']:.1%}" if "upstream" in r else "not known")
        for name, r in content["low_resolution"].items()
    ]
    return "<p>Films whose shorter side is below the network's input.</p>" + _table(
        ("class", "stored", "upstream"), rows
    )


def _files(content: Mapping[str, Any]) -> str:
    rows = [
        (
            folder,
            ", ".join(f"{kind} {n}" for kind, n in f["formats"].items()),
            "" if f["jpeg_quality"] is None else f"{f['jpeg_quality']:.0f}",
            f"{f['bytes_per_pixel']:.2f}",
            f"{f['longest_side']:.0f}",
            f"{f['aspect_ratio']:.2f}",
        )
        for folder, f in content["files"].items()
    ]
    return _table(("source (medians)", "formats", "JPEG quality", "bytes / px", "longest side", "width / height"), rows)


def _suspects(content: Mapping[str, Any]) -> list[str]:
    found = content["suspects"]
    text = (
        f"<p>How well one number alone tells a class from the rest: AUROC in the direction that separates, with a 95 % interval over "
        f"patients. Suspicious where the whole interval lies above {SUSPICIOUS}, strong above {STRONG}. Some of it is disease (dense "
        "lungs are brighter); what is strong within one source, or tells the sources apart, must be shown not to be used.</p>"
    )
    parts = [text]
    for scope in ("all", *sorted({s["scope"] for s in found} - {"all"})):
        chosen = [s for s in found if s["scope"] == scope][:SHOWN_SUSPECTS]
        title = "All films" if scope == "all" else f"Within {escape(scope)}"
        parts += [f"<h3>{title}</h3>", _bars(chosen) if chosen else "", _suspect_table(chosen)]
    return parts


def _bars(suspects: Sequence[Mapping[str, Any]]) -> str:
    shown = list(suspects)[:15][::-1]
    figure = Figure(figsize=(8, 0.6 + 0.27 * len(shown)))
    axes = figure.subplots()
    colours = {"strong": "#c0392b", "suspicious": "#e0a030", "": "#8899aa"}
    found = [colours[s["mark"]] for s in shown]
    axes.hlines(range(len(shown)), [s["ci"][0] for s in shown], [s["ci"][1] for s in shown], colors=found, linewidth=3)
    axes.scatter([s["auroc"] for s in shown], range(len(shown)), c=found)
    axes.set_yticks(range(len(shown)), [f"{s['fact']}: {s['target']}" for s in shown], fontsize=8)
    for edge in (SUSPICIOUS, STRONG):
        axes.axvline(edge, color="grey", linewidth=0.8, linestyle="--")
    axes.set_xlim(0.45, 1.0)
    axes.set_xlabel("AUROC of the number alone")
    return inline(figure)


def _suspect_table(suspects: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            s["fact"],
            s["target"],
            f"{s['auroc']:.3f} ({s['ci'][0]:.3f} to {s['ci'][1]:.3f})",
            "higher" if s["direction"] > 0 else "lower",
            s["positives"],
            s["n"],
            s["mark"],
        )
        for s in suspects
    ]
    heads = ("number", "class", "AUROC", "in the class", "films of it", "films", "")
    return _table(heads, rows, [s["mark"] for s in suspects])


def _duplicates(content: Mapping[str, Any]) -> str:
    found = content["duplicates"]
    if not found:
        return "<p>No two opened films show the same picture.</p>"
    rows = [(*pair["paths"], " / ".join(dict.fromkeys(pair["parts"])), pair["bits"]) for pair in found[:50]]
    return f"<p>{len(found)} pairs.</p>" + _table(("film", "film", "part", "bits apart"), rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]], marks: Sequence[str] | None = None) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    lines = []
    for i, row in enumerate(rows):
        mark = f' class="{marks[i]}"' if marks and marks[i] else ""
        lines.append(f"<tr{mark}>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>")
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def inline(figure: Figure) -> str:
    """An <img> element that holds the picture."""
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=90, bbox_inches="tight")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(target.getvalue()).decode()}">'
