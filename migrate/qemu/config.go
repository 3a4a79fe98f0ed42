package qemu

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net"
	"time"

	"github.com/google/uuid"
)

// Accel is what runs the guest's instructions.
type Accel string

// Accelerators.
const (
	AccelAuto Accel = ""    // KVM where it works, else TCG
	KVM       Accel = "kvm" // the kernel's
	TCG       Accel = "tcg" // QEMU's own translation, some ten times as slow
)

// Firmware is what the guest starts with.
type Firmware string

// Firmwares.
const (
	BIOS Firmware = "" // SeaBIOS
	UEFI Firmware = "uefi"
)

// Config describes a VM. Resolve fills in what is left open; what it returns
// belongs into the VM's own configuration, so that the VM is later restored and
// moved with the same machine.
type Config struct {
	Name string    `json:"name"`
	UUID uuid.UUID `json:"uuid"`

	MachineType string `json:"machineType,omitempty"` // pc-q35-N.M; "" for the newest that QEMU has
	Accel       Accel  `json:"accel,omitempty"`
	CPU         string `json:"cpu,omitempty"` // model; "" for host under KVM, max under TCG
	CPUs        int    `json:"cpus"`
	// Memory is the guest's RAM in bytes. Under TCG, Resolve takes 8 KiB from a
	// multiple of 256 KiB: QEMU before 9.0 forgets changed pages of such a RAM when
	// it migrates, which damages the guest.
	Memory int64 `json:"memory"`

	Firmware Firmware `json:"firmware,omitempty"`
	// UEFIVars is the file with the VM's UEFI variables; it is made when missing.
	// UEFIStore has them on an NBD server instead.
	UEFIVars  string         `json:"uefiVars,omitempty"`
	UEFIStore *VariableStore `json:"uefiStore,omitempty"`
	Kernel    *KernelBoot    `json:"kernel,omitempty"` // nil: boot from the disks

	Disks []Disk `json:"disks,omitempty"` // at most MaxDisks
	NICs  []NIC  `json:"nics,omitempty"`  // at most MaxNICs

	// RuntimeDir is a folder for this VM alone, absolute, on a local file system,
	// and short: it holds unix sockets. Binary is QEMU; "" for DefaultBinary.
	RuntimeDir string `json:"-"`
	Binary     string `json:"-"`

	// Paused leaves the guest stopped until Cont.
	Paused bool `json:"paused,omitempty"`
	// Incoming has QEMU wait for a state (Restore). The guest is stopped then, too.
	Incoming bool `json:"incoming,omitempty"`
}

// VariableStore is an NBD export with UEFI variables: what UEFIVariables gives, or
// became of it. The guest stands while it waits for the server.
type VariableStore struct {
	Socket string `json:"socket"` // the NBD server's unix socket, absolute
	Export string `json:"export"` // name there
	Size   int64  `json:"size"`   // bytes
	// ReconnectDelay is how long changes wait for a lost server, in whole seconds.
	ReconnectDelay time.Duration `json:"reconnectDelay,omitempty"`
}

// KernelBoot boots a kernel without the disks' help. Paths are absolute.
type KernelBoot struct {
	Kernel string `json:"kernel"`
	Initrd string `json:"initrd,omitempty"`
	Append string `json:"append,omitempty"`
}

// ErrorPolicy is what QEMU does when a disk's request fails.
type ErrorPolicy string

// Policies.
const (
	ErrorStop   ErrorPolicy = "stop"   // pause the guest; Cont tries the request again
	ErrorReport ErrorPolicy = "report" // tell the guest
	ErrorENOSPC ErrorPolicy = "enospc" // pause when the disk is full, else tell the guest (writes only)
)

// Disk is a virtio-blk disk of which QEMU is an NBD client.
type Disk struct {
	Node   string `json:"node"`             // block node's name: letters, digits, - . _, at most 31
	Socket string `json:"socket"`           // the NBD server's unix socket, absolute
	Export string `json:"export,omitempty"` // name there
	Serial string `json:"serial,omitempty"` // at most 20 printable ASCII characters
	// ReconnectDelay is how long requests wait for a lost server before they fail, in
	// whole seconds. 0 fails them at once. QEMU tries to connect at growing intervals: a
	// server that is back shortly before the end may be found too late.
	ReconnectDelay time.Duration `json:"reconnectDelay,omitempty"`
	ReadOnly       bool          `json:"readOnly,omitempty"`
	WriteThrough   bool          `json:"writeThrough,omitempty"` // the guest sees no volatile cache; each write is flushed
	NoDiscard      bool          `json:"noDiscard,omitempty"`    // the guest cannot trim
	DetectZeroes   bool          `json:"detectZeroes,omitempty"` // writes of zeros become write-zeroes (and trim)
	OnWriteError   ErrorPolicy   `json:"onWriteError,omitempty"` // "" for ErrorStop
	OnReadError    ErrorPolicy   `json:"onReadError,omitempty"`  // "" for ErrorStop
	LogicalSector  int           `json:"logicalSector,omitempty"`
	PhysicalSector int           `json:"physicalSector,omitempty"` // bytes; 0 for 512 and 4096
}

// Network is what a NIC is connected with.
type Network string

// Networks.
const (
	NetUser Network = "user" // QEMU's own: out through the host's sockets, nothing comes in
	NetTap  Network = "tap"  // a tap device that exists already
	NetNone Network = "none" // the link is there and leads nowhere
)

// NIC is a virtio-net card.
type NIC struct {
	Network Network `json:"network"`
	Tap     string  `json:"tap,omitempty"`
	MAC     MAC     `json:"mac"`
}

// MAC is a unicast Ethernet address.
type MAC [6]byte

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText and UnmarshalText write it as 52:54:00:12:34:56.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText is the other way round.
func (m *MAC) UnmarshalText(b []byte) error {
	a, err := net.ParseMAC(string(b))
	if err != nil {
		return err
	}
	if len(a) != len(m) {
		return &net.AddrError{Err: "not a MAC address of 6 bytes", Addr: string(b)}
	}
	copy(m[:], a)
	return nil
}

// Digest is a SHA-256, in hexadecimal, over what of a resolved configuration the
// guest can see. A state fits only VMs whose digests are the same; where disks,
// sockets and kernels lie does not matter.
func (c *Config) Digest() string {
	type disk struct {
		Serial                 string
		ReadOnly, WriteThrough bool
		NoDiscard              bool
		Logical, Physical      int
	}
	// A tap takes work off the guest (checksums, segmentation) that the others
	// do not, which the guest was told.
	type nic struct {
		MAC MAC
		Tap bool
	}
	seen := struct {
		Version            int
		UUID               uuid.UUID
		Machine, CPU       string
		Accel              Accel
		CPUs               int
		Memory             int64
		Firmware           Firmware
		KernelBoot, Initrd bool
		Disks              []disk
		NICs               []nic
	}{1, c.UUID, c.MachineType, c.CPU, c.Accel, c.CPUs, c.Memory, c.Firmware,
		c.Kernel != nil, c.Kernel != nil && c.Kernel.Initrd != "", nil, nil}
	for _, d := range c.Disks {
		seen.Disks = append(seen.Disks, disk{d.Serial, d.ReadOnly, d.WriteThrough, d.NoDiscard, d.LogicalSector, d.PhysicalSector})
	}
	for _, n := range c.NICs {
		seen.NICs = append(seen.NICs, nic{n.MAC, n.Network == NetTap})
	}
	b, err := json.Marshal(seen)
	if err != nil {
		panic(err) // the struct above has nothing that can fail
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
