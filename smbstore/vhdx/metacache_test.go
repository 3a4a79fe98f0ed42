package vhdx

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"lunless/smbstore/block"
)

// TestMetaCache: edits of words, bytes and whole pages arrive in a file as they
// would without a cache, whatever is kept.
func TestMetaCache(t *testing.T) {
	const size = 400 * metaPageSize
	f, want := block.NewMemFile(size), make([]byte, size)
	rnd := rand.New(rand.NewPCG(3, 3))
	for i := range want {
		want[i] = byte(rnd.Uint32())
	}
	put(t, f, 0, want)
	c := newMetaCache(f, 0, 20)
	c.keep = 30
	for range 5000 {
		off, n := rnd.Int64N(size-3*metaPageSize), rnd.Int64N(2*metaPageSize)+1
		whole := rnd.IntN(4) == 0
		if whole {
			off, n = off&^(metaPageSize-1), metaPageSize
		}
		p := bytes.Repeat([]byte{byte(rnd.Uint32())}, int(n))
		err := c.edit(3, func(e metaEdit) error {
			if whole {
				e.put(off, p)
				return nil
			}
			if err := e.own(off, n); err != nil {
				return err
			}
			e.write(off, p)
			at := off &^ 7
			e.set(at, e.word(at))
			return nil
		})
		if errors.Is(err, errMetaFull) {
			b := c.take()
			if len(b.updates) > 20 || len(b.updates) != len(b.pages) {
				t.Fatalf("%d pages in a commit", len(b.updates))
			}
			for _, u := range b.updates {
				put(t, f, u.Offset, u.Data)
			}
			c.release(b)
			continue
		}
		must(t, err)
		copy(want[off:], p)
		at := rnd.Int64N(size/8) * 8
		v, err := c.word(at)
		must(t, err)
		if v != le.Uint64(want[at:]) {
			t.Fatalf("word at %#x is %#x, want %#x", at, v, le.Uint64(want[at:]))
		}
	}
	if len(c.pages) > 50 {
		t.Errorf("%d pages in memory", len(c.pages))
	}
	for _, u := range c.take().updates {
		put(t, f, u.Offset, u.Data)
	}
	if !bytes.Equal(readAll(t, f, 0, size), want) {
		t.Error("the file differs")
	}
}

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
			for range 20000 {
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
