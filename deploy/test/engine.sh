# shellcheck shell=bash
# A Docker engine of the test's own, sourced by deploy/test-container.sh: own socket, own folders, no docker0 bridge. Ends with
# the host's packet filter, forwarding switch and control groups as they were found.

ENGINE_PACKAGES=(docker.io docker-compose debootstrap curl)
ENGINE_PARENT=cxr-container-test-$$

engine_install() { # the packages that are missing; sets REASON where that cannot be done
  local missing=() package
  for package in "${ENGINE_PACKAGES[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  {
    apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
  } >"$WORK/apt.log" 2>&1 || {
    REASON="apt-get could not install ${missing[*]}: $(tail -n 1 "$WORK/apt.log")"
    return 1
  }
}

engine_start() { # sets REASON where that cannot be done
  FILTER_BEFORE=$(iptables-save 2>/dev/null || true)
  FORWARD_BEFORE=$(cat /proc/sys/net/ipv4/ip_forward)
  BRIDGES_BEFORE=$(engine_bridges)
  [ -e /etc/docker/key.json ] || KEY_IS_OURS=yes
  dockerd --data-root "$WORK/data" --exec-root "$WORK/exec" -p "$WORK/pid" -H "unix://$WORK/sock" \
    --bridge none --cgroup-parent "/$ENGINE_PARENT" >"$WORK/dockerd.log" 2>&1 &
  DOCKERD=$!
  export DOCKER_HOST=unix://$WORK/sock DOCKER_CONFIG=$WORK DOCKER_BUILDKIT=1
  for _ in $(seq 100); do
    docker info >/dev/null 2>&1 && return
    kill -0 "$DOCKERD" 2>/dev/null || break
    sleep 0.2
  done
  REASON="dockerd does not start here: $(grep -E 'level=(error|fatal)|failed' "$WORK/dockerd.log" | tail -n 1)"
  return 1
}

engine_bridges() {
  local link
  for link in /sys/class/net/*/bridge; do
    [ -e "$link" ] && basename "$(dirname "$link")"
  done
  return 0
}

engine_stop() {
  local mount bridge
  [ -n "${DOCKERD:-}" ] || return 0
  kill "$DOCKERD" 2>/dev/null || true
  for _ in $(seq 150); do
    kill -0 "$DOCKERD" 2>/dev/null || break
    sleep 0.2
  done
  kill -9 "$DOCKERD" 2>/dev/null || true
  wait "$DOCKERD" 2>/dev/null || true
  DOCKERD=
  awk -v below="$WORK/" 'index($2, below) == 1 { print $2 }' /proc/mounts | sort -r | while read -r mount; do
    umount -l "$mount"
  done
  for bridge in $(engine_bridges); do
    grep -qxF "$bridge" <<<"$BRIDGES_BEFORE" || ip link delete "$bridge"
  done
  engine_restore_filter
  [ -z "${KEY_IS_OURS:-}" ] || rm -f /etc/docker/key.json
  find /sys/fs/cgroup -maxdepth 4 -depth -path "*/$ENGINE_PARENT*" -type d -exec rmdir {} + 2>/dev/null || true
}

engine_restore_filter() {
  # Rules of another Docker engine were there before: its chains are not ours to take away.
  grep -q '^:DOCKER' <<<"$FILTER_BEFORE" && return
  local policy
  policy=$(sed -n 's/^:FORWARD \([A-Z]*\).*/\1/p' <<<"$FILTER_BEFORE" | tail -n 1)
  iptables-save | grep -v -E 'DOCKER|-[io] br-[0-9a-f]{12}|! -o br-' | iptables-restore
  iptables -P FORWARD "${policy:-ACCEPT}"
  echo "$FORWARD_BEFORE" >/proc/sys/net/ipv4/ip_forward
}
