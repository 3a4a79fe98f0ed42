package qemu

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// What a VM's runtime folder holds.
const (
	fileRecord  = "vm.json"      // who runs: record
	filePID     = "qemu.pid"     // QEMU's own
	fileLog     = "qemu.log"     // its stdout and stderr
	fileQMP     = "qmp.sock"     // the agent's monitor
	fileSpare   = "monitor.sock" // a second monitor, for people
	fileConsole = "console.sock"
	fileOutput  = "console.log"
)

// PCI slots on the root bus. A state holds each device's, so that they never
// change with what else the VM has.
const (
	slotPanic = 0x02
	slotNIC   = 0x04
	slotDisk  = 0x10
)

const sandboxArg = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// object is JSON for an option of QEMU, which needs no quoting of our own.
type object map[string]any

func (o object) String() string {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err) // strings, numbers, booleans and such objects
	}
	return string(b)
}

// option is a value in an option of the form key=value,key=value: commas are
// doubled.
func option(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// argv returns QEMU's arguments for a resolved and valid configuration. Nothing
// secret is in one.
func argv(c *Config, dir string, ovmf firmwareFiles, sandbox bool) []string {
	in := func(name string) string { return option(filepath.Join(dir, name)) }
	a := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-msg", "timestamp=on",
		"-name", "guest=" + option(c.Name), "-uuid", c.UUID.String(),
		"-machine", machineArg(c), "-accel", string(c.Accel), "-cpu", c.CPU,
		"-smp", fmt.Sprintf("%d,sockets=1,cores=%d,threads=1", c.CPUs, c.CPUs),
		"-m", fmt.Sprintf("size=%dK", c.Memory>>10),
		// A guest that powers off or panics stays until the driver has seen why.
		"-action", "panic=pause,shutdown=pause,reboot=reset",
		"-pidfile", filepath.Join(dir, filePID),
		"-chardev", "socket,id=qmp,server=on,wait=off,path=" + in(fileQMP), "-mon", "chardev=qmp,mode=control",
		"-chardev", "socket,id=spare,server=on,wait=off,path=" + in(fileSpare), "-mon", "chardev=spare,mode=control",
		"-chardev", "socket,id=console,server=on,wait=off,logappend=on,logfile=" + in(fileOutput) + ",path=" + in(fileConsole),
		"-serial", "chardev:console",
		"-device", object{"driver": "pvpanic-pci", "id": "panic", "addr": slot(slotPanic, 0)}.String(),
	}
	if sandbox {
		a = append(a, "-sandbox", sandboxArg)
	}
	if c.Firmware == UEFI {
		a = append(a,
			"-blockdev", pflash("uefi-code", inFile(ovmf.code), true), "-blockdev", pflash("uefi-vars", variables(c), false))
	}
	if k := c.Kernel; k != nil {
		a = append(a, "-kernel", k.Kernel)
		if k.Initrd != "" {
			a = append(a, "-initrd", k.Initrd)
		}
		if k.Append != "" {
			a = append(a, "-append", k.Append)
		}
	}
	for i := range c.Disks {
		a = append(a, diskArgs(&c.Disks[i], i, c.Kernel == nil && i == 0)...)
	}
	for i := range c.NICs {
		a = append(a, nicArgs(&c.NICs[i], i)...)
	}
	if c.Paused || c.Incoming {
		a = append(a, "-S")
	}
	if c.Incoming {
		a = append(a, "-incoming", "defer")
	}
	return a
}

func machineArg(c *Config) string {
	if c.Firmware == UEFI {
		return c.MachineType + ",pflash0=uefi-code,pflash1=uefi-vars"
	}
	return c.MachineType
}

func pflash(node string, in object, readOnly bool) string {
	return object{"driver": "raw", "node-name": node, "read-only": readOnly, "file": in}.String()
}

func inFile(path string) object { return object{"driver": "file", "filename": path} }

// variables is where the UEFI's variables are.
func variables(c *Config) object {
	v := c.UEFIStore
	if v == nil {
		return inFile(c.UEFIVars)
	}
	return onServer(v.Socket, v.Export, v.ReconnectDelay)
}

// onServer is an export of an NBD server.
func onServer(socket, export string, reconnect time.Duration) object {
	o := object{"driver": "nbd", "server": object{"type": "unix", "path": socket}, "export": export}
	if s := int(reconnect.Seconds()); s > 0 {
		o["reconnect-delay"] = s
	}
	return o
}

func slot(first, i int) string { return strconv.FormatInt(int64(first+i), 16) }

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

func diskArgs(d *Disk, i int, boot bool) []string {
	discard, zeroes := "unmap", "off"
	switch {
	case d.NoDiscard && d.DetectZeroes:
		discard, zeroes = "ignore", "on"
	case d.NoDiscard:
		discard = "ignore"
	case d.DetectZeroes:
		zeroes = "unmap"
	}
	node := onServer(d.Socket, d.Export, d.ReconnectDelay)
	maps.Copy(node, object{"node-name": d.Node, "read-only": d.ReadOnly, "discard": discard, "detect-zeroes": zeroes,
		"cache": object{"direct": true, "no-flush": false}})
	thread := "io-" + strconv.Itoa(i)
	logical, physical := d.sectors()
	device := object{"driver": "virtio-blk-pci", "id": diskID(i), "drive": d.Node, "iothread": thread, "addr": slot(slotDisk, i),
		"werror": policy(d.OnWriteError), "rerror": policy(d.OnReadError),
		"logical_block_size": logical, "physical_block_size": physical,
		"write-cache": onOff(!d.WriteThrough), "discard": !d.NoDiscard}
	if d.Serial != "" {
		device["serial"] = d.Serial
	}
	if boot { // a kernel that is booted directly has this index itself
		device["bootindex"] = 0
	}
	return []string{"-object", object{"qom-type": "iothread", "id": thread}.String(),
		"-blockdev", node.String(), "-device", device.String()}
}

// diskID is the device's name; the block node's is the caller's choice.
func diskID(i int) string { return "disk-" + strconv.Itoa(i) }

func policy(p ErrorPolicy) string {
	if p == "" {
		return string(ErrorStop)
	}
	return string(p)
}

func nicArgs(n *NIC, i int) []string {
	id := "net-" + strconv.Itoa(i)
	device := object{"driver": "virtio-net-pci", "id": "nic-" + strconv.Itoa(i), "mac": n.MAC.String(), "addr": slot(slotNIC, i), "romfile": ""}
	var back object
	switch n.Network {
	case NetUser:
		back = object{"type": "user", "id": id}
	case NetTap:
		back = object{"type": "tap", "id": id, "ifname": n.Tap, "script": "no", "downscript": "no"}
	case NetNone:
		return []string{"-device", device.String()}
	}
	device["netdev"] = id
	return []string{"-netdev", back.String(), "-device", device.String()}
}
