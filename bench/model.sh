#!/bin/sh
# Decisions of random policies, each beside that of a model of a few hundred lines
# that is written from docs/policy.md: bench/model.sh [CASES], a million unless
# said otherwise.
set -eu
cd "$(dirname "$0")/.."
CASES=${1:-1000000} go test -count=1 -timeout 60m -v -run '^TestAgainstModel$' ./policy
