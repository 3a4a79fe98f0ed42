#!/bin/sh
# The kernel's SMB client against a share: what a Linux host does with a folder
# of VMs. /cfg sets SRV PORT SHARE USER PASS; /cases calls try NAME OPTIONS.
# Each case ends in one line, "RESULT name ok" or "RESULT name FAIL what".
/bin/busybox --install -s /bin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
for m in /m/*.ko; do insmod $m || echo "insmod $m failed"; done
echo "GUEST-UP uptime=$(cut -d' ' -f1 /proc/uptime) $(uname -r)"
ip link set lo up; ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.2.2
. /cfg
dd if=/dev/urandom of=/tmp/src bs=64k count=32 2>/dev/null; SUM=$(md5sum < /tmp/src)
dmesg -c >/dev/null

bad=
check() { # what, command...: notes the first thing that fails
  what=$1; shift
  "$@" >/tmp/out 2>&1 || { [ -n "$bad" ] || bad="$what: $(head -c 200 /tmp/out | tr '\n' ' ')"; }
}
same() { [ "$(md5sum < $1)" = "$SUM" ]; }
size_is() { [ "$(stat -c %s $1)" = $2 ]; }
count_is() { [ "$(ls $1 | wc -l)" = $2 ]; }
absent() { ! [ -e $1 ]; }

exercise() { # folder
  D=$1
  check mkdir mkdir -p $D
  for n in 0 1 2 3; do check write$n dd if=/tmp/src of=$D/f$n bs=64k conv=fsync; done
  check direct dd if=/tmp/src of=$D/f0 bs=4k count=1 seek=100 conv=notrunc oflag=direct
  check rewrite dd if=/tmp/src of=$D/f0 bs=4k count=1 skip=100 seek=100 conv=notrunc,fsync
  echo 3 > /proc/sys/vm/drop_caches
  for n in 0 1 2 3; do check read$n same $D/f$n; done
  check rename mv $D/f1 $D/renamed
  check renamed-reads same $D/renamed
  check renamed-gone absent $D/f1
  check over mv $D/f2 $D/renamed
  check over-reads same $D/renamed
  check grow truncate -s 1G $D/f3
  check grown size_is $D/f3 1073741824
  check shrink truncate -s 4096 $D/f3
  check shrunk size_is $D/f3 4096
  check subdir mkdir $D/sub
  n=0; while [ $n -lt 300 ]; do echo $n > $D/sub/file-$n || bad=${bad:-create}; n=$((n+1)); done
  check readdir count_is $D/sub 300
  check subrename mv $D/sub $D/sub2
  check rmdir-full-refused sh -c "! rmdir $D/sub2"
  check touch touch -d '2001-02-03 04:05:06' $D/f3
  check mtime [ "$(stat -c %Y $D/f3)" = 981173106 ]
  check remove rm -r $D
  check removed absent $D
}

try() { # name, mount options
  name=$1 bad=
  if mount -t cifs //$SRV/$SHARE /mnt -o "port=$PORT,username=$USER,password=$PASS,$2" 2>/tmp/err; then
    exercise /mnt/g_$name
    grep -E ' /mnt ' /proc/mounts
    check umount umount /mnt
  else bad="mount: $(cat /tmp/err)"; fi
  dmesg -c > /tmp/dmesg
  sed 's/^/    dmesg: /' /tmp/dmesg
  grep -qiE 'CIFS: VFS.*(error|fail)|BUG|WARNING|Call Trace' /tmp/dmesg && bad="${bad:-kernel log: $(grep -iE 'VFS|BUG|WARNING|Trace' /tmp/dmesg | head -n 2 | tr '\n' ' ')}"
  if [ -z "$bad" ]; then echo "RESULT $name ok"; else echo "RESULT $name FAIL $bad"; fi
}
. /cases
poweroff -f
