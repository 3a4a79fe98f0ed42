// Package vm is the host's side of the test guest: it builds the guest, makes
// disks it boots from, and speaks with it over its console. What the guest does
// and says is told at testdata/guest/writer, what lies on its disks at
// testdata/guest/stamp.
package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"lunless/testdata/guest"
)

// Guest is a built guest: what QEMU's -kernel and -initrd take, and BootDisk.
type Guest struct {
	Kernel string // path of the kernel
	Initrd string // path of the initramfs
}

// modules are the drivers that the guest has: disks as virtio-blk and virtio-scsi,
// virtio-net, the power button and UEFI variables.
var modules = []string{"efivarfs", "virtio_pci", "virtio_blk", "virtio_net", "virtio_scsi", "sd_mod", "button", "evdev"}

// Append returns the kernel's command line, with parameters for the writer, as
// "rate=0" (see testdata/guest/writer). A processor that stands still for a while is
// no complaint: an emulated one does when its host is busy or stops it. Tasks that
// hang are.
func (Guest) Append(params ...string) string {
	line := "console=ttyS0,115200 quiet panic=-1 no_timer_check tsc=reliable mitigations=off rdinit=/init" +
		" cryptomgr.notests audit=0 nokaslr ipv6.disable=1 8250.nr_uarts=1 nosoftlockup rcupdate.rcu_cpu_stall_suppress=1"
	for _, p := range params {
		line += " writer." + p
	}
	return line
}

// Memory is the RAM to give the guest, as QEMU's -m takes it: QEMU before 9.0
// under TCG damages memory in migrations at sizes that are multiples of 256 KiB.
const Memory = "131064K"

// Root is the folder that go.mod lies in, above the working folder.
func Root() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod above the working folder")
		}
		dir = up
	}
	return "", err
}

// Build builds the guest in dir, or finds it there: an initramfs is kept under a
// name made of what it consists of. "" is .work/guest below Root. It may be called by
// several processes at once.
func Build(ctx context.Context, dir string) (Guest, error) {
	root, err := Root()
	if err != nil {
		return Guest{}, err
	}
	if dir == "" {
		dir = filepath.Join(root, ".work/guest")
	}
	vmlinuz, moduleDir, err := guest.Kernel(filepath.Join(root, ".work/kernel"))
	if err != nil {
		return Guest{}, err
	}
	writer, err := guest.Program(ctx, root, "./testdata/guest/writer")
	if err != nil {
		return Guest{}, err
	}
	init, err := os.ReadFile(filepath.Join(root, "testdata/guest/writer-init.sh"))
	if err != nil {
		return Guest{}, err
	}
	image, err := guest.Initramfs(guest.Spec{ModuleDir: moduleDir, Modules: modules, Init: init, Files: map[string][]byte{"writer": writer}})
	if err != nil {
		return Guest{}, err
	}
	g := Guest{Kernel: vmlinuz, Initrd: filepath.Join(dir, fmt.Sprintf("%x", sha256.Sum256(image))[:20]+".img")}
	return g, keep(g.Initrd, image)
}

// keep writes a file that appears whole or not at all.
func keep(path string, content []byte) error {
	if st, err := os.Stat(path); err == nil && st.Size() == int64(len(content)) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".part-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// tool runs a program of the host that makes disks.
func tool(ctx context.Context, pkg, name string, args ...string) error {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%w (install %s: testdata/peers.sh does)", err, pkg)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(out.String()))
	}
	return nil
}
