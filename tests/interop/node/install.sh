#!/bin/sh
# Install shm-typed-array, pinned by package-lock.json, into the directory given, and build it
# with the headers that came with this very Node where there are any (else node-gyp fetches them).
set -eu
cd "$(dirname "$0")"
mkdir -p "$1"
cp package.json package-lock.json "$1/"
cd "$1"
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error

prefix=$(dirname "$(dirname "$(readlink -f "$(command -v node)")")")
headers=""
if [ -f "$prefix/include/node/node.h" ]; then headers="--nodedir=$prefix"; fi
npm explore shm-typed-array -- node-gyp rebuild --loglevel=error ${headers:+"$headers"} >node-gyp.log 2>&1 || {
  cat node-gyp.log >&2
  exit 1
}
node -e 'require("shm-typed-array")'
