"""How far back a report looks: `24h`, `7d`, or an ISO 8601 duration of weeks, days, hours and minutes."""

from __future__ import annotations

import re

from app.errors import RequestError

MAX_HOURS = 366 * 24.0
_SHORT = re.compile(r"(?P<count>[0-9]{1,5})(?P<unit>[hd])")
_ISO = re.compile(
    r"P(?!$)(?:(?P<w>[0-9]{1,3})W)?(?:(?P<d>[0-9]{1,3})D)?(?:T(?!$)(?:(?P<h>[0-9]{1,5})H)?(?:(?P<m>[0-9]{1,6})M)?)?"
)


def parse_window(text: str | None) -> float | None:
    """Hours; None for None, which means the setting.

    Raises:
        RequestError: `invalid_parameter` for anything that is not a duration between a minute and 366 days.
    """
    if text is None:
        return None
    hours = _hours(text)
    if hours is None or not 0 < hours <= MAX_HOURS:
        raise RequestError("invalid_parameter", parameter="window", must_be="like 24h, 7d or P7D, at most 366 days")
    return hours


def _hours(text: str) -> float | None:
    if short := _SHORT.fullmatch(text):
        return int(short["count"]) * (24.0 if short["unit"] == "d" else 1.0)
    if iso := _ISO.fullmatch(text):
        weeks, days, hours, minutes = (int(iso[unit] or 0) for unit in "wdhm")
        return (weeks * 7 + days) * 24.0 + hours + minutes / 60.0
    return None
