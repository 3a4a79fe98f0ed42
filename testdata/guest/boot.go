package guest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Kernel finds what an unpacked Debian linux-image package holds under dir:
// the kernel and its folder of modules.
func Kernel(dir string) (vmlinuz, moduleDir string, err error) {
	one := func(pattern string) (string, error) {
		m, _ := filepath.Glob(filepath.Join(dir, pattern))
		if len(m) == 0 {
			return "", fmt.Errorf("no %s under %s (make tools fetches the guest's kernel)", pattern, dir)
		}
		return m[0], nil
	}
	if vmlinuz, err = one("boot/vmlinuz-*"); err != nil {
		return "", "", err
	}
	moduleDir, err = one("lib/modules/*")
	return vmlinuz, moduleDir, err
}

// Run boots the kernel with an initramfs and returns what the guest wrote to
// its serial console until it powered off or ctx ended. The guest reaches the
// host's loopback as 10.0.2.2.
//
// The RAM size is 8 KiB short of 256 MiB on purpose: QEMU 7.2 under TCG damages
// guest memory in migrations at sizes that are multiples of 256 KiB, and one
// size for all tests is easier to trust than two.
func Run(ctx context.Context, vmlinuz string, initramfs []byte, extra ...string) (string, error) {
	f, err := os.CreateTemp("", "lunless-guest-*.img")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(initramfs); err != nil {
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	args := []string{"-accel", "tcg", "-machine", "pc-q35-7.2", "-cpu", "max", "-m", "262136K",
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", vmlinuz, "-initrd", f.Name(),
		"-append", "console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable mitigations=off rdinit=/init",
		"-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile="}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", append(args, extra...)...)
	var console bytes.Buffer
	cmd.Stdout, cmd.Stderr = &console, &console
	if err := cmd.Run(); err != nil {
		return console.String(), fmt.Errorf("qemu-system-x86_64: %w", err)
	}
	return console.String(), nil
}
