package migrate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lunless/smbstore"
)

// storeAt opens a local folder.
func storeAt(t testing.TB, dir string) smbstore.Store {
	t.Helper()
	s, err := smbstore.OpenPath(context.Background(), dir, smbstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// makeHome makes a VM's home with a raw disk of size bytes, part of it holes and
// part zeroes, a checkpoint, an unknown file and an empty folder.
func makeHome(t testing.TB, storage smbstore.Store, name string, size int64, seed uint64) *smbstore.Home {
	t.Helper()
	h, err := smbstore.CreateHome(context.Background(), storage, name, smbstore.Config{CPUs: 2, Memory: 1 << 30, Firmware: "uefi",
		Disks: []smbstore.Disk{{Path: "Virtual Hard Disks/disk0.raw", Format: smbstore.Raw}}})
	must(t, err)
	rnd := rand.New(rand.NewPCG(seed, 1))
	put := func(name string, size int64) {
		f, err := h.Store().OpenFile(name, smbstore.ReadWrite|smbstore.Create|smbstore.Exclusive)
		must(t, err)
		defer f.Close()
		must(t, f.Truncate(size))
		p := make([]byte, 1<<20)
		for off := int64(0); off < size; off += int64(len(p)) {
			switch rnd.IntN(4) {
			case 0:
				continue
			case 1:
				clear(p)
			default:
				for i := range p {
					p[i] = byte(rnd.Uint32())
				}
			}
			_, err := f.WriteAt(p[:min(int64(len(p)), size-off)], off)
			must(t, err)
		}
		must(t, f.Sync())
	}
	put("Virtual Hard Disks/disk0.raw", size)
	put("Snapshots/cp1.avhdx", size/8+777)
	put("notes & more.txt", 1234)
	must(t, h.Store().MkdirAll("empty/folder ü"))
	put("empty/zero", 0)
	return h
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// undo is Cancel without what it gives.
func undo(ctx context.Context, destination smbstore.Location, o Options) error {
	_, err := Cancel(ctx, destination, o)
	return err
}

// content hashes everything a home owns: names, folders and bytes.
func content(t testing.TB, home smbstore.Store) string {
	t.Helper()
	folders, files, err := plan(context.Background(), home)
	must(t, err)
	h := sha256.New()
	for _, d := range folders {
		fmt.Fprintf(h, "%s/\n", d)
	}
	for _, f := range files {
		fmt.Fprintf(h, "%s %d\n", f.Name, f.Size)
		r, err := home.OpenFile(f.Name, smbstore.Read)
		must(t, err)
		_, err = io.Copy(h, io.NewSectionReader(r, 0, f.Size))
		must(t, err)
		must(t, r.Close())
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func at(dir string, elem ...string) smbstore.Location {
	return smbstore.Location{Path: filepath.Join(append([]string{dir}, elem...)...)}
}

func exists(dir string, elem ...string) bool {
	_, err := os.Stat(filepath.Join(append([]string{dir}, elem...)...))
	return err == nil
}

func TestStorageMovesEverything(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	h := makeHome(t, storeAt(t, a), "web 1", 20<<20, 1)
	want := content(t, h.Store())
	var phases []Phase
	job, err := Storage(t.Context(), Options{Source: at(a, "web 1"), To: at(b, "new", "place"), Progress: func(s Status) {
		if len(phases) == 0 || phases[len(phases)-1] != s.Phase {
			phases = append(phases, s.Phase)
		}
		if s.Done > s.Total && s.Total > 0 {
			t.Errorf("%s: %d of %d", s.Phase, s.Done, s.Total)
		}
	}})
	must(t, err)
	must(t, job.Wait(t.Context()))
	if got := fmt.Sprint(phases); got != "[copying verifying switching cleaning done]" {
		t.Errorf("phases %s", got)
	}
	if s := job.Status(); s.Skipped < 3<<20 || s.Copied == 0 {
		t.Errorf("copied %d, skipped %d: holes were not known", s.Copied, s.Skipped)
	}
	moved, err := smbstore.HomeIn(storeAt(t, filepath.Join(b, "new", "place", "web 1")))
	must(t, err)
	if got := content(t, moved.Store()); got != want {
		t.Error("the home differs")
	}
	if r, err := moved.Record(); err != nil || r.State != smbstore.Owned || r.Epoch != 2 {
		t.Errorf("%v, %v", r, err)
	}
	if exists(a, "web 1") {
		t.Error("the source is there still")
	}
	if exists(b, "new", "place", "web 1", JournalName) {
		t.Error("the journal is there still")
	}
}

// TestStorageMovesChains: a checkpoint's chain is one at the destination, of the
// files there, and one whose parent cannot be reached from there is not moved.
func TestStorageMovesChains(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	storage := storeAt(t, a)
	const gold, base, leaf = "gold.vhdx", "Virtual Hard Disks/disk0.vhdx", "Snapshots/disk0_1.avhdx"
	make := func(s smbstore.Store, name string, parent smbstore.Location, text string, off int64) {
		t.Helper()
		dev, err := smbstore.CreateDisk(t.Context(), s, name, smbstore.CreateDiskOptions{
			Format: smbstore.VHDX, Size: 8 << 20, BlockSize: 1 << 20, Parent: parent})
		must(t, err)
		must(t, dev.WriteAt(t.Context(), []byte(text), off, 0))
		must(t, dev.Close())
	}
	config := smbstore.Config{Disks: []smbstore.Disk{{Path: leaf, Format: smbstore.VHDX, Controller: "scsi"}}}
	h, err := smbstore.CreateHome(t.Context(), storage, "web1", config)
	must(t, err)
	make(h.Store(), base, smbstore.Location{}, "of the base", 0)
	make(h.Store(), leaf, h.Location().Join(base), "of the leaf", 3<<20)
	job, err := Storage(t.Context(), Options{Source: at(a, "web1"), To: at(b)})
	must(t, err)
	must(t, job.Wait(t.Context()))
	moved := storeAt(t, filepath.Join(b, "web1"))
	dev, _, err := smbstore.OpenDisk(t.Context(), moved, leaf, smbstore.DiskOptions{})
	must(t, err)
	for off, want := range map[int64]string{0: "of the base", 3 << 20: "of the leaf"} {
		p := []byte(want)
		clear(p)
		if err := dev.ReadAt(t.Context(), p, off); err != nil || string(p) != want {
			t.Errorf("at %d: %q, %v, want %q", off, p, err, want)
		}
	}
	must(t, dev.Close())
	images, err := smbstore.InspectChain(t.Context(), moved, leaf)
	if err != nil || len(images) != 2 || !images[1].Location.Equal(at(b, "web1", base)) {
		t.Errorf("chain %+v, %v", images, err)
	}

	h, err = smbstore.CreateHome(t.Context(), storage, "web2", config)
	must(t, err)
	make(storage, gold, smbstore.Location{}, "gold", 0)
	make(h.Store(), leaf, storage.Location().Join(gold), "of the leaf", 3<<20)
	must(t, storage.Rename(gold, "hidden.vhdx"))
	job, err = Storage(t.Context(), Options{Source: at(a, "web2"), To: at(b)})
	must(t, err)
	if err := job.Wait(t.Context()); !errors.Is(err, ErrParentLeft) || !strings.Contains(err.Error(), gold) {
		t.Errorf("with a parent that is gone: %v", err)
	}
	if !exists(a, "web2", leaf) {
		t.Error("the source is gone")
	}
}

func TestStorageRefuses(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	makeHome(t, storeAt(t, a), "vm", 1<<20, 1)
	try := func(o Options) error { _, err := Storage(t.Context(), o); return err }
	for name, c := range map[string]struct {
		o    Options
		want error
	}{
		"same place":    {Options{Source: at(a, "vm"), To: at(a)}, ErrSamePlace},
		"inside itself": {Options{Source: at(a, "vm"), To: at(a, "vm", "x")}, ErrSamePlace},
		"no home":       {Options{Source: at(a), To: at(b)}, smbstore.ErrNotHome},
	} {
		if err := try(c.o); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, os.Mkdir(filepath.Join(b, "vm"), 0o755))
	if err := try(Options{Source: at(a, "vm"), To: at(b)}); !errors.Is(err, smbstore.ErrExist) {
		t.Errorf("an existing destination: %v", err)
	}
	must(t, os.Remove(filepath.Join(b, "vm")))
	h, err := smbstore.HomeIn(storeAt(t, filepath.Join(a, "vm")))
	must(t, err)
	_, err = h.Change(t.Context(), "", func(r smbstore.Record) (smbstore.Record, error) { return r.Resolve("other") })
	must(t, err)
	if err := try(Options{Source: at(a, "vm"), To: at(b)}); !errors.Is(err, smbstore.ErrNotOwner) {
		t.Errorf("another host's VM: %v", err)
	}
}

func TestStorageInterruptedResumesWithoutCopyingAgain(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	h := makeHome(t, storeAt(t, a), "vm", 64<<20, 2)
	want := content(t, h.Store())
	ctx, cancel := context.WithCancel(t.Context())
	seen := 0
	setFailpoint(t, func(name string) {
		if name == "copied-file" {
			if seen++; seen == 3 {
				cancel()
			}
		}
	})
	job, err := Storage(ctx, Options{Source: at(a, "vm"), To: at(b)})
	must(t, err)
	if err := job.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "migrate resume") {
		t.Fatalf("interrupted: %v", err)
	}
	setFailpoint(t, func(string) {})
	if _, err := Storage(t.Context(), Options{Source: at(a, "vm"), To: at(b)}); !errors.Is(err, ErrUnfinished) {
		t.Errorf("a second migration: %v", err)
	}
	jobs, err := List(t.Context(), at(b), smbstore.Options{})
	if err != nil || len(jobs) != 1 || jobs[0].ID != job.ID() || jobs[0].Error == "" {
		t.Errorf("list: %+v, %v", jobs, err)
	}
	before := job.Status()
	resumed, err := Resume(t.Context(), at(b, "vm"), Options{})
	must(t, err)
	must(t, resumed.Wait(t.Context()))
	if s := resumed.Status(); s.ID != job.ID() || s.Copied+before.Copied+s.Skipped+before.Skipped > 90<<20 {
		t.Errorf("copied %d+%d again", before.Copied, s.Copied)
	}
	if got := content(t, storeAt(t, filepath.Join(b, "vm"))); got != want {
		t.Error("the home differs")
	}
	if _, err := Resume(t.Context(), at(b, "vm"), Options{}); !errors.Is(err, ErrNoJob) {
		t.Errorf("resume of a finished one: %v", err)
	}
}

func TestStorageCancel(t *testing.T) {
	for _, point := range []string{"planned", "copied-file", "copied", "verified-file", "before-switch", "offered", "offered-at-destination", "moved", "taken", "before-clean"} {
		t.Run(point, func(t *testing.T) {
			a, b := t.TempDir(), t.TempDir()
			h := makeHome(t, storeAt(t, a), "vm", 4<<20, 3)
			want := content(t, h.Store())
			stop := make(chan *Job, 1)
			hit := false
			setFailpoint(t, func(name string) {
				if name == point && !hit {
					hit = true
					(<-stop).Cancel()
				}
			})
			job, err := Storage(t.Context(), Options{Source: at(a, "vm"), To: at(b)})
			must(t, err)
			stop <- job
			err = job.Wait(t.Context())
			setFailpoint(t, func(string) {})
			switch {
			case errors.Is(err, ErrCancelled):
				if exists(b, "vm") {
					t.Error("the partial copy was left")
				}
				if got := content(t, h.Store()); got != want {
					t.Error("the source differs")
				}
				if r, err := h.Record(); err != nil || r.State != smbstore.Owned {
					t.Errorf("%v %v", r, err)
				}
			case err == nil || errors.Is(err, ErrTooLate):
				if err != nil {
					j, err := Resume(t.Context(), at(b, "vm"), Options{})
					must(t, err)
					must(t, j.Wait(t.Context()))
				}
				if exists(a, "vm") || content(t, storeAt(t, filepath.Join(b, "vm"))) != want {
					t.Error("too late to cancel, but not moved either")
				}
			default:
				t.Error(err)
			}
			early := point != "moved" && point != "taken" && point != "before-clean"
			if early && !errors.Is(err, ErrCancelled) && point != "offered-at-destination" && point != "offered" {
				t.Errorf("could not be cancelled at %s: %v", point, err)
			}
		})
	}
}

func TestStorageSourceChanges(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	h := makeHome(t, storeAt(t, a), "vm", 4<<20, 4)
	setFailpoint(t, func(name string) {
		if name == "before-switch" {
			must(t, os.WriteFile(filepath.Join(a, "vm", "late"), []byte("x"), 0o644))
		}
	})
	job, err := Storage(t.Context(), Options{Source: at(a, "vm"), To: at(b)})
	must(t, err)
	if err := job.Wait(t.Context()); !errors.Is(err, ErrSourceChanged) {
		t.Fatalf("got %v, want ErrSourceChanged", err)
	}
	setFailpoint(t, func(string) {})
	if r, err := h.Record(); err != nil || r.State != smbstore.Owned || r.Epoch != 2 {
		t.Errorf("the offer was not taken back: %v, %v", r, err)
	}
	want := content(t, h.Store())
	job, err = Resume(t.Context(), at(b, "vm"), Options{})
	must(t, err)
	must(t, job.Wait(t.Context()))
	if got := content(t, storeAt(t, filepath.Join(b, "vm"))); got != want {
		t.Error("the home differs")
	}
}

func TestStorageVerifies(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	h := makeHome(t, storeAt(t, a), "vm", 4<<20, 5)
	want := content(t, h.Store())
	setFailpoint(t, func(name string) {
		if name == "copied" {
			f, err := os.OpenFile(filepath.Join(b, "vm", "Virtual Hard Disks", "disk0.raw"), os.O_RDWR, 0)
			must(t, err)
			p := make([]byte, 1)
			_, err = f.ReadAt(p, 3<<20)
			must(t, err)
			p[0]++
			_, err = f.WriteAt(p, 3<<20)
			must(t, err)
			must(t, f.Close())
		}
	})
	job, err := Storage(t.Context(), Options{Source: at(a, "vm"), To: at(b)})
	must(t, err)
	if err := job.Wait(t.Context()); !errors.Is(err, ErrVerify) {
		t.Fatalf("got %v, want ErrVerify", err)
	}
	setFailpoint(t, func(string) {})
	job, err = Resume(t.Context(), at(b, "vm"), Options{})
	must(t, err)
	must(t, job.Wait(t.Context()))
	if got := content(t, storeAt(t, filepath.Join(b, "vm"))); got != want {
		t.Error("the home differs")
	}
}

func TestStorageRateLimit(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	makeHome(t, storeAt(t, a), "vm", 8<<20, 6)
	start := time.Now()
	job, err := Storage(t.Context(), Options{Source: at(a, "vm"), To: at(b), RateLimit: 4 << 20})
	must(t, err)
	must(t, job.Wait(t.Context()))
	copied := job.Status().Copied
	if least := time.Duration(float64(copied-1<<20) / float64(4<<20) * float64(time.Second)); time.Since(start) < least {
		t.Errorf("%d bytes in %v", copied, time.Since(start))
	}
}

func FuzzParseJournal(f *testing.F) {
	f.Add([]byte(`{"version":1,"job":"j","kind":"storage","phase":"copying","source":"/a","destination":"/b","vm":"v","epoch":1,"host":"h","files":[{"name":"x","size":5,"copied":3}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		j, err := parseJournal(b)
		if err != nil {
			return
		}
		var buf bytes.Buffer
		fmt.Fprint(&buf, j.status())
	})
}

// setFailpoint replaces the hook for the test. Tests that use it do not run in
// parallel.
func setFailpoint(t testing.TB, fn func(string)) {
	t.Helper()
	failpoint = fn
	t.Cleanup(func() { failpoint = func(string) {} })
}
