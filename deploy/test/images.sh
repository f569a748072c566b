# shellcheck shell=bash
# The images that cannot be pulled where no registry is reached, made from Debian's packages; sourced by
# deploy/test-container.sh. The base is kept as a tarball under .cache, named by what it was made from.

BASE_IMAGE=python:3.11-slim-bookworm
CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt
CACHE=.cache/container-test

image_named_by() { # the compose file's image of that repository
  sed -n "s|^ *image: \($1:.*\)|\1|p" docker-compose.yml
}

base_make() {
  local root=$WORK/base mirror
  mirror=$(awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/*.sources 2>/dev/null)
  [ -n "$mirror" ] || mirror=$(awk '$1 == "deb" && $2 !~ /^\[/ { print $2; exit }' /etc/apt/sources.list)
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip bookworm "$root" "$mirror" \
    >"$WORK/debootstrap.log" 2>&1 || {
    tail -n 5 "$WORK/debootstrap.log" >&2
    return 1
  }
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,locale,man} \
    "$root"/usr/lib/python3.11/EXTERNALLY-MANAGED "$root"/etc/resolv.conf
  ln -sf /usr/bin/python3 "$root/usr/local/bin/python"
  ln -sf /usr/bin/python3 "$root/usr/local/bin/python3"
  # pip in a build trusts what this host trusts
  cp "$CA_BUNDLE" "$root$CA_BUNDLE"
  printf '[global]\ncert = %s\n' "$CA_BUNDLE" >"$root/etc/pip.conf"
  tar -C "$root" -c --exclude='./proc/*' --exclude='./sys/*' --exclude='./dev/*' . >"$1.part"
  mv "$1.part" "$1"
  rm -rf "$root"
}

base_load() {
  local tarball
  tarball=$CACHE/base-$({ declare -f base_make; cat "$CA_BUNDLE"; } | sha256sum | cut -c1-12).tar
  mkdir -p "$CACHE"
  [ -s "$tarball" ] || {
    rm -f "$CACHE"/*.tar
    base_make "$tarball"
  }
  docker import -c 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin' -c 'CMD ["python3"]' \
    "$tarball" "$BASE_IMAGE" >/dev/null
}

stand_ins_build() {
  docker build --network host --target postgres --tag "$(image_named_by postgres)" deploy/test
  docker build --network host --target prometheus --tag "$(image_named_by prom/prometheus)" deploy/test
}
