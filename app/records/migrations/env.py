"""Alembic's entry: runs on the connection in `config.attributes`, inside the transaction that its owner opened."""

from alembic import context

from app.records.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite's DDL is transactional too; Alembic assumes not
)
context.run_migrations()
