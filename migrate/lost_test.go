package migrate

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/storetest"
)

// A server that is lost ends the job with what to do next.
func TestStorageServerLost(t *testing.T) {
	for _, c := range []struct{ name, share string }{{"destination", ""}, {"both", "other"}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := storetest.StartLunless(t)
			o := Options{To: server.Location("x"), SourceOptions: server.Options(), ToOptions: server.Options(), RateLimit: 8 << 20}
			if a := t.TempDir(); c.share == "" {
				makeHome(t, storeAt(t, a), "vm", 64<<20, 1)
				o.Source = at(a, "vm")
			} else {
				makeHome(t, storeAt(t, filepath.Join(server.Dir, c.share)), "vm", 64<<20, 1)
				o.Source = server.Location("vm")
				o.Source.Share = c.share
			}
			const patience = 3 * time.Second
			o.SourceOptions.ReconnectTimeout, o.ToOptions.ReconnectTimeout = patience, patience
			job, err := Storage(t.Context(), o)
			must(t, err)
			for job.Status().Copied == 0 {
				time.Sleep(time.Millisecond)
			}
			server.Kill()
			err = job.Wait(t.Context())
			if !errors.Is(err, smbstore.ErrUnreachable) || !strings.Contains(err.Error(), "lunless migrate resume") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A disk that is written to meanwhile is named, before everything is compared
// and when the comparison finds it.
func TestStorageSourceInUse(t *testing.T) {
	for _, point := range []string{"copied", "entered-verifying"} {
		t.Run(point, func(t *testing.T) {
			a, b := t.TempDir(), t.TempDir()
			h := makeHome(t, storeAt(t, a), "vm", 4<<20, 8)
			setFailpoint(t, func(name string) {
				if name == point {
					f, err := os.OpenFile(filepath.Join(a, "vm", "Virtual Hard Disks", "disk0.raw"), os.O_WRONLY, 0)
					must(t, err)
					_, err = f.WriteAt([]byte("the VM writes"), 1<<20)
					must(t, err)
					must(t, f.Close())
				}
			})
			job, err := Storage(t.Context(), Options{Source: at(a, "vm"), To: at(b)})
			must(t, err)
			err = job.Wait(t.Context())
			if !errors.Is(err, ErrSourceChanged) || errors.Is(err, ErrVerify) {
				t.Fatalf("got %v, want ErrSourceChanged", err)
			}
			for _, want := range []string{"Virtual Hard Disks/disk0.raw was written to at ", "the VM seems to be in use"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			setFailpoint(t, func(string) {})
			want := content(t, h.Store())
			job, err = Resume(t.Context(), at(b, "vm"), Options{})
			must(t, err)
			must(t, job.Wait(t.Context()))
			if got := content(t, storeAt(t, filepath.Join(b, "vm"))); got != want {
				t.Error("the home differs")
			}
		})
	}
}

// What List and Show say of a job whose process was killed, and of a lock.
func TestShow(t *testing.T) {
	v := &vm{a: t.TempDir(), b: t.TempDir()}
	v.from, v.to, v.home = filepath.Join(v.a, "vm"), v.b, filepath.Join(v.b, "vm")
	v.make(t, soakRun{kind: "offline", seed: 1})
	if out, err := v.child("storage", v.to, envKill+"=offered:1:0"); !killed(err) {
		t.Fatalf("%v %s", err, out)
	}
	h, err := smbstore.HomeIn(storeAt(t, v.from))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(v.from, h.RecordName()+".lock"), []byte(`{"host":"far","pid":7,"job":"j","time":"2026-01-02T03:04:05Z"}`), 0o644))
	d, err := Show(t.Context(), at(v.b, "vm"), smbstore.Options{})
	must(t, err)
	host, err := smbstore.HostName()
	must(t, err)
	if p := d.Process; p == nil || p.Host != host || p.PID == 0 || p.State != "gone" || time.Since(p.Updated) > time.Minute {
		t.Errorf("process %+v", p)
	}
	if len(d.Ends) != 2 || !strings.HasPrefix(d.Ends[0].Record, "offered by "+host) || d.Ends[1].Lock != nil {
		t.Fatalf("ends %+v", d.Ends)
	}
	if l := d.Ends[0].Lock; l == nil || l.Host != "far" || l.PID != 7 || l.Job != "j" || l.Time.Year() != 2026 {
		t.Errorf("lock %+v", l)
	}
	next := strings.Join(d.Next, "\n")
	for _, want := range []string{"lunless migrate resume " + v.home, "lunless migrate cancel " + v.home, "lunless migrate resolve " + v.from} {
		if !strings.Contains(next, want) {
			t.Errorf("%q lacks %q", next, want)
		}
	}
	must(t, os.RemoveAll(v.from))
	if d, err = Show(t.Context(), at(v.b, "vm"), smbstore.Options{}); err != nil || d.Ends[0].Record == "" {
		t.Errorf("without its source: %+v, %v", d, err)
	}
}

// goneStore is one whose server is gone, once it is told so.
type goneStore struct {
	smbstore.Store
	gone    *atomic.Bool
	noticed func()
}

func (s goneStore) OpenFile(name string, flags smbstore.Flags) (smbstore.File, error) {
	if s.gone.Load() {
		s.noticed()
		return nil, &smbstore.OpError{Op: "open", At: s.Location().Join(name), Err: smbstore.ErrUnreachable}
	}
	return s.Store.OpenFile(name, flags)
}

// A destination that goes away for good after the VM was offered to it leaves the VM
// to its source, where it can be started.
func TestStorageLostInTheSwitch(t *testing.T) {
	for _, cancelled := range []bool{false, true} {
		a, b := t.TempDir(), t.TempDir()
		h := makeHome(t, storeAt(t, a), "vm", 1<<20, 1)
		var gone atomic.Bool
		var once sync.Once
		jobs := make(chan *Job, 1)
		notice := func() {
			if cancelled {
				(<-jobs).Cancel()
			}
		}
		openStore = func(ctx context.Context, l smbstore.Location, o smbstore.Options) (smbstore.Store, error) {
			s, err := smbstore.Open(ctx, l, o)
			if err == nil && at(b).Contains(l) {
				s = goneStore{s, &gone, func() { once.Do(notice) }}
			}
			return s, err
		}
		t.Cleanup(func() { openStore = smbstore.Open })
		setFailpoint(t, func(point string) {
			if point == "offered" {
				gone.Store(true)
			}
		})
		job, err := Storage(t.Context(), Options{Source: at(a, "vm"), To: at(b)})
		must(t, err)
		jobs <- job
		if err := job.Wait(t.Context()); !errors.Is(err, smbstore.ErrUnreachable) {
			t.Errorf("got %v, want ErrUnreachable", err)
		}
		if r, err := h.Record(); err != nil || r.State != smbstore.Owned {
			t.Errorf("cancelled %v: the source's record says %v (%v)", cancelled, r, err)
		}
		gone.Store(false)
		setFailpoint(t, func(string) {})
		if cancelled {
			must(t, undo(t.Context(), at(b, "vm"), Options{}))
			continue
		}
		job, err = Resume(t.Context(), at(b, "vm"), Options{})
		must(t, err)
		must(t, job.Wait(t.Context()))
	}
}
