#!/usr/bin/env bash
# What some tests need beyond Python: FUSE 2 (power cut), strace (order of fsync and answer). Installed where this is root on Debian;
# elsewhere the tests that need them skip and say so.
set -u
missing=()
[ -e /usr/lib/x86_64-linux-gnu/libfuse.so.2 ] || [ -e /lib/x86_64-linux-gnu/libfuse.so.2 ] || [ -e /usr/lib/aarch64-linux-gnu/libfuse.so.2 ] || missing+=(libfuse2 fuse)
command -v strace >/dev/null || missing+=(strace)
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null && exit 0
fi
echo "NOTE: not installed: ${missing[*]}; the tests that need them will be skipped and say so" >&2
