"""The answer on one A4 page: what was judged, what was found, how good that is, and what it is not."""

from __future__ import annotations

import functools
import io
import threading
from typing import Any, Final

import cv2
import numpy as np
from reportlab.lib.pagesizes import A4
from reportlab.lib.utils import ImageReader, simpleSplit
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from app.domain import ClassScore, Source
from app.results import codes, identity, wording
from app.results.report import HeatMapDrawn, Report

_WIDTH, _HEIGHT = A4  # points
_MARGIN: Final = 48.0
_TEXT: Final = _WIDTH - 2 * _MARGIN
_PICTURE: Final = 250.0  # points: largest side of the overlay
_FOOT: Final = 62.0
_GRAY: Final = (0.35, 0.35, 0.35)
_RED: Final = (0.7, 0.05, 0.05)
_LONGEST: Final = 64  # characters of a value from the header
_ROWS: Final = 15  # classes on the page
_one_at_a_time: Final = threading.Lock()  # reportlab's fonts are shared by all pages of a process


def render(report: Report) -> bytes:
    """PDF bytes: fonts embedded, no date but the report's, nothing that reads the clock."""
    with _one_at_a_time:
        buffer = io.BytesIO()
        canvas = Canvas(buffer, pagesize=A4, invariant=1, pageCompression=1)
        canvas.setTitle(wording.TITLE)
        canvas.setAuthor(wording.MANUFACTURER)
        canvas.setSubject(wording.algorithm(report))
        _Page(canvas).write(report)
        canvas.showPage()
        canvas.save()
    return buffer.getvalue()


class _Page:
    """Writes downwards; `y` is where the next line may begin."""

    def __init__(self, canvas: Canvas) -> None:
        self._canvas = canvas
        self._plain, self._bold = _fonts()
        self.y = _HEIGHT - _MARGIN
        self._cut = False

    def write(self, report: Report) -> None:
        self._head(report)
        self._picture(report.heat_map)
        self._classes(report)
        self._heading("Operating point and what was measured with it")
        for line in wording.operating_point(report):
            self._paragraph(line)
        self._heading("Review and warnings")
        for line in (wording.review(report), *wording.warnings(report)):
            self._paragraph(line)
        self._heading("Intended use")
        for line in (f"For: {report.population}.", report.purpose, report.limits):
            self._paragraph(line)
        self._foot(report)

    def _head(self, report: Report) -> None:
        self._paragraph(wording.TITLE, size=16, bold=True)
        self._paragraph("Decision support. Not a diagnosis.", size=11, bold=True, color=_RED)
        for line in wording.restriction(report):
            self._paragraph(line, size=11, bold=True, color=_RED)
        when = report.judged_at.astimezone()
        self._paragraph(f"Judged {when:%Y-%m-%d %H:%M:%S %z} by {wording.algorithm(report)}", color=_GRAY)
        for line in _whose(report.source):
            self._paragraph(line)
        self.y -= 4
        label = codes.readable(report.decision.label)
        self._paragraph(f"Triage label: {label}", size=13, bold=True)

    def _picture(self, heat: HeatMapDrawn | None) -> None:
        if heat is None:
            self._paragraph("No heat map.", color=_GRAY)
            return
        height, width = heat.picture.shape[:2]
        scale = _PICTURE / max(height, width)
        wide, high = width * scale, height * scale
        self.y -= high + 4
        self._canvas.drawImage(_reader(heat), _MARGIN, self.y, wide, high)
        left = _MARGIN + wide + 14
        lines = [wording.NOT_FOR_DIAGNOSIS, heat.caption, f"Method {heat.method}, class {heat.target}."]
        self._column(lines, left, self.y + high - 10)
        self.y -= 10

    def _classes(self, report: Report) -> None:
        self._heading("Classes")
        columns = (_MARGIN, _MARGIN + 190, _MARGIN + 270, _MARGIN + 340, _MARGIN + 420)
        self._row(columns, ("Class", "Probability", "Margin", "Threshold", "Decision"), bold=True)
        classes = report.decision.classes
        for score in classes[:_ROWS]:
            self._row(columns, _cells(score), bold=score.positive)
        if len(classes) > _ROWS:
            self._paragraph(f"{len(classes) - _ROWS} less probable classes are not shown.", color=_GRAY)

    def _foot(self, report: Report) -> None:
        self.y = _FOOT
        if self._cut:
            self._paragraph("Not all lines fit on this page; the structured report holds them.", bold=True, color=_RED)
        self._paragraph(wording.NOT_A_DIAGNOSIS, size=7.5)
        engine = report.engine
        self._paragraph(
            f"Bundle SHA-256 {report.bundle_digest}. Film SHA-256 {report.film_sha256}, {report.film_width} x "
            f"{report.film_height} px. Engine {engine.name} {engine.version} {engine.precision}. Request "
            f"{report.request_id}.",
            size=6,
            color=_GRAY,
        )

    def _heading(self, line: str) -> None:
        self.y -= 5
        self._paragraph(line, size=10, bold=True)

    def _row(self, columns: tuple[float, ...], cells: tuple[str, ...], *, bold: bool) -> None:
        self._canvas.setFont(self._bold if bold else self._plain, 8.5)
        self.y -= 12
        for x, cell in zip(columns, cells, strict=True):
            self._canvas.drawString(x, self.y, cell)

    def _column(self, lines: list[str], left: float, top: float) -> None:
        """Lines beside the picture."""
        y, self.y = self.y, top
        for line in lines:
            self._paragraph(line, left=left)
        self.y = y

    def _paragraph(
        self,
        text: str,
        *,
        size: float = 8.5,
        bold: bool = False,
        color: tuple[float, float, float] = (0, 0, 0),
        left: float = _MARGIN,
    ) -> None:
        """Broken into lines that fit. Lines that would run into the foot of the page are left out, and the foot says so."""
        font = self._bold if bold else self._plain
        self._canvas.setFont(font, size)
        self._canvas.setFillColorRGB(*color)
        for part in simpleSplit(self._writable(text), font, size, _WIDTH - _MARGIN - left):
            if self.y > _FOOT and self.y - size * 1.35 < _FOOT + 4:
                self._cut = True
                break
            self.y -= size * 1.35
            self._canvas.drawString(left, self.y, part)
        self._canvas.setFillColorRGB(0, 0, 0)

    def _writable(self, line: str) -> str:
        """Characters that the font has not are shown as a box, so that nobody takes what is left for the whole."""
        glyphs: Any = pdfmetrics.getFont(self._plain).face.charToGlyph
        return "".join(c if ord(c) in glyphs else "\u25a1" for c in identity.text(line))


@functools.cache
def _fonts() -> tuple[str, str]:
    """Bitstream Vera, which comes with reportlab and may be embedded; called under the lock."""
    for name, file in (("cxr-plain", "Vera.ttf"), ("cxr-bold", "VeraBd.ttf")):
        pdfmetrics.registerFont(TTFont(name, file))
    return "cxr-plain", "cxr-bold"


def _reader(heat: HeatMapDrawn) -> ImageReader:
    """The overlay at no more than three pixels per point, as JPEG: reportlab embeds it as it is."""
    height, width = heat.picture.shape[:2]
    scale = min(1.0, 3 * _PICTURE / max(height, width))
    small = heat.picture
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_AREA), np.uint8)
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
    return ImageReader(io.BytesIO(jpeg.tobytes()))


def _whose(source: Source | None) -> tuple[str, ...]:
    """Whose film it is, from the header; a page without that must say so."""
    if source is None:
        return ("The file does not say whose film this is.",)
    born, taken = identity.date(source.birth_date), identity.date(source.study_date)
    return (
        f"Patient: {_given(source.patient_name.split('=')[0].replace('^', ' '))}",
        f"Patient ID: {_given(source.patient_id)}; born: {_given(born)}; sex: {_given(source.sex)}",
        f"Accession number: {_given(source.accession_number)}; study date: {_given(taken)}",
        f"Film: {source.sop_instance_uid}",
    )


def _given(value: str) -> str:
    """What the header says, at most a line of it."""
    value = value.strip()
    return "not given" if not value else value if len(value) <= _LONGEST else f"{value[:_LONGEST]}... (cut)"


def _cells(score: ClassScore) -> tuple[str, ...]:
    threshold = "none" if score.threshold_margin is None else f"{score.threshold_margin:+.3f}"
    return (
        codes.readable(score.name),
        wording.probability(score.probability),
        f"{score.margin:+.3f}",
        threshold,
        wording.verdict(score),
    )
