#!/usr/bin/env bash
# Writes constraints.txt: the newest versions that setup.cfg allows, for every platform and all
# Pythons from 3.10 on; .ci/run then shows that they work. Versions that have to be others are named:
#   tools/constraints.sh torch==2.14.1
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/python" -m pip install --quiet uv
printf '%s\n' "$@" > "$folder/others"
"$folder/bin/uv" pip compile setup.cfg --extra test --universal --python-version 3.10 --no-annotate \
    --constraints "$folder/others" --custom-compile-command "tools/constraints.sh $*" \
    --no-emit-index-url --no-emit-find-links --output-file "$folder/constraints.txt" --quiet
mv "$folder/constraints.txt" constraints.txt
