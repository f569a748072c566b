"""The films that went wrong, as one HTML page in the run's folder: picture, heat map of the class in question, what was said.

The page holds pictures of films: it lies in the run's folder, which git ignores, and is never part of a bundle or a report.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from app.explain import Head, activation_map, logit_of, overlay_bytes
from training.judging.explanations import enlarged
from training.judging.reading import feature_maps
from training.judging.worklists import LISTS, Row
from training.networks.network import TriageNetwork
from training.networks.onnx_export import explanation_kind, head_tensors
from training.recipe import Recipe
from training.runs import write_atomically

Gray = NDArray[np.uint8]
SHOWN = 192  # px of a picture's side
ALPHA = 0.45
TITLES = {
    "false-negatives": "Missed findings",
    "false-positives": "Findings that are not there",
    "borderline": "Borderline",
    "high-risk": "High risk: gravest class missed, normal with low confidence, wrong with high confidence",
    "high-confidence-correct": "Right, with high confidence",
}
_STYLE = (
    "body{font:14px sans-serif;margin:2em;background:#fff;color:#111}section{margin-bottom:2em}"
    "figure{display:inline-block;margin:4px;width:390px;vertical-align:top}img{width:192px}"
    "figcaption{font-size:12px;overflow-wrap:anywhere}"
)


def write_gallery(
    path: Path,
    lists: Mapping[str, Sequence[Row]],
    films: Mapping[str, Gray],
    network: TriageNetwork,
    recipe: Recipe,
    *,
    each: int,
) -> Path:
    """The first `each` rows of every list.

    Args:
        films: path -> uint8 [S, S] of at least the rows shown.
    """
    sections = []
    for name in LISTS:
        rows = [row for row in lists[name] if row.path in films][:each]
        figures = "".join(_figures(rows, films, network, recipe)) or "<p>none</p>"
        sections.append(f"<section><h2>{TITLES[name]} ({len(lists[name])})</h2>{figures}</section>")
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(recipe.run_name)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(recipe.run_name)}: films to look at</h1>"
        "<p>Pictures of films: not for passing on. A heat map is a hint, not a lesion outline.</p>"
        f"{''.join(sections)}</html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode())
    return path


def _figures(rows: Sequence[Row], films: Mapping[str, Gray], network: TriageNetwork, recipe: Recipe) -> list[str]:
    if not rows:
        return []
    shown = np.stack([films[row.path] for row in rows])
    head = Head.from_tensors(explanation_kind(network), head_tensors(network))
    found = []
    for row, film, features in zip(rows, shown, feature_maps(network, shown, recipe), strict=True):
        pictures = [_jpeg(film)]
        if row.about in recipe.data.classes:
            index, negated = logit_of(recipe.data.task, recipe.data.classes, row.about)
            explained = activation_map(
                features, head, target=row.about, logit_index=index, negated=negated, method="gradcam"
            )
            heat = enlarged(explained.values, film.shape[0])
            pictures.append(overlay_bytes(film, heat, ALPHA, "jpeg", max_px=SHOWN))
        found.append(_figure(row, pictures))
    return found


def _figure(row: Row, pictures: Sequence[bytes]) -> str:
    images = "".join(f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(p).decode()}">' for p in pictures)
    facts = ", ".join(v for v in (row.source, row.age, row.sex, row.view) if v)
    text = (
        f"<b>{html.escape(row.truth)}</b> called <b>{html.escape(row.decision)}</b>; {html.escape(row.about)} "
        f"p = {row.probability:.3f}, margin {row.margin:+.2f}; {html.escape(row.reason)}: {html.escape(row.action)}<br>"
        f"{html.escape(row.path)} ({html.escape(facts)})"
    )
    return f"<figure>{images}<figcaption>{text}</figcaption></figure>"


def _jpeg(film: Gray) -> bytes:
    small = cv2.resize(film, (SHOWN, SHOWN), interpolation=cv2.INTER_AREA)
    return bytes(cv2.imencode(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, 85))[1])
