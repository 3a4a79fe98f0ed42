package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// dirtyFastPath is the multiple of which RAM must not be under TCG (Config.Memory).
const dirtyFastPath = 256 << 10

// Resolve returns the configuration with everything decided that was left open:
// machine type, accelerator, CPU model, memory. Resolving twice changes nothing.
func Resolve(ctx context.Context, c Config) (Config, error) {
	if err := c.Validate(); err != nil {
		return c, err
	}
	b, err := LookBinary(ctx, c.Binary)
	if err != nil {
		return c, err
	}
	c.Binary = b.Path
	m, err := b.machine(c.MachineType)
	if err != nil {
		return c, fmt.Errorf("VM %q: %w", c.Name, err)
	}
	if c.CPUs > m.maxCPUs {
		return c, fmt.Errorf("%w: VM %q: %d CPUs: %s has at most %d", ErrConfig, c.Name, c.CPUs, m.name, m.maxCPUs)
	}
	c.MachineType = m.name
	if c.Accel != TCG {
		err := b.KVM(ctx)
		switch {
		case err == nil:
			c.Accel = KVM
		case c.Accel == KVM || !errors.Is(err, ErrNoKVM):
			return c, fmt.Errorf("VM %q: %w", c.Name, err)
		default:
			c.Accel = TCG
		}
	}
	if c.CPU == "" {
		c.CPU = cpuFor(c.Accel)
	}
	if c.Accel == TCG && c.Memory%dirtyFastPath == 0 {
		c.Memory -= memoryUnit
	}
	return c, nil
}

// firmwareFiles are UEFI's code and the template of its variables.
type firmwareFiles struct{ code, vars string }

// ovmf lists where Debian, Fedora and Arch keep it.
var ovmf = []firmwareFiles{
	{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
	{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
	{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
	{"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"},
}

// ErrNoUEFI: there is no UEFI firmware on this host.
var ErrNoUEFI = errors.New("no UEFI firmware here: install ovmf (Fedora: edk2-ovmf), or let the VM start with a BIOS")

// findUEFI finds a firmware whose variables have the given size; any for -1.
func findUEFI(size int64) (firmwareFiles, error) {
	for _, f := range ovmf {
		_, codeErr := os.Stat(f.code)
		vars, varsErr := os.Stat(f.vars)
		if codeErr == nil && varsErr == nil && (size < 0 || vars.Size() == size) {
			return f, nil
		}
	}
	return firmwareFiles{}, ErrNoUEFI
}

// UEFIVariables returns what the flash memory for UEFI variables holds when there
// are none. Errors: ErrNoUEFI.
func UEFIVariables() ([]byte, error) {
	f, err := findUEFI(-1)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(f.vars)
}

// uefi finds the firmware that fits the VM's variables. If those are to be in a file
// that is not there, it is made.
func uefi(c *Config) (firmwareFiles, error) {
	switch {
	case c.Firmware != UEFI:
		return firmwareFiles{}, nil
	case c.UEFIStore != nil:
		return fittingUEFI(c.UEFIStore.Export, c.UEFIStore.Size)
	}
	info, err := os.Stat(c.UEFIVars)
	if err == nil {
		return fittingUEFI(c.UEFIVars, info.Size())
	}
	if !errors.Is(err, os.ErrNotExist) {
		return firmwareFiles{}, err
	}
	vars, err := UEFIVariables()
	if err != nil {
		return firmwareFiles{}, err
	}
	if err := replaceFile(c.UEFIVars, vars); err != nil {
		return firmwareFiles{}, err
	}
	return fittingUEFI(c.UEFIVars, int64(len(vars)))
}

// fittingUEFI finds the firmware for variables that there are.
func fittingUEFI(name string, size int64) (firmwareFiles, error) {
	f, err := findUEFI(size)
	if err != nil {
		err = fmt.Errorf("%w (none that fits %s of %d bytes)", err, name, size)
	}
	return f, err
}
