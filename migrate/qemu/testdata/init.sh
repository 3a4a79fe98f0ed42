#!/bin/sh
# The guest of the driver's tests: a heartbeat on the console, a file of random
# bytes in RAM with its checksum, a disk if there is one, and commands by line.
/bin/busybox --install -s /bin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
for m in /m/*.ko; do insmod $m || echo "insmod $m failed"; done
dd if=/dev/urandom of=/tmp/pages bs=64k count=128 2>/dev/null
sha256sum /tmp/pages > /tmp/sum
event=$(grep -A 5 'Power Button' /proc/bus/input/devices | grep -o 'event[0-9]*' | head -n 1)
( head -c 24 /dev/input/$event > /dev/null && echo POWER-BUTTON && poweroff -f ) &
( n=0; while :; do n=$((n+1)); echo "HB $n"; usleep 100000; done ) &
echo "GUEST-UP $event $(nproc) $(cat /sys/block/vd*/serial 2>/dev/null)"
while read -r c; do eval "$c"; done
