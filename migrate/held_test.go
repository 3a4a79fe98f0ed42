package migrate

import (
	"errors"
	"runtime"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

// A job that is held up by a pause or a limit ends when it is cancelled, goes on when
// it is let, and leaves nothing running.
func TestLiveStorageHeld(t *testing.T) {
	for _, c := range []struct {
		name string
		hold func(*Job)
		end  func(*Job)
		want error
	}{
		{"paused, cancelled", (*Job).Pause, (*Job).Cancel, ErrCancelled},
		{"limited, cancelled", func(j *Job) { j.SetRate(1) }, (*Job).Cancel, ErrCancelled},
		{"paused and limited, let go", func(j *Job) { j.SetRate(1); j.Pause() }, func(j *Job) { j.Unpause(); j.SetRate(0) }, nil},
		{"limited, another limit", func(j *Job) { j.SetRate(1) }, func(j *Job) { j.SetRate(0); j.SetRate(1 << 30) }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := t.TempDir(), t.TempDir()
			_, slot, name := liveVM(t, a, smbstore.Raw, 16<<20)
			w := newWriter(slot)
			must(t, w.some(1, 100))
			before := runtime.NumGoroutine()
			jobs, held := make(chan *Job, 1), make(chan struct{})
			setFailpoint(t, func(point string) {
				if point == "mirrored" {
					c.hold(<-jobs)
					close(held)
				}
			})
			job, err := LiveStorage(t.Context(), LiveOptions{Options: Options{Source: at(a, "vm"), To: at(b)}, Disks: map[string]*block.Slot{name: slot}})
			must(t, err)
			jobs <- job
			<-held
			time.Sleep(50 * time.Millisecond)
			if s := job.Status(); s.Phase != Copying {
				t.Errorf("it is %s though it is held up", s.Phase)
			}
			c.end(job)
			if err := job.Wait(t.Context()); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			must(t, w.checkAll(slot))
			must(t, slot.Close())
			must(t, job.Release())
			now := 0
			for until := time.Now().Add(time.Minute); time.Now().Before(until); time.Sleep(time.Millisecond) {
				if now = runtime.NumGoroutine(); now <= before {
					return
				}
			}
			buf := make([]byte, 64<<10)
			t.Errorf("%d goroutines more than before\n%s", now-before, buf[:runtime.Stack(buf, true)])
		})
	}
}
