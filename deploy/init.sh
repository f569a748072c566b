#!/bin/sh
# One-shot set-up of the compose stack, in steps because keys are rows in a database that needs a password first:
#   init.sh secrets   passwords and the folders of postgres and prometheus (no network)
#   init.sh keys      the audit key ring, the monitor key that prometheus sends, the administrator's key
#   init.sh gateway   the gateway's key, the token that STOW-RS senders show it, Orthanc's password (profiles gateway and pacs)
# What is there already is kept, so it may run any number of times. Prints where things are, never what they are.
set -eu
umask 077

keep_or_make() { # FILE COMMAND...: the command's output becomes the file, unless the file is there
  file=$1
  shift
  if [ -s "$file" ]; then
    echo "kept  $file"
    return
  fi
  "$@" >"$file.part"
  if [ ! -s "$file.part" ]; then
    echo "nothing was made for $file" >&2
    exit 1
  fi
  mv "$file.part" "$file"
  echo "wrote $file"
}

random_password() {
  python -c 'import secrets; print(secrets.token_urlsafe(32), end="")'
}

case ${1:-} in
  secrets)
    keep_or_make /credentials/database/password random_password
    keep_or_make /volumes/postgres/superuser-password random_password
    mkdir -p /volumes/postgres/data /volumes/prometheus/data
    ;;
  keys)
    keep_or_make /credentials/prometheus/key cxr keys create --role monitor --name prometheus
    keep_or_make /credentials/admin/key cxr keys create --role admin --name administrator
    ;;
  gateway)
    keep_or_make /credentials/gateway/key cxr keys create --role service --name gateway
    keep_or_make /credentials/gateway/stow-token random_password
    keep_or_make /credentials/orthanc/password random_password
    ;;
  *)
    echo "usage: init.sh secrets|keys|gateway" >&2
    exit 2
    ;;
esac
