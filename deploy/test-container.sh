#!/usr/bin/env bash
# The container test: builds the real Dockerfile, brings up the real docker-compose.yml, asks it for a prediction as a user
# would, looks at what it may and may not do, and takes it down again. Runs its own Docker engine; touches no other.
#
# Where no image can be pulled, the base image and those of postgres and prometheus are stand-ins made from Debian packages.
# Says SKIPPED with the reason, and exits 0, where no engine can be had; with CXR_CONTAINER_TEST=required that is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH # Debian's docker client first: another may lack BuildKit
WORK=$(mktemp -d "${TMPDIR:-/tmp}/cxr-container.XXXXXX")
export COMPOSE_PROJECT_NAME=cxrtest$$
# shellcheck source=deploy/test/engine.sh
. deploy/test/engine.sh
# shellcheck source=deploy/test/images.sh
. deploy/test/images.sh
# shellcheck source=deploy/test/checks.sh
. deploy/test/checks.sh

CHECKS=0
STEP=
STEP_BEGAN=

step() {
  [ -z "$STEP" ] || printf '%-58s %4d s\n' "$STEP" $((SECONDS - STEP_BEGAN))
  STEP=${1:-}
  STEP_BEGAN=$SECONDS
}

pass() {
  CHECKS=$((CHECKS + 1))
  printf '  ok  %s\n' "$*"
}

fail() {
  FAILURE="FAILED at \"$STEP\": $*"
  exit 1
}

skip() {
  printf 'SKIPPED: container test: %s\n' "$*"
  [ "${CXR_CONTAINER_TEST:-}" != required ] || FAILURE="FAILED: the container test was required"
  [ -z "${FAILURE:-}" ] || exit 1
  exit 0
}

leave() {
  local status=$? began=$SECONDS engine=${DOCKERD:-}
  trap - EXIT INT TERM
  set +e
  if [ "$status" != 0 ] && [ -n "${UP:-}" ]; then
    docker-compose ps
    docker-compose logs --no-color --tail 40
  fi
  [ -z "${UP:-}" ] || docker-compose down --volumes --remove-orphans --timeout 5 >/dev/null 2>&1
  [ -z "${WHEELS:-}" ] || kill "$WHEELS" 2>/dev/null
  engine_stop
  rm -rf "$WORK"
  [ -z "$engine" ] || echo "engine stopped and everything removed in $((SECONDS - began)) s"
  [ "$status" = 0 ] || printf '%s\n' "${FAILURE:-FAILED at \"$STEP\", exit status $status}" >&2
  exit "$status"
}
trap leave EXIT
trap 'exit 130' INT TERM

[ "$(uname -s)" = Linux ] && [ -e /etc/debian_version ] || skip "it needs Debian"
[ "$(id -u)" = 0 ] || skip "it needs root, to start a Docker engine"

step "packages (docker.io, docker-compose, debootstrap)"
engine_install || skip "$REASON"
step "Docker engine"
engine_start || skip "$REASON"

step "files: compose, Dockerfile"
check_files
step "base image: debootstrap stands in for $BASE_IMAGE"
base_load
step "build of target service; meanwhile stand-ins for postgres, prometheus"
stand_ins_build >"$WORK/stand-ins.log" 2>&1 &
STAND_INS=$!
build_service
wait "$STAND_INS" || fail "$(tail -n 20 "$WORK/stand-ins.log")"
step "image"
check_image
step "container alone, with SQLite"
check_alone
step "docker-compose up"
compose_up
step "secrets and keys"
check_secrets
step "prediction, audit"
check_prediction
step "what the containers may do"
check_confinement
step "prometheus"
check_prometheus
step "up again: nothing is made twice"
check_idempotence
step "SIGTERM under load"
check_drain
step "profiles gateway and pacs"
check_pacs
step "down"
compose_down
step
if [ "${CXR_CONTAINER_TRAIN:-yes}" = no ]; then
  echo "NOT RUN: build of target train (CXR_CONTAINER_TRAIN=no)"
elif [ ! -d "${PIP_FIND_LINKS:-}" ]; then
  echo "NOT RUN: build of target train (PIP_FIND_LINKS names no folder with a CPU build of torch)"
else
  step "build of target train, with the torch that PIP_FIND_LINKS has"
  check_train
fi
step
printf 'container test: %d checks passed in %d s\n' "$CHECKS" "$SECONDS"
printf '%d passed, 0 failed\n' "$CHECKS"
