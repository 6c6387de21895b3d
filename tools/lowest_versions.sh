#!/usr/bin/env bash
# Installs the lowest versions that setup.cfg allows, and runs the tests with them. By hand before
# a release: tools/lowest_versions.sh [FOLDER [TESTS...]]; see CONTRIBUTING.md for when it last passed.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-$(mktemp -d)}
shift || true
python3 -m venv "$folder"
"$folder/bin/python" -m pip install --quiet uv
# What the package asks for itself at its lowest; what that asks for in turn as pip would have it.
"$folder/bin/uv" pip install --python "$folder/bin/python" --resolution lowest-direct -e '.[test]'
"$folder/bin/uv" pip list --python "$folder/bin/python"
"$folder/bin/python" -m pytest "$@"
