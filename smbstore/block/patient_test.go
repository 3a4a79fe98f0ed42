package block_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"lunless/smbstore/block"
)

// A copy whose destination does not answer ends.
func TestPatientCopyEnds(t *testing.T) {
	const size = 4 << 20
	src := block.NewMem(size)
	must(t, src.WriteAt(t.Context(), bytes.Repeat([]byte{1}, size), 0, 0))
	let := make(chan struct{})
	defer close(let)
	late := block.NewIntercept(block.NewMem(size), func(context.Context, block.Op) error { <-let; return nil })
	m, err := block.NewMirror(src, block.NewPatient(late, 20*time.Millisecond), block.MirrorOptions{})
	must(t, err)
	err = m.CopyPass(t.Context(), block.CopyOptions{Parallel: 2})
	if !errors.Is(err, block.ErrDetached) || !errors.Is(err, block.ErrNoAnswer) {
		t.Fatalf("got %v, want ErrDetached for want of an answer", err)
	}
}

// A destination that did not answer in time is dropped though the copy was cancelled
// meanwhile: what it was told then may reach it after what it is told later.
func TestPatientCancelled(t *testing.T) {
	const size = 2 << 20
	for name, fill := range map[string]byte{"write": 1, "zero": 0} {
		src, dst := block.NewMem(size), block.NewMem(size)
		must(t, src.WriteAt(t.Context(), bytes.Repeat([]byte{fill}, size), 0, 0))
		ctx, cancel := context.WithCancel(t.Context())
		let := make(chan struct{})
		late := block.NewIntercept(dst, func(context.Context, block.Op) error {
			cancel()
			<-let
			return nil
		})
		m, err := block.NewMirror(src, block.NewPatient(late, 20*time.Millisecond), block.MirrorOptions{})
		must(t, err)
		if err := m.CopyPass(ctx, block.CopyOptions{Parallel: 1}); err == nil {
			t.Errorf("%s: the pass succeeded", name)
		}
		if err := m.Err(); !errors.Is(err, block.ErrNoAnswer) {
			t.Errorf("%s: the mirror goes on with the destination: %v", name, err)
		}
		close(let)
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
