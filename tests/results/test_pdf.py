from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterator

from hypothesis import given, settings

from app.domain import ClassScore, Source
from app.results import Report, make
from tests.results import readback, samples
from tests.results.test_identity import odd_sources


def streams(page: bytes) -> Iterator[bytes]:
    """Content of the ASCII85 and Flate streams."""
    for dictionary, body in re.findall(rb"<<([^>]*)>>\s*stream\r?\n(.*?)endstream", page, re.DOTALL):
        if b"ASCII85Decode" in dictionary and b"FlateDecode" in dictionary:
            yield zlib.decompress(base64.a85decode(b"<~" + body.strip(), adobe=True))


def text(report: Report) -> str:
    """The ASCII text of the page in the order it was written; reportlab keeps the codes of ASCII in its font subsets."""
    shown = [re.findall(rb"\(((?:[^()\\]|\\.)*)\) Tj", stream) for stream in streams(make("pdf", report))]
    return " ".join(re.sub(r"\\(.)", r"\1", line.decode("latin-1")) for lines in shown for line in lines)


def pages(page: bytes) -> int:
    return len(re.findall(rb"/Type /Page\b(?!s)", page))


def test_it_says_what_was_found_and_how_good_that_is() -> None:
    page = text(samples.report())
    for wanted in (
        "Not a diagnosis",
        "Triage label: Pneumonia",
        "Pneumonia 0.873 +1.930 -1.253 positive",
        "Normal 0.127 -1.930 none negative",
        "sensitivity 0.935 (95 % CI 0.910 to 0.958)",
        "Review required: a score lies close to its threshold",
        "Warning unsupported_view: The view is PA; the bundle takes AP.",
        "children of 1 to 5 years",
        "AI overlay - not for diagnosis",
        "A qualified person must",
        "req-0123456789",
        "Patient: Canary Jo",
        "Patient ID: ID-1",
    ):
        assert wanted in page, wanted


def test_without_a_header_it_says_that_nobody_is_named() -> None:
    assert "does not say whose film this is" in text(samples.report(source=None))


def test_an_identifier_that_is_cut_says_so() -> None:
    assert "9... (cut)" in text(samples.report(source=samples.SOURCES["odd"]))


def test_more_than_fits_is_left_out_loudly() -> None:
    scores = tuple(ClassScore(f"class_{n}", 0.5, 0.0, 0.0, None, None, False) for n in range(40))
    crowded = samples.report(decision=samples.decision(classes=scores), limits="Not for this. " * 300)
    assert pages(make("pdf", crowded)) == 1
    page = text(crowded)
    assert "25 less probable classes are not shown." in page
    assert "Not all lines fit on this page" in page
    assert "Not all lines fit on this page" not in text(samples.report())
    assert "A qualified person must" in page


@settings(deadline=None, max_examples=25)
@given(odd_sources())
def test_any_header_gives_one_page(source: Source) -> None:
    page = make("pdf", samples.report(source=source))
    assert page.startswith(b"%PDF-")
    assert pages(page) == 1


def test_encapsulated_it_is_the_same_page() -> None:
    report = samples.report()
    data = readback.dataset(make("pdf_dicom", report))
    page = make("pdf", report)
    assert data.EncapsulatedDocumentLength == len(page)
    assert data.EncapsulatedDocument[: len(page)] == page
    assert len(data.EncapsulatedDocument) % 2 == 0
    assert (data.Modality, data.MIMETypeOfEncapsulatedDocument) == ("DOC", "application/pdf")
    assert data.BurnedInAnnotation == "YES"


def test_a_restriction_stands_at_the_head() -> None:
    page = text(samples.report(restriction="research-only, gate failed: source shortcut"))
    assert page.index("NOT FOR PATIENTS: research-only, gate failed: source shortcut") < page.index("Triage label")
    assert "NOT FOR PATIENTS" not in text(samples.report())
