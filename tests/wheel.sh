#!/bin/sh
# Build the sdist, a wheel from it, and run the tests on the installed wheel in a new environment
# outside the source tree, which therefore cannot be imported.
# usage: wheel.sh PYTHON   (a python that has the packages of the dev group)
set -eu
python=$1
source=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# a build from a copy: files of an earlier build in the tree must not reach the sdist
mkdir "$work/tree"
cd "$source"
git ls-files -co --exclude-standard -z | tar --null --ignore-failed-read -T - -cf - |
    tar -C "$work/tree" -xf -
cd "$work"
"$python" -m build --no-isolation --outdir dist tree
ls -l dist

"$python" -m venv clean
clean/bin/python -m pip install --quiet --constraint tree/constraints.txt --upgrade pip
(cd tree && ../clean/bin/python -m pip install --quiet --constraint constraints.txt --group test)
clean/bin/python -m pip install --quiet --constraint tree/constraints.txt \
    "$(ls dist/*.whl)[demo]"
mv tree/tests tree/pyproject.toml tree/README.md .
rm -rf tree
# -P: the current folder is not put on the path
clean/bin/python -P -c '
import sys, fastxent
assert fastxent.__file__.startswith(sys.prefix), fastxent.__file__'
clean/bin/python -P -m pytest -q tests
