package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lunless/migrate/qemu/qmp"
)

// DefaultBinary is what is looked for in PATH.
const DefaultBinary = "qemu-system-x86_64"

// probeTime bounds the runs of QEMU that find out what it can do.
const probeTime = 10 * time.Second

// Binary is a QEMU and what it can do here.
type Binary struct {
	Path    string // absolute
	Version qmp.Version
	Sandbox bool // -sandbox works

	q35 []machineType // oldest first

	kvmOnce chan struct{} // holds the token of who tries KVM
	kvmDone bool
	kvmErr  error
}

type machineType struct {
	name         string
	major, minor int
	maxCPUs      int
	deprecated   bool
}

// binaries remembers each file that was looked at.
var binaries struct {
	sync.Mutex
	known map[string]*Binary
}

// LookBinary finds out what a QEMU can do, once for each file: "" for
// DefaultBinary.
func LookBinary(ctx context.Context, path string) (*Binary, error) {
	path, err := exec.LookPath(cmp.Or(path, DefaultBinary))
	if err != nil {
		return nil, fmt.Errorf("%w (install qemu-system-x86)", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	key := fmt.Sprintf("%s\x00%d\x00%d", path, info.Size(), info.ModTime().UnixNano())
	binaries.Lock()
	b := binaries.known[key]
	binaries.Unlock()
	if b != nil {
		return b, nil
	}
	b, err = ask(ctx, path, true)
	if err != nil && ctx.Err() == nil {
		without, plainErr := ask(ctx, path, false)
		if plainErr != nil {
			return nil, fmt.Errorf("%s: %w", path, plainErr)
		}
		b, err = without, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	binaries.Lock()
	defer binaries.Unlock()
	if binaries.known == nil {
		binaries.known = map[string]*Binary{}
	}
	if first := binaries.known[key]; first != nil {
		return first, nil
	}
	binaries.known[key] = b
	return b, nil
}

// ask starts a QEMU without a machine and asks it.
func ask(ctx context.Context, path string, sandbox bool) (*Binary, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	args := []string{"-machine", "none", "-nodefaults", "-no-user-config", "-display", "none",
		"-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control"}
	if sandbox {
		args = append(args, "-sandbox", sandboxArg)
	}
	cmd, release := probe(ctx, path, args...)
	defer release()
	cmd.ExtraFiles = []*os.File{theirs}
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return nil, err
	}
	b, err := askMachines(ctx, ours)
	cmd.Process.Kill()
	cmd.Wait()
	if err != nil {
		return nil, fmt.Errorf("asking QEMU for what it can do: %w: %s", err, strings.TrimSpace(tail(said.String())))
	}
	b.Path, b.Sandbox = path, sandbox
	return b, nil
}

// probe is a QEMU that is only looked at: it dies with this process, however that
// ends. Start it and wait for it on the calling goroutine, then call release.
func probe(ctx context.Context, path string, args ...string) (cmd *exec.Cmd, release func()) {
	cmd = exec.CommandContext(ctx, path, args...)
	cmd.Env = environment()
	runtime.LockOSThread() // the signal comes when the thread ends that started it
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, runtime.UnlockOSThread
}

func askMachines(ctx context.Context, conn *net.UnixConn) (*Binary, error) {
	c, err := qmp.New(ctx, conn)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var machines []struct {
		Name       string `json:"name"`
		Deprecated bool   `json:"deprecated"`
		MaxCPUs    int    `json:"cpu-max"`
	}
	if err := c.Execute(ctx, "query-machines", nil, &machines); err != nil {
		return nil, err
	}
	b := &Binary{Version: c.Greeting().Version.QEMU, kvmOnce: make(chan struct{}, 1)}
	for _, m := range machines {
		t := machineType{name: m.Name, maxCPUs: m.MaxCPUs, deprecated: m.Deprecated}
		if !machineName.MatchString(m.Name) {
			continue
		}
		if n, _ := fmt.Sscanf(m.Name, "pc-q35-%d.%d", &t.major, &t.minor); n == 2 {
			b.q35 = append(b.q35, t)
		}
	}
	slices.SortFunc(b.q35, func(x, y machineType) int {
		return cmp.Or(cmp.Compare(x.major, y.major), cmp.Compare(x.minor, y.minor))
	})
	if len(b.q35) == 0 {
		return nil, errors.New("it has no machine type pc-q35-N.M")
	}
	return b, nil
}

// machine returns a machine type by its name, or the newest for "".
func (b *Binary) machine(name string) (machineType, error) {
	for _, m := range slices.Backward(b.q35) {
		if m.name == name || name == "" && !m.deprecated {
			return m, nil
		}
	}
	return machineType{}, fmt.Errorf("%s %v has no machine type %q (its newest is %s): run the VM where a newer QEMU is, or update this one",
		b.Path, b.Version, name, b.q35[len(b.q35)-1].name)
}

// socketPair returns two connected ends; the second is for a child.
func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "socketpair"), os.NewFile(uintptr(fds[1]), "socketpair")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn.(*net.UnixConn), theirs, nil
}

// environment is all that QEMU gets of ours, which may hold passwords.
func environment() []string {
	return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
}
