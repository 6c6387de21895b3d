#!/usr/bin/env bash
# Installs the lowest or the newest versions that setup.cfg allows, and runs the tests with them. By
# hand before a release; see CONTRIBUTING.md for when both last passed.
#   tools/versions.sh lowest|newest [FOLDER [TESTS...]]
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
    # What the package asks for itself at its lowest; what that asks for in turn as pip would have it.
    lowest) resolution=lowest-direct ;;
    newest) resolution=highest ;;
    *) echo "usage: $0 lowest|newest [FOLDER [TESTS...]]" >&2; exit 2 ;;
esac
folder=${2:-$(mktemp -d)}
shift $(($# < 2 ? $# : 2))
python3 -m venv "$folder"
"$folder/bin/python" -m pip install --quiet uv
"$folder/bin/uv" pip install --python "$folder/bin/python" --resolution "$resolution" -e '.[test]'
"$folder/bin/uv" pip list --python "$folder/bin/python"
"$folder/bin/python" -m pytest "$@"
