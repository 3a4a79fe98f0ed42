package migrate

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/block"
	"lunless/smbstore/storetest"
)

// begin starts the VM's writers; end stops them and gives what they found.
func (v *chainVM) begin() (end func() error) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, len(v.writers))
	for _, w := range v.writers {
		go func() { done <- w.run(ctx, 7) }()
	}
	v.wait(done, 20)
	return func() error {
		v.wait(done, 20)
		stop()
		var errs []error
		for name, w := range v.writers {
			errs = append(errs, <-done, w.checkAll(v.slots[name]))
		}
		return errors.Join(errs...)
	}
}

// A destination that does not answer any more holds the guest for as long as it is
// given, and no longer; the VM goes on at its source, though the store would wait
// for ever.
func TestLiveDestinationStands(t *testing.T) {
	server := storetest.StartLunless(t)
	a := t.TempDir()
	v := makeChainVM(t, a, smbstore.VHDX, smbstore.VHDX, 8<<20, 3)
	v.open(t)
	end := v.begin()
	to := server.Options()
	to.ReconnectTimeout, to.RequestTimeout = 1000*time.Hour, 1000*time.Hour
	once := false
	setFailpoint(t, func(point string) {
		if point == "live-copied" && !once {
			once = true
			server.Pause()
		}
	})
	const patience = 300 * time.Millisecond
	job, err := LiveStorage(t.Context(), LiveOptions{Options: Options{Source: at(a, "vm"), To: server.Location("x"), ToOptions: to}, Disks: v.slots, Patience: patience})
	must(t, err)
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until) && job.Status().Guest == nil; {
		time.Sleep(time.Millisecond)
	}
	for _, s := range v.slots { // back on the source
		for {
			if _, mirrored := s.Unwrap().(*block.Mirror); !mirrored && once {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	must(t, end())
	if worst := job.Status().Guest.Worst; worst > time.Minute { // the store would wait for hours
		t.Errorf("the guest waited %v", worst)
	}
	server.Continue()
	if err := job.Wait(t.Context()); !errors.Is(err, ErrDestination) || !errors.Is(err, block.ErrNoAnswer) {
		t.Errorf("got %v", err)
	}
	for _, s := range v.slots {
		must(t, s.Close())
	}
	if r, err := v.home.Record(); err != nil || r.State != smbstore.Owned {
		t.Errorf("%v %v", r, err)
	}
}

// A destination without room for the base image, or for what the guest writes,
// cancels the move, says so, and leaves nothing.
func TestLiveNoRoom(t *testing.T) {
	for _, c := range []struct {
		name string
		room int64
	}{{"for the base", 1 << 20}, {"for the disks", 9 << 20}} {
		t.Run(c.name, func(t *testing.T) {
			a, b := t.TempDir(), t.TempDir()
			v := makeChainVM(t, a, smbstore.VHDX, smbstore.VHDX, 16<<20, 4)
			v.open(t)
			setSmallDisk(t, b, c.room)
			end := v.begin()
			job, err := LiveStorage(t.Context(), LiveOptions{Options: Options{Source: at(a, "vm"), To: at(b)}, Disks: v.slots, Patience: time.Minute})
			must(t, err)
			err = job.Wait(t.Context())
			if !errors.Is(err, smbstore.ErrNoSpace) || !strings.HasPrefix(err.Error(), "no room on the file system at "+b) || !strings.Contains(err.Error(), "the VM goes on at "+filepath.Join(a, "vm")) {
				t.Errorf("got %v", err)
			}
			must(t, end())
			for _, s := range v.slots {
				must(t, s.Close())
			}
			if exists(b, "vm") {
				t.Error("the destination was left")
			}
		})
	}
}

// The source stays for the time of grace, under a record that says where the VM
// is, and longer if the destination does not answer at its end.
func TestLiveGrace(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	v := makeChainVM(t, a, smbstore.VHDX, smbstore.VHDX, 8<<20, 5)
	v.open(t)
	end := v.begin()
	keeping := make(chan struct{})
	setFailpoint(t, func(point string) {
		if point == "keeping" {
			close(keeping)
		}
	})
	const grace = 500 * time.Millisecond
	start := time.Now()
	job, err := LiveStorage(t.Context(), LiveOptions{Options: Options{Source: at(a, "vm"), To: at(b)}, Disks: v.slots, Grace: grace,
		CloseSource: func(path string) error { return v.chains[path].Close() }})
	must(t, err)
	<-keeping
	s := job.Status()
	if r, err := v.home.Record(); s.Phase != Keeping || s.KeptUntil.IsZero() || err != nil || r.State != smbstore.Moved {
		t.Errorf("phase %s until %v, record %v %v", s.Phase, s.KeptUntil, r, err)
	}
	if !exists(a, "vm", filepath.FromSlash(v.leaf)) {
		t.Error("the source is gone in its time of grace")
	}
	if jobs, err := List(t.Context(), at(b), smbstore.Options{}); err != nil || len(jobs) != 1 || jobs[0].Phase != Cleaning {
		t.Errorf("listed: %+v %v", jobs, err)
	}
	must(t, job.Wait(t.Context()))
	if took := time.Since(start); took < grace {
		t.Errorf("the source went after %v", took)
	}
	must(t, end())
	for _, s := range v.slots {
		must(t, s.Close())
	}
	if exists(a, "vm") || exists(b, "vm", JournalName) {
		t.Error("the source or the journal is there still")
	}
}

// Five migrations at once share the rate they were given, and finish.
func TestManagerShares(t *testing.T) {
	const rate, size = 24 << 20, 6 << 20
	m := NewManager(5, 1)
	var jobs []*Job
	for i := range 5 {
		a, b := t.TempDir(), t.TempDir()
		makeHome(t, storeAt(t, a), "vm", size, 1)
		o := Options{Source: at(a, "vm"), To: at(b), Parallel: 1 + 3*i}
		job, err := m.Storage(t.Context(), o)
		must(t, err)
		jobs = append(jobs, job)
	}
	for _, j := range jobs {
		for j.Status().Phase != Copying {
			time.Sleep(time.Millisecond)
		}
	}
	start := time.Now()
	m.SetRate(rate)
	half := time.Duration(0)
	least, most := int64(0), int64(0)
	for half == 0 {
		sum := int64(0)
		least, most = 1<<62, 0
		for _, j := range jobs {
			n := j.Status().Copied
			sum, least, most = sum+n, min(least, n), max(most, n)
		}
		if sum > 5*size/4 {
			half = time.Since(start)
		}
		time.Sleep(time.Millisecond)
	}
	if least == 0 { // how alike the parts are is TestBandwidth's
		t.Errorf("one has copied nothing, another %d bytes", most)
	}
	total := int64(0)
	for _, j := range jobs {
		must(t, j.Wait(t.Context()))
		total += j.Status().Copied
	}
	if took := time.Since(start).Seconds(); float64(total)/took > rate*1.1 {
		t.Errorf("%d bytes in %.2f s", total, took)
	}
	for len(m.Jobs()) > 0 {
		time.Sleep(time.Millisecond)
	}
}

// A job beyond the limit is shown as queued, and goes when it is cancelled.
func TestManagerQueues(t *testing.T) {
	m := NewManager(1, 1<<20)
	a, b := t.TempDir(), t.TempDir()
	makeHome(t, storeAt(t, a), "one", 4<<20, 1)
	makeHome(t, storeAt(t, a), "two", 1<<20, 2)
	first, err := m.Storage(t.Context(), Options{Source: at(a, "one"), To: at(b)})
	must(t, err)
	for first.Status().Phase != Copying {
		time.Sleep(time.Millisecond)
	}
	second, err := m.Storage(t.Context(), Options{Source: at(a, "two"), To: at(b)})
	must(t, err)
	third, err := m.Storage(t.Context(), Options{Source: at(a, "none"), To: at(b)})
	if err == nil {
		t.Errorf("a VM that is not there is queued: %v", third)
	}
	time.Sleep(20 * time.Millisecond)
	if s := second.Status(); s.Phase != Queued || s.Remaining != Unknown {
		t.Errorf("the second is %+v", s)
	}
	second.Cancel()
	if err := second.Wait(t.Context()); !errors.Is(err, ErrCancelled) || exists(b, "two") {
		t.Errorf("cancelled in the queue: %v", err)
	}
	m.SetRate(0)
	must(t, first.Wait(t.Context()))
}

// A VM whose disks are open for writing is not moved as if it stood still, idle
// though it may be.
func TestStorageInUse(t *testing.T) {
	server := storetest.StartLunless(t)
	for _, dir := range []string{t.TempDir(), filepath.Join(server.Dir, "vms")} {
		v := makeChainVM(t, dir, smbstore.VHDX, smbstore.VHDX, 4<<20, 6)
		o := Options{Source: at(dir, "vm"), To: at(t.TempDir())}
		if dir == filepath.Join(server.Dir, "vms") {
			o.Source, o.SourceOptions = server.Location("vm"), server.Options()
			h, err := smbstore.OpenHome(t.Context(), o.Source, o.SourceOptions)
			must(t, err)
			defer h.Close()
			v.home = h
		}
		v.open(t)
		if _, err := Storage(t.Context(), o); !errors.Is(err, ErrInUse) {
			t.Errorf("got %v, want ErrInUse", err)
		}
		if r, err := v.home.Record(); err != nil || r.State != smbstore.Owned {
			t.Errorf("%v %v", r, err)
		}
		for _, s := range v.slots {
			must(t, s.Close())
		}
		job, err := Storage(t.Context(), o)
		must(t, err)
		must(t, job.Wait(t.Context()))
	}
}

// A VM that was started again after its move was cut, in the epoch that the journal
// knows, is not moved under its disks.
func TestResumeInUse(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	v := makeChainVM(t, a, smbstore.VHDX, smbstore.VHDX, 4<<20, 6)
	ctx, cut := context.WithCancel(t.Context())
	setFailpoint(t, func(name string) {
		if name == "copied" {
			cut()
		}
	})
	job, err := Storage(ctx, Options{Source: at(a, "vm"), To: at(b)})
	must(t, err)
	if err := job.Wait(t.Context()); err == nil {
		t.Fatal("it was not cut")
	}
	setFailpoint(t, func(string) {})
	v.open(t)
	if _, err := Resume(t.Context(), at(b, "vm"), Options{}); !errors.Is(err, ErrInUse) {
		t.Fatalf("got %v, want ErrInUse", err)
	}
	if r, err := v.home.Record(); err != nil || r.State != smbstore.Owned {
		t.Errorf("%v %v", r, err)
	}
	for _, s := range v.slots {
		must(t, s.Close())
	}
	job, err = Resume(t.Context(), at(b, "vm"), Options{})
	must(t, err)
	must(t, job.Wait(t.Context()))
}

// A process that dies while the source is kept for a time leaves that to Resume.
func TestResumeKeeps(t *testing.T) {
	for _, cancelled := range []bool{false, true} {
		resumeKeeps(t, cancelled)
	}
}

func resumeKeeps(t *testing.T, cancelled bool) {
	a, b := t.TempDir(), t.TempDir()
	v := makeChainVM(t, a, smbstore.VHDX, smbstore.VHDX, 4<<20, 8)
	v.open(t)
	end := v.begin()
	ctx, die := context.WithCancel(t.Context())
	jobs := make(chan *Job, 1)
	want := context.Canceled
	if cancelled {
		want, die = ErrTooLate, func() { (<-jobs).Cancel() }
	}
	setFailpoint(t, func(point string) {
		if point == "keeping" {
			die()
		}
	})
	job, err := LiveStorage(ctx, LiveOptions{Options: Options{Source: at(a, "vm"), To: at(b)}, Disks: v.slots, Grace: 300 * time.Millisecond,
		CloseSource: func(path string) error { return v.chains[path].Close() }})
	must(t, err)
	jobs <- job
	if err := job.Wait(t.Context()); !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
	must(t, end())
	for _, s := range v.slots {
		must(t, s.Close())
	}
	if !exists(a, "vm", filepath.FromSlash(v.leaf)) {
		t.Error("the source is gone")
	}
	setFailpoint(t, func(string) {})
	if err := undo(t.Context(), at(b, "vm"), Options{}); !errors.Is(err, ErrTooLate) {
		t.Errorf("cancelled: %v", err)
	}
	job, err = Resume(t.Context(), at(b, "vm"), Options{})
	must(t, err)
	must(t, job.Wait(t.Context()))
	if exists(a, "vm") || exists(b, "vm", JournalName) {
		t.Error("the source or the journal is there still")
	}
}

// slowJournal holds up the first write of the journal that is made beside a pass:
// until the job undoes what it did, or for a while.
type slowJournal struct {
	smbstore.Store
	passing *atomic.Bool // false once the job undoes what it did
	held    *atomic.Bool
	late    *atomic.Bool // it ended after that
}

func (s *slowJournal) Rename(from, to string) error {
	if strings.HasSuffix(to, JournalName) && s.passing.Load() && !s.held.Swap(true) {
		for until := time.Now().Add(time.Second); s.passing.Load() && time.Now().Before(until); {
			time.Sleep(time.Millisecond)
		}
		s.late.Store(!s.passing.Load())
	}
	return s.Store.Rename(from, to)
}

// The journal's last write beside a pass that is cancelled ends before anything is
// undone: it would bring back a journal that says to go on.
func TestJournalIsNotOvertaken(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	v := makeChainVM(t, a, smbstore.VHDX, smbstore.VHDX, 8<<20, 3)
	v.open(t)
	var passing, held, late atomic.Bool
	openStore = func(ctx context.Context, l smbstore.Location, o smbstore.Options) (smbstore.Store, error) {
		s, err := smbstore.Open(ctx, l, o)
		if err != nil || !at(b).Contains(l) {
			return s, err
		}
		return &slowJournal{s, &passing, &held, &late}, nil
	}
	t.Cleanup(func() { openStore = smbstore.Open })
	jobs := make(chan *Job, 1)
	var once sync.Once
	mirrored := 0
	setFailpoint(t, func(point string) {
		switch point {
		case "mirrored": // the chain comes last, and then the passes
			mirrored++
			passing.Store(mirrored == len(v.slots))
		case "live-copied":
			for until := time.Now().Add(time.Minute); !held.Load() && time.Now().Before(until); {
				time.Sleep(time.Millisecond)
			}
			once.Do(func() { (<-jobs).Cancel() })
		case "cancelling":
			passing.Store(false)
		}
	})
	job, err := LiveStorage(t.Context(), LiveOptions{Options: Options{Source: at(a, "vm"), To: at(b), often: true}, Disks: v.slots})
	must(t, err)
	jobs <- job
	if err := job.Wait(t.Context()); !errors.Is(err, ErrCancelled) {
		t.Errorf("got %v, want ErrCancelled", err)
	}
	if !held.Load() || late.Load() {
		t.Errorf("the journal was written beside the pass: %v, after the undoing had begun: %v", held.Load(), late.Load())
	}
	for _, s := range v.slots {
		must(t, s.Close())
	}
}
