package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/diskfs/go-diskfs/partition/gpt"
)

// efiStub is systemd's loader of a kernel that is in the same file.
const efiStub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

// UEFIDisk makes a raw image at path that UEFI boots the guest from: a GPT, an EFI
// system partition with loader, kernel and initramfs in one file, and nothing for the
// writer, which uses other disks. It needs no root.
func (g Guest) UEFIDisk(ctx context.Context, path string, o BootOptions) (err error) {
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
	table := gpt.Table{LogicalSectorSize: 512, PhysicalSectorSize: 512, ProtectiveMBR: true,
		Partitions: []*gpt.Partition{{Index: 1, Start: mib / 512, End: (mib+bootPartSize)/512 - 1, Type: gpt.EFISystemPartition, Name: "EFI"}}}
	err = f.Truncate(o.Size)
	if err == nil {
		err = table.Write(f, o.Size)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return g.fillEFIPartition(ctx, path, o)
}

func (g Guest) fillEFIPartition(ctx context.Context, path string, o BootOptions) error {
	dir, err := os.MkdirTemp("", "lunless-uefidisk-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	image, err := g.efiImage(ctx, dir, o)
	if err != nil {
		return err
	}
	part := fmt.Sprintf("%s@@%d", path, mib)
	return errors.Join(
		format(ctx, part),
		tool(ctx, "mtools", "mmd", "-i", part, "::EFI", "::EFI/BOOT"),
		tool(ctx, "mtools", "mcopy", "-i", part, image, "::EFI/BOOT/BOOTX64.EFI"),
	)
}

// efiImage makes one UEFI program of the loader, the kernel, its command line and the
// initramfs, each a section of it at an address behind the loader's own. It takes no
// keys: what a test says to the guest's console meanwhile does nothing.
func (g Guest) efiImage(ctx context.Context, dir string, o BootOptions) (string, error) {
	if _, err := os.Stat(efiStub); err != nil {
		return "", fmt.Errorf("%w (install systemd-boot-efi: testdata/peers.sh does)", err)
	}
	line := filepath.Join(dir, "cmdline")
	if err := os.WriteFile(line, []byte(g.Append(o.Params...)), 0o644); err != nil {
		return "", err
	}
	image := filepath.Join(dir, "guest.efi")
	var args []string
	for _, s := range []struct{ name, file, at string }{{".cmdline", line, "0x30000"}, {".linux", g.Kernel, "0x2000000"}, {".initrd", g.Initrd, "0x4000000"}} {
		args = append(args, "--add-section", s.name+"="+s.file, "--change-section-vma", s.name+"="+s.at)
	}
	return image, tool(ctx, "binutils", "objcopy", append(args, efiStub, image)...)
}
