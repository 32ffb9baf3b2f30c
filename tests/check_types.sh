#!/usr/bin/env bash
# mypy on the package as it stands in this checkout. Its root is the package, and type checkers cannot follow the import
# hook of an editable install; so they are shown a folder in which the checkout is called vtsr.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
shown=$(mktemp -d)
trap 'rm -r "$shown"' EXIT
ln -s "$root" "$shown/vtsr"
cd "$shown"
mypy -p vtsr --exclude '(^|/)(tests|build|docs|examples)/' --config-file "$root/pyproject.toml" --cache-dir "$root/.mypy_cache" "$@"
