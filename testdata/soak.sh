#!/usr/bin/env bash
# Runs one soak test by name and ends with its table and its "N passed, N failed".
#
#   testdata/soak.sh PACKAGE TEST      with the run's size, SEED and SABOTAGE in the environment
set -u
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
go test -count 1 -timeout 0 -v -run "^$2\$" "$1" 2>&1 | tee "$log" | grep -vE '^(ok|PASS|FAIL|---|===|[0-9]+ passed, [0-9]+ failed)'
status=${PIPESTATUS[0]}
line=$(grep -oE '[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1)
if [ -z "$line" ]; then
  grep -E '^(ok|FAIL|---)' "$log"
  line="0 passed, 1 failed"
fi
echo "$line"
exit "$status"
