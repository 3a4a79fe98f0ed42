#!/usr/bin/env bash
# Runs, without the race detector, what its build leaves out: the tests of files that
# begin with "//go:build !race", by name, those that count allocations (its pools
# forget), and the disk formats' whole suites, which do more without it.
#
#   testdata/norace.sh      GO=go in the environment
set -eu
cd "$(dirname "$0")/.."
go=${GO:-go}
formats=$(mktemp)
trap 'rm -f "$formats"' EXIT
$go test -count 1 ./smbstore/vhd ./smbstore/vhdx >"$formats" 2>&1 &

status=0
tests='s/^func (Test[A-Za-z0-9_]*)\(.*/\1/p'
mapfile -t files < <(grep -rl --include='*_test.go' -e '^//go:build !race$' -e '^func Test.*Alloc' smbstore shares migrate cmd bench)
for package in $(dirname "${files[@]}" | sort -u | grep -vE '^smbstore/vhdx?$'); do
  names=$(for file in "${files[@]}"; do
    [ "$(dirname "$file")" = "$package" ] || continue
    grep -qx '//go:build !race' "$file" && sed -nE "$tests" "$file" || sed -nE "$tests" "$file" | grep Alloc
  done | paste -sd '|')
  [ -z "$names" ] || $go test -count 1 -run "^($names)\$" "./$package" || status=1
done
wait $! || status=1
cat "$formats"
exit $status
