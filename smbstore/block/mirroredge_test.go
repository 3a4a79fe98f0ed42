package block_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"lunless/smbstore/block"
)

func content(t *testing.T, d block.Device) []byte {
	t.Helper()
	p := make([]byte, d.Size())
	must(t, d.ReadAt(t.Context(), p, 0))
	return p
}

// A write whose caller goes away while the destination is at it counts as not copied,
// and does not cost the destination.
func TestMirrorGivenUp(t *testing.T) {
	src, _ := filled(t, 1)
	dst := block.NewMem(mirrorSize)
	ctx, cancel := context.WithCancel(t.Context())
	m := newMirror(t, src, block.NewIntercept(dst, func(ctx context.Context, op block.Op) error {
		if op.Kind == block.OpWrite && op.Len == 128<<10 {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}))
	must(t, m.CopyPass(t.Context(), block.CopyOptions{}))
	time.AfterFunc(10*time.Millisecond, cancel)
	m.WriteAt(ctx, bytes.Repeat([]byte{7}, 128<<10), 1<<20, 0) //nolint:errcheck // nobody waits for it any more
	if err := m.Err(); err != nil || m.Remaining() != 128<<10 {
		t.Errorf("%v, %d bytes left", err, m.Remaining())
	}
	must(t, m.CopyPass(t.Context(), block.CopyOptions{}))
	if !bytes.Equal(content(t, src), content(t, dst)) {
		t.Error("the ends differ")
	}
}

// afterExtents does something after the first look at a device's extents.
type afterExtents struct {
	block.Device
	after func()
}

func (d afterExtents) Extents(ctx context.Context, off, n int64, visit func(block.Extent) error) error {
	err := d.Device.Extents(ctx, off, n, visit)
	d.after()
	return err
}

// A write that fails at the source after the pass has seen nothing there, and reaches
// the destination, leaves the ends the same in the end.
func TestMirrorFailsBehindTheLook(t *testing.T) {
	raw, dst := block.NewMem(mirrorSize), block.NewMem(mirrorSize)
	var m *block.Mirror
	src := afterExtents{block.NewIntercept(raw, block.FailNth(block.OpWrite, 1, errBroken)), sync.OnceFunc(func() {
		if err := m.WriteAt(t.Context(), []byte("lost"), 1<<20, 0); !errors.Is(err, errBroken) {
			t.Errorf("got %v", err)
		}
	})}
	m = newMirror(t, src, dst)
	must(t, m.CopyPass(t.Context(), block.CopyOptions{}))
	if !bytes.Equal(content(t, raw), content(t, dst)) {
		t.Error("the ends differ")
	}
}

// lazyTrim keeps what is trimmed.
type lazyTrim struct{ block.Device }

func (lazyTrim) Trim(context.Context, int64, int64) error { return nil }

// What is trimmed reads the same from both ends, whatever a trim leaves there.
func TestMirrorTrim(t *testing.T) {
	for _, lazy := range []string{"source", "destination"} {
		var src, dst block.Device = block.NewMem(mirrorSize), block.NewMem(mirrorSize)
		if lazy == "source" {
			src = lazyTrim{src}
		} else {
			dst = lazyTrim{dst}
		}
		m := newMirror(t, src, dst)
		must(t, m.WriteAt(t.Context(), bytes.Repeat([]byte{1}, 1<<20), 0, 0))
		must(t, m.Trim(t.Context(), 4096, 64<<10))
		must(t, m.CopyPass(t.Context(), block.CopyOptions{}))
		if !bytes.Equal(content(t, src), content(t, dst)) {
			t.Errorf("the ends differ where the %s keeps what is trimmed", lazy)
		}
	}
}

// A write that was given up uses none of its caller's memory.
func TestPatientOwnMemory(t *testing.T) {
	let, done := make(chan struct{}), make(chan struct{})
	dst := block.NewMem(4096)
	d := block.NewPatient(lateWrite{dst, let, done}, 10*time.Millisecond)
	p := bytes.Repeat([]byte{1}, 4096)
	if err := d.WriteAt(t.Context(), p, 0, 0); !errors.Is(err, block.ErrNoAnswer) {
		t.Errorf("got %v", err)
	}
	copy(p, bytes.Repeat([]byte{2}, 4096)) // it is the caller's again
	close(let)
	<-done
	if got := content(t, dst); !bytes.Equal(got, bytes.Repeat([]byte{1}, 4096)) {
		t.Error("it wrote what the caller put there later")
	}
}

// lateWrite begins to write once it is let.
type lateWrite struct {
	block.Device
	let, done chan struct{}
}

func (d lateWrite) WriteAt(ctx context.Context, p []byte, off int64, flags block.WriteFlags) error {
	defer close(d.done)
	<-d.let
	return d.Device.WriteAt(ctx, p, off, flags)
}
