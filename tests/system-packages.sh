#!/usr/bin/env bash
# What some tests need beyond Python: FUSE 2 (power cut), strace (order of fsync and answer), Orthanc and dcmtk (a real PACS),
# dicom3tools (dciodvfy). Installed where this is root on Debian; elsewhere the tests that need them skip and say so.
set -u
missing=()
[ -e /usr/lib/x86_64-linux-gnu/libfuse.so.2 ] || [ -e /lib/x86_64-linux-gnu/libfuse.so.2 ] || [ -e /usr/lib/aarch64-linux-gnu/libfuse.so.2 ] || missing+=(libfuse2 fuse)
command -v strace >/dev/null || missing+=(strace)
[ -e /usr/sbin/Orthanc ] || missing+=(orthanc)
[ -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ] || missing+=(orthanc-dicomweb)
command -v storescu >/dev/null || missing+=(dcmtk)
command -v dciodvfy >/dev/null || missing+=(dicom3tools)
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null && exit 0
fi
echo "NOTE: not installed: ${missing[*]}; the tests that need them will be skipped and say so" >&2
