#!/usr/bin/env bash
# Sees to the peers that the tests run against: installs Debian's packages when
# root, else says what to install and fails. Fetches the test guest's kernel
# into .work/kernel. Run again, it does nothing.
set -eu
cd "$(dirname "$0")/.."

# command:package
needs="gcc:gcc smbclient:smbclient smbd:samba smbtorture:samba-testsuite rpcclient:smbclient pdbedit:samba-common-bin
  qemu-img:qemu-utils qemu-io:qemu-utils qemu-system-x86_64:qemu-system-x86 busybox:busybox-static vhdiinfo:libvhdi-utils
  mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs getfattr:attr dpkg:dpkg syslinux:syslinux mformat:mtools
  objcopy:binutils nbdinfo:libnbd-bin nbdcopy:libnbd-bin qemu-nbd:qemu-utils"
packages=
for n in $needs; do
  PATH=$PATH:/usr/sbin:/sbin command -v "${n%%:*}" >/dev/null || packages="$packages ${n##*:}"
done
[ -e /usr/share/OVMF/OVMF_CODE_4M.fd ] || packages="$packages ovmf"
[ -e /usr/lib/systemd/boot/efi/linuxx64.efi.stub ] || packages="$packages systemd-boot-efi" # what UEFI boots in the test guest
[ -e /usr/include/stdlib.h ] || packages="$packages libc6-dev"
[ -e /usr/lib/syslinux/mbr/mbr.bin ] || packages="$packages syslinux-common" # the test guest's boot disk
/usr/bin/python3 -c 'import pyvhdi' 2>/dev/null || packages="$packages python3-libvhdi" # testdata/vhdicat
if [ -n "$packages" ]; then
  if [ "$(id -u)" != 0 ]; then
    echo "the tests need these packages: apt-get install --no-install-recommends$packages" >&2
    exit 1
  fi
  echo "installing$packages"
  apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $packages >/dev/null
fi

kernel=.work/kernel
if ! ls "$kernel"/boot/vmlinuz-* >/dev/null 2>&1; then
  mkdir -p "$kernel"
  [ -n "$(apt-cache depends linux-image-cloud-amd64 2>/dev/null)" ] || { [ "$(id -u)" != 0 ] || apt-get update -q >/dev/null; }
  name=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p' | head -n 1)
  [ -n "$name" ] || { echo "apt knows no linux-image-cloud-amd64: run apt-get update" >&2; exit 1; }
  ( cd "$kernel" && apt-get download "$name" 2>/dev/null && dpkg -x linux-image-*.deb . && rm linux-image-*.deb )
fi
