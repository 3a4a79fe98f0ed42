package vm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"lunless/testdata/guest/stamp"
)

const (
	mib          = 1 << 20
	bootPartSize = 32 * mib // holds the kernel, the initramfs and the boot loader
	bootCode     = 440      // bytes of a boot record that are code
)

// BootOptions say how a boot disk is to be.
type BootOptions struct {
	Size   int64    // of the disk in bytes; 0 for 128 MiB. What the boot partition leaves is the writer's, if 8 MiB or more
	Params []string // of the writer, as "rate=0"
}

func (o *BootOptions) complete() error {
	if o.Size == 0 {
		o.Size = 128 * mib
	}
	if o.Size < bootPartSize+2*mib || o.Size%512 != 0 {
		return fmt.Errorf("a boot disk of %d bytes is too small or not of whole sectors", o.Size)
	}
	return nil
}

// BootDisk makes a raw image at path that a PC's BIOS boots the guest from: a boot
// record, a FAT partition with SYSLINUX, kernel and initramfs, and behind it a
// partition for the writer. It needs no root.
func (g Guest) BootDisk(ctx context.Context, path string, o BootOptions) (err error) {
	if err := o.complete(); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(path)
		}
	}()
	record, err := bootRecord(o.Size)
	if err == nil {
		_, err = f.WriteAt(record, 0)
	}
	if err = errors.Join(err, f.Truncate(o.Size), f.Close()); err != nil {
		return err
	}
	return g.fillBootPartition(ctx, path, o)
}

// bootRecord is the disk's first sector: SYSLINUX's code, which starts the active
// partition, and the partition table.
func bootRecord(size int64) ([]byte, error) {
	code, err := os.ReadFile("/usr/lib/syslinux/mbr/mbr.bin")
	if err != nil {
		return nil, fmt.Errorf("%w (install syslinux-common: testdata/peers.sh does)", err)
	}
	if len(code) > bootCode {
		return nil, fmt.Errorf("mbr.bin has %d bytes: no room for a partition table", len(code))
	}
	b := make([]byte, 512)
	copy(b, code)
	entry := func(i int, flag, kind byte, off, n int64) {
		e := b[446+16*i:]
		e[0], e[4] = flag, kind
		copy(e[1:], []byte{0xfe, 0xff, 0xff}) // no CHS address
		copy(e[5:], []byte{0xfe, 0xff, 0xff})
		binary.LittleEndian.PutUint32(e[8:], uint32(off/512))
		binary.LittleEndian.PutUint32(e[12:], uint32(n/512))
	}
	const fat16LBA = 0x0e
	entry(0, 0x80, fat16LBA, mib, bootPartSize)
	if data := (size - bootPartSize - mib) / mib * mib; data >= 8*mib {
		entry(1, 0, stamp.PartitionType, mib+bootPartSize, data)
	}
	b[510], b[511] = 0x55, 0xaa
	return b, nil
}

func (g Guest) fillBootPartition(ctx context.Context, path string, o BootOptions) error {
	dir, err := os.MkdirTemp("", "lunless-bootdisk-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cfg := filepath.Join(dir, "syslinux.cfg")
	text := "DEFAULT guest\nPROMPT 0\nLABEL guest\n  KERNEL vmlinuz\n  INITRD initrd\n  APPEND " + g.Append(o.Params...) + "\n"
	if err := os.WriteFile(cfg, []byte(text), 0o644); err != nil {
		return err
	}
	part := fmt.Sprintf("%s@@%d", path, mib)
	return errors.Join(
		format(ctx, part),
		tool(ctx, "syslinux", "syslinux", "--offset", fmt.Sprint(mib), "--install", path),
		tool(ctx, "mtools", "mcopy", "-i", part, g.Kernel, "::vmlinuz"),
		tool(ctx, "mtools", "mcopy", "-i", part, g.Initrd, "::initrd"),
		tool(ctx, "mtools", "mcopy", "-i", part, cfg, "::syslinux.cfg"),
	)
}

// format makes a FAT file system in a boot partition, as mtools name that.
func format(ctx context.Context, part string) error {
	return tool(ctx, "mtools", "mformat", "-i", part, "-T", fmt.Sprint(bootPartSize/512), "-h", "64", "-s", "32", "-H", fmt.Sprint(mib/512), "-c", "8", "::")
}
