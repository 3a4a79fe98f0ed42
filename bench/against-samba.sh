#!/usr/bin/env bash
# Compares a `lunless serve` with a Samba smbd on this machine: both on loopback
# and one file system, the same load in turn. Prints bench compare's tables.
#
#   bench/against-samba.sh [DURATION [ROUNDS [WORKLOADS [SIZE]]]]
#
# Each of the SMB clients in CLIENTS (lunless, the project's own, and go-smb2) loads
# both servers, unsigned and signed; the own client signs with AES-GMAC, which both
# servers take, go-smb2 with AES-CMAC.
#
# Needs root (Samba switches users) and Debian's samba and samba-common-bin.
set -eu
cd "$(dirname "$0")/.."
duration=${1:-5s} rounds=${2:-5} workloads=${3:-randread-4k,randwrite-4k,seqread-1m,seqwrite-1m} size=${4:-1G}
go build -o bin/lunless ./cmd/lunless
work=$(mktemp -d)
pids=
cleanup() { for p in $pids; do kill "$p" 2>/dev/null || true; done; sleep 1; rm -rf "$work"; }
trap cleanup EXIT
export LUNLESS_PASSWORD=Bench-Mark-7
mkdir -p "$work"/{vms,smb/private,smb/lock,smb/state,smb/cache,smb/pid,smb/ncalrpc,smb/share}
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

cat > "$work/smb.conf" <<C
[global]
  smb ports = $port
  interfaces = lo
  bind interfaces only = yes
  disable netbios = yes
  load printers = no
  server min protocol = SMB3_00
  private dir = $work/smb/private
  lock directory = $work/smb/lock
  state directory = $work/smb/state
  cache directory = $work/smb/cache
  pid directory = $work/smb/pid
  ncalrpc dir = $work/smb/ncalrpc
  log file = $work/smb/log
[vms]
  path = $work/smb/share
  read only = no
C
printf '%s\n%s\n' "$LUNLESS_PASSWORD" "$LUNLESS_PASSWORD" | smbpasswd -c "$work/smb.conf" -s -a root >/dev/null
setsid smbd -s "$work/smb.conf" -D # it signals its process group when it ends
bin/lunless user add root --data "$work/data"
bin/lunless serve --data "$work/data" --listen 127.0.0.1:0 --share "vms=$work/vms" --signing enabled >"$work/out" 2>"$work/log" &
ours=$! pids=$!
for _ in $(seq 50); do [ -s "$work/out" ] && [ -s "$work"/smb/pid/smbd*.pid ] && break; sleep 0.1; done
theirs=$(cat "$work"/smb/pid/smbd*.pid)
pids="$pids $theirs"
addr=$(sed -n 's/^serving //p' "$work/out")

for where in "$addr" "127.0.0.1:$port"; do # go-smb2 cannot make the file
  bin/lunless bench run --target "smb://root@$where/vms/bench.dat" --workload randread-4k --duration 1s --size "$size" --keep >/dev/null
done
for client in ${CLIENTS:-lunless go-smb2}; do
  for protection in "" --require-signing; do
    echo "== client $client, ${protection:-unsigned}: A = Lunless, B = Samba $(smbd -V | sed 's/Version //')"
    bin/lunless bench compare --a "smb://root@$addr/vms/bench.dat" --b "smb://root@127.0.0.1:$port/vms/bench.dat" \
      --a-client "$client" --b-client "$client" --a-pid "$ours" --b-pid "$theirs" \
      --workload "$workloads" --duration "$duration" --rounds "$rounds" --size "$size" $protection
  done
done
