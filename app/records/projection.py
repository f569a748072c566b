"""How a payload becomes rows: the one function that both the writer and `verify` use, so that they cannot disagree.

A payload's member named like a projected table holds that table's columns, except those that belong to the event itself
(`chain_id`, `seq`, `at`, and `key_id` where the table has it). Members and columns must match exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any, Final

from sqlalchemy import BigInteger, Double, Table

from app.records.chain import canonical
from app.records.tables import (
    api_key_lanes,
    api_key_revocations,
    api_keys,
    bundle_history,
    engine_choices,
    film_sources,
    idempotency_keys,
    predictions,
)

PROJECTED: Final[Mapping[str, Table]] = {
    table.name: table
    for table in (
        predictions,
        film_sources,
        idempotency_keys,
        api_keys,
        api_key_lanes,
        api_key_revocations,
        bundle_history,
        engine_choices,
    )
}
_OF_EVENT: Final = frozenset({"chain_id", "seq", "at", "key_id"})
Row = dict[str, Any]


def sections(payload: Mapping[str, Any]) -> Iterator[tuple[Table, Mapping[str, Any]]]:
    """The projected tables that a payload speaks of, each with its member."""
    for name in payload.keys() & PROJECTED.keys():
        yield PROJECTED[name], payload[name]


def own_columns(table: Table, section: Mapping[str, Any]) -> Row:
    """The columns that come from the payload, each with the type its column has.

    Raises:
        ValueError: a column without a member, a member without a column, or a value of the wrong type.
    """
    if not isinstance(section, Mapping):
        raise ValueError(f"{table.name} must be an object")
    plan = _plan(table)
    if plan.keys() != section.keys():
        missing, extra = sorted(plan.keys() - section.keys()), sorted(section.keys() - plan.keys())
        raise ValueError(f"{table.name}: missing {missing}, unknown {extra}")
    try:
        return {name: take(section[name]) for name, take in plan.items()}
    except TypeError as error:
        raise ValueError(f"{table.name}: {error}") from error


@cache
def _plan(table: Table) -> dict[str, Callable[[Any], object]]:
    """For each of the payload's columns, what checks its value and brings it into the column's form."""
    plan: dict[str, Callable[[Any], object]] = {}
    for column in table.columns:
        if column.name not in _OF_EVENT:
            if column.info.get("json"):
                take: Callable[[Any], object] = _json
            elif isinstance(column.type, Double):
                take = _float
            else:
                take = _integer if isinstance(column.type, BigInteger) else storable
            plan[column.name] = partial(_or_null, take) if column.nullable else take
    return plan


def _or_null(take: Callable[[Any], object], value: object) -> object:
    return None if value is None else take(value)


def _json(value: object) -> str:
    return canonical(value).decode("ascii")


def _float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a number, not {type(value).__name__}")
    return float(value) + 0.0  # -0.0 becomes 0.0: SQLite would store it so


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"an integer, not {type(value).__name__}")
    return value


def event_columns(table: Table, chain_id: str, seq: int, at: str, key_id: str | None) -> Row:
    """The columns that come from the event."""
    row: Row = {"chain_id": chain_id, "seq": seq, "at": at}
    if "key_id" in table.columns:
        row["key_id"] = key_id
    return row


def storable(text: object) -> str:
    """The text itself, if both databases can hold it.

    Raises:
        TypeError: not text. ValueError: NUL or a lone surrogate inside (UnicodeEncodeError is a ValueError).
    """
    if not isinstance(text, str):
        raise TypeError(f"text, not {type(text).__name__}")
    if "\0" in text:
        raise ValueError("text with NUL cannot be stored")
    text.encode()
    return text
