package migrate

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

// Five live migrations at once finish, together no faster than the rate they share,
// and each gets about as much of it as the others.
func TestFiveShareTheRate(t *testing.T) {
	const jobs, data, limit = 5, 4 << 20, 8 << 20
	// They begin to copy together: what one gets ahead of the others is no matter of
	// when it was started.
	var ready sync.WaitGroup
	ready.Add(jobs)
	begun := make(chan time.Time)
	setFailpoint(t, func(point string) {
		if point == "mirrored" {
			ready.Done()
			<-begun
		}
	})
	m := NewManager(jobs, limit)
	var all []*Job
	var ends []func()
	for i := range jobs {
		dir := t.TempDir()
		_, slot, name := liveVM(t, dir, smbstore.VHDX, 16<<20)
		fill(t, slot, data)
		if i < 2 {
			ends = append(ends, writeOn(t, slot))
		}
		job, err := m.LiveStorage(t.Context(), LiveOptions{Options: Options{Source: at(dir, "vm"), To: at(t.TempDir())},
			Disks: map[string]*block.Slot{name: slot}, GuardFactor: -1})
		must(t, err)
		all = append(all, job)
	}
	ready.Wait()
	start := time.Now()
	close(begun)
	copied := watchCopies(t, all, start, limit)
	for _, job := range all {
		must(t, job.Wait(t.Context()))
	}
	for _, end := range ends {
		end()
	}
	t.Logf("in %v; when the first had copied all, they had %v bytes", time.Since(start), copied)
	if least := slices.Min(copied); slices.Max(copied) > 2*least {
		t.Errorf("of what they shared they got %v bytes", copied)
	}
}

// watchCopies looks at jobs until all have copied what there is, and gives what each
// had got while all copied.
func watchCopies(t *testing.T, all []*Job, start time.Time, limit int64) (together []int64) {
	t.Helper()
	// What may pass ahead of its time: the credit, and a request that the rate has yet
	// to pay for, a quarter of a second's at most.
	ahead := limit/20 + limit/4
	for copying, worst := true, false; copying; time.Sleep(10 * time.Millisecond) {
		var now []int64
		var sum int64
		copying = false
		every := true
		for _, job := range all {
			s := job.Status()
			now, sum = append(now, s.Copied), sum+s.Copied
			yes := s.Phase == Planning || s.Phase == Copying
			copying, every = copying || yes, every && yes
		}
		if every {
			together = now
		}
		took := time.Since(start) // later than what was counted
		if most := int64(1.1*float64(limit)*took.Seconds()) + ahead; sum > most && !worst {
			worst = true
			t.Errorf("%d bytes in %v: at most %d may be", sum, took, most)
		}
	}
	return together
}

// fill writes random data to the start of a disk.
func fill(t *testing.T, dev block.Device, n int64) {
	t.Helper()
	rnd := rand.NewChaCha8([32]byte{1})
	p := make([]byte, 1<<20)
	for off := int64(0); off < n; off += int64(len(p)) {
		_, _ = rnd.Read(p)
		must(t, dev.WriteAt(t.Context(), p, off, 0))
	}
}

// tail is the second half of a disk.
type tail struct{ block.Device }

func (d tail) Size() int64 { return d.Device.Size() / 2 }
func (d tail) ReadAt(ctx context.Context, p []byte, off int64) error {
	return d.Device.ReadAt(ctx, p, off+d.Size())
}
func (d tail) WriteAt(ctx context.Context, p []byte, off int64, flags block.WriteFlags) error {
	return d.Device.WriteAt(ctx, p, off+d.Size(), flags)
}

// writeOn has a guest write to the disk, apart from what fill wrote, until the end
// that it gives, which looks whether all is there.
func writeOn(t *testing.T, slot *block.Slot) (end func()) {
	w := newWriter(tail{slot})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.run(ctx, 1) }()
	return func() {
		stop()
		must(t, <-done)
		must(t, w.checkAll(w.dev))
	}
}
