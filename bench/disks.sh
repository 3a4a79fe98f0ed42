#!/usr/bin/env bash
# Measures virtual disks on this machine, ours and QEMU's in turn, all in one
# folder, and prints a table of medians.
#
#   bench/disks.sh [ROUNDS [FOLDER [SIZE-IN-GIB]]]
#
# The images take about four times SIZE (4 GiB), and are removed at the end.
# Needs Debian's qemu-utils.
#
# Cache modes. `disk convert` returns when the result is on stable storage. Of
# qemu-img's that is -t writeback; its default, -t unsafe, syncs nothing, so it is
# measured with a sync of the file behind it. Neither side goes past the page cache
# there. Of the allocating writes QEMU's are measured with -t none (O_DIRECT) and
# with -t writeback, ours through the page cache; every flush is one to the disk.
set -eu
cd "$(dirname "$0")/.."
rounds=${1:-5} folder=${2:-${TMPDIR:-/tmp}} gib=${3:-4}
command -v qemu-img >/dev/null || { echo "qemu-img is missing: apt-get install qemu-utils" >&2; exit 1; }
mkdir -p bin
go build -o bin/lunless ./cmd/lunless
lunless=$PWD/bin/lunless
work=$(mktemp -d "$folder/lunless-disks.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"

# number FIELD picks a number out of JSON on stdin.
number() { sed -n "s/^ *\"$1\": \([0-9.]*\),*$/\1/p" | head -1; }
# seconds NAME COMMAND... notes how long a command took.
seconds() {
  local name=$1 start end; shift
  rm -f out.*
  start=$EPOCHREALTIME
  "$@" >/dev/null 2>err || { cat err >&2; exit 1; }
  end=$EPOCHREALTIME
  awk -v a="$start" -v b="$end" 'BEGIN { printf "%.3f\n", b - a }' >>"$name"
  rm -f out.*
}
median() { sort -g "$1" | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
# ratio A B is the median over the rounds of A/B.
ratio() { paste "$1" "$2" | awk '{ print $1 / $2 }' >quotients; median quotients; }
# row WHAT OURS UNIT THEIRS NAME GOAL
row() { printf '| %s | %.2f %s | %.2f %s | %s | %.2f | %s |\n' "$1" "$(median "$2")" "$3" "$(median "$4")" "$3" "$5" "$(ratio "$4" "$2")" "$6"; }

# 60% data in runs of 6 MiB.
"$lunless" bench fill --target src.raw --format raw --size "${gib}G" --request 6M --step 10M --count $((gib * 1024 / 10)) --depth 2 --keep >/dev/null
"$lunless" disk convert src.raw src.vhdx 2>/dev/null
"$lunless" disk compare src.raw src.vhdx >/dev/null 2>&1
unsafe() { qemu-img convert -f "$1" -O vhdx "$2" out.vhdx && sync out.vhdx; }

for round in $(seq "$rounds"); do
  echo "round $round of $rounds" >&2
  for from in raw vhdx; do
    ours() { seconds "convert-$from" "$lunless" disk convert "src.$from" out.vhdx; }
    theirs() {
      seconds "qemu-writeback-$from" qemu-img convert -t writeback -f "$from" -O vhdx "src.$from" out.vhdx
      seconds "qemu-synced-$from" unsafe "$from" "src.$from"
      seconds "qemu-unsafe-$from" qemu-img convert -f "$from" -O vhdx "src.$from" out.vhdx
    }
    if [ $((round % 2)) = 1 ]; then ours; theirs; else theirs; ours; fi
  done

  "$lunless" bench fill --target out.vhdx --size 64G --block-size 2M --count 10000 --request 4K --step 2101248 --flush-every 64 --json | number seconds >>allocate
  for mode in none writeback; do
    qemu-img create -q -f vhdx -o block_size=2M out.vhdx 64G
    qemu-img bench -w -c 10000 -s 4096 -S 2101248 --flush-interval=64 -t "$mode" -f vhdx out.vhdx | sed -n 's/^Run completed in \([0-9.]*\) seconds.*/\1/p' >>"qemu-allocate-$mode"
    rm out.vhdx
  done

  order="fixed dynamic"
  [ $((round % 2)) = 1 ] || order="dynamic fixed"
  for kind in $order; do
    "$lunless" bench fill --target out.vhdx --size "${gib}G" --type "$kind" --request 1M --count $((gib * 512)) --json | number seconds >>"grow-$kind"
  done
done

# Random reads: both disks in one process, in turn.
rm -f src.raw src.vhdx
for format in raw vhdx; do
  "$lunless" bench fill --target "read.$format" --format "$format" --size 1G --request 1M --count 1024 --keep >/dev/null
done
for depth in 1 16; do
  "$lunless" bench compare --a read.vhdx --b read.raw --workload randread-4k --depth $depth --duration 2s --rounds "$rounds" --json 2>/dev/null >"reads-$depth"
done
rm -f read.*

"$lunless" disk create huge.vhdx --size 64T --block-size 1M
"$lunless" bench run --target huge.vhdx --workload randread-4k,randrw-4k --duration 5s --json 2>/dev/null >huge
rm -f huge.vhdx

echo "$(qemu-img --version | head -1); $(nproc) CPUs; $(stat -f -c %T .); medians of $rounds interleaved rounds"
echo
echo "| what | ours | compared | with | ratio | goal |"
echo "|---|---|---|---|---|---|"
for from in raw vhdx; do
  what="convert $from to vhdx, $gib GiB, 60% data, durable"
  row "$what" "convert-$from" s "qemu-writeback-$from" "qemu-img convert -t writeback" ">= 1"
  row "$what" "convert-$from" s "qemu-synced-$from" "qemu-img convert; sync" ">= 1"
  row "$what" "convert-$from" s "qemu-unsafe-$from" "qemu-img convert (-t unsafe: not durable)" "none"
done
for mode in none writeback; do
  row "10,000 allocating 4 KiB writes, a flush every 64" allocate s "qemu-allocate-$mode" "qemu-img bench -t $mode" ">= 10"
done
row "sequential 1 MiB growth, dynamic, $((gib * 512)) MiB" grow-dynamic s grow-fixed "a fixed VHDX" ">= 0.9"
for depth in 1 16; do
  awk -v depth=$depth '/"iops"/ { in_iops = 1 } in_iops && /"a"/ { a = $2 + 0 } in_iops && /"b"/ { b = $2 + 0 }
    in_iops && /"ratio":/ { printf "| random 4 KiB reads, dynamic VHDX, depth %d, cached | %.0f IOPS | %.0f IOPS | the raw file | %.2f | >= 0.9 |\n", depth, a, b, $2; exit }' "reads-$depth"
done
awk '/"client_max_rss"/ { n = $2 + 0; if (n > m) m = n } END { printf "| memory, random 4 KiB I/O on a 64 TiB disk of 1 MiB blocks | %.0f MiB | | | | < 64 MiB |\n", m / 1048576 }' huge
