#!/usr/bin/env bash
# Installs what e2e/tests/deployment needs: a Python virtual environment with Helm's engine and Kubernetes' schemas (and the
# script of axe-core, for e2e/tests/page), and Prometheus with promtool from the system's packages (on Debian and Ubuntu; elsewhere install them some other way).
#
# DEPLOYMENT_TOOLS (the virtual environment) and PYTHON (python3) may be set.
set -euo pipefail

venv=${DEPLOYMENT_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/probation-offender-events/deployment-tools}
packages=('helm-python-sdk==0.2.2' 'kubernetes-validate==1.37.0' 'PyYAML==6.0.3')
# Only its script is needed, so pip does not install the browser driver that it depends on.
axe='axe-playwright-python==0.1.8'

fail() {
  echo "install-tools.sh: $*" >&2
  exit 1
}

# The stamp is written last and holds the list: a half-made environment, or one for another list, is made again.
stamp=$venv/installed-packages
if [ ! -x "$venv/bin/python" ] || [ "$(cat "$stamp" 2>/dev/null)" != "${packages[*]} $axe" ]; then
  rm -rf "$venv"
  mkdir -p "$(dirname "$venv")"
  "${PYTHON:-python3}" -m venv "$venv" ||
    fail "cannot make a virtual environment: Python 3.11 or later with its venv module is needed (on Debian: python3-venv)"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}" ||
    fail "pip could not install ${packages[*]} (its message is above); run this again to retry"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "$axe" ||
    fail "pip could not install $axe (its message is above); run this again to retry"
  echo "${packages[*]} $axe" >"$stamp"
fi

# One package provides both commands. Its service is not needed: a test starts a separate Prometheus.
if ! command -v promtool >/dev/null || ! command -v prometheus >/dev/null; then
  command -v apt-get >/dev/null || fail "install Prometheus 2.42 or later, with promtool, and run this again"
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -q
  RUNLEVEL=1 "${as_root[@]}" apt-get install -yq --no-install-recommends prometheus
fi

echo "The tools are installed: $venv, $(command -v promtool), $(command -v prometheus)"
