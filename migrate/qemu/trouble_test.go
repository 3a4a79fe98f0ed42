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

// TestDiskTrouble has one guest see what servers below its disks can do.
func TestDiskTrouble(t *testing.T) {
	t.Parallel()
	c := testConfig(t)
	add := func(d Disk) string {
		i := len(c.Disks)
		d.Node, d.Socket = fmt.Sprint("disk", i), filepath.Join(c.RuntimeDir, fmt.Sprint("nbd", i))
		c.Disks = append(c.Disks, d)
		return d.Socket
	}
	for _, b := range brokenDisks {
		serveBroken(t, add(Disk{OnWriteError: b.policy}), b.errno)
	}
	stuck := serveNBD(t, add(Disk{ReconnectDelay: time.Second}), "")
	image := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 16<<20)); err != nil {
		t.Fatal(err)
	}
	// Far longer and far shorter than the servers are away.
	inTime := &restarting{t: t, image: image, socket: add(Disk{ReconnectDelay: time.Hour})}
	tooLate := &restarting{t: t, image: image, socket: add(Disk{ReconnectDelay: time.Second})}
	inTime.start()
	tooLate.start()
	v := startVM(t, c)
	v.output("GUEST-UP")
	diskErrors(v)
	serverStuck(v, stuck, "vdf")
	serverBackInTime(v, inTime, "vdg")
	serverTooLate(v, tooLate, "vdh")
}

// brokenDisks are the first ones: the error of their next write, and what comes of
// it.
var brokenDisks = []struct {
	errno  int
	policy ErrorPolicy
	want   Event
}{
	{enospc, "", Event{Action: "stop", NoSpace: true}},
	{eio, ErrorStop, Event{Action: "stop"}},
	{enospc, ErrorENOSPC, Event{Action: "stop", NoSpace: true}},
	{eio, ErrorENOSPC, Event{Action: "report"}},
	{eio, ErrorReport, Event{Action: "report"}},
}

func diskErrors(v *testVM) {
	t := v.t
	events := v.Events()
	defer events.Close()
	for i, b := range brokenDisks {
		good, bad := v.write(fmt.Sprintf("vd%c", 'a'+i), i)
		e := v.waitEvent(events, EventIOError)
		if e.Action != b.want.Action || e.NoSpace != b.want.NoSpace || e.Node != fmt.Sprint("disk", i) || e.Operation != "write" || e.Reason == "" {
			t.Errorf("disk %d: %+v, want %+v", i, e, b.want)
		}
		if b.want.Action == "report" {
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

// Pausing waits for the disks' requests, and so do all commands and events after
// it. The guest stands at once.
func serverStuck(v *testVM, server *exec.Cmd, disk string) {
	t := v.t
	events := v.Events()
	defer events.Close()
	if err := server.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	good, _ := v.write(disk, 20)
	v.output(`of=/dev/` + disk + `(?s:.*)HB`) // the command was read
	v.alive()
	patience := time.Now().Add(time.Minute)
	for {
		short, cancel := context.WithTimeout(v.ctx, 300*time.Millisecond)
		err := v.Stop(short)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		if err != nil || time.Now().After(patience) {
			t.Fatalf("pausing with a request under way: %v", err)
		}
		v.waitEvent(events, EventStop) // the guest had not got as far as its request
		v.do("cont", v.Cont)
		v.alive()
	}
	for { // a busy host takes its time to have the guest stand
		at := v.heartbeat()
		short, cancel := context.WithTimeout(v.ctx, 300*time.Millisecond)
		st, err := v.Status(short)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("status meanwhile: %s, %v", st, err)
		}
		now := v.heartbeat()
		if now == at {
			break
		}
		if time.Now().After(patience) {
			t.Fatalf("the guest went from heartbeat %d to %d", at, now)
		}
	}
	if err := server.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	v.waitEvent(events, EventStop)
	v.mustBe(StatePaused)
	v.do("cont", v.Cont)
	v.output(good)
}

// restarting is a server that goes away and comes back.
type restarting struct {
	t             *testing.T
	socket, image string
	cmd           *exec.Cmd
}

func (r *restarting) start() { r.cmd = runNBD(r.t, r.socket, "-f", "raw", r.image) }

func (r *restarting) stop() {
	r.cmd.Process.Kill()
	r.cmd.Wait()
}

// A server that comes back in time is a stall.
func serverBackInTime(v *testVM, server *restarting, disk string) {
	for n, away := range []time.Duration{0, 100 * time.Millisecond, 1200 * time.Millisecond} {
		server.stop()
		good, _ := v.write(disk, 30+n)
		time.Sleep(away)
		server.start()
		v.output(good)
		v.mustBe(StateRunning)
	}
}

// One that does not stops the guest, which goes on when the server is back.
func serverTooLate(v *testVM, server *restarting, disk string) {
	events := v.Events()
	defer events.Close()
	server.stop()
	good, _ := v.write(disk, 40)
	if e := v.waitEvent(events, EventIOError); e.Action != "stop" || e.Reason == "" {
		v.t.Errorf("a server that stays away: %+v", e)
	}
	v.mustBe(StateIOError)
	server.start()
	back := time.Now()
	for tries := 1; ; tries++ { // until QEMU has found the server
		v.do("cont", v.Cont)
		time.Sleep(100 * time.Millisecond)
		if st, err := v.Status(v.ctx); err != nil {
			v.t.Fatal(err)
		} else if st == StateRunning {
			v.t.Logf("the guest went on %v after the server, at try %d", time.Since(back), tries)
			break
		}
	}
	v.output(good)
}
