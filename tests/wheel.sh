#!/usr/bin/env bash
# The tests over the wheel in dist/, on every supported Python that this machine has: all tests on
# the oldest of them, a few on the others. (CI runs all of them on the newest, too: see
# tests/bare.sh.) Runs from the project's root, after `make dist`.
set -euo pipefail
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
export TEST_NODE_DIR=$PWD/build/node   # for the interop tests

wheel=$(ls "$root"/dist/*.whl)
case $wheel in
  *-cp310-abi3-linux_*.whl) ;;
  *) echo "not an abi3 wheel: $wheel"; exit 1 ;;
esac

find_pythons() {
  for version in 3.10 3.11 3.12 3.13 3.14; do
    for candidate in "$HOME"/.pyenv/versions/$version.*/bin/python "$(command -v python$version || true)"; do
      if [ -x "$candidate" ] && "$candidate" -c "import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" 2>/dev/null; then
        echo "$candidate"
        break
      fi
    done
  done
}

mkdir "$work/away"
cp -r tests examples docs pyproject.toml "$work/away"   # not the package: what is tested is what was installed

# What it takes to test with each of them: most of the time is pip's, so all at once, and no more
# than the tests below need.
installing=() extra=test
pythons=$(find_pythons)   # the oldest first
for python in $pythons; do
  (venv=$work/$("$python" -c 'import sys; print("venv-%d.%d" % sys.version_info[:2])')
   "$python" -m venv "$venv" && "$venv/bin/python" -m pip install -q "$wheel[$extra]") &
  installing+=($!)
  extra=check
done
for pid in "${installing[@]}"; do wait "$pid"; done

venvs=("$work"/venv-*)
oldest=${venvs[0]}
for venv in "${venvs[@]}"; do
  python=$venv/bin/python
  case $venv in
    "$oldest") chosen="tests --ignore tests/docs/test_examples.py --ignore tests/docs/test_readme.py" ;;
    *) chosen="tests/unit/region/test_region.py tests/contract" ;;   # `make test` runs all of it on one of these
  esac
  # shellcheck disable=SC2086
  (cd "$work/away"
   "$python" -m pytest -q -p no:cacheprovider -n auto --maxprocesses 4 -m "not once and not long" $chosen
   if [ "$venv" = "$oldest" ]; then
     "$python" -m pytest -q -p no:cacheprovider -m "long and not once" $chosen
   fi)
  echo "passed on $("$python" -V)"
done
cd "$root"
