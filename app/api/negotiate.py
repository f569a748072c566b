"""Which of a route's media types a client wants most (RFC 9110 section 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence

from app.errors import RequestError

MAX_RANGES = 32


def choose(accept: str | None, offers: Sequence[str]) -> str:
    """The best offer for an Accept header; among equals the first offer wins, and so it does without a header.

    Args:
        accept: the header's value; ranges with a quality that is no number are ignored.
        offers: lower-case media types, the default first.

    Raises:
        RequestError: `not_acceptable` when no offer is wanted.
    """
    if accept is None or not accept.strip():
        return offers[0]
    ranges = [r for r in map(_parse, accept.split(",")[:MAX_RANGES]) if r is not None]
    best = max(offers, key=lambda offer: _quality(offer, ranges))  # max keeps the first of equals
    if _quality(best, ranges) <= 0:
        raise RequestError("not_acceptable", types=", ".join(offers))
    return best


def _parse(text: str) -> tuple[str, float] | None:
    media, *parameters = (p.strip().lower() for p in text.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                return None
    return (media, quality) if 0 <= quality <= 1 else None


def _quality(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Quality by the most specific range that holds the offer: type/subtype, type/*, */*; 0 if none does."""
    for wanted in (offer, offer.partition("/")[0] + "/*", "*/*"):
        found = [quality for media, quality in ranges if media == wanted]
        if found:
            return max(found)
    return 0.0
