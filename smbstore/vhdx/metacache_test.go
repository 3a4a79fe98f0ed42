package vhdx

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"

	"lunless/smbstore/block"
)

// TestMetaCacheForget: what changed in the file without the cache is read again.
func TestMetaCacheForget(t *testing.T) {
	f := block.NewMemFile(mib)
	c := newMetaCache(f, 0, 20)
	for _, want := range []byte{1, 2} {
		put(t, f, 0, bytes.Repeat([]byte{want}, mib))
		c.forget(0, mib/2)
		for at, want := range map[int64]byte{0: want, mib/2 - 8: want, mib / 2: 1} {
			v, err := c.word(at)
			must(t, err)
			if byte(v) != want {
				t.Errorf("word at %#x is %#x, want %d", at, v, want)
			}
		}
	}
}

// TestMetaCacheReaders read without a lock while pages come and go.
func TestMetaCacheReaders(t *testing.T) {
	const pages = 200
	f := block.NewMemFile(pages * metaPageSize)
	for i := range int64(pages) {
		put(t, f, i*metaPageSize, bytes.Repeat(le.AppendUint64(nil, uint64(i)), metaPageWords))
	}
	c := newMetaCache(f, 0, 20)
	c.keep = 40
	var wg sync.WaitGroup
	for w := range uint64(4) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(w, 1))
			for range 5000 {
				page := rnd.Int64N(pages)
				v, err := c.word(page*metaPageSize + rnd.Int64N(metaPageWords)*8)
				if err != nil || v != uint64(page) {
					t.Errorf("page %d holds %d: %v", page, v, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestQuiesce: nothing is under way while requests are held, and edits made
// meanwhile become stable.
func TestQuiesce(t *testing.T) {
	f := small(t, true)
	d, err := Open(noClose{f}, OpenOptions{})
	must(t, err)
	release := d.quiesce()
	done := make(chan error)
	go func() { done <- d.WriteAt(ctx, []byte{9}, 0, 0) }()
	for !d.begun.Load() { // the write has come as far as it can
	}
	must(t, d.edit(ctx, 1, func(e metaEdit) error {
		e.put(metaStart+mib-metaPageSize, bytes.Repeat([]byte{5}, metaPageSize))
		return nil
	}))
	must(t, d.flush(ctx))
	select {
	case err := <-done:
		t.Fatalf("a write got through: %v", err)
	default:
	}
	release()
	must(t, <-done)
	must(t, d.Close())
	if got := readAll(t, f, metaStart+mib-metaPageSize, 1); got[0] != 5 {
		t.Error("the edit is not in its place")
	}
}
