package smbstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"lunless/smbstore"
	"lunless/smbstore/block"
	"lunless/smbstore/storetest"
)

// told collects what an owner hears.
type told struct {
	mu   sync.Mutex
	list []block.TroubleState
}

func (o *told) hear(t block.Trouble) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = append(o.list, t.State)
}

func (o *told) heard(s block.TroubleState) bool { return slices.Contains(o.all(), s) }

// awaits gives it a moment to be told.
func (o *told) awaits(s block.TroubleState) bool {
	for range 200 {
		if o.heard(s) {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

func (o *told) all() []block.TroubleState {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.list)
}

// patientOptions have a store give up soon, so that the device's own means are what
// is tested.
func patientOptions(server *storetest.Server) smbstore.Options {
	o := server.Options()
	o.ReconnectTimeout, o.RequestTimeout = 300*time.Millisecond, 2*time.Second
	return o
}

const patientDisk = 32 << 20

// patient makes a VHDX at a location and opens it.
func patient(t *testing.T, at smbstore.Location, o smbstore.Options, r smbstore.ResilientOptions) (smbstore.Store, *block.Resilient) {
	t.Helper()
	s, err := smbstore.Open(t.Context(), at, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	d, err := smbstore.CreateDisk(t.Context(), s, "disk.vhdx", smbstore.CreateDiskOptions{Format: smbstore.VHDX, Size: patientDisk, BlockSize: 1 << 20})
	if err == nil {
		err = d.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	dev, err := smbstore.OpenResilient(t.Context(), s, "disk.vhdx", smbstore.DiskOptions{DenyWrite: true}, r)
	if err != nil {
		t.Fatal(err)
	}
	return s, dev
}

// guest writes and flushes until stop is closed, and verifies what it ever wrote.
type guest struct {
	dev    block.Device
	want   []byte
	writes int
	stall  time.Duration
	stop   chan struct{}
	done   chan error
}

func startGuest(dev block.Device) *guest {
	g := &guest{dev: dev, want: make([]byte, patientDisk), stop: make(chan struct{}), done: make(chan error, 1)}
	go func() { g.done <- g.run() }()
	return g
}

func (g *guest) run() error {
	ctx, rnd := context.Background(), rand.New(rand.NewPCG(1, 9))
	for i := 0; ; i++ {
		select {
		case <-g.stop:
			return g.verify()
		default:
		}
		start := time.Now()
		off := rnd.Int64N(patientDisk/4096) * 4096
		p := bytes.Repeat([]byte{byte(1 + rnd.IntN(255))}, 4096)
		if err := g.dev.WriteAt(ctx, p, off, 0); err != nil {
			return fmt.Errorf("write %d: %w", i, err)
		}
		copy(g.want[off:], p)
		g.writes++
		if i%32 == 31 {
			if err := g.dev.Flush(ctx); err != nil {
				return fmt.Errorf("flush: %w", err)
			}
		}
		if i%16 == 15 {
			back := rnd.Int64N(patientDisk/4096) * 4096
			if err := g.dev.ReadAt(ctx, p, back); err != nil || !bytes.Equal(p, g.want[back:back+4096]) {
				return fmt.Errorf("read at %d: %d, want %d: %w", back, p[0], g.want[back], err)
			}
		}
		g.stall = max(g.stall, time.Since(start))
	}
}

// verify reads all that was written.
func (g *guest) verify() error { return verifyDisk(g.dev, g.want) }

func verifyDisk(dev block.Device, want []byte) error {
	got := make([]byte, len(want))
	if err := dev.ReadAt(context.Background(), got, 0); err != nil {
		return err
	}
	if bytes.Equal(got, want) {
		return nil
	}
	for i := range got {
		if got[i] != want[i] {
			return fmt.Errorf("byte %d is %d, was written as %d", i, got[i], want[i])
		}
	}
	return nil
}

// end stops the guest and closes its disk, in which all must be.
func (g *guest) end(t *testing.T, server *storetest.Server, at smbstore.Location) {
	t.Helper()
	close(g.stop)
	if err := <-g.done; err != nil {
		t.Fatal(err)
	}
	if err := g.dev.Close(); err != nil {
		t.Error(err)
	}
	s, err := smbstore.Open(t.Context(), at, server.Options())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	dev, _, err := smbstore.OpenDisk(t.Context(), s, "disk.vhdx", smbstore.DiskOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if err := verifyDisk(dev, g.want); err != nil {
		t.Error("read by another: ", err)
	}
	t.Logf("%d writes, longest stall %v", g.writes, g.stall)
}

// A server that is killed and started again under a guest is a stall, though it was
// away for longer than its clients wait for it.
func TestResilientServerKilled(t *testing.T) {
	for _, share := range []string{"vms", "ca"} {
		t.Run(share, func(t *testing.T) {
			server := storetest.StartLunless(t)
			at := server.Location("")
			at.Share = share
			var owner told
			_, dev := patient(t, at, patientOptions(server), smbstore.ResilientOptions{Notify: owner.hear})
			g := startGuest(dev)
			for range 3 {
				time.Sleep(200 * time.Millisecond)
				server.Kill()
				time.Sleep(600 * time.Millisecond)
				server.Start(t)
			}
			time.Sleep(300 * time.Millisecond)
			g.end(t, server, at)
			if !owner.awaits(block.TroubleOver) || owner.heard(block.TroubleGivenUp) || owner.heard(block.TroubleFinal) {
				t.Errorf("the owner heard %v", owner.all())
			}
		})
	}
}

// A link that is cut, or goes silent, is a stall.
func TestResilientLinkCut(t *testing.T) {
	server := storetest.StartLunless(t)
	r, at := startRelay(t, server)
	_, dev := patient(t, at, patientOptions(server), smbstore.ResilientOptions{})
	g := startGuest(dev)
	for i := range 6 {
		time.Sleep(100 * time.Millisecond)
		for _, l := range r.now() {
			if i%3 == 2 {
				l.down.Store(true)
			} else {
				l.cut()
			}
		}
	}
	time.Sleep(200 * time.Millisecond)
	g.end(t, server, server.Location(""))
}

// A server that is away for longer than the patience gives the policy's error; told
// to go on, the same disk works again and has all that was acknowledged.
func TestResilientPatienceOver(t *testing.T) {
	server := storetest.StartLunless(t)
	var owner told
	_, dev := patient(t, server.Location(""), patientOptions(server), smbstore.ResilientOptions{Patience: 1500 * time.Millisecond, Notify: owner.hear})
	ctx, p := t.Context(), bytes.Repeat([]byte{5}, 4096)
	want := make([]byte, patientDisk)
	if err := dev.WriteAt(ctx, p, 1<<20, 0); err != nil {
		t.Fatal(err)
	}
	copy(want[1<<20:], p)
	server.Kill()
	err := dev.WriteAt(ctx, p, 5<<20, 0)
	if !errors.Is(err, block.ErrNoAnswer) || !errors.Is(err, smbstore.ErrUnreachable) || !owner.awaits(block.TroubleGivenUp) {
		t.Errorf("got %v, heard %v", err, owner.all())
	}
	server.Start(t)
	dev.Resume()
	if err := dev.WriteAt(ctx, p, 5<<20, 0); err != nil {
		t.Fatal(err)
	}
	copy(want[5<<20:], p)
	if err := errors.Join(verifyDisk(dev, want), dev.Flush(ctx), dev.Close()); err != nil || !owner.awaits(block.TroubleOver) {
		t.Errorf("%v, heard %v", err, owner.all())
	}
}

// What somebody else has written to meanwhile is not gone on with.
func TestResilientOtherWriter(t *testing.T) {
	server := storetest.StartLunless(t)
	var owner told
	_, dev := patient(t, server.Location(""), patientOptions(server), smbstore.ResilientOptions{Notify: owner.hear})
	ctx, p := t.Context(), bytes.Repeat([]byte{5}, 4096)
	if err := dev.WriteAt(ctx, p, 0, 0); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	other, err := smbstore.Open(ctx, smbstore.Location{Path: filepath.Join(server.Dir, "vms")}, smbstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := smbstore.OpenDisk(ctx, other, "disk.vhdx", smbstore.DiskOptions{})
	if err == nil {
		err = errors.Join(d.WriteAt(ctx, p, 9<<20, 0), d.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 1)
	go func() { errs <- dev.WriteAt(ctx, p, 3<<20, 0) }()
	time.Sleep(800 * time.Millisecond)
	server.Start(t)
	err = <-errs
	if !errors.Is(err, block.ErrChanged) || !errors.Is(err, block.ErrFailed) || !strings.Contains(err.Error(), "somebody else has written to it") || !owner.awaits(block.TroubleFinal) {
		t.Errorf("got %v, heard %v", err, owner.all())
	}
}

// A VM that has got a later owner meanwhile is not gone on with either.
func TestResilientTaken(t *testing.T) {
	server := storetest.StartLunless(t)
	s, dev := patient(t, server.Location(""), patientOptions(server), smbstore.ResilientOptions{})
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	var later atomic.Bool
	fence := smbstore.Fence{Instance: uuid.New(), Epoch: 4, Holds: func() error {
		if later.Load() {
			return fmt.Errorf("%w: it is hv2's", smbstore.ErrNotOwner)
		}
		return nil
	}}
	dev, err := smbstore.OpenResilient(t.Context(), s, "disk.vhdx", smbstore.DiskOptions{DenyWrite: true, Fence: fence}, smbstore.ResilientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, p := t.Context(), make([]byte, 4096)
	if err := dev.WriteAt(ctx, p, 0, 0); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	later.Store(true)
	errs := make(chan error, 1)
	go func() { errs <- dev.WriteAt(ctx, p, 0, 0) }()
	time.Sleep(800 * time.Millisecond)
	server.Start(t)
	if err := <-errs; !errors.Is(err, smbstore.ErrTaken) || !strings.Contains(err.Error(), "hv2") {
		t.Errorf("got %v", err)
	}
	if err := dev.Close(); err == nil {
		t.Error("it closed well")
	}
}

// A disk whose share is full says so, and works on when there is room.
func TestResilientFullShare(t *testing.T) {
	server := storetest.StartLunless(t)
	dir := filepath.Join(server.Dir, "vms")
	server.Kill() // which has its folders open
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=16m", "none", dir).CombinedOutput(); err != nil {
		t.Fatalf("a file system of 16 MiB wants root, to mount it: %v %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
	server.Start(t)
	_, dev := patient(t, server.Location(""), patientOptions(server), smbstore.ResilientOptions{Patience: 2 * time.Second})
	ctx, want := t.Context(), make([]byte, patientDisk)
	p := bytes.Repeat([]byte{5}, 64<<10)
	var full error
	off := int64(0)
	for ; full == nil && off < patientDisk; off += int64(len(p)) {
		if full = dev.WriteAt(ctx, p, off, 0); full == nil {
			copy(want[off:], p)
			full = dev.Flush(ctx)
		}
	}
	if !errors.Is(full, smbstore.ErrNoSpace) || off < 4<<20 {
		t.Fatalf("after %d bytes: %v", off, full)
	}
	t.Logf("full after %d bytes: %v", off, full)
	if err := verifyDisk(dev, want[:off-int64(len(p))]); err != nil {
		t.Errorf("what was written before it was full: %v", err)
	}
	if err := dev.WriteAt(ctx, p, off, 0); err != nil && !errors.Is(err, smbstore.ErrNoSpace) {
		t.Errorf("still full: %v", err)
	}
	if out, err := exec.Command("mount", "-o", "remount,size=64m", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	for off = max(0, off-(128<<10)); off < patientDisk; off += int64(len(p)) {
		if err := dev.WriteAt(ctx, p, off, 0); err != nil {
			t.Fatalf("there is room again: at %d: %v", off, err)
		}
		copy(want[off:], p)
	}
	if err := errors.Join(dev.Flush(ctx), verifyDisk(dev, want), dev.Close()); err != nil {
		t.Error(err)
	}
}
