package migrate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

// keptStore lets nothing be removed once it is told so.
type keptStore struct {
	smbstore.Store
	keep *atomic.Bool
}

func (s keptStore) Remove(name string) error {
	if s.keep.Load() {
		return &smbstore.OpError{Op: "remove", At: s.Location().Join(name), Err: smbstore.ErrSharing}
	}
	return s.Store.Remove(name)
}

// A job that fails after its VM has moved makes no room for its journal where the
// VM's disks lie.
func TestMovedDisksAreLeftAlone(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	_, slot, name := liveVM(t, a, smbstore.Raw, 8<<20)
	w := newWriter(slot)
	must(t, w.some(1, 50))
	disk := newSmallDisk(b, math.MaxInt64)
	small := openStore
	var keep atomic.Bool
	openStore = func(ctx context.Context, l smbstore.Location, o smbstore.Options) (smbstore.Store, error) {
		s, err := small(ctx, l, o)
		if err == nil && at(a).Contains(l) {
			s = keptStore{s, &keep}
		}
		return s, err
	}
	t.Cleanup(func() { openStore = smbstore.Open })
	setFailpoint(t, func(point string) {
		if point == "before-clean" {
			must(t, slot.Close()) // the VM is off, and others have filled the share
			disk.limit.Store(0)
			keep.Store(true)
		}
	})
	job, err := LiveStorage(t.Context(), LiveOptions{Options: Options{Source: at(a, "vm"), To: at(b)}, Disks: map[string]*block.Slot{name: slot}})
	must(t, err)
	err = job.Wait(t.Context())
	if !errors.Is(err, smbstore.ErrSharing) {
		t.Errorf("got %v, want ErrSharing", err)
	}
	if s := fmt.Sprint(err); !strings.Contains(s, "the VM has moved: finish with `lunless migrate resume ") || strings.Contains(s, "migrate cancel") {
		t.Errorf("%q does not say what can be done", s)
	}
	dev, _, err := smbstore.OpenDisk(t.Context(), storeAt(t, filepath.Join(b, "vm")), name, smbstore.DiskOptions{Format: smbstore.Raw, ReadOnly: true})
	must(t, err)
	defer dev.Close()
	if dev.Size() != 8<<20 {
		t.Fatalf("the disk has %d bytes left", dev.Size())
	}
	must(t, w.checkAll(dev))
}

// A host that an administrator gave the VM in the middle of a switch, while the one
// that moves it stood still, has it alone: the guest that was moved writes no more.
func TestLiveStorageTakenInTheSwitch(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	h, slot, name := liveVM(t, a, smbstore.Raw, 4<<20)
	w := newWriter(slot)
	done := make(chan error, 1)
	go func() { done <- w.run(context.Background(), 3) }()
	for w.ops.Load() < 100 {
		time.Sleep(time.Millisecond)
	}
	var once sync.Once
	setFailpoint(t, func(point string) {
		if point != "moved" {
			return
		}
		once.Do(func() {
			r, err := h.Record()
			must(t, err)
			_, err = h.ResolveMoved(t.Context(), r.Job, at(b, "vm"))
			must(t, err)
			dst, err := smbstore.HomeIn(storeAt(t, filepath.Join(b, "vm")))
			must(t, err)
			_, err = dst.ResolveAfter(t.Context(), "thief", r.Epoch)
			must(t, err)
		})
	})
	job, err := LiveStorage(t.Context(), LiveOptions{Options: Options{Source: at(a, "vm"), To: at(b)}, Disks: map[string]*block.Slot{name: slot}})
	must(t, err)
	if err := job.Wait(t.Context()); !errors.Is(err, smbstore.ErrTaken) || !strings.Contains(err.Error(), "owned by thief") {
		t.Errorf("got %v, want ErrTaken and by whom", err)
	}
	if err := <-done; !errors.Is(err, smbstore.ErrTaken) {
		t.Errorf("the writer got %v, want ErrTaken", err)
	}
	must(t, slot.Close())
	r, err := record(b)
	if err != nil || r.State != smbstore.Owned || r.Host != "thief" {
		t.Errorf("%v %v", r, err)
	}
	if !exists(a, "vm") {
		t.Error("the source was removed by a host that the VM is not of")
	}
}

// Nobody resumes or cancels a job that is under way in the same process: an agent
// has many, and sees to those that were cut besides.
func TestJobIsClaimed(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	_, slot, name := liveVM(t, a, smbstore.Raw, 4<<20)
	w := newWriter(slot)
	must(t, w.some(1, 50))
	var once sync.Once
	var errs []error
	setFailpoint(t, func(point string) {
		if point == "before-switch" {
			once.Do(func() {
				_, err := Resume(t.Context(), at(b, "vm"), Options{})
				_, rerr := Resolve(t.Context(), at(b, "vm"), Options{})
				errs = []error{err, rerr, undo(t.Context(), at(b, "vm"), Options{})}
			})
		}
	})
	job, err := LiveStorage(t.Context(), LiveOptions{Options: Options{Source: at(a, "vm"), To: at(b)}, Disks: map[string]*block.Slot{name: slot}})
	must(t, err)
	if err := job.Wait(t.Context()); err != nil {
		t.Errorf("it was disturbed: %v", err)
	}
	for i, err := range errs {
		if !errors.Is(err, ErrJobRunning) {
			t.Errorf("%s: got %v, want ErrJobRunning", []string{"resume", "resolve", "cancel"}[i], err)
		}
	}
	must(t, w.checkAll(slot))
	must(t, slot.Close())
}

// A job that could not undo what it did is nobody's, though its process lives on.
func TestFailedJobIsLeft(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	_, slot, name := liveVM(t, a, smbstore.Raw, 4<<20)
	var keep atomic.Bool
	openStore = func(ctx context.Context, l smbstore.Location, o smbstore.Options) (smbstore.Store, error) {
		s, err := smbstore.Open(ctx, l, o)
		if err == nil && at(b).Contains(l) {
			s = keptStore{s, &keep}
		}
		return s, err
	}
	t.Cleanup(func() { openStore = smbstore.Open })
	jobs := make(chan *Job, 1)
	setFailpoint(t, func(point string) {
		if point == "before-switch" {
			keep.Store(true)
			d, err := Show(t.Context(), at(b, "vm"), smbstore.Options{})
			if err != nil || d.Process.State != "running" || strings.Contains(fmt.Sprint(d.Next), "kill") {
				t.Errorf("while it goes on: %+v, %v", d.Status, err)
			}
			(<-jobs).Cancel()
		}
	})
	job, err := LiveStorage(t.Context(), LiveOptions{Options: Options{Source: at(a, "vm"), To: at(b)}, Disks: map[string]*block.Slot{name: slot}})
	must(t, err)
	jobs <- job
	if err := job.Wait(t.Context()); !errors.Is(err, ErrNotUndone) {
		t.Errorf("got %v, want ErrNotUndone", err)
	}
	must(t, slot.Close())
	left := func(when string) {
		t.Helper()
		d, err := Show(t.Context(), at(b, "vm"), smbstore.Options{})
		if err != nil || d.Process.State != "stopped" || d.Phase != Cancelling || !strings.Contains(d.Error, "sharing violation") {
			t.Errorf("%s: %+v by %+v, %v", when, d.Status, d.Process, err)
		}
	}
	left("after the job")
	if err := undo(t.Context(), at(b, "vm"), Options{}); !errors.Is(err, smbstore.ErrSharing) {
		t.Errorf("cancelled: %v", err)
	}
	left("after another try")
	keep.Store(false)
	must(t, undo(t.Context(), at(b, "vm"), Options{}))
	if exists(b, "vm") {
		t.Error("the destination was left")
	}
}

// What fails after the switch is said to have come too late to be cancelled, and
// leaves nothing of the source open.
func TestLiveStorageFailsMoved(t *testing.T) {
	for point, want := range map[string]error{"before-clean": ErrTooLate, "entered-cleaning": block.ErrClosed} {
		a, b := t.TempDir(), t.TempDir()
		_, slot, name := liveVM(t, a, smbstore.VHDX, 4<<20)
		jobs := make(chan *Job, 1)
		setFailpoint(t, func(p string) {
			switch {
			case p != point:
			case want == ErrTooLate:
				(<-jobs).Cancel()
			default:
				slot.Close() //nolint:errcheck // the destination does not answer any more
			}
		})
		src, closed := slot.Unwrap(), 0
		job, err := LiveStorage(t.Context(), LiveOptions{Options: Options{Source: at(a, "vm"), To: at(b)}, Disks: map[string]*block.Slot{name: slot},
			CloseSource: func(string) error { closed++; return src.Close() }})
		must(t, err)
		jobs <- job
		if err := job.Wait(t.Context()); !errors.Is(err, want) || !strings.Contains(err.Error(), "the VM has moved") {
			t.Errorf("%s: got %v, want %v", point, err, want)
		}
		if closed != 1 {
			t.Errorf("%s: the source was closed %d times", point, closed)
		}
		slot.Close() //nolint:errcheck // it may be closed
		must(t, job.Release())
		setFailpoint(t, func(string) {})
		job, err = Resume(t.Context(), at(b, "vm"), Options{})
		must(t, err)
		must(t, job.Wait(t.Context()))
		if exists(a, "vm") || exists(b, "vm", JournalName) {
			t.Errorf("%s: the source or the journal is there still", point)
		}
	}
}

// A source that an administrator gave a host of its own after the VM had moved, in
// its time of grace for one, is not removed; one that is being removed is not given.
func TestSourceIsAnothers(t *testing.T) {
	for _, point := range []string{"before-clean", "removed-entry"} {
		a, b := t.TempDir(), t.TempDir()
		h := makeHome(t, storeAt(t, a), "vm", 1<<20, 1)
		want := content(t, h.Store())
		var resolved error
		var once sync.Once
		setFailpoint(t, func(p string) {
			if p == point {
				once.Do(func() { _, resolved = h.Resolve(t.Context(), "thief") })
			}
		})
		job, err := Storage(t.Context(), Options{Source: at(a, "vm"), To: at(b)})
		must(t, err)
		err = job.Wait(t.Context())
		if point == "removed-entry" {
			if err != nil || !errors.Is(resolved, smbstore.ErrMoved) {
				t.Errorf("%s: %v, and resolved: %v", point, err, resolved)
			}
			continue
		}
		must(t, resolved)
		if !errors.Is(err, smbstore.ErrNotOwner) || !strings.Contains(err.Error(), "owned by thief") {
			t.Errorf("%s: got %v, want ErrNotOwner and whose it is", point, err)
		}
		if exists(a, "vm") && content(t, h.Store()) != want || !exists(a, "vm") {
			t.Errorf("%s: the other's home was removed", point)
		}
	}
}

// A destination that an administrator gave a host, while its source could not be
// told, is not removed with the job that is undone.
func TestCopyIsAnothers(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	h, slot, name := liveVM(t, a, smbstore.Raw, 4<<20)
	var once sync.Once
	setFailpoint(t, func(point string) {
		if point == "held" {
			once.Do(func() {
				r, err := h.Record()
				must(t, err)
				_, err = h.Resolve(t.Context(), r.Host) // the switch is not to come about
				must(t, err)
				dst, err := smbstore.HomeIn(storeAt(t, filepath.Join(b, "vm")))
				must(t, err)
				_, err = dst.ResolveAfter(t.Context(), "thief", r.Epoch)
				must(t, err)
			})
		}
	})
	job, err := LiveStorage(t.Context(), LiveOptions{Options: Options{Source: at(a, "vm"), To: at(b)}, Disks: map[string]*block.Slot{name: slot}})
	must(t, err)
	if err := job.Wait(t.Context()); !errors.Is(err, ErrNotUndone) || !strings.Contains(err.Error(), "owned by thief") {
		t.Errorf("got %v, want ErrNotUndone and whose it is", err)
	}
	must(t, slot.Close())
	if r, err := record(b); err != nil || r.Host != "thief" || !exists(b, "vm", filepath.FromSlash(name)) {
		t.Errorf("the other's home was removed: %v, %v", r, err)
	}
}
