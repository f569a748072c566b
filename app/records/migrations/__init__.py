"""Alembic migrations of the records, run by `app.records.database.migrate` on a connection that is passed in."""
