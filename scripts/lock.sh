#!/usr/bin/env bash
# Resolves the dependencies of pyproject.toml (development ones included) for every platform and Python >= 3.11, with
# hashes. Where the packages come from is left out: it is the installing machine's business.
set -euo pipefail
cd "$(dirname "$0")/.."
uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-header --upgrade --output-file requirements.lock "$@"
