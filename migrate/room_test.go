package migrate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

// smallDisk is a file system of limit bytes that holds the folder dir: what
// does not fit is refused, in this process.
type smallDisk struct {
	dir   string
	limit atomic.Int64
	mu    sync.Mutex
}

// setSmallDisk has every store at or below dir lie on a file system of limit bytes.
func setSmallDisk(t testing.TB, dir string, limit int64) *smallDisk {
	d := newSmallDisk(dir, limit)
	t.Cleanup(func() { openStore = smbstore.Open })
	return d
}

func newSmallDisk(dir string, limit int64) *smallDisk {
	d := &smallDisk{dir: dir}
	d.limit.Store(limit)
	openStore = func(ctx context.Context, l smbstore.Location, o smbstore.Options) (smbstore.Store, error) {
		s, err := smbstore.Open(ctx, l, o)
		if err != nil || !at(dir).Contains(l) {
			return s, err
		}
		return &smallStore{Store: s, disk: d}, nil
	}
	return d
}

// used is what the folder takes up, in bytes.
func (d *smallDisk) used() int64 {
	var n int64
	_ = filepath.WalkDir(d.dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if i, err := e.Info(); err == nil && !e.IsDir() {
			n += i.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	return n
}

type smallStore struct {
	smbstore.Store
	disk *smallDisk
}

func (s *smallStore) OpenFile(name string, flags smbstore.Flags) (smbstore.File, error) {
	f, err := s.Store.OpenFile(name, flags)
	if err != nil {
		return nil, err
	}
	return &smallFile{File: f, store: s}, nil
}

type smallFile struct {
	smbstore.File
	store *smallStore
}

func (f *smallFile) WriteAt(p []byte, off int64) (int, error) {
	d := f.store.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.used()+int64(len(p)) > d.limit.Load() {
		return 0, &smbstore.OpError{Op: "write", At: f.store.Location().Join(f.Name()), Err: smbstore.ErrNoSpace}
	}
	return f.File.WriteAt(p, off)
}

// filled starts a migration that finds its destination full.
func filled(t *testing.T) (v *vm, disk *smallDisk) {
	v = &vm{a: t.TempDir(), b: t.TempDir()}
	h := makeHome(t, storeAt(t, v.a), "vm", 24<<20, 7)
	v.want = content(t, h.Store())
	disk = setSmallDisk(t, v.b, 5<<20)
	job, err := Storage(t.Context(), Options{Source: at(v.a, "vm"), To: at(v.b)})
	must(t, err)
	err = job.Wait(t.Context())
	if !errors.Is(err, smbstore.ErrNoSpace) {
		t.Fatalf("got %v, want ErrNoSpace", err)
	}
	dst := at(v.b, "vm").String()
	for _, want := range []string{"no room on the file system at " + dst, " more are needed", "make room there",
		"lunless migrate resume " + dst, "lunless migrate cancel " + dst} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	jobs, err := List(t.Context(), at(v.b), smbstore.Options{})
	if err != nil || len(jobs) != 1 || !strings.Contains(jobs[0].Error, "no room") || jobs[0].Process.State != "stopped" {
		t.Errorf("list: %+v, %v", jobs, err)
	}
	return v, disk
}

func TestFullDestination(t *testing.T) {
	t.Run("room is made", func(t *testing.T) {
		v, disk := filled(t)
		disk.limit.Store(math.MaxInt64)
		job, err := Resume(t.Context(), at(v.b, "vm"), Options{})
		must(t, err)
		must(t, job.Wait(t.Context()))
		must(t, v.at(v.b, v.a))
	})
	t.Run("cancelled", func(t *testing.T) {
		v, disk := filled(t)
		disk.limit.Store(0)
		must(t, undo(t.Context(), at(v.b, "vm"), Options{}))
		must(t, v.at(v.a, v.b))
		if r, err := record(v.a); err != nil || r.Epoch != 1 {
			t.Errorf("%v %v", r, err)
		}
	})
	t.Run("cancelled by its job", func(t *testing.T) {
		v := &vm{a: t.TempDir(), b: t.TempDir()}
		v.make(t, soakRun{kind: "offline", seed: 1})
		disk := setSmallDisk(t, v.b, math.MaxInt64)
		jobs := make(chan *Job, 1)
		var once sync.Once
		setFailpoint(t, func(name string) {
			if name == "copied-file" {
				once.Do(func() { disk.limit.Store(0); (<-jobs).Cancel() })
			}
		})
		job, err := Storage(t.Context(), Options{Source: at(v.a, "vm"), To: at(v.b)})
		must(t, err)
		jobs <- job
		if err := job.Wait(t.Context()); !errors.Is(err, ErrCancelled) {
			t.Errorf("got %v, want ErrCancelled", err)
		}
		must(t, v.at(v.a, v.b))
	})
}

// Wherever a cancel on a full file system is killed, the job can be listed, and
// cancelled or resumed.
func TestCancelKilledWhereFull(t *testing.T) {
	run := func(room int64, began, point, then string) {
		t.Run(fmt.Sprintf("%d after %s at %s then %s", room, began, point, then), func(t *testing.T) {
			t.Parallel()
			v := &vm{a: t.TempDir(), b: t.TempDir()}
			v.from, v.to, v.home = filepath.Join(v.a, "vm"), v.b, filepath.Join(v.b, "vm")
			v.make(t, soakRun{kind: "offline", seed: 3})
			if out, err := v.child("storage", v.to, envKill+"="+began+":1:0"); !killed(err) {
				t.Fatalf("%v %s", err, out)
			}
			full := fmt.Sprintf("%s=%d:%s", envRoom, room, v.b)
			if out, err := v.child("cancel", v.home, full, envKill+"="+point+":1:0"); !killed(err) {
				t.Fatalf("%v %s", err, out)
			}
			must(t, v.inOnePlace())
			if jobs, err := List(t.Context(), at(v.b), smbstore.Options{}); err != nil || len(jobs) != 1 || len(jobs[0].Next) == 0 {
				t.Fatalf("list: %+v, %v", jobs, err)
			}
			if then == "cancel" {
				if out, err := v.child("cancel", v.home, full); err != nil {
					t.Fatalf("%v %s", err, out)
				}
				must(t, v.at(v.a, v.b))
				return
			}
			// With room again, resume goes on, or ends the undoing.
			out, err := v.child("resume", v.home)
			switch {
			case err == nil:
				must(t, v.at(v.b, v.a))
			case strings.Contains(out, ErrCancelled.Error()):
				must(t, v.at(v.a, v.b))
			default:
				t.Fatalf("%v %s", err, out)
			}
		})
	}
	// With no room at all, and with some once the first file is gone.
	began := map[int64][]string{0: {"copied-file", "verified-file", "offered-at-destination"}, 1 << 20: {"before-switch", "offered"}}
	for room, points := range began {
		for _, b := range points {
			for _, point := range []string{"taken-back-without-room", "made-room", "cancelling", "taken-back", "cancel-removed-entry"} {
				if point == "taken-back-without-room" && !strings.HasPrefix(b, "offered") {
					continue // there is nothing to take back
				}
				run(room, b, point, "cancel")
				run(room, b, point, "resume")
			}
		}
	}
}

// A live migration to a full destination says so first; its VM goes on.
func TestLiveStorageFullDestination(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	_, slot, name := liveVM(t, a, smbstore.VHDX, 32<<20)
	w := newWriter(slot)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.run(ctx, 4) }()
	for w.ops.Load() < 2000 {
		time.Sleep(time.Millisecond)
	}
	setSmallDisk(t, b, 8<<20)
	job, err := LiveStorage(t.Context(), LiveOptions{Options: Options{Source: at(a, "vm"), To: at(b)}, Disks: map[string]*block.Slot{name: slot}})
	must(t, err)
	err = job.Wait(t.Context())
	if !errors.Is(err, smbstore.ErrNoSpace) || !strings.HasPrefix(err.Error(), "no room on the file system at "+at(b, "vm").String()) {
		t.Errorf("got %v", err)
	}
	if text := fmt.Sprint(err); strings.Contains(text, "mirror") || strings.Contains(text, "flush") {
		t.Errorf("noise: %v", text)
	}
	before := w.ops.Load()
	for w.ops.Load() < before+100 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	must(t, <-done)
	must(t, w.checkAll(slot))
	must(t, slot.Close())
	if exists(b, "vm") {
		t.Error("the destination was left")
	}
}
