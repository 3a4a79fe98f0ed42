package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// probeCode is what the probing guest's processor starts with, at the end of its
// firmware: it writes probeValue to the port of QEMU's isa-debug-exit, which ends
// QEMU with the status probeStatus.
//
//	mov al, probeValue; out probePort, al; hlt; jmp to the hlt
var probeCode = []byte{0xb0, probeValue, 0xe6, probePort, 0xf4, 0xeb, 0xfd}

const (
	probeValue    = 0x2a
	probePort     = 0xf4
	probeStatus   = probeValue<<1 | 1
	probeFirmware = 64 << 10 // bytes
	probeStart    = probeFirmware - 16
)

// KVM returns nil when a guest really runs under KVM, else ErrNoKVM with the
// reason. It tries once: /dev/kvm may be there and run nothing.
func (b *Binary) KVM(ctx context.Context) error {
	select {
	case b.kvmOnce <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-b.kvmOnce }()
	if b.kvmDone {
		return b.kvmErr
	}
	err := b.tryKVM(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrNoKVM, err)
	}
	b.kvmDone, b.kvmErr = true, err
	return err
}

func (b *Binary) tryKVM(ctx context.Context) error {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	f.Close()
	return b.runsGuest(ctx, KVM)
}

// runsGuest starts a guest of a few instructions and waits for it to say that
// they were carried out.
func (b *Binary) runsGuest(ctx context.Context, accel Accel) error {
	dir, err := os.MkdirTemp("", "lunless-probe-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	rom := make([]byte, probeFirmware)
	copy(rom[probeStart:], probeCode)
	path := filepath.Join(dir, "firmware")
	if err := os.WriteFile(path, rom, 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	cmd, release := probe(ctx, b.Path, "-nodefaults", "-no-user-config", "-display", "none",
		"-machine", b.q35[len(b.q35)-1].name, "-accel", string(accel), "-cpu", cpuFor(accel), "-m", "16M", "-bios", path,
		"-device", fmt.Sprintf("isa-debug-exit,iobase=%#x,iosize=4", probePort))
	defer release()
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == probeStatus:
		return nil
	case ctx.Err() != nil:
		return errors.New("a guest started and did nothing")
	case err == nil:
		err = errors.New("exit status 0")
	}
	return fmt.Errorf("a guest did not start: %w: %s", err, strings.TrimSpace(tail(string(out))))
}

func cpuFor(a Accel) string {
	if a == KVM {
		return "host"
	}
	return "max"
}
