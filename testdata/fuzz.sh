#!/usr/bin/env bash
# Runs every fuzz target of the module for the time given (default 30s), one
# after the other, and stops at the first finding.
set -eu
cd "$(dirname "$0")/.."
time=${1:-30s}
passed=0
for package in $(go list ./...); do
  for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
    echo "== $package $target"
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package" || { echo "$passed passed, 1 failed"; exit 1; }
    passed=$((passed + 1))
  done
done
echo "$passed passed, 0 failed"
