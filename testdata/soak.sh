#!/usr/bin/env bash
# Runs one soak test by name, in one package or in several one after the other,
# and ends with its tables and the sum of their "N passed, N failed".
#
#   testdata/soak.sh TEST PACKAGE...      with the run's size, SEED and SABOTAGE in the environment
set -u
cd "$(dirname "$0")/.."
test=$1
shift
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# A table's head is printed once.
go test -count 1 -timeout 0 -p 1 -v -run "^$test\$" "$@" 2>&1 | tee "$log" |
  grep -vE '^(ok|PASS|FAIL|---|===|[0-9]+ passed, [0-9]+ failed)' | awk '!/  cut during  /|| !head++'
status=${PIPESTATUS[0]}
line=$(grep -oE '[0-9]+ passed, [0-9]+ failed' "$log" | awk '{p += $1; f += $3} END {if (NR) print p " passed, " f " failed"}')
if [ -z "$line" ]; then
  grep -E '^(ok|FAIL|---)' "$log"
  line="0 passed, 1 failed"
fi
echo "$line"
exit "$status"
