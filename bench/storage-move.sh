#!/usr/bin/env bash
# Moves a disk, half of which is data, from one server's share to another's on
# loopback: with our live storage migration, with QEMU's blockdev-mirror to our NBD
# export of the same destination, and with qemu-img convert through that; under a
# guest that writes, which reaches the disk through QEMU's block layer in every case,
# and without one, as qemu-img must have it. Prints a table of medians; bench/move
# says what is compared.
#
#   bench/storage-move.sh [ROUNDS [FOLDER [SIZE-IN-GIB]]]
#
# ONLY=TEXT measures the cases alone whose names have that in them. No round begins
# that would end after seven minutes. Needs Debian's qemu-utils and
# qemu-system-common, and a little more room than SIZE: half of it at each end. With
# FOLDER on a tmpfs no disk has a part in it.
set -eu
cd "$(dirname "$0")/.."
rounds=${1:-3} folder=${2:-${TMPDIR:-/tmp}} gib=${3:-4}
for tool in qemu-img qemu-storage-daemon; do
  command -v $tool >/dev/null || { echo "$tool is missing: apt-get install qemu-utils qemu-system-common" >&2; exit 1; }
done
mkdir -p bin
go build -o bin/lunless ./cmd/lunless
go build -o bin/bench-move ./bench/move
work=$(mktemp -d "$folder/lunless-move.XXXXXX")
trap 'rm -rf "$work"' EXIT
bin/bench-move -lunless bin/lunless -dir "$work" -rounds "$rounds" -size "$gib" ${ONLY:+-only "$ONLY"}
