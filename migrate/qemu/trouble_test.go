package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// write has the guest write to a disk and names what it is to say then.
func (v *testVM) write(disk string, n int) (good, bad string) {
	v.t.Helper()
	v.say(fmt.Sprintf("dd if=/dev/zero of=/dev/%s bs=4k count=1 oflag=direct 2>/dev/null && echo WRITTEN-$((%d+1)) || echo FAILED-$((%d+1))", disk, n, n))
	return fmt.Sprintf("WRITTEN-%d", n+1), fmt.Sprintf("FAILED-%d", n+1)
}

// errno is a number of errors as blkdebug, which serveBroken uses, takes it.
const (
	eio    = 5
	enospc = 28
)

// serveBroken serves a disk whose next write fails.
func serveBroken(t *testing.T, socket string, errno int) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 16<<20); err != nil {
		t.Fatal(err)
	}
	runNBD(t, socket, "--image-opts", fmt.Sprintf("driver=raw,file.driver=blkdebug,file.inject-error.0.event=pwritev,"+
		"file.inject-error.0.iotype=write,file.inject-error.0.errno=%d,file.inject-error.0.once=on,file.image.driver=file,file.image.filename=%s", errno, image))
}

func TestDiskErrors(t *testing.T) {
	t.Parallel()
	c := testConfig(t)
	for i, d := range []struct {
		errno  int
		policy ErrorPolicy
	}{{enospc, ""}, {eio, ErrorStop}, {enospc, ErrorENOSPC}, {eio, ErrorENOSPC}, {eio, ErrorReport}} {
		socket := filepath.Join(c.RuntimeDir, fmt.Sprint("nbd", i))
		serveBroken(t, socket, d.errno)
		c.Disks = append(c.Disks, Disk{Node: fmt.Sprint("disk", i), Socket: socket, OnWriteError: d.policy})
	}
	v := startVM(t, c)
	v.output("GUEST-UP")
	events := v.Events()
	for i, want := range []Event{{Action: "stop", NoSpace: true}, {Action: "stop"}, {Action: "stop", NoSpace: true}, {Action: "report"}, {Action: "report"}} {
		good, bad := v.write(fmt.Sprintf("vd%c", 'a'+i), i)
		e := v.waitEvent(events, EventIOError)
		if e.Action != want.Action || e.NoSpace != want.NoSpace || e.Node != c.Disks[i].Node || e.Operation != "write" || e.Reason == "" {
			t.Errorf("disk %d: %+v, want %+v", i, e, want)
		}
		if want.Action == "report" {
			v.output(bad)
			continue
		}
		v.waitEvent(events, EventStop)
		v.mustBe(StateIOError)
		v.do("cont", v.Cont)
		v.output(good)
	}
	if stats, err := v.BlockStats(v.ctx); err != nil || stats["disk4"].FailedWrites != 1 || stats["disk0"].WriteBytes != 4096 {
		t.Errorf("statistics %+v, %v", stats, err)
	}
}

// TestServerAway: a server that comes back in time is a stall. One that does not
// stops the guest, which goes on when the server is back.
func TestServerAway(t *testing.T) {
	t.Parallel()
	c := testConfig(t)
	image := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 16<<20)); err != nil {
		t.Fatal(err)
	}
	// Far longer and far shorter than the servers are away.
	for i, delay := range []time.Duration{time.Hour, time.Second} {
		c.Disks = append(c.Disks, Disk{Node: fmt.Sprint("disk", i), Socket: filepath.Join(c.RuntimeDir, fmt.Sprint("nbd", i)), ReconnectDelay: delay})
	}
	serve := func(i int) *exec.Cmd { return runNBD(t, c.Disks[i].Socket, "-f", "raw", image) }
	long, short := serve(0), serve(1)
	v := startVM(t, c)
	v.output("GUEST-UP")
	events := v.Events()
	for n, away := range []time.Duration{0, 100 * time.Millisecond, 1200 * time.Millisecond} {
		stop(long)
		good, _ := v.write("vda", n)
		time.Sleep(away)
		long = serve(0)
		v.output(good)
		v.mustBe(StateRunning)
	}
	stop(short)
	good, _ := v.write("vdb", 10)
	if e := v.waitEvent(events, EventIOError); e.Action != "stop" || e.Node != "disk1" {
		t.Errorf("a server that stays away: %+v", e)
	}
	v.mustBe(StateIOError)
	serve(1)
	back := time.Now()
	for tries := 1; ; tries++ { // until QEMU has found the server
		v.do("cont", v.Cont)
		time.Sleep(100 * time.Millisecond)
		if st, err := v.Status(v.ctx); err != nil {
			t.Fatal(err)
		} else if st == StateRunning {
			t.Logf("the guest went on %v after the server, at try %d", time.Since(back), tries)
			break
		}
	}
	v.output(good)
}

func stop(cmd *exec.Cmd) {
	cmd.Process.Kill()
	cmd.Wait()
}

// TestServerStuck: pausing waits for the disks' requests, and so do all commands
// and events after it. The guest stands at once.
func TestServerStuck(t *testing.T) {
	t.Parallel()
	c := testConfig(t)
	socket := filepath.Join(c.RuntimeDir, "nbd.sock")
	server := serveNBD(t, socket, "")
	c.Disks = []Disk{{Node: "disk0", Socket: socket, ReconnectDelay: time.Second}}
	v := startVM(t, c)
	v.output("GUEST-UP")
	events := v.Events()
	if err := server.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	good, _ := v.write("vda", 1)
	v.output(good[:7] + `-\$.*(?s:.*)HB`) // the command was read
	v.alive()
	short, cancel := context.WithTimeout(v.ctx, 300*time.Millisecond)
	defer cancel()
	if err := v.Stop(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("pausing with a request under way: %v", err)
	}
	at := v.heartbeat()
	short, cancel = context.WithTimeout(v.ctx, 300*time.Millisecond)
	defer cancel()
	if st, err := v.Status(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("status meanwhile: %s, %v", st, err)
	}
	if now := v.heartbeat(); now != at {
		t.Errorf("the guest went from heartbeat %d to %d", at, now)
	}
	if err := server.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	v.waitEvent(events, EventStop)
	v.mustBe(StatePaused)
	v.do("cont", v.Cont)
	v.output(good)
}
