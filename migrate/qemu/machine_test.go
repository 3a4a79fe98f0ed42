package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lunless/migrate/qemu/qmp"
)

// envStart has the test binary start a VM as its configuration lies in the folder,
// and end without a word to QEMU.
const envStart = "QEMU_TEST_START"

func TestMachine(t *testing.T) {
	t.Parallel()
	c := testConfig(t)
	c.Paused = true
	c.NICs = []NIC{{Network: NetUser, MAC: MAC{0x52, 0x54, 0, 1, 2, 3}}, {Network: NetNone, MAC: MAC{0x52, 0x54, 0, 1, 2, 4}}}
	v := startVM(t, c)
	events := v.Events()
	v.mustBe(StatePrelaunch)
	if got := v.Config(); got.Memory != c.Memory-8<<10 || got.CPU != "max" || !machineName.MatchString(got.MachineType) {
		t.Errorf("resolved to %+v", got)
	}
	if _, err := Start(v.ctx, c); !errors.Is(err, ErrRunning) {
		t.Errorf("a second start: %v, want ErrRunning", err)
	}
	v.do("cont", v.Cont)
	v.waitEvent(events, EventResume)
	if up := v.output(`GUEST-UP (\S+) (\d+)`); up[2] != "1" {
		t.Errorf("the guest came up with %q", up[0])
	}
	v.alive()

	v.do("stop", v.Stop)
	v.waitEvent(events, EventStop)
	v.mustBe(StatePaused)
	at := v.heartbeat()
	time.Sleep(200 * time.Millisecond)
	if now := v.heartbeat(); now != at {
		t.Errorf("a paused guest went from heartbeat %d to %d", at, now)
	}
	v.do("cont", v.Cont)
	v.alive()

	// QEMU appends to its logs, so that they can be cut under it.
	if err := shorten(v.ConsoleLog(), 1); err != nil {
		t.Fatal(err)
	}
	v.output("HB")
	if b, err := os.ReadFile(v.ConsoleLog()); err != nil || bytes.IndexByte(b, 0) >= 0 {
		t.Errorf("the log that was cut holds %d bytes, some of them zero, %v", len(b), err)
	}
	v.do("powerdown", v.Powerdown)
	if e := v.waitEvent(events, EventShutdown); !e.Guest || e.Reason != "guest-shutdown" {
		t.Errorf("shutdown: %+v", e)
	}
	exit, err := v.Wait(v.ctx)
	if err != nil || exit.Reason != "guest-shutdown" || exit.Status != "exit status 0" {
		t.Errorf("ended with %+v, %v", exit, err)
	}
	v.output("POWER-BUTTON")
	v.waitEvent(events, EventDisconnected)
	if _, err := events.Next(v.ctx); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("an event after the last: %v", err)
	}
	if err := v.Cont(v.ctx); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("cont after the end: %v", err)
	}
	if _, err := Attach(v.ctx, c.RuntimeDir); !errors.Is(err, ErrGone) {
		t.Errorf("attach after the end: %v, want ErrGone", err)
	}
}

func TestGuestPanic(t *testing.T) {
	t.Parallel()
	c := testConfig(t)
	v := startVM(t, c)
	events := v.Events()
	v.output("GUEST-UP")
	v.say("echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger")
	if e := v.waitEvent(events, EventPanicked); e.Action != "pause" {
		t.Errorf("panic: %+v", e)
	}
	v.mustBe(StatePanicked)
	v.do("reset", v.Reset)
	if e := v.waitEvent(events, EventReset); e.Guest || e.Reason != "host-qmp-system-reset" {
		t.Errorf("reset: %+v", e)
	}
	v.mustBe(StatePrelaunch)
	v.do("cont", v.Cont)
	v.waitEvent(events, EventResume)
	v.do("kill", v.Kill)
	v.do("kill again", v.Kill)
	if exit, err := v.Wait(v.ctx); err != nil || exit.Reason != "" || exit.Status != "signal: killed" {
		t.Errorf("ended with %+v, %v", exit, err)
	}
}

// startAndDie is the agent that ends: it starts a VM and kills itself.
func startAndDie(dir string) int {
	r, err := readRecord(dir)
	if err == nil {
		_, err = Start(context.Background(), r.Config)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func TestAttach(t *testing.T) {
	t.Parallel()
	c := testConfig(t)
	ctx := testContext(t)
	if err := (&record{Version: 1, Config: c, Binary: DefaultBinary}).write(); err != nil {
		t.Fatal(err)
	}
	kept, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	parent := exec.CommandContext(ctx, os.Args[0])
	parent.Env = append(os.Environ(), envStart+"="+c.RuntimeDir, "LUNLESS_PASSWORD=secret")
	parent.ExtraFiles = []*os.File{kept}
	out, err := parent.CombinedOutput()
	if s, ok := parent.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
		t.Fatalf("the parent did not get to its end: %v: %s", err, out)
	}

	m, err := Attach(ctx, c.RuntimeDir)
	if err != nil {
		t.Fatal(err)
	}
	v := &testVM{Machine: m, t: t, ctx: ctx}
	v.output("GUEST-UP")
	v.alive()
	checkAlone(t, m.PID())

	// One agent at a time.
	if _, err := Attach(ctx, c.RuntimeDir); !errors.Is(err, ErrNotAnswering) {
		t.Errorf("a second agent: %v, want ErrNotAnswering", err)
	}
	// An agent that ended before it could write down the process.
	m.Close()
	if _, err := m.Wait(ctx); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("wait after close: %v", err)
	}
	if err := (&record{Version: 1, Config: m.Config(), Binary: m.Config().Binary}).write(); err != nil {
		t.Fatal(err)
	}
	if m, err = Attach(ctx, c.RuntimeDir); err != nil {
		t.Fatal(err)
	}
	v.Machine = m
	v.alive()

	// A guest that powers off while nobody looks.
	m.Close()
	v.say("poweroff -f")
	v.output("HB")
	for m, err = Attach(ctx, c.RuntimeDir); err == nil; m, err = Attach(ctx, c.RuntimeDir) {
		st, err := m.Status(ctx)
		if err != nil || st == StateShutdown {
			break
		}
		m.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := m.Wait(ctx); err != nil || exit.Reason != "guest-shutdown" {
		t.Errorf("ended with %+v, %v", exit, err)
	}
	if _, err := Attach(ctx, c.RuntimeDir); !errors.Is(err, ErrGone) {
		t.Errorf("attach after the end: %v, want ErrGone", err)
	}
}

// TestKilledWhileStarting: an agent that is killed at any moment of a start leaves
// a QEMU that the next one finds, or none.
func TestKilledWhileStarting(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	ctx := testContext(t)
	found := 0
	for range 12 {
		c := testConfig(t)
		c.Kernel, c.Paused = nil, true
		r := &record{Version: 1, Config: c, Binary: DefaultBinary}
		if err := r.write(); err != nil {
			t.Fatal(err)
		}
		parent := exec.CommandContext(ctx, os.Args[0])
		parent.Env = append(os.Environ(), envStart+"="+c.RuntimeDir)
		if err := parent.Start(); err != nil {
			t.Fatal(err)
		}
		// When its parts come depends on the machine: at any time, or about when the
		// child is made.
		if rnd.IntN(3) == 0 {
			time.Sleep(time.Duration(rnd.IntN(200)) * time.Millisecond)
		} else {
			for range 5000 {
				if _, err := os.Stat(filepath.Join(c.RuntimeDir, fileLog)); err == nil {
					break
				}
				time.Sleep(200 * time.Microsecond)
			}
			time.Sleep(time.Duration(rnd.IntN(3000)) * time.Microsecond)
		}
		parent.Process.Kill()
		parent.Wait()
		m, err := Attach(ctx, c.RuntimeDir)
		switch {
		case err == nil:
			found++
			if err := m.Kill(ctx); err != nil {
				t.Error(err)
			}
			m.Close()
		case errors.Is(err, ErrGone):
			time.Sleep(100 * time.Millisecond)
			if pid, err := findQEMU(c.RuntimeDir); pid != 0 || err != nil {
				t.Errorf("process %d was not found, %v", pid, err)
			}
		default:
			t.Error(err)
		}
	}
	t.Logf("%d found", found)
}

// checkAlone checks that QEMU has nothing of who started it.
func checkAlone(t *testing.T, pid int) {
	t.Helper()
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	sid, err := unix.Getsid(pid)
	if err != nil || sid != pid {
		t.Errorf("QEMU's session is %d, %v, want its own (%d)", sid, err, pid)
	}
	env, err := os.ReadFile(filepath.Join(proc, "environ"))
	if err != nil || strings.Contains(string(env), "LUNLESS") {
		t.Errorf("QEMU's environment: %q, %v", env, err)
	}
	files, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		to, _ := os.Readlink(filepath.Join(proc, "fd", f.Name()))
		if to == "/dev/null" && f.Name() != "0" {
			t.Errorf("QEMU has its parent's descriptor %s, %s", f.Name(), to)
		}
	}
}

func TestNotAnswering(t *testing.T) {
	t.Parallel()
	c := testConfig(t)
	c.Kernel, c.Paused = nil, true
	v := startVM(t, c)
	v.Close()
	if err := syscall.Kill(v.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(v.ctx, 300*time.Millisecond)
	defer cancel()
	if _, err := Attach(ctx, c.RuntimeDir); !errors.Is(err, ErrNotAnswering) {
		t.Errorf("attach to a stopped QEMU: %v, want ErrNotAnswering", err)
	}
	if err := KillAt(v.ctx, c.RuntimeDir); err != nil {
		t.Fatal(err)
	}
	if _, err := Attach(v.ctx, c.RuntimeDir); !errors.Is(err, ErrGone) {
		t.Errorf("attach to a killed QEMU: %v, want ErrGone", err)
	}
}

func TestOtherVM(t *testing.T) {
	t.Parallel()
	mine, other := testConfig(t), testConfig(t)
	mine.Kernel, mine.Paused, other.Kernel, other.Paused = nil, true, nil, true
	a, b := startVM(t, mine), startVM(t, other)
	a.Close()
	b.Close()
	socket := filepath.Join(mine.RuntimeDir, fileQMP)
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(other.RuntimeDir, fileQMP), socket); err != nil {
		t.Fatal(err)
	}
	if _, err := Attach(a.ctx, mine.RuntimeDir); !errors.Is(err, ErrOtherVM) {
		t.Errorf("attach with another VM's monitor: %v, want ErrOtherVM", err)
	}
}

func TestEarlyExit(t *testing.T) {
	t.Parallel()
	c := testConfig(t)
	c.Kernel = &KernelBoot{Kernel: filepath.Join(c.RuntimeDir, "no, kernel")}
	_, err := Start(testContext(t), c)
	var exit *ExitError
	if !errors.As(err, &exit) || !errors.Is(err, ErrGone) || !strings.Contains(exit.Log, "no, kernel") || exit.Status != "exit status 1" {
		t.Errorf("start without a kernel: %v", err)
	}
	c = testConfig(t)
	c.Disks = []Disk{{Node: "d0", Socket: filepath.Join(c.RuntimeDir, "nobody.sock")}}
	if _, err = Start(testContext(t), c); !errors.As(err, &exit) || !strings.Contains(err.Error(), "nobody.sock") {
		t.Errorf("start without an NBD server: %v", err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	if _, err := Start(ctx, testConfig(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("start when cancelled: %v", err)
	}
}
