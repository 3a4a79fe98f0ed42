package smbstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// ConfigVersion is the version of the configuration file this package writes.
// It reads files of this version; fields it does not know are kept at every
// level when it changes one.
const ConfigVersion = 1

// ErrBadConfig: a configuration file cannot be used.
var ErrBadConfig = errors.New("bad VM configuration")

// maxConfig bounds a configuration file, in bytes.
const maxConfig = 4 << 20

// Config is a VM's configuration: `Virtual Machines\<GUID>.json` in its home.
// Paths in it are relative to the home, with '/' between components, so that a
// moved home needs no rewriting.
type Config struct {
	Version  int       `json:"version"`
	ID       string    `json:"id"` // GUID, lower case, as in the file's name
	Name     string    `json:"name"`
	Created  time.Time `json:"created,omitzero"`
	CPUs     int       `json:"cpus"`
	Memory   int64     `json:"memory"`   // bytes
	Firmware string    `json:"firmware"` // "uefi" or "bios"
	// UEFIVariables is the file in the home with the UEFI's variables, "" until the VM
	// has any: what its flash memory holds, byte by byte.
	UEFIVariables string `json:"uefiVariables,omitempty"`
	// Kernel boots a Linux kernel without the disks' help; nil boots from the disks.
	Kernel *KernelBoot `json:"kernel,omitempty"`
	// MachineType and CPUModel are the hypervisor's names of what the guest saw when
	// it first ran: it is to see the same wherever it is continued. "" until then.
	MachineType string    `json:"machineType,omitempty"`
	CPUModel    string    `json:"cpuModel,omitempty"`
	Disks       []Disk    `json:"disks"`
	Networks    []Network `json:"networks,omitempty"`
	// StorageTrouble says what becomes of a guest whose storage does not answer for
	// StoragePatience seconds: "pause", which is also "", or "report", which tells the
	// guest. 0 seconds are DefaultStoragePatience.
	StorageTrouble  string `json:"storageTrouble,omitempty"`
	StoragePatience int    `json:"storagePatience,omitempty"`
	// Saved is the guest's state to continue from, nil to boot.
	Saved *SavedState `json:"saved,omitempty"`
	// Checkpoints are the tree's nodes, each naming its parent; Current is the
	// one the running disks grow from, "" without any.
	Checkpoints []Checkpoint `json:"checkpoints,omitempty"`
	Current     string       `json:"currentCheckpoint,omitempty"`
	// Unfinished are files in the home that an operation under way makes, or is about
	// to remove. Once it was cut, whoever owns the VM next removes those of them that
	// nothing needs.
	Unfinished []string `json:"unfinished,omitempty"`
	// Unmerged are images of checkpoints that were removed, which other images still
	// grow from: each takes in the one that does, once it is the only one.
	Unmerged []Unmerged `json:"unmerged,omitempty"`
	Notes    string     `json:"notes,omitempty"`

	unknown unknown
}

// Disk is a virtual disk of a VM, or of one of its checkpoints.
type Disk struct {
	Path       string `json:"path"`                 // in the home
	Format     Format `json:"format"`               // "raw", "vhd" or "vhdx"
	Controller string `json:"controller,omitempty"` // "scsi", "ide", "virtio" or "nvme"
	Slot       int    `json:"slot"`                 // on the controller

	unknown unknown
}

// Network is a network adapter.
type Network struct {
	Name   string `json:"name,omitempty"`
	MAC    string `json:"mac,omitempty"`
	Switch string `json:"switch,omitempty"` // the host's network it is on
	// Kind is "user": out through the host, nothing comes in; or "none", which is also
	// "": a cable to nowhere.
	Kind string `json:"kind,omitempty"`

	unknown unknown
}

// KernelBoot is a kernel to boot. Its files lie in the home.
type KernelBoot struct {
	Path   string `json:"path"`
	Initrd string `json:"initrd,omitempty"`
	Append string `json:"append,omitempty"` // the kernel's command line

	unknown unknown
}

// SavedState is a guest's memory and devices as they were at a moment of its disks.
type SavedState struct {
	Path    string    `json:"path"`              // in the home
	Machine string    `json:"machine,omitempty"` // of the virtual hardware it fits; "" if it does not say
	Size    int64     `json:"size"`              // bytes
	Taken   time.Time `json:"taken,omitzero"`

	unknown unknown
}

// What StorageTrouble says.
const (
	TroublePause  = "pause"
	TroubleReport = "report"
	// DefaultStoragePatience is in seconds.
	DefaultStoragePatience = 60
)

// Checkpoint is a node of the checkpoint tree: the disks as they were, read-only.
type Checkpoint struct {
	ID      string    `json:"id"`               // GUID
	Parent  string    `json:"parent,omitempty"` // "" for a root
	Name    string    `json:"name"`
	Created time.Time `json:"created,omitzero"`
	Disks   []Disk    `json:"disks"`
	Notes   string    `json:"notes,omitempty"`
	// Saved is the guest's state at that moment, nil if it was off.
	Saved *SavedState `json:"saved,omitempty"`
	// UEFIVariables is a copy of the variables at that moment, "" without.
	UEFIVariables string `json:"uefiVariables,omitempty"`

	unknown unknown
}

// Unmerged is an image that is no checkpoint's any more.
type Unmerged struct {
	Path string `json:"path"` // in the home
	// Child is the image of which a merge into this one has begun.
	Child string `json:"child,omitempty"`

	unknown unknown
}

type (
	plainUnmerged   Unmerged
	plainKernel     KernelBoot
	plainSaved      SavedState
	plainConfig     Config
	plainDisk       Disk
	plainNetwork    Network
	plainCheckpoint Checkpoint
)

// MarshalJSON writes the unknown fields too.
func (c Config) MarshalJSON() ([]byte, error) {
	if c.Disks == nil {
		c.Disks = []Disk{}
	}
	return encodeKeeping(plainConfig(c), c.unknown)
}

// UnmarshalJSON keeps the fields it does not know.
func (c *Config) UnmarshalJSON(b []byte) (err error) {
	var p plainConfig
	u, err := decodeKeeping(b, &p)
	*c = Config(p)
	c.unknown = u
	return err
}

// MarshalJSON writes the unknown fields too.
func (d Disk) MarshalJSON() ([]byte, error) { return encodeKeeping(plainDisk(d), d.unknown) }

// UnmarshalJSON keeps the fields it does not know.
func (d *Disk) UnmarshalJSON(b []byte) error {
	var p plainDisk
	u, err := decodeKeeping(b, &p)
	*d = Disk(p)
	d.unknown = u
	return err
}

// MarshalJSON writes the unknown fields too.
func (k KernelBoot) MarshalJSON() ([]byte, error) { return encodeKeeping(plainKernel(k), k.unknown) }

// UnmarshalJSON keeps the fields it does not know.
func (k *KernelBoot) UnmarshalJSON(b []byte) error {
	var p plainKernel
	u, err := decodeKeeping(b, &p)
	*k = KernelBoot(p)
	k.unknown = u
	return err
}

// MarshalJSON writes the unknown fields too.
func (s SavedState) MarshalJSON() ([]byte, error) { return encodeKeeping(plainSaved(s), s.unknown) }

// UnmarshalJSON keeps the fields it does not know.
func (s *SavedState) UnmarshalJSON(b []byte) error {
	var p plainSaved
	u, err := decodeKeeping(b, &p)
	*s = SavedState(p)
	s.unknown = u
	return err
}

// MarshalJSON writes the unknown fields too.
func (n Network) MarshalJSON() ([]byte, error) { return encodeKeeping(plainNetwork(n), n.unknown) }

// UnmarshalJSON keeps the fields it does not know.
func (n *Network) UnmarshalJSON(b []byte) error {
	var p plainNetwork
	u, err := decodeKeeping(b, &p)
	*n = Network(p)
	n.unknown = u
	return err
}

// MarshalJSON writes the unknown fields too.
func (c Checkpoint) MarshalJSON() ([]byte, error) {
	if c.Disks == nil {
		c.Disks = []Disk{}
	}
	return encodeKeeping(plainCheckpoint(c), c.unknown)
}

// UnmarshalJSON keeps the fields it does not know.
func (c *Checkpoint) UnmarshalJSON(b []byte) error {
	var p plainCheckpoint
	u, err := decodeKeeping(b, &p)
	*c = Checkpoint(p)
	c.unknown = u
	return err
}

// MarshalJSON writes the unknown fields too.
func (u Unmerged) MarshalJSON() ([]byte, error) { return encodeKeeping(plainUnmerged(u), u.unknown) }

// UnmarshalJSON keeps the fields it does not know.
func (u *Unmerged) UnmarshalJSON(b []byte) error {
	var p plainUnmerged
	other, err := decodeKeeping(b, &p)
	*u = Unmerged(p)
	u.unknown = other
	return err
}

// ParseConfig reads and checks a configuration file. Errors wrap ErrBadConfig.
func ParseConfig(b []byte) (Config, error) {
	if len(b) > maxConfig {
		return Config{}, fmt.Errorf("%w: larger than %d bytes", ErrBadConfig, maxConfig)
	}
	var c Config
	if err := json.Unmarshal(b, &c); err != nil {
		return Config{}, fmt.Errorf("%w: %v", ErrBadConfig, err)
	}
	if err := c.Check(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// Check says what is wrong with a configuration. Errors wrap ErrBadConfig.
func (c *Config) Check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrBadConfig, fmt.Sprintf(format, args...))
	}
	if c.Version != ConfigVersion {
		return bad("version %d, this program knows version %d", c.Version, ConfigVersion)
	}
	if !isGUID(c.ID) {
		return bad("id %q is no GUID", c.ID)
	}
	if err := CheckVMName(c.Name); err != nil {
		return bad("%v", err)
	}
	if c.CPUs < 0 || c.CPUs > 4096 || c.Memory < 0 || c.Memory > 1<<50 {
		return bad("%d CPUs, %d bytes of memory", c.CPUs, c.Memory)
	}
	if err := checkDisks(c.Disks); err != nil {
		return bad("%v", err)
	}
	if err := c.checkMachine(); err != nil {
		return bad("%v", err)
	}
	for _, name := range c.Unfinished {
		if err := checkName(name); err != nil {
			return bad("unfinished: %v", err)
		}
	}
	for _, u := range c.Unmerged {
		if err := errors.Join(checkName(u.Path), ignoreEmpty(u.Child)); err != nil {
			return bad("unmerged: %v", err)
		}
	}
	parents := make(map[string]string, len(c.Checkpoints))
	for _, cp := range c.Checkpoints {
		if !isGUID(cp.ID) {
			return bad("checkpoint id %q is no GUID", cp.ID)
		}
		if _, twice := parents[cp.ID]; twice {
			return bad("checkpoint %s is there twice", cp.ID)
		}
		parents[cp.ID] = cp.Parent
		if err := errors.Join(checkDisks(cp.Disks), cp.Saved.check(), checkVariables(cp.UEFIVariables)); err != nil {
			return bad("checkpoint %s: %v", cp.ID, err)
		}
	}
	return checkTree(parents, c.Current, bad)
}

// checkMachine looks at what a host needs to run the VM.
func (c *Config) checkMachine() error {
	if k := c.Kernel; k != nil {
		if err := checkName(k.Path); err != nil {
			return fmt.Errorf("kernel: %w", err)
		}
		if k.Initrd != "" {
			if err := checkName(k.Initrd); err != nil {
				return fmt.Errorf("initrd: %w", err)
			}
		}
	}
	if t := c.StorageTrouble; t != "" && t != TroublePause && t != TroubleReport {
		return fmt.Errorf("storageTrouble %q: there are %s and %s", t, TroublePause, TroubleReport)
	}
	if c.StoragePatience < 0 || c.StoragePatience > 7*24*3600 {
		return fmt.Errorf("storagePatience %d: want 0 seconds to a week", c.StoragePatience)
	}
	for _, n := range c.Networks {
		if n.Kind != "" && n.Kind != "none" && n.Kind != "user" {
			return fmt.Errorf("network %s: kind %q: there are user and none", n.Name, n.Kind)
		}
	}
	return errors.Join(checkVariables(c.UEFIVariables), c.Saved.check())
}

func checkVariables(name string) error {
	if name == "" {
		return nil
	}
	if err := checkName(name); err != nil {
		return fmt.Errorf("UEFI variables: %w", err)
	}
	return nil
}

func (s *SavedState) check() error {
	if s == nil {
		return nil
	}
	if err := checkName(s.Path); err != nil {
		return fmt.Errorf("saved state: %w", err)
	}
	if s.Size < 0 {
		return fmt.Errorf("saved state of %d bytes", s.Size)
	}
	return nil
}

// checkTree makes sure that every parent exists and no node is its own ancestor.
func checkTree(parents map[string]string, current string, bad func(string, ...any) error) error {
	if _, ok := parents[current]; !ok && current != "" {
		return bad("the current checkpoint %s is missing", current)
	}
	rooted := make(map[string]bool, len(parents))
	for id := range parents {
		var path []string
		for at := id; at != "" && !rooted[at]; at = parents[at] {
			if _, ok := parents[at]; !ok {
				return bad("checkpoint %s, a parent, is missing", at)
			}
			if path = append(path, at); len(path) > len(parents) {
				return bad("checkpoint %s is its own ancestor", id)
			}
		}
		for _, p := range path {
			rooted[p] = true
		}
	}
	return nil
}

// ignoreEmpty is checkName of a name that may be missing.
func ignoreEmpty(name string) error {
	if name == "" {
		return nil
	}
	return checkName(name)
}

func checkDisks(disks []Disk) error {
	for _, d := range disks {
		if err := checkName(d.Path); err != nil {
			return fmt.Errorf("disk path: %w", err)
		}
		if !d.Format.known() {
			return fmt.Errorf("disk %s: unknown format %q", d.Path, d.Format)
		}
		if d.Slot < 0 || d.Slot > 1<<16 {
			return fmt.Errorf("disk %s: slot %d", d.Path, d.Slot)
		}
	}
	return nil
}

// CheckVMName accepts what can be a folder's name on every share.
func CheckVMName(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	for _, r := range name {
		if r == '/' {
			return fmt.Errorf("%w: a VM's name has no /: %q", ErrBadName, name)
		}
	}
	if last := name[len(name)-1]; last == '.' || last == ' ' {
		return fmt.Errorf("%w: %q ends in %q", ErrBadName, name, last)
	}
	return nil
}

// isGUID accepts the one spelling files are named with.
func isGUID(s string) bool {
	u, err := uuid.Parse(s)
	return err == nil && u.String() == s
}

// encodeFile is how configuration and records lie on disk.
func encodeFile(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}
