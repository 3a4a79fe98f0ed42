package qemu

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"lunless/migrate/qemu/qmp"
)

func plainConfig() Config {
	return Config{Name: "web1", UUID: uuid.MustParse("5b1f0b8e-0a52-4f0e-9a50-8f0f6f0d2c11"), MachineType: "pc-q35-7.2", Accel: TCG, CPU: "max",
		CPUs: 2, Memory: 96<<20 - 8<<10, RuntimeDir: "/run/vm",
		Disks: []Disk{{Node: "disk0", Socket: "/run/nbd.sock", Export: "disk0", Serial: "S1", ReconnectDelay: 5 * time.Second}},
		NICs:  []NIC{{Network: NetUser, MAC: MAC{0x52, 0x54, 0, 1, 2, 3}}}}
}

func TestValidate(t *testing.T) {
	plain := plainConfig()
	if err := plain.Validate(); err != nil {
		t.Fatal(err)
	}
	bad := map[string]func(*Config){
		"no name":              func(c *Config) { c.Name = "" },
		"long name":            func(c *Config) { c.Name = strings.Repeat("n", 256) },
		"line in name":         func(c *Config) { c.Name = "a\nb" },
		"NUL in name":          func(c *Config) { c.Name = "a\x00b" },
		"name not UTF-8":       func(c *Config) { c.Name = "a\xff" },
		"no UUID":              func(c *Config) { c.UUID = uuid.Nil },
		"machine's options":    func(c *Config) { c.MachineType = "pc-q35-7.2,dumpdtb=/etc/x" },
		"another machine":      func(c *Config) { c.MachineType = "microvm" },
		"accelerator":          func(c *Config) { c.Accel = "tcg,tb-size=1" },
		"CPU's options":        func(c *Config) { c.CPU = "max,hv-vendor-id=a b" },
		"no CPU":               func(c *Config) { c.CPUs = 0 },
		"CPUs":                 func(c *Config) { c.CPUs = 1 << 20 },
		"no memory":            func(c *Config) { c.Memory = 0 },
		"negative memory":      func(c *Config) { c.Memory = -8 << 10 },
		"odd memory":           func(c *Config) { c.Memory += 4096 },
		"memory":               func(c *Config) { c.Memory = 1 << 50 },
		"relative folder":      func(c *Config) { c.RuntimeDir = "vm" },
		"long folder":          func(c *Config) { c.RuntimeDir = "/" + strings.Repeat("d", 100) },
		"firmware":             func(c *Config) { c.Firmware = "/etc/passwd" },
		"UEFI with no place":   func(c *Config) { c.Firmware = UEFI },
		"variables of a BIOS":  func(c *Config) { c.UEFIVars = "/vars" },
		"a BIOS's on a server": func(c *Config) { c.UEFIStore = &VariableStore{Socket: "/s", Export: "vars", Size: 512} },
		"variables twice": func(c *Config) {
			c.Firmware, c.UEFIVars, c.UEFIStore = UEFI, "/vars", &VariableStore{Socket: "/s", Export: "vars", Size: 512}
		},
		"no variables":       func(c *Config) { c.Firmware, c.UEFIStore = UEFI, &VariableStore{Socket: "/s", Export: "vars"} },
		"variables nowhere":  func(c *Config) { c.Firmware, c.UEFIStore = UEFI, &VariableStore{Export: "vars", Size: 512} },
		"variables, no name": func(c *Config) { c.Firmware, c.UEFIStore = UEFI, &VariableStore{Socket: "/s", Size: 512} },
		"variables' patience": func(c *Config) {
			c.Firmware, c.UEFIStore = UEFI, &VariableStore{Socket: "/s", Export: "vars", Size: 512, ReconnectDelay: -time.Second}
		},
		"no kernel":           func(c *Config) { c.Kernel = &KernelBoot{} },
		"relative kernel":     func(c *Config) { c.Kernel = &KernelBoot{Kernel: "-monitor"} },
		"relative initrd":     func(c *Config) { c.Kernel = &KernelBoot{Kernel: "/k", Initrd: "i"} },
		"long command line":   func(c *Config) { c.Kernel = &KernelBoot{Kernel: "/k", Append: strings.Repeat("a", 2048)} },
		"node's name":         func(c *Config) { c.Disks[0].Node = "a,b" },
		"node's name's start": func(c *Config) { c.Disks[0].Node = "#block1" },
		"no node":             func(c *Config) { c.Disks[0].Node = "" },
		"nodes of one name":   func(c *Config) { c.Disks = append(c.Disks, c.Disks[0]) },
		"disks":               func(c *Config) { c.Disks = make([]Disk, MaxDisks+1) },
		"relative socket":     func(c *Config) { c.Disks[0].Socket = "nbd.sock" },
		"long socket":         func(c *Config) { c.Disks[0].Socket = "/" + strings.Repeat("s", 107) },
		"export not UTF-8":    func(c *Config) { c.Disks[0].Export = "\xc3" },
		"long export":         func(c *Config) { c.Disks[0].Export = strings.Repeat("e", 4097) },
		"long serial number":  func(c *Config) { c.Disks[0].Serial = strings.Repeat("s", 21) },
		"serial not ASCII":    func(c *Config) { c.Disks[0].Serial = "é" },
		"half a second":       func(c *Config) { c.Disks[0].ReconnectDelay = time.Second / 2 },
		"negative delay":      func(c *Config) { c.Disks[0].ReconnectDelay = -time.Second },
		"policy":              func(c *Config) { c.Disks[0].OnWriteError = "ignore" },
		"policy on reads":     func(c *Config) { c.Disks[0].OnReadError = ErrorENOSPC },
		"sector":              func(c *Config) { c.Disks[0].LogicalSector = 1024 },
		"sectors":             func(c *Config) { c.Disks[0].LogicalSector, c.Disks[0].PhysicalSector = 4096, 512 },
		"network":             func(c *Config) { c.NICs[0].Network = "bridge" },
		"no network":          func(c *Config) { c.NICs[0].Network = "" },
		"tap of a user's":     func(c *Config) { c.NICs[0].Tap = "tap0" },
		"no tap":              func(c *Config) { c.NICs[0] = NIC{Network: NetTap, MAC: c.NICs[0].MAC} },
		"tap's name":          func(c *Config) { c.NICs[0] = NIC{Network: NetTap, Tap: "../x", MAC: c.NICs[0].MAC} },
		"tap's long name":     func(c *Config) { c.NICs[0] = NIC{Network: NetTap, Tap: "0123456789abcdef", MAC: c.NICs[0].MAC} },
		"no MAC address":      func(c *Config) { c.NICs[0].MAC = MAC{} },
		"a multicast address": func(c *Config) { c.NICs[0].MAC[0] = 1 },
		"more network cards":  func(c *Config) { c.NICs = make([]NIC, MaxNICs+1) },
	}
	for name, change := range bad {
		c := plainConfig()
		change(&c)
		if err := c.Validate(); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v, want ErrConfig", name, err)
		}
	}
}

func TestDigest(t *testing.T) {
	plain := plainConfig()
	want := plain.Digest()
	same := map[string]func(*Config){
		"folder": func(c *Config) { c.RuntimeDir = "/run/other" },
		"socket": func(c *Config) { c.Disks[0].Socket, c.Disks[0].Export = "/other", "x" },
		"name":   func(c *Config) { c.Name = "web2" },
		"policy": func(c *Config) { c.Disks[0].OnWriteError = ErrorReport },
		"state":  func(c *Config) { c.Incoming, c.Paused = true, true },
	}
	other := map[string]func(*Config){
		"machine":     func(c *Config) { c.MachineType = "pc-q35-7.1" },
		"accelerator": func(c *Config) { c.Accel = KVM },
		"CPU":         func(c *Config) { c.CPU = "host" },
		"CPUs":        func(c *Config) { c.CPUs++ },
		"memory":      func(c *Config) { c.Memory += 8 << 10 },
		"serial":      func(c *Config) { c.Disks[0].Serial = "S2" },
		"sector":      func(c *Config) { c.Disks[0].LogicalSector = 4096 },
		"disk":        func(c *Config) { c.Disks = nil },
		"card":        func(c *Config) { c.NICs[0].MAC[5]++ },
		"tap":         func(c *Config) { c.NICs[0].Network, c.NICs[0].Tap = NetTap, "tap0" },
		"kernel":      func(c *Config) { c.Kernel = &KernelBoot{Kernel: "/k"} },
		"firmware":    func(c *Config) { c.Firmware, c.UEFIVars = UEFI, "/vars" },
		"UUID":        func(c *Config) { c.UUID[0]++ },
	}
	for name, change := range same {
		c := plainConfig()
		if change(&c); c.Digest() != want {
			t.Errorf("%s changes the digest", name)
		}
	}
	for name, change := range other {
		c := plainConfig()
		if change(&c); c.Digest() == want {
			t.Errorf("%s does not change the digest", name)
		}
	}
}

// A configuration reads back as it was written: the record and the VM's own
// configuration hold it.
func TestConfigJSON(t *testing.T) {
	c := plainConfig()
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var back Config
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(back)
	if err != nil || !bytes.Equal(b, again) || back.Digest() != c.Digest() {
		t.Errorf("%s\nread back and written again: %s, %v", b, again, err)
	}
	for _, bad := range []string{`"x"`, `"52:54:00:12:34"`, `"02:00:5e:10:00:00:00:01"`} {
		if json.Unmarshal([]byte(bad), new(MAC)) == nil {
			t.Errorf("MAC address %s was taken", bad)
		}
	}
}

// TestNastyNames gives QEMU names that would be options if they were not quoted,
// and asks it back what it made of them.
func TestNastyNames(t *testing.T) {
	t.Parallel()
	nasty := `a,b=c,,"d" 'e' {"f":1} %n $(g) \ ü -h,server=off,path=x`
	c := testConfig(t)
	c.RuntimeDir = filepath.Join(c.RuntimeDir, `a,b=c" ü,wait=on`)
	if err := os.Mkdir(c.RuntimeDir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { killAt(t, c.RuntimeDir) })
	c.Name, c.Kernel, c.Paused, c.CPUs = nasty, nil, true, 3
	export := `x,export="y",` + nasty
	socket := filepath.Join(c.RuntimeDir, `n,"b".sock`)
	serveNBD(t, socket, export)
	c.Disks = []Disk{{Node: "d-0._", Socket: socket, Export: export, Serial: `s,"=\ {}`, ReconnectDelay: 3 * time.Second,
		DetectZeroes: true, OnWriteError: ErrorENOSPC, OnReadError: ErrorReport}}
	v := startVM(t, c)

	var name struct{ Name string }
	v.query("query-name", nil, &name)
	if name.Name != nasty {
		t.Errorf("the VM is called %q", name.Name)
	}
	var cpus []struct{}
	if v.query("query-cpus-fast", nil, &cpus); len(cpus) != c.CPUs {
		t.Errorf("%d CPUs, want %d", len(cpus), c.CPUs)
	}
	var chardevs []struct{ Label, Filename string }
	v.query("query-chardev", nil, &chardevs)
	var labels []string
	for _, ch := range chardevs {
		labels = append(labels, ch.Label)
	}
	slices.Sort(labels)
	if !slices.Equal(labels, []string{"console", "qmp", "spare"}) {
		t.Errorf("QEMU has the character devices %q", labels)
	}
	for _, path := range []string{v.ConsoleSocket(), v.SpareMonitor()} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		conn.Close()
	}
	var serial string
	v.query("qom-get", map[string]string{"path": "/machine/peripheral/" + diskID(0), "property": "serial"}, &serial)
	if serial != c.Disks[0].Serial {
		t.Errorf("the disk's serial number is %q", serial)
	}
	var nodes []struct {
		Node string `json:"node-name"`
		Drv  string `json:"drv"`
	}
	v.query("query-named-block-nodes", nil, &nodes)
	if len(nodes) != 1 || nodes[0].Node != "d-0._" || nodes[0].Drv != "nbd" {
		t.Errorf("QEMU has the block nodes %+v", nodes)
	}
	stats, err := v.BlockStats(v.ctx)
	if err != nil || len(stats) != 1 || stats["d-0._"].Writes != 0 {
		t.Errorf("statistics %+v, %v", stats, err)
	}
	// The second monitor is there for people.
	c2, err := qmp.Dial(v.ctx, v.SpareMonitor())
	if err != nil {
		t.Fatal(err)
	}
	c2.Close()
	v.do("quit", v.Quit)
	if exit, err := v.Wait(v.ctx); err != nil || exit.Reason != "host-qmp-quit" {
		t.Errorf("ended with %+v, %v", exit, err)
	}
}

func (v *testVM) query(command string, args, ret any) {
	v.t.Helper()
	if err := v.Execute(v.ctx, command, args, ret); err != nil {
		v.t.Error(err)
	}
}

// serveNBD serves an empty disk of 16 MiB until the test ends.
func serveNBD(t *testing.T, socket, export string) *exec.Cmd {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 16<<20); err != nil {
		t.Fatal(err)
	}
	return runNBD(t, socket, "-f", "raw", "-x", export, "--discard=unmap", image)
}

func runNBD(t *testing.T, socket string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("qemu-nbd", append([]string{"-t", "-e", "4", "-k", socket}, args...)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v (install qemu-utils)", err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	go io.Copy(io.Discard, stderr)
	for range 1000 {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return cmd
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("qemu-nbd does not listen")
	return nil
}

func TestUEFI(t *testing.T) {
	t.Parallel()
	if _, err := findUEFI(-1); err != nil {
		t.Fatal(err)
	}
	c := testConfig(t)
	c.Firmware, c.UEFIVars, c.Memory = UEFI, filepath.Join(c.RuntimeDir, "vars,x"), 256<<20
	v := startVM(t, c)
	v.output("GUEST-UP")
	v.say("[ -d /sys/firmware/efi ] && echo EFI-$((1+1))")
	v.output("EFI-2")
	v.do("quit", v.Quit)
	v = startVM(t, c) // with the variables it has now
	v.do("quit", v.Quit)
	if err := os.WriteFile(c.UEFIVars, []byte("of another firmware"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(testContext(t), c); !errors.Is(err, ErrNoUEFI) || !strings.Contains(err.Error(), c.UEFIVars) {
		t.Errorf("start with variables of another firmware: %v", err)
	}
}

func TestNoUEFI(t *testing.T) {
	all := ovmf
	ovmf = nil
	defer func() { ovmf = all }()
	c := testConfig(t)
	c.Firmware, c.UEFIVars = UEFI, filepath.Join(c.RuntimeDir, "vars")
	if _, err := Start(testContext(t), c); !errors.Is(err, ErrNoUEFI) || !strings.Contains(err.Error(), "install ovmf") {
		t.Errorf("start without the firmware: %v", err)
	}
}

// The guest that tries an accelerator out is noticed when it runs. That KVM may be
// there and not work is for KVM to say.
func TestProbe(t *testing.T) {
	t.Parallel()
	b, err := LookBinary(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.runsGuest(t.Context(), TCG); err != nil {
		t.Error(err)
	}
	if !b.Sandbox {
		t.Error("no sandbox")
	}
	err = b.KVM(t.Context())
	if err != nil && !errors.Is(err, ErrNoKVM) {
		t.Error(err)
	}
	c := testConfig(t)
	c.Accel = AccelAuto
	resolved, resolveErr := Resolve(t.Context(), c)
	if resolveErr != nil || (resolved.Accel == KVM) != (err == nil) {
		t.Errorf("KVM: %v; chosen %q, %v", err, resolved.Accel, resolveErr)
	}
	if again, err := Resolve(t.Context(), resolved); err != nil || again.Digest() != resolved.Digest() {
		t.Errorf("resolved again: %+v, %v", again, err)
	}
	c.Accel = KVM
	if _, kvmErr := Resolve(t.Context(), c); !errors.Is(kvmErr, err) {
		t.Errorf("KVM asked for: %v, want %v", kvmErr, err)
	}
	c.Accel, c.MachineType = TCG, "pc-q35-99.0"
	if _, err := Resolve(t.Context(), c); err == nil || !strings.Contains(err.Error(), b.q35[len(b.q35)-1].name) {
		t.Errorf("a machine that this QEMU has not: %v", err)
	}
	if _, err := LookBinary(t.Context(), "/bin/false"); err == nil {
		t.Error("a program that is no QEMU was taken for one")
	}
}
