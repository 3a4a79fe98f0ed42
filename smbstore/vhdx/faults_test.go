package vhdx

import (
	"bytes"
	"testing"

	"lunless/smbstore/block"
)

// TestSharedPlace: an unmapped block whose entry still names a place that is
// another's by now does not give it away.
func TestSharedPlace(t *testing.T) {
	f := small(t, true)
	place := le.Uint64(readAll(t, f, batStart, 8)) &^ 7
	put(t, f, batStart+8, le.AppendUint64(nil, place|stateUnmapped))
	d, err := Open(noClose{f}, OpenOptions{})
	must(t, err)
	for _, blk := range []int64{1, 3, 5} {
		must(t, d.WriteAt(ctx, []byte("mine"), blk*mib, 0))
		must(t, d.Flush(ctx))
	}
	got := make([]byte, 5000)
	must(t, d.ReadAt(ctx, got, 100))
	if !bytes.Equal(got, bytes.Repeat([]byte{1}, 5000)) {
		t.Error("another block was written over")
	}
	must(t, d.Close())
	if r, err := Check(f); err != nil || !r.Clean() {
		t.Errorf("%v %+v", err, r.Findings)
	}
}

// pattern fills p with copies of tag.
func pattern(p []byte, tag uint64) {
	le.PutUint64(p, tag)
	for n := 8; n < len(p); n *= 2 {
		copy(p[n:], p[:n])
	}
}

// noClose is a file in memory that outlives its disk.
type noClose struct{ *block.MemFile }

func (noClose) Close() error { return nil }
