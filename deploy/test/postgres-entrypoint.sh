#!/bin/sh
# What the compose file needs of the official image's entry point: POSTGRES_PASSWORD_FILE, POSTGRES_INITDB_ARGS, PGDATA, *.sql in
# /docker-entrypoint-initdb.d, a server without TCP while the cluster is being made, a user id that has no name.
set -eu
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
  mkdir -p "$PGDATA"
  chmod 0700 "$PGDATA"
  names=$(mktemp -d)
  echo "postgres:x:$(id -u):$(id -g)::$PGDATA:/bin/false" >"$names/passwd"
  echo "postgres:x:$(id -g):" >"$names/group"
  # POSTGRES_INITDB_ARGS is a list of words
  # shellcheck disable=SC2086
  LD_PRELOAD=libnss_wrapper.so NSS_WRAPPER_PASSWD=$names/passwd NSS_WRAPPER_GROUP=$names/group \
    initdb --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" ${POSTGRES_INITDB_ARGS:-}
  rm -r "$names"
  echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
  PGUSER=postgres pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w start
  for file in /docker-entrypoint-initdb.d/*.sql; do
    [ -e "$file" ] || continue
    psql -v ON_ERROR_STOP=1 --username postgres --no-password --no-psqlrc --dbname postgres -f "$file"
  done
  PGUSER=postgres pg_ctl -D "$PGDATA" -m fast -w stop
fi
exec "$@"
