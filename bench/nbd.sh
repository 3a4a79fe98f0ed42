#!/usr/bin/env bash
# Measures the NBD export of a VHDX on a local file against qemu-nbd serving a
# copy of it, with fio as the client of both, in turn, and prints a table of
# medians.
#
#   bench/nbd.sh [ROUNDS [FOLDER [SIZE-IN-MIB [SECONDS]]]]
#
# Both serve out of the page cache, into which the images are read first: with
# FOLDER on a tmpfs no disk has a part in it, and the paths through the servers
# are all that is compared. The two images take 2 * SIZE (512 MiB), and are removed
# at the end. The ratio is that of the operations a second, ours to qemu-nbd's, in
# the same round. Needs Debian's qemu-utils, fio and python3.
set -eu
cd "$(dirname "$0")/.."
rounds=${1:-5} folder=${2:-${TMPDIR:-/tmp}} mib=${3:-512} seconds=${4:-2}
for n in qemu-nbd:qemu-utils fio:fio python3:python3; do
  command -v "${n%%:*}" >/dev/null || { echo "${n%%:*} is missing: apt-get install ${n##*:}" >&2; exit 1; }
done
mkdir -p bin
go build -o bin/lunless ./cmd/lunless
lunless=$PWD/bin/lunless
work=$(mktemp -d "$folder/lunless-nbd.XXXXXX")
ours= theirs=
trap '[ -z "$ours" ] || kill "$ours" 2>/dev/null; [ -z "$theirs" ] || kill "$theirs" 2>/dev/null; wait; rm -rf "$work"' EXIT
cd "$work"

"$lunless" bench fill --target ours.vhdx --size "${mib}M" --request 1M --count "$mib" --keep >/dev/null
cp ours.vhdx theirs.vhdx
"$lunless" disk export ours.vhdx --socket ours.sock >ready 2>log &
ours=$!
qemu-nbd --persistent --shared=8 --format=vhdx --socket="$PWD/theirs.sock" theirs.vhdx &
theirs=$!
for _ in $(seq 100); do
  [ -s ready ] && [ -S theirs.sock ] && break
  sleep 0.1
done
[ -s ready ] && [ -S theirs.sock ] || { echo "a server does not become ready" >&2; cat log >&2; exit 1; }

# cpu PID is the CPU time of a process, in clock ticks.
cpu() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }
# measure WHO PID MODE SIZE DEPTH appends operations a second, mean latency and the
# server's CPU time for an operation, in microseconds, to a file.
measure() {
  local before after
  before=$(cpu "$2")
  fio --name=x --ioengine=nbd --uri="nbd+unix:///?socket=$PWD/$1.sock" --rw="$3" --bs="$4" --iodepth="$5" \
    --time_based --runtime="$seconds" --randrepeat=0 --output-format=json --output=fio.json >fio.out 2>&1 || { cat fio.out >&2; exit 1; }
  after=$(cpu "$2")
  python3 - "$before" "$after" "$(getconf CLK_TCK)" >>"$1-$3-$4-$5" <<'PY'
import json, sys
before, after, tick = map(float, sys.argv[1:])
text = open("fio.json").read()
j = json.loads(text[text.index("{\n"):])["jobs"][0]
r = j["read"] if j["read"]["total_ios"] else j["write"]
print(r["iops"], r["clat_ns"]["mean"] / 1e3, (after - before) / tick * 1e6 / r["total_ios"])
PY
}

loads="randread-4k-1 randread-4k-16 randwrite-4k-1 randwrite-4k-16 read-1M-1 read-1M-8 write-1M-1 write-1M-8"
for round in $(seq "$rounds"); do
  echo "round $round of $rounds" >&2
  for load in $loads; do
    IFS=- read -r mode size depth <<<"$load"
    cat ours.vhdx theirs.vhdx >/dev/null
    order="ours theirs"
    [ $((round % 2)) = 1 ] || order="theirs ours"
    for who in $order; do measure "$who" "${!who}" "$mode" "$size" "$depth"; done
  done
done

column() { awk -v c="$2" '{ print $c }' "$1"; }
median() { sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
echo "$(qemu-nbd --version | head -1); $(fio --version); $(nproc) CPUs; $(stat -f -c %T .); medians of $rounds interleaved rounds of $seconds s"
echo
echo "| load | ours | qemu-nbd | ratio (least..greatest) | latency, us | server CPU, us an operation |"
echo "|---|---|---|---|---|---|"
for load in $loads; do
  IFS=- read -r mode size depth <<<"$load"
  paste <(column "ours-$load" 1) <(column "theirs-$load" 1) | awk '{ print $1 / $2 }' | sort -g >quotients
  awk -v what="$mode $size, depth $depth" -v unit="$([ "$size" = 1M ] && echo MiB/s || echo IOPS)" \
    -v a="$(column "ours-$load" 1 | median)" -v b="$(column "theirs-$load" 1 | median)" -v r="$(median <quotients)" -v least="$(head -1 quotients)" -v most="$(tail -1 quotients)" \
    -v la="$(column "ours-$load" 2 | median)" -v lb="$(column "theirs-$load" 2 | median)" -v ca="$(column "ours-$load" 3 | median)" -v cb="$(column "theirs-$load" 3 | median)" \
    'BEGIN { printf "| %s | %.0f %s | %.0f %s | %.2f (%.2f..%.2f) | %.0f / %.0f | %.1f / %.1f |\n", what, a, unit, b, unit, r, least, most, la, lb, ca, cb }'
done
