#!/usr/bin/env bash
# Resolves pyproject.toml with every extra into constraints.txt. Local version tags (+cpu) are cut, so that the pins hold
# for any build of torch; the CUDA packages of the default torch build are not pinned.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --editable '.[postgres,dimse,openvino,bulk,ray,train,dev]'
{
  echo "# Made by \`make lock\`: every version the service, the tests and the image are installed with."
  "$work/venv/bin/pip" freeze --exclude-editable | sed -E 's/\+[a-z0-9.]+$//; s/ @ .*//' | grep -v -E '^(nvidia|triton|cuda)'
} >constraints.txt
