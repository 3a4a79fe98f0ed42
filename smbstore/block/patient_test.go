package block_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"lunless/smbstore/block"
)

// lateDevice keeps writes until it is let go, and says what it was given then.
type lateDevice struct {
	block.Device
	let  chan struct{}
	seen chan []byte
}

func (d *lateDevice) WriteAt(_ context.Context, p []byte, _ int64, _ block.WriteFlags) error {
	<-d.let
	d.seen <- bytes.Clone(p)
	return nil
}

// A copy whose destination does not answer ends, and what it gave the destination
// stays as it was: another copy does not use that memory.
func TestPatientLent(t *testing.T) {
	const size = 4 << 20
	dev := func(fill byte) block.Device {
		d := block.NewMem(size)
		must(t, d.WriteAt(t.Context(), bytes.Repeat([]byte{fill}, size), 0, 0))
		return d
	}
	late := &lateDevice{Device: block.NewMem(size), let: make(chan struct{}), seen: make(chan []byte, 64)}
	m, err := block.NewMirror(dev(1), block.NewPatient(late, 20*time.Millisecond), block.MirrorOptions{})
	must(t, err)
	err = m.CopyPass(t.Context(), block.CopyOptions{Parallel: 2})
	if !errors.Is(err, block.ErrDetached) || !errors.Is(err, block.ErrNoAnswer) {
		t.Fatalf("got %v, want ErrDetached for want of an answer", err)
	}
	other, err := block.NewMirror(dev(2), block.NewPatient(block.NewMem(size), time.Minute), block.MirrorOptions{})
	must(t, err)
	must(t, other.CopyPass(t.Context(), block.CopyOptions{Parallel: 2}))
	close(late.let)
	if p := <-late.seen; len(p) == 0 || bytes.Count(p, []byte{1}) != len(p) {
		t.Errorf("what was lent has been changed")
	}
}

func BenchmarkPatientWrite(b *testing.B) {
	p := make([]byte, 1<<20)
	d := block.NewPatient(block.NewMem(1<<20), time.Minute)
	b.Run("copied", func(b *testing.B) {
		b.SetBytes(int64(len(p)))
		b.ReportAllocs()
		for b.Loop() {
			must(b, d.WriteAt(b.Context(), p, 0, 0))
		}
	})
	b.Run("lent", func(b *testing.B) {
		b.SetBytes(int64(len(p)))
		b.ReportAllocs()
		for b.Loop() {
			_, err := d.WriteLent(b.Context(), p, 0, 0)
			must(b, err)
		}
	})
}
