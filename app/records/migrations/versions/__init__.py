"""One file per migration; the newest one's revision is `tables.SCHEMA_HEAD`."""
