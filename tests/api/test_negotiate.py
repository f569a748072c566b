"""Accept headers: the client's most specific wish counts, our order breaks ties, and nothing a client sends breaks the parser."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.negotiate import choose
from app.errors import RequestError

PICTURES = ("image/png", "image/jpeg", "application/json")
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "offers", "wanted"),
    [
        (None, PICTURES, "image/png"),
        ("", PICTURES, "image/png"),
        ("*/*", PICTURES, "image/png"),
        ("image/*", PICTURES, "image/png"),
        ("image/jpeg", PICTURES, "image/jpeg"),
        ("IMAGE/JPEG", PICTURES, "image/jpeg"),
        ("application/json", PICTURES, "application/json"),
        ("image/png;q=0.2, image/jpeg;q=0.9", PICTURES, "image/jpeg"),
        ("image/png;q=0, */*", PICTURES, "image/jpeg"),
        ("image/*;q=0.5, application/json;q=0.6", PICTURES, "application/json"),
        ("application/dicom, */*;q=0.1", PICTURES, "image/png"),
        (BROWSER, ("application/json", "text/html"), "text/html"),
        ("*/*", ("application/json", "text/html"), "application/json"),
        ("application/json;charset=utf-8", PICTURES, "application/json"),
    ],
)
def test_choice(accept: str | None, offers: tuple[str, ...], wanted: str) -> None:
    assert choose(accept, offers) == wanted


@pytest.mark.parametrize(
    "accept", ["application/dicom", "text/*", "image/png;q=0", "nonsense", "image/png;q=x", "*/*;q=0"]
)
def test_nothing_acceptable(accept: str) -> None:
    with pytest.raises(RequestError) as caught:
        choose(accept, PICTURES)
    assert (caught.value.code, caught.value.status) == ("not_acceptable", 406)
    assert caught.value.detail == "This route answers as image/png, image/jpeg, application/json."


@given(st.text(max_size=300))
def test_any_text_gives_an_offer_or_the_code(accept: str) -> None:
    try:
        chosen = choose(accept, PICTURES)
    except RequestError as error:
        chosen = error.code
    assert chosen in {*PICTURES, "not_acceptable"}
