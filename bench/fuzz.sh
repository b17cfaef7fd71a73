#!/usr/bin/env bash
# Runs every fuzz target of the tree, one after the other: bench/fuzz.sh [TIME [PACKAGE...]]
# TIME is for each of them, a minute unless given (10s, 5m). It stops at the first failure, whose input Go has
# then written to the package's testdata. Nothing is minimized on the way: targets whose coverage depends on a
# random hash would be minimized for ever.
set -euo pipefail
cd "$(dirname "$0")/.."
each=${1:-1m}
shift || true
if [ $# -eq 0 ]; then
  # shellcheck disable=SC2046
  set -- $(git ls-files '*_test.go' | xargs grep -l '^func Fuzz' | xargs -n1 dirname | sort -u)
fi
n=0
for dir in "$@"; do
  for target in $(grep -hoE '^func Fuzz\w+' "$dir"/*_test.go | sed 's/^func //' | sort); do
    echo "== ./$dir $target"
    go test "./$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$each" -fuzzminimizetime 1x | tail -n 2
    n=$((n + 1))
  done
done
echo "$n targets, $each each: nothing found"
