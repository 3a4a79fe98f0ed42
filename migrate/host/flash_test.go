package host

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"lunless/smbstore/block"
)

// breakable is a device whose writes and flushes fail as long as it is broken.
type breakable struct {
	block.Device
	broken          atomic.Bool
	writes, flushes atomic.Int64
}

var errBroken = errors.New("broken")

func (b *breakable) WriteAt(ctx context.Context, p []byte, off int64, flags block.WriteFlags) error {
	if b.broken.Load() {
		return errBroken
	}
	b.writes.Add(1)
	return b.Device.WriteAt(ctx, p, off, flags)
}

func (b *breakable) Flush(ctx context.Context) error {
	if b.broken.Load() {
		return errBroken
	}
	b.flushes.Add(1)
	return b.Device.Flush(ctx)
}

func newBreakable(t *testing.T, size int64) *breakable {
	t.Helper()
	f, err := block.OpenLocal(filepath.Join(t.TempDir(), "vars"), os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = f.Truncate(size)
	}
	if err != nil {
		t.Fatal(err)
	}
	dev, err := block.NewRaw(f, block.RawOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return &breakable{Device: dev}
}

// holds tells what the device holds at an offset.
func (b *breakable) holds(t *testing.T, off int64, want []byte) bool {
	t.Helper()
	got := make([]byte, len(want))
	if err := b.ReadAt(t.Context(), got, off); err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(got, want)
}

func sector(b byte) []byte { return bytes.Repeat([]byte{b}, 512) }

// A change is in the file when it is answered, and flushed soon after; what is the
// same as before is not written.
func TestFlashWritesThrough(t *testing.T) {
	ctx, end := context.WithCancel(t.Context())
	defer end()
	b := newBreakable(t, 8192)
	f, err := newFlash(ctx, block.NewSlot(b), func(err error) { t.Errorf("trouble: %v", err) })
	if err != nil {
		t.Fatal(err)
	}
	go f.keep(ctx)
	for range 3 {
		if err := f.WriteAt(ctx, sector(7), 1024, 0); err != nil || !b.holds(t, 1024, sector(7)) {
			t.Errorf("after a write: %v", err)
		}
	}
	if n := b.writes.Load(); n != 1 {
		t.Errorf("%d writes of one change", n)
	}
	for until := time.Now().Add(time.Minute); b.flushes.Load() == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("a change is not flushed")
		}
	}
	if err := f.WriteZeroes(ctx, 1024, 256, block.FUA); err != nil || !b.holds(t, 1024, append(make([]byte, 256), sector(7)[256:]...)) {
		t.Errorf("after zeroes: %v", err)
	}
	got := make([]byte, 512)
	if err := f.ReadAt(ctx, got, 1024); err != nil || got[255] != 0 || got[256] != 7 {
		t.Errorf("read back: %v", err)
	}
	if b.flushes.Load() < 2 {
		t.Error("zeroes with FUA were not flushed")
	}
	for _, off := range []int64{-1, 8192 - 511, 1 << 62} {
		err := errors.Join(f.WriteAt(ctx, sector(1), off, 0), nil)
		if !errors.Is(err, block.ErrOutOfRange) || !errors.Is(f.WriteZeroes(ctx, off, 512, 0), block.ErrOutOfRange) ||
			!errors.Is(f.ReadAt(ctx, got, off), block.ErrOutOfRange) || !errors.Is(f.Trim(ctx, off, 512), block.ErrOutOfRange) {
			t.Errorf("at %d: %v", off, err)
		}
	}
}

// What could not be written is told of once, and tried again until it is there, with
// what changed meanwhile.
func TestFlashTriesAgain(t *testing.T) {
	ctx, end := context.WithCancel(t.Context())
	defer end()
	b := newBreakable(t, 8192)
	told := make(chan error, 100)
	f, err := newFlash(ctx, block.NewSlot(b), func(err error) { told <- err })
	if err != nil {
		t.Fatal(err)
	}
	go f.keep(ctx)
	b.broken.Store(true)
	for i, off := range []int64{4096, 512, 6144} {
		if err := f.WriteAt(ctx, sector(byte(i+1)), off, 0); !errors.Is(err, errBroken) {
			t.Errorf("a write that fails: %v", err)
		}
	}
	if s, err := f.snapshot(ctx); err != nil || s[4096] != 1 || s[512] != 2 || s[6144] != 3 {
		t.Errorf("what the guest has: %v", err)
	}
	if err := <-told; !errors.Is(err, errBroken) {
		t.Errorf("told of %v", err)
	}
	b.broken.Store(false)
	select {
	case err := <-told:
		if err != nil {
			t.Errorf("told again: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it was not tried again")
	}
	for i, off := range []int64{4096, 512, 6144} {
		if !b.holds(t, off, sector(byte(i+1))) {
			t.Errorf("what was written at %d is not there", off)
		}
	}
	if !b.holds(t, 1024, make([]byte, 3072)) {
		t.Error("what nobody wrote has changed")
	}
}
