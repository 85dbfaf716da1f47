#!/usr/bin/env bash
# A Python environment in ~/venv with this checkout and the versions of constraints.txt, the same on every node.
# Usage: node_setup.sh [PACKAGE...]        further packages to install
# CGD_VENV=DIR in ~/causalged.env: an environment that has the packages already; it is linked and nothing is installed.
set -euo pipefail

# to the patch: Ray refuses nodes with another, and a code version is of one Python
PYTHON=3.11.13
UV=0.13.9

# Ray makes its token for everybody to read
for secret in ~/.ray/auth_token ~/causalged.env; do
  if [ -f "$secret" ]; then chmod 600 "$secret"; fi
done

checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
grep -qs causalged/cluster/environment.sh ~/.bashrc || echo '. ~/causalged/cluster/environment.sh' >> ~/.bashrc
. "$checkout/cluster/environment.sh"

if [ -n "${CGD_VENV:-}" ]; then
  ln -sfn "$CGD_VENV" ~/venv
else
  command -v uv >/dev/null || curl -LsSf "https://astral.sh/uv/$UV/install.sh" | sh
  [ -x ~/venv/bin/python ] || uv venv --quiet --python "$PYTHON" ~/venv
  uv pip install --quiet --python ~/venv/bin/python --constraint "$checkout/constraints.txt" --editable "$checkout" "$@"
fi
~/venv/bin/python -c 'import ray, torch, mlflow'
