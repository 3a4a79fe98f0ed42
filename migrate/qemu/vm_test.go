package qemu

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"lunless/testdata/guest"
)

// A test that waits for a guest gives up after this. It is far above what a
// loaded machine takes.
const guestTime = 4 * time.Minute

//go:embed testdata/init.sh
var guestInit []byte

// guestImage is the kernel and the initramfs of all tests, made once.
var guestImage = sync.OnceValues(func() (*KernelBoot, error) {
	vmlinuz, modules, err := guest.Kernel("../../.work/kernel")
	if err != nil {
		return nil, err
	}
	image, err := guest.Initramfs(guest.Spec{ModuleDir: modules, Init: guestInit,
		Modules: []string{"button", "evdev", "virtio_pci", "virtio_blk", "pvpanic-pci"}})
	if err != nil {
		return nil, err
	}
	if vmlinuz, err = filepath.Abs(vmlinuz); err != nil {
		return nil, err
	}
	initrd := filepath.Join(testRoot, "initramfs")
	return &KernelBoot{Kernel: vmlinuz, Initrd: initrd,
		Append: "console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable mitigations=off rdinit=/init"}, os.WriteFile(initrd, image, 0o600)
})

// testRoot is this run's folder, a short path, for unix sockets.
var testRoot string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if dir := os.Getenv(envGuard); dir != "" {
		return guard(dir)
	}
	if dir := os.Getenv(envStart); dir != "" {
		return startAndDie(dir)
	}
	root, err := os.MkdirTemp("/tmp", "qemu-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	testRoot = root
	guardian := exec.Command(os.Args[0])
	guardian.Env = append(os.Environ(), envGuard+"="+root)
	guardian.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	alive, err := guardian.StdinPipe()
	if err == nil {
		err = guardian.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	alive.Close()
	if err := guardian.Wait(); err != nil {
		fmt.Fprintln(os.Stderr, "clearing up:", err)
		return 1
	}
	return code
}

// envGuard has the test binary wait for its parent's end, however that comes, and
// end the VMs that were started below the folder.
const envGuard = "QEMU_TEST_GUARD"

func guard(root string) int {
	io.Copy(io.Discard, os.Stdin)
	ctx, cancel := context.WithTimeout(context.Background(), guestTime)
	defer cancel()
	dirs, _ := filepath.Glob(filepath.Join(root, "*", fileRecord))
	code := 0
	for _, d := range dirs {
		if err := KillAt(ctx, filepath.Dir(d)); err != nil && !errors.Is(err, ErrGone) {
			code = 1
		}
	}
	os.RemoveAll(root)
	return code
}

// testConfig is a VM that boots the test guest in a folder of its own. Whatever
// QEMU runs there is killed when the test ends.
func testConfig(t *testing.T) Config {
	t.Helper()
	boot, err := guestImage()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(testRoot, "vm-")
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Name: t.Name(), UUID: uuid.New(), Accel: TCG, CPUs: 1, Memory: 96 << 20, Kernel: boot, RuntimeDir: dir}
	t.Cleanup(func() { killAt(t, dir) })
	return c
}

func killAt(t *testing.T, dir string) {
	ctx, cancel := context.WithTimeout(context.Background(), guestTime)
	defer cancel()
	if err := KillAt(ctx, dir); err != nil && !errors.Is(err, ErrGone) {
		t.Errorf("leaving a QEMU behind in %s: %v", dir, err)
	}
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), guestTime)
	t.Cleanup(cancel)
	return ctx
}

func startVM(t *testing.T, c Config) *testVM {
	t.Helper()
	m, err := Start(testContext(t), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return &testVM{Machine: m, t: t, ctx: testContext(t)}
}

// testVM is a machine with its console.
type testVM struct {
	*Machine
	t       *testing.T
	ctx     context.Context
	console net.Conn // of say
}

// output waits until the console's log has a match and returns its groups.
func (v *testVM) output(pattern string) []string {
	v.t.Helper()
	re := regexp.MustCompile(pattern)
	for {
		b, err := os.ReadFile(v.ConsoleLog())
		if err != nil {
			v.t.Fatal(err)
		}
		if m := re.FindSubmatch(b); m != nil {
			var s []string
			for _, g := range m {
				s = append(s, string(g))
			}
			return s
		}
		select {
		case <-v.ctx.Done():
			v.t.Fatalf("no %s on the console:\n%s", pattern, tail(string(b)))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// heartbeat returns the last one on the console: 0 for none.
func (v *testVM) heartbeat() int {
	v.t.Helper()
	b, err := os.ReadFile(v.ConsoleLog())
	if err != nil {
		v.t.Fatal(err)
	}
	i := bytes.LastIndex(b, []byte("HB "))
	if i < 0 {
		return 0
	}
	line, _, whole := bytes.Cut(b[i+3:], []byte("\r"))
	if !whole {
		line, _, _ = bytes.Cut(b[bytes.LastIndex(b[:i], []byte("HB "))+3:], []byte("\r"))
	}
	n, err := strconv.Atoi(string(line))
	if err != nil {
		v.t.Fatal(err)
	}
	return n
}

// alive waits until the guest has gone on by a few heartbeats.
func (v *testVM) alive() {
	v.t.Helper()
	for last := v.heartbeat(); v.heartbeat() < last+3; {
		select {
		case <-v.ctx.Done():
			v.t.Fatalf("the guest stands at heartbeat %d", last)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// say sends a line to the guest, whose terminal echoes it. The connection stays: QEMU forgets what it has
// not taken yet from one that ends.
func (v *testVM) say(line string) {
	v.t.Helper()
	if v.console == nil {
		c, err := net.Dial("unix", v.ConsoleSocket())
		if err != nil {
			v.t.Fatal(err)
		}
		v.console = c
		v.t.Cleanup(func() { c.Close() })
		go io.Copy(io.Discard, c)
	}
	if _, err := v.console.Write([]byte(line + "\n")); err != nil {
		v.t.Fatal(err)
	}
}

func (v *testVM) mustBe(want RunState) {
	v.t.Helper()
	got, err := v.Status(v.ctx)
	if err != nil {
		v.t.Fatal(err)
	}
	if got != want {
		v.t.Fatalf("status %s, want %s", got, want)
	}
}

// do fails the test with what an action of the driver says.
func (v *testVM) do(what string, action func(context.Context) error) {
	v.t.Helper()
	if err := action(v.ctx); err != nil {
		v.t.Fatalf("%s: %v", what, err)
	}
}

// waitEvent takes events until one of a kind comes.
func (v *testVM) waitEvent(e *Events, kind EventKind) Event {
	v.t.Helper()
	for {
		got, err := e.Next(v.ctx)
		if err != nil {
			v.t.Fatalf("waiting for %s: %v", kind, err)
		}
		if got.Kind == kind {
			return got
		}
	}
}
