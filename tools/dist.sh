#!/usr/bin/env bash
# sdist and wheel in dist/, with all that can be checked of them before a release. PYTHON has the
# tools of the extra [dist]. Runs from the project's root.
set -euo pipefail
export PIP_DISABLE_PIP_VERSION_CHECK=1
# the same sources give the same bytes, whenever they are built
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

again=$(mktemp -d)
trap 'rm -rf "$again"' EXIT
build() { rm -rf "$1" && "$PYTHON" -m build --outdir "$1" . > "$again/log" 2>&1 || { cat "$again/log"; exit 1; }; }

build dist   # the wheel from the sdist, each in an environment of its own
build "$again/dist"
for file in dist/*; do
  cmp "$file" "$again/$file" || { echo "$file differs when it is built again" >&2; exit 1; }
done
"$PYTHON" -m twine check --strict dist/*
"$PYTHON" -m abi3audit --strict dist/*.whl
"$PYTHON" -m check_wheel_contents dist/*.whl
"$PYTHON" tools/wheel_contents.py dist/*.whl
ls -l dist
