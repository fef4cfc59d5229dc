#!/usr/bin/env bash
# Installs what cannot come from PyPI, when it is missing and may be installed; says so when it may not.
set -euo pipefail

missing=()
python=$(command -v "${PYTHON:-python3.11}" || command -v python3 || true)
if [ -z "$python" ]; then
  missing+=(python3 python3-venv)
elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  missing+=(python3-venv)
fi
command -v prometheus >/dev/null && command -v promtool >/dev/null || missing+=(prometheus)
# Only the dashboard's tests need a browser.
[ "${1:-}" = test ] && { command -v chromium >/dev/null || missing+=(chromium); }
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  as_root=(sudo -n)
fi
say() { echo "tidegate set-up: $*" >&2; }

if ! command -v apt-get >/dev/null || { [ ${#as_root[@]} -gt 0 ] && ! sudo -n true 2>/dev/null; }; then
  say "missing: ${missing[*]}; installing them needs apt-get and root, so this goes on without."
  say "without prometheus the demonstration scrapes the engines directly, and tests that need it, or a browser, are skipped."
  exit 0
fi
say "installing ${missing[*]}"
# RUNLEVEL=1 keeps the package from starting a Prometheus of its own.
export RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive
install() { "${as_root[@]}" env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; }
if ! { "${as_root[@]}" apt-get update -qq && install; }; then
  say "could not install ${missing[*]}; going on without (see above for why)."
fi
