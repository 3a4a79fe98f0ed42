#!/usr/bin/env bash
# Runs fuzz targets one after the other and stops at the first finding. Ends with
# a table of time and executions.
#
#   testdata/fuzz.sh [TIME] [PACKAGE...]        TIME for each target (default 30s)
#   TOTAL=1h testdata/fuzz.sh "" [PACKAGE...]   TOTAL, shared out evenly
#
# Packages are as for go list (default ./...). TARGETS, an extended regular
# expression, picks targets by name; PARALLEL is the number of workers (default: all CPUs).
set -eu -o pipefail
cd "$(dirname "$0")/.."
each=${1:-30s}
[ $# = 0 ] || shift
[ $# -gt 0 ] || set -- ./...

seconds() { # of a number with s, m or h
  case $1 in
    *h) echo $((${1%h} * 3600)) ;;
    *m) echo $((${1%m} * 60)) ;;
    *) echo "${1%s}" ;;
  esac
}

targets=
for package in $(go list "$@"); do
  for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' | grep -E "${TARGETS:-.}" || true); do
    targets="$targets $package:$target"
  done
done
[ -n "$targets" ] || { echo "no fuzz targets in $*"; exit 1; }
if [ -n "${TOTAL:-}" ]; then
  each=$(($(seconds "$TOTAL") / $(echo "$targets" | wc -w)))s
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
table=
passed=0
for t in $targets; do
  package=${t%:*} target=${t##*:}
  echo "== $package $target for $each"
  ok=0
  go test -run '^$' -fuzz "^$target\$" -fuzztime "$each" -fuzzminimizetime 1s ${PARALLEL:+-parallel "$PARALLEL"} "$package" 2>&1 | tee "$log" || ok=$?
  last=$(grep -oE 'elapsed: [0-9hms]+, execs: [0-9]+' "$log" | tail -n 1 | sed 's/elapsed: //; s/, execs://')
  table="$table$(printf '%-28s %-20s %-8s %12s' "${package#*/}" "$target" ${last:-0s 0})
"
  if [ "$ok" != 0 ]; then
    printf '%s' "$table"
    echo "$passed passed, 1 failed"
    exit 1
  fi
  passed=$((passed + 1))
done
printf '%s' "$table"
echo "$passed passed, 0 failed"
