"""multipart/related: what is built is read back, and what is not well formed is refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import RequestError
from app.gateway.multipart import MAX_PARTS, Part, build_related, parse_related

TYPE = "multipart/related; boundary=B"


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5))
def test_round_trip(contents: list[bytes]) -> None:
    body, content_type = build_related(contents, "application/dicom")
    parts = parse_related(body, content_type)
    assert [part.content for part in parts] == contents
    assert {part.headers["content-type"] for part in parts} == {"application/dicom"}


def test_preamble_quotes_padding_and_parts_without_headers() -> None:
    body = (
        b"preamble\r\n--b c \t\r\nA: 1\r\nContent-Location:  sr\r\n\r\nx\r\ny\r\n--b c\r\n\r\n\r\n--b c--\r\nepilogue"
    )
    assert parse_related(body, 'Multipart/Related; type="x"; boundary="b c"') == (
        Part({"a": "1", "content-location": "sr"}, b"x\r\ny"),
        Part({}, b""),
    )


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"--B\r\n\r\nx\r\n--B--", "multipart/form-data; boundary=B"),
        (b"--B\r\n\r\nx\r\n--B--", "multipart/related"),
        (b"--B\r\n\r\nx\r\n--B--", "multipart/related; boundary="),
        (b"--B\r\n\r\nx\r\n--B--", f"multipart/related; boundary={'B' * 71}"),
        (b"", TYPE),
        (b"no boundary", TYPE),
        (b"--B\r\n\r\nx", TYPE),
        (b"--B\r\nno blank line\r\n--B--", TYPE),
        (b"--B\r\nno colon\r\n\r\nx\r\n--B--", TYPE),
        (b"--B\r\n: no name\r\n\r\nx\r\n--B--", TYPE),
        (b"--Bsuffix\r\n\r\nx\r\n--B--", TYPE),
        (b"--B\r\nA: " + b"a" * 5_000 + b"\r\n\r\nx\r\n--B--", TYPE),
        (b"--B\r\n\r\nx\r\n" * (MAX_PARTS + 1) + b"--B--", TYPE),
    ],
)
def test_what_is_not_well_formed(body: bytes, content_type: str) -> None:
    with pytest.raises(RequestError) as refusal:
        parse_related(body, content_type)
    assert refusal.value.code == "malformed_multipart"


@given(st.binary(max_size=300))
def test_rubbish_is_read_or_refused(body: bytes) -> None:
    with suppress(RequestError):
        assert isinstance(parse_related(b"--B" + body, TYPE), tuple)
