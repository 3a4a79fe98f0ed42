#!/bin/sh
# The test guest's first process: drivers, then the writer; power off when it ends.
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
for m in /m/*.ko; do
  case $m in *-efivarfs.ko) [ -d /sys/firmware/efi ] || continue ;; esac # without UEFI it refuses
  /bin/busybox insmod "$m" || echo "FATAL insmod $m"
done
/writer
/bin/busybox poweroff -f
