package bench

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

// flushed counts how many writes had ended at each flush.
type flushed struct {
	memory
	writes  int
	flushes []int
}

func (f *flushed) WriteAt(ctx context.Context, p []byte, off int64, flags block.WriteFlags) error {
	err := f.memory.WriteAt(ctx, p, off, flags)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	return err
}

func (f *flushed) Flush(context.Context) error {
	f.flushes = append(f.flushes, f.writes)
	return nil
}

func TestFillWritesItsPattern(t *testing.T) {
	m := &flushed{memory: memory{data: make([]byte, 1<<20)}}
	r, err := RunFill(t.Context(), m, Fill{Count: 10, Request: 4096, Step: 64 << 10, Depth: 3, FlushEvery: 4})
	if err != nil {
		t.Fatal(err)
	}
	if r.Seconds <= 0 || r.MaxRSS <= 0 {
		t.Errorf("measured nothing: %+v", r)
	}
	for off := 0; off < len(m.data); off += 4096 {
		want := off%(64<<10) == 0 && off < 10*64<<10
		if got := !block.IsZero(m.data[off : off+4096]); got != want {
			t.Errorf("offset %d written: %v, want %v", off, got, want)
		}
	}
	if len(m.flushes) != 3 || m.flushes[0] != 4 || m.flushes[1] != 8 || m.flushes[2] != 10 {
		t.Errorf("flushes after %v writes, want 4, 8 and 10", m.flushes)
	}
}

func TestFillGoesRound(t *testing.T) {
	m := &flushed{memory: memory{data: make([]byte, 1<<20)}}
	if _, err := RunFill(t.Context(), m, Fill{Count: 1000, Request: 4096, Step: 123 << 10, Depth: 8}); err != nil {
		t.Error(err)
	}
	for _, f := range []Fill{{}, {Count: 1, Request: 2 << 20, Depth: 1}, {Count: 1, Request: 4096}, {Count: 1, Request: 4096, Depth: 1, Step: -1}} {
		if _, err := RunFill(t.Context(), m, f); err == nil {
			t.Errorf("%+v: accepted", f)
		}
	}
}

// A disk that was made for a run is gone afterwards, also when the run failed;
// one that was there stays.
func TestFillDiskLeavesNothing(t *testing.T) {
	at := smbstore.Location{Path: filepath.Join(t.TempDir(), "d.vhdx")}
	disk := smbstore.CreateDiskOptions{Format: smbstore.VHDX, Size: 8 << 20, BlockSize: 1 << 20}
	run := func(f Fill, keep bool) error {
		_, err := FillDisk(t.Context(), at, smbstore.Options{}, disk, f, keep)
		return err
	}
	if err := run(Fill{Count: 4, Request: 4096, Depth: 2}, false); err != nil {
		t.Fatal(err)
	}
	if err := run(Fill{}, true); err == nil {
		t.Error("no writes at all: accepted")
	}
	if _, err := os.Stat(at.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
	if err := run(Fill{Count: 4, Request: 4096, Depth: 2}, true); err != nil {
		t.Fatal(err)
	}
	if err := run(Fill{Count: 4, Request: 4096, Depth: 2}, false); !errors.Is(err, smbstore.ErrExist) {
		t.Errorf("an existing disk: %v", err)
	}
	if _, err := os.Stat(at.Path); err != nil {
		t.Error(err)
	}
}
