package qemu

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Bounds of a Config. The devices' come from the PCI slots they are given.
const (
	MaxDisks  = 15
	MaxNICs   = 8
	MaxCPUs   = 255
	MinMemory = 1 << 20
	MaxMemory = 1 << 42

	memoryUnit  = 8 << 10       // QEMU rounds up to it
	maxName     = 255           // bytes of a name
	maxPath     = 4096          // bytes of a path
	maxSocket   = 107           // bytes of a unix socket's path (unix(7))
	maxAppend   = 2047          // bytes of the kernel's command line (Linux on x86)
	maxExport   = 4096          // bytes of an export's name (NBD's "string")
	maxSerial   = 20            // bytes a virtio disk can tell the guest
	maxTap      = 15            // bytes of an interface's name (IFNAMSIZ)
	maxRecon    = 7 * 24 * 3600 // seconds
	maxCPUModel = 200

	maxVariables = 16 << 20 // bytes of UEFI variables; QEMU has 8 MiB at most for all of the firmware
)

var (
	machineName = regexp.MustCompile(`^pc-q35-[0-9]{1,3}\.[0-9]{1,3}$`)
	// A model and features that are added and taken away: "max,-avx2", "EPYC,+x2apic".
	cpuModel = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*(,[+-]?[a-z0-9][a-z0-9._-]*(=(on|off))?)*$`)
	nodeName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]{0,30}$`)
	serial   = regexp.MustCompile(`^[\x20-\x7e]*$`)
	tapName  = regexp.MustCompile(`^[^\s/:,%]+$`)
)

// ErrConfig: a configuration that cannot be; the error it is wrapped in says what.
var ErrConfig = errors.New("bad VM configuration")

// Validate checks all that does not depend on the host. Whatever of a
// configuration goes into QEMU's command line goes through here.
func (c *Config) Validate() error {
	if err := c.validate(); err != nil {
		return fmt.Errorf("%w: VM %.100q: %w", ErrConfig, c.Name, err)
	}
	return nil
}

func (c *Config) validate() error {
	if err := plainText("name", c.Name, 1, maxName); err != nil {
		return err
	}
	switch {
	case c.UUID == uuid.Nil:
		return errors.New("no UUID")
	case c.MachineType != "" && !machineName.MatchString(c.MachineType):
		return fmt.Errorf("machine type %.100q: want pc-q35-N.M", c.MachineType)
	case c.Accel != AccelAuto && c.Accel != KVM && c.Accel != TCG:
		return fmt.Errorf("accelerator %.100q: want kvm, tcg or none given", c.Accel)
	case c.CPU != "" && (len(c.CPU) > maxCPUModel || !cpuModel.MatchString(c.CPU)):
		return fmt.Errorf("CPU model %.100q", c.CPU)
	case c.CPUs < 1 || c.CPUs > MaxCPUs:
		return fmt.Errorf("%d CPUs: want 1 to %d", c.CPUs, MaxCPUs)
	case c.Memory < MinMemory || c.Memory > MaxMemory || c.Memory%memoryUnit != 0:
		return fmt.Errorf("memory of %d bytes: want a multiple of 8 KiB from 1 MiB to 4 TiB", c.Memory)
	case len(c.Disks) > MaxDisks:
		return fmt.Errorf("%d disks: at most %d", len(c.Disks), MaxDisks)
	case len(c.NICs) > MaxNICs:
		return fmt.Errorf("%d network cards: at most %d", len(c.NICs), MaxNICs)
	}
	// The console's socket has the longest name.
	if err := absolute("runtime folder", c.RuntimeDir, maxSocket-len(fileConsole)-1); err != nil {
		return err
	}
	if err := c.validateBoot(); err != nil {
		return err
	}
	nodes := map[string]bool{}
	for i, d := range c.Disks {
		if err := d.validate(); err != nil {
			return fmt.Errorf("disk %d: %w", i, err)
		}
		if nodes[d.Node] {
			return fmt.Errorf("disk %d: two disks are called %q", i, d.Node)
		}
		nodes[d.Node] = true
	}
	for i, n := range c.NICs {
		if err := n.validate(); err != nil {
			return fmt.Errorf("network card %d: %w", i, err)
		}
	}
	return nil
}

func (c *Config) validateBoot() error {
	switch c.Firmware {
	case BIOS:
		if c.UEFIVars != "" || c.UEFIStore != nil {
			return errors.New("UEFI variables with a BIOS")
		}
	case UEFI:
		if err := c.validateVariables(); err != nil {
			return err
		}
	default:
		return fmt.Errorf("firmware %.100q: want uefi or none given", c.Firmware)
	}
	k := c.Kernel
	if k == nil {
		return nil
	}
	if err := absolute("kernel", k.Kernel, maxPath); err != nil {
		return err
	}
	if k.Initrd != "" {
		if err := absolute("initrd", k.Initrd, maxPath); err != nil {
			return err
		}
	}
	return plainText("kernel's command line", k.Append, 0, maxAppend)
}

func (c *Config) validateVariables() error {
	v := c.UEFIStore
	if v == nil {
		return absolute("UEFI variables", c.UEFIVars, maxPath)
	}
	if c.UEFIVars != "" {
		return errors.New("UEFI variables in a file and on a server")
	}
	if v.Size < 1 || v.Size > maxVariables {
		return fmt.Errorf("UEFI variables of %d bytes: want 1 to %d", v.Size, maxVariables)
	}
	if err := errors.Join(absolute("NBD socket", v.Socket, maxSocket), plainText("export's name", v.Export, 1, maxExport)); err != nil {
		return err
	}
	return checkDelay(v.ReconnectDelay)
}

// checkDelay checks for how long QEMU is to wait for an NBD server.
func checkDelay(d time.Duration) error {
	if d < 0 || d%time.Second != 0 || d > maxRecon*time.Second {
		return fmt.Errorf("reconnect delay %v: want whole seconds, at most a week", d)
	}
	return nil
}

func (d *Disk) validate() error {
	if !nodeName.MatchString(d.Node) {
		return fmt.Errorf("node name %.100q: want a letter, then letters, digits, - . _, at most 31 in all", d.Node)
	}
	if err := absolute("NBD socket", d.Socket, maxSocket); err != nil {
		return err
	}
	if err := plainText("export's name", d.Export, 0, maxExport); err != nil {
		return err
	}
	switch {
	case len(d.Serial) > maxSerial || !serial.MatchString(d.Serial):
		return fmt.Errorf("serial number %.100q: want at most %d printable ASCII characters", d.Serial, maxSerial)
	case !d.OnWriteError.valid(true):
		return fmt.Errorf("policy on write errors %.100q: want stop, report or enospc", d.OnWriteError)
	case !d.OnReadError.valid(false):
		return fmt.Errorf("policy on read errors %.100q: want stop or report", d.OnReadError)
	}
	if err := checkDelay(d.ReconnectDelay); err != nil {
		return err
	}
	logical, physical := d.sectors()
	if (logical != 512 && logical != 4096) || (physical != 512 && physical != 4096) || physical < logical {
		return fmt.Errorf("sectors of %d and %d bytes: want 512 or 4096, and the physical ones no smaller", logical, physical)
	}
	return nil
}

func (d *Disk) sectors() (logical, physical int) {
	logical, physical = d.LogicalSector, d.PhysicalSector
	if logical == 0 {
		logical = 512
	}
	if physical == 0 {
		physical = 4096
	}
	return logical, physical
}

func (p ErrorPolicy) valid(write bool) bool {
	return p == "" || p == ErrorStop || p == ErrorReport || write && p == ErrorENOSPC
}

func (n *NIC) validate() error {
	switch n.Network {
	case NetUser, NetNone:
		if n.Tap != "" {
			return fmt.Errorf("a tap device with network %s", n.Network)
		}
	case NetTap:
		if len(n.Tap) > maxTap || !tapName.MatchString(n.Tap) {
			return fmt.Errorf("tap device %.100q is no interface's name", n.Tap)
		}
		if err := plainText("tap device", n.Tap, 1, maxTap); err != nil {
			return err
		}
	default:
		return fmt.Errorf("network %.100q: want user, tap or none", n.Network)
	}
	if n.MAC == (MAC{}) || n.MAC[0]&1 != 0 {
		return fmt.Errorf("MAC address %v: want a unicast one", n.MAC)
	}
	return nil
}

// absolute checks a path that QEMU opens.
func absolute(what, path string, limit int) error {
	if err := plainText(what, path, 1, limit); err != nil {
		return err
	}
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%s %.100q: want an absolute path", what, path)
	}
	return nil
}

// plainText checks for UTF-8 without control characters. JSON cannot carry other
// bytes, and would name something else without saying so.
func plainText(what, s string, low, high int) error {
	switch {
	case len(s) < low:
		return fmt.Errorf("no %s", what)
	case len(s) > high:
		return fmt.Errorf("%s of %d bytes: at most %d", what, len(s), high)
	case !utf8.ValidString(s):
		return fmt.Errorf("%s %.100q is not UTF-8", what, s)
	case strings.ContainsFunc(s, unicode.IsControl):
		return fmt.Errorf("%s %.100q has control characters", what, s)
	}
	return nil
}
