"""Is the database's schema the one that the migrations make? Tables, columns, types, keys, indexes; and nothing that acts by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, ForeignKeyConstraint, Table, UniqueConstraint, inspect, text
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.engine.reflection import Inspector
from sqlalchemy.types import TypeEngine

from app.records.tables import SCHEMA_HEAD, metadata

Facts = set[tuple[object, ...]]
_ALEMBIC: Final = "alembic_version"
# triggers, views and rules could change what is read or written; we have none
_ACTORS: Final = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type NOT IN ('table', 'index')",
    "postgresql": (
        "SELECT tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
        " WHERE NOT tgisinternal AND c.relnamespace = current_schema()::regnamespace"
        " UNION ALL SELECT rulename FROM pg_rules WHERE schemaname = current_schema()"
        " UNION ALL SELECT viewname FROM pg_views WHERE schemaname = current_schema()"
    ),
}


def schema_problems(connection: Connection) -> Iterator[str]:
    """Every difference, as a sentence."""
    inspector = inspect(connection)
    tables = set(inspector.get_table_names())
    wanted = {*metadata.tables, _ALEMBIC}
    for name in sorted(wanted - tables):
        yield f"table {name} is missing"
    for name in sorted(tables - wanted):
        yield f"table {name} is not ours"
    found = _found(connection, inspector)
    for table in metadata.sorted_tables:
        if table.name in tables:
            for part, value in _expected(table, connection.dialect).items():
                if found[part].get(table.name, set()) != value:
                    yield f"table {table.name}: {part} differ: {_difference(found[part].get(table.name, set()), value)}"
    for (name,) in connection.execute(text(_ACTORS[connection.dialect.name])):
        yield f"{name} is a trigger, view or rule that is not ours"
    versions = [tuple(row) for row in connection.execute(text("SELECT version_num FROM alembic_version"))]
    if versions != [(SCHEMA_HEAD,)]:
        yield f"{_ALEMBIC} says {versions}, must say {SCHEMA_HEAD}"


def _expected(table: Table, dialect: Dialect) -> dict[str, Facts]:
    uniques = [c for c in table.constraints if isinstance(c, UniqueConstraint)]
    keys = [c for c in table.constraints if isinstance(c, ForeignKeyConstraint)]
    return {
        "columns": {(c.name, _type(c.type, dialect), c.nullable) for c in table.columns},
        "primary keys": {tuple(c.name for c in table.primary_key.columns)},
        "unique constraints": {(c.name, *(k.name for k in c.columns)) for c in uniques},
        "indexes": {(i.name, bool(i.unique), *(c.name for c in i.columns)) for i in table.indexes},
        "foreign keys": {(*c.column_keys, c.referred_table.name, *(e.column.name for e in c.elements)) for c in keys},
        "options": {("strict",)} if dialect.name == "sqlite" else set(),
    }


def _found(connection: Connection, inspector: Inspector) -> dict[str, dict[str, Facts]]:
    """The same, by part and table, in a few questions for all tables together."""
    dialect = connection.dialect
    uniques: dict[str, Facts] = {
        name: {(u["name"], *u["column_names"]) for u in found}
        for (_, name), found in inspector.get_multi_unique_constraints().items()
    }
    named = {unique[0] for found in uniques.values() for unique in found}
    return {
        "columns": {
            name: {(c["name"], _type(c["type"], dialect), c["nullable"]) for c in found}
            for (_, name), found in inspector.get_multi_columns().items()
        },
        "primary keys": {
            name: {tuple(found["constrained_columns"])}
            for (_, name), found in inspector.get_multi_pk_constraint().items()
            if found is not None
        },
        "unique constraints": uniques,
        "indexes": {
            name: {(i["name"], bool(i["unique"]), *i["column_names"]) for i in found if i["name"] not in named}
            for (_, name), found in inspector.get_multi_indexes().items()
        },
        "foreign keys": {
            name: {(*k["constrained_columns"], k["referred_table"], *k["referred_columns"]) for k in found}
            for (_, name), found in inspector.get_multi_foreign_keys().items()
        },
        "options": _options(connection),
    }


def _options(connection: Connection) -> dict[str, Facts]:
    if connection.dialect.name != "sqlite":
        return {}
    rows = connection.execute(text("PRAGMA table_list")).mappings()
    return {row["name"]: {("strict",)} if row["strict"] else set() for row in rows}


def _type(type_: TypeEngine[object], dialect: Dialect) -> str:
    return type_.compile(dialect=dialect).upper()


def _difference(found: Facts, expected: Facts) -> str:
    return f"unexpected {sorted(map(str, found - expected))}, missing {sorted(map(str, expected - found))}"
