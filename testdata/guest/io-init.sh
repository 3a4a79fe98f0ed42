#!/bin/sh
# Works on files of a share that the kernel's SMB client has mounted, and checks
# them. /cfg sets SRV PORT SHARE USER PASS OPTIONS RUN; it ends in guestio's own line,
# after what the kernel had to say, and in "KERNEL ok" or "KERNEL FAIL what".
/bin/busybox --install -s /bin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
for m in /m/*.ko; do insmod $m || echo "insmod $m failed"; done
ip link set lo up; ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.2.2
. /cfg
dmesg -c >/dev/null
if mount -t cifs //$SRV/$SHARE /mnt -o "port=$PORT,username=$USER,password=$PASS,$OPTIONS" 2>/tmp/err; then
  grep ' /mnt ' /proc/mounts
  echo "GUEST-MOUNTED"
  eval "$RUN"
  grep -iE 'reconn|persist|resil|Durable' /proc/fs/cifs/Stats /proc/fs/cifs/DebugData 2>/dev/null | head -n 12
  umount /mnt || echo "GUESTIO FAIL umount"
else echo "GUESTIO FAIL mount: $(cat /tmp/err)"; fi
dmesg -c > /tmp/dmesg
head -n 60 /tmp/dmesg | sed 's/^/    dmesg: /'
complaint=$(grep -iE "$COMPLAINTS" /tmp/dmesg | head -n 2 | tr '\n' ' ')
if [ -z "$complaint" ]; then echo "KERNEL ok"; else echo "KERNEL FAIL $complaint"; fi
poweroff -f
