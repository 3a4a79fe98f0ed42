//go:build !race

package vhdx

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"lunless/smbstore/block"
)

// TestCheckFindings: every kind of damage is found, named and placed, and nothing
// else is.
func TestCheckFindings(t *testing.T) {
	for _, c := range damages {
		t.Run(c.name, func(t *testing.T) {
			f := c.image(t)
			c.spoil(t, f)
			was := f.Snapshot()
			r, err := Check(f)
			must(t, err)
			wantFindings(t, "findings", r.Findings, c.want)
			sameFile(t, was, f)
		})
	}
}

func TestRefused(t *testing.T) {
	entry := func(t testing.TB, f *block.MemFile, i int64, e batEntry) {
		put(t, f, batStart+i*8, le.AppendUint64(nil, uint64(e)))
	}
	const items = metadataTableSize // the first item
	for _, c := range []struct {
		name  string
		spoil func(t testing.TB, f *block.MemFile)
		want  error
	}{
		{"signature", func(t testing.TB, f *block.MemFile) { put(t, f, 0, []byte("vhdxfilf")) }, ErrNotVHDX},
		{"empty", func(t testing.TB, f *block.MemFile) { must(t, f.Truncate(0)) }, ErrNotVHDX},
		{"cut after the headers", func(t testing.TB, f *block.MemFile) { must(t, f.Truncate(mib)) }, ErrTruncated},
		{"cut in the first header", func(t testing.TB, f *block.MemFile) { must(t, f.Truncate(65<<10)) }, ErrTruncated},
		{"no header", func(t testing.TB, f *block.MemFile) {
			put(t, f, headerOffsets[0]+20, []byte{1, 2, 3})
			put(t, f, headerOffsets[1]+20, []byte{1, 2, 3})
		}, ErrCorrupt},
		{"two different headers of one sequence", func(t testing.TB, f *block.MemFile) {
			n := uint64(0)
			fixHeader(t, f, func(h *header) { h.Sequence = 7; n++; h.FileWriteGUID[0] = byte(n) })
		}, ErrCorrupt},
		{"version", func(t testing.TB, f *block.MemFile) { fixHeader(t, f, func(h *header) { h.Version = 2 }) }, ErrUnsupported},
		{"log version", func(t testing.TB, f *block.MemFile) {
			fixHeader(t, f, func(h *header) { h.LogVersion, h.LogGUID = 1, newGUID() })
		}, ErrUnsupported},
		{"log length", func(t testing.TB, f *block.MemFile) { fixHeader(t, f, func(h *header) { h.LogLength = 4096 }) }, ErrCorrupt},
		{"log at 2^63", func(t testing.TB, f *block.MemFile) { fixHeader(t, f, func(h *header) { h.LogOffset = 1 << 63 }) }, ErrCorrupt},
		{"log over the BAT", func(t testing.TB, f *block.MemFile) { fixHeader(t, f, func(h *header) { h.LogLength = 3 * mib }) }, ErrCorrupt},
		{"log in use without entries", func(t testing.TB, f *block.MemFile) { fixHeader(t, f, func(h *header) { h.LogGUID = newGUID() }) }, ErrCorrupt},
		{"sequence number at its end", func(t testing.TB, f *block.MemFile) {
			fixHeader(t, f, func(h *header) { h.Sequence += 1<<64 - 100 })
		}, ErrCorrupt},
		{"region count", func(t testing.TB, f *block.MemFile) {
			fixTable(t, f, func(b []byte) { le.PutUint32(b[8:], 2048) })
		}, ErrCorrupt},
		{"required region", func(t testing.TB, f *block.MemFile) {
			fixTable(t, f, func(b []byte) { addRegion(b, region{newGUID(), 64 * mib, mib, true}) })
		}, ErrUnsupported},
		{"region over another", func(t testing.TB, f *block.MemFile) {
			fixTable(t, f, func(b []byte) { addRegion(b, region{newGUID(), metaStart, mib, false}) })
		}, ErrCorrupt},
		{"region twice", func(t testing.TB, f *block.MemFile) {
			fixTable(t, f, func(b []byte) { addRegion(b, region{guidBAT, 64 * mib, mib, true}) })
		}, ErrCorrupt},
		{"region at 2^63", func(t testing.TB, f *block.MemFile) {
			fixTable(t, f, func(b []byte) { addRegion(b, region{newGUID(), 1 << 63, mib, false}) })
		}, ErrCorrupt},
		{"no BAT", func(t testing.TB, f *block.MemFile) { fixTable(t, f, func(b []byte) { b[16] ^= 1; b[16+28] = 0 }) }, ErrCorrupt},
		{"BAT beyond the file", func(t testing.TB, f *block.MemFile) {
			fixTable(t, f, func(b []byte) { le.PutUint64(b[16+16:], 1<<40) })
		}, ErrTruncated},
		{"required item", func(t testing.TB, f *block.MemFile) {
			fixMetadata(t, f, func(b []byte) { addItem(b, newGUID(), flagIsRequired) })
		}, ErrUnsupported},
		{"item outside the region", func(t testing.TB, f *block.MemFile) {
			fixMetadata(t, f, func(b []byte) { le.PutUint32(b[32+16:], 1<<31) })
		}, ErrCorrupt},
		{"item twice", func(t testing.TB, f *block.MemFile) {
			fixMetadata(t, f, func(b []byte) { addItem(b, guidVirtualDiskSize, flagIsRequired) })
		}, ErrCorrupt},
		{"item count", func(t testing.TB, f *block.MemFile) {
			fixMetadata(t, f, func(b []byte) { le.PutUint16(b[10:], 2048) })
		}, ErrCorrupt},
		{"no size", func(t testing.TB, f *block.MemFile) {
			fixMetadata(t, f, func(b []byte) { b[64] ^= 0xff; b[64+24] = 0 })
		}, ErrCorrupt},
		{"parent", func(t testing.TB, f *block.MemFile) { fixMetadata(t, f, func(b []byte) { b[items+4] |= 2 }) }, ErrCorrupt},
		{"block size", func(t testing.TB, f *block.MemFile) {
			fixMetadata(t, f, func(b []byte) { le.PutUint32(b[items:], 3*mib) })
		}, ErrCorrupt},
		{"virtual size 2^63", func(t testing.TB, f *block.MemFile) {
			fixMetadata(t, f, func(b []byte) { le.PutUint64(b[items+8:], 1<<63) })
		}, ErrCorrupt},
		{"virtual size beyond the BAT", func(t testing.TB, f *block.MemFile) {
			fixMetadata(t, f, func(b []byte) { le.PutUint64(b[items+8:], 1<<40) })
		}, ErrCorrupt},
		{"block beyond the file", func(t testing.TB, f *block.MemFile) { entry(t, f, 7, makeEntry(statePresent, 1<<40)) }, ErrCorrupt},
		{"block at 2^63", func(t testing.TB, f *block.MemFile) { entry(t, f, 7, 1<<63|statePresent) }, ErrCorrupt},
		{"block in the log", func(t testing.TB, f *block.MemFile) { entry(t, f, 7, makeEntry(statePresent, logStart)) }, ErrCorrupt},
		{"block of two", func(t testing.TB, f *block.MemFile) {
			e := batEntry(le.Uint64(readAll(t, f, batStart, 8)))
			entry(t, f, 7, e)
		}, ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := small(t, true)
			c.spoil(t, f)
			before := f.Snapshot()
			_, err := Open(noClose{f}, OpenOptions{})
			var fe *FormatError
			if !errors.Is(err, c.want) || !errors.As(err, &fe) {
				t.Fatalf("Open = %v, want %v in a FormatError", err, c.want)
			}
			sameFile(t, f, before)
			r, err := Check(f)
			must(t, err)
			if c.name != "sequence number at its end" && r.Clean() {
				t.Error("Check finds nothing")
			}
			sameFile(t, f, before)
		})
	}
}

// TestRepair: what can be mended is, and said; what cannot is left as it is, and
// said with what to do. A second Repair finds nothing more to do.
func TestRepair(t *testing.T) {
	for _, c := range damages {
		t.Run(c.name, func(t *testing.T) {
			f := c.image(t)
			c.spoil(t, f)
			was := f.Snapshot()
			r, err := Repair(f)
			must(t, err)
			wantFindings(t, "mended", r.Mended, c.mended)
			for _, w := range c.left {
				if !w.in(r.Left) {
					t.Errorf("no %v at %#x of %q is left:%s", w.sev, w.off, w.what, list(r.Left))
				}
			}
			if len(c.left) == 0 && len(r.Left) > 0 {
				t.Errorf("left:%s", list(r.Left))
			}
			after := c.after
			if after == nil && len(c.mended) == 0 {
				after = c.want
				sameFile(t, was, f)
			}
			wantFindings(t, "findings after", r.Findings, after)
			was = f.Snapshot()
			if r, err = Repair(f); err != nil || len(r.Mended) > 0 {
				t.Errorf("again: %v, mended:%s", err, list(r.Mended))
			}
			sameFile(t, was, f)
		})
	}
}

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

// TestRoomRunsOut has writes, holes and growth fail now and then, and at times
// for a while. Such a request fails, and nothing else: no block is lost or
// shared, and the disk works once there is room again.
func TestRoomRunsOut(t *testing.T) {
	const blocks = 40
	rnd := rand.New(rand.NewPCG(5, 5))
	full := errors.New("no room")
	mem := block.NewMemFile(0)
	failing := false
	f := block.NewInterceptFile(noClose{mem}, block.FailIf(func(op block.Op) bool {
		data := op.Off >= 4*mib && (op.Kind == block.OpWrite || op.Kind == block.OpZero)
		return failing && (data || op.Kind == block.OpTruncate) && rnd.IntN(2) == 0
	}, full))
	d, err := Create(f, CreateOptions{Size: blocks * mib, BlockSize: mib})
	must(t, err)
	var want [blocks]int // what fills a block; -1: unspecified
	p := make([]byte, mib)
	for i := range 1500 {
		failing = i/50%2 == 1
		blk := rnd.Int64N(blocks)
		fill := 0
		switch rnd.IntN(4) {
		case 0:
			err = d.WriteZeroes(ctx, blk*mib, mib, 0)
		case 1:
			err = d.Flush(ctx)
			fill = want[blk]
		default:
			fill = 1 + rnd.IntN(255)
			pattern(p, uint64(fill))
			err = d.WriteAt(ctx, p, blk*mib, 0)
		}
		if err != nil && !errors.Is(err, full) {
			t.Fatal(err)
		}
		if want[blk] = fill; err != nil {
			want[blk] = -1
		}
	}
	failing = false
	holds := func(d *Disk) {
		t.Helper()
		one := make([]byte, mib)
		for blk, fill := range want {
			must(t, d.ReadAt(ctx, p, int64(blk)*mib))
			if pattern(one, uint64(fill)); fill >= 0 && !bytes.Equal(p, one) {
				t.Fatalf("block %d holds %d, want %d", blk, le.Uint64(p), fill)
			}
		}
	}
	holds(d)
	must(t, d.Close())
	r, err := Check(mem)
	if err != nil || !r.Clean() {
		t.Fatalf("%v %+v", err, r.Findings)
	}
	if size, _ := mem.Size(); size > (4+blocks+8)*mib {
		t.Errorf("the file has %d MiB for %d blocks", size/mib, blocks)
	}
	d, err = Open(noClose{mem}, OpenOptions{})
	must(t, err)
	holds(d)
	must(t, d.Close())
}

// TestCreateCut cuts power before each change that Create makes: what is left is
// no VHDX file yet, or a whole one.
func TestCreateCut(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for _, fixed := range []bool{false, true} {
		f := block.NewPowerCut(block.NewMemFile(0))
		whole, none := 0, 0
		look := func() {
			for range 20 {
				image := f.Cut(rnd)
				d, err := Open(noClose{image}, OpenOptions{})
				if errors.Is(err, ErrNotVHDX) {
					none++
					continue
				}
				if err != nil {
					t.Fatalf("fixed %v: open: %v", fixed, err)
				}
				whole++
				got := make([]byte, 3*mib+512)
				must(t, d.ReadAt(ctx, got, 0))
				if !block.IsZero(got) {
					t.Error("a new disk holds something")
				}
				must(t, d.WriteAt(ctx, []byte("x"), 3*mib, 0))
				must(t, d.Close())
				if r, err := Check(image); err != nil || !r.Clean() {
					t.Fatalf("fixed %v: check: %v %+v", fixed, err, r.Findings)
				}
			}
		}
		f.Watch(look)
		_, err := Create(f, CreateOptions{Size: 3*mib + 512, BlockSize: mib, Fixed: fixed})
		must(t, err)
		n := whole
		look()
		if none == 0 || whole != n+20 {
			t.Errorf("fixed %v: %d images were no disk, %d were; after Create %d of 20 were", fixed, none, whole, whole-n)
		}
	}
}

// A file system that is full now and then, for the log and all other metadata too,
// fails requests and nothing else: the disk works once there is room again, and a
// loss of power at any time leaves what was flushed. A file that cannot be flushed
// is another matter: that fails the disk for good.
func TestRoomRunsOutForMetadata(t *testing.T) {
	const blocks = 40
	rnd := rand.New(rand.NewPCG(6, 6))
	cut := block.NewPowerCut(block.NewMemFile(0))
	failing, refused := false, 0
	f := block.NewInterceptFile(cut, block.FailIf(func(op block.Op) bool {
		no := failing && (op.Kind == block.OpWrite || op.Kind == block.OpZero || op.Kind == block.OpTruncate) && rnd.IntN(3) > 0
		if no && op.Kind == block.OpWrite && op.Off < 3*mib {
			refused++
		}
		return no
	}, block.ErrNoSpace))
	d, err := Create(f, CreateOptions{Size: blocks * mib, BlockSize: mib})
	must(t, err)
	var want, flushed [blocks]int // what fills a block's first sector; -1: unspecified
	p, one := make([]byte, 4096), make([]byte, 4096)
	holds := func(d *Disk, fills [blocks]int) {
		t.Helper()
		for blk, fill := range fills {
			must(t, d.ReadAt(ctx, p, int64(blk)*mib))
			if pattern(one, uint64(fill)); fill >= 0 && !bytes.Equal(p, one) {
				t.Fatalf("block %d holds %d, want %d", blk, le.Uint64(p), fill)
			}
		}
	}
	for i := range 2000 {
		failing = i/50%2 == 1
		blk, fill := rnd.Int64N(blocks), 0
		switch rnd.IntN(6) {
		case 0:
			err = d.WriteZeroes(ctx, blk*mib, mib, 0)
		case 1, 2:
			if err = d.Flush(ctx); err == nil {
				flushed = want
			}
			fill = want[blk]
		default:
			fill = 1 + rnd.IntN(255)
			pattern(p, uint64(fill))
			err = d.WriteAt(ctx, p, blk*mib, 0)
		}
		if err != nil && (!errors.Is(err, block.ErrNoSpace) || errors.Is(err, block.ErrFailed)) {
			t.Fatal(err)
		}
		if want[blk] != fill || err != nil {
			flushed[blk] = -1 // the new one may be there after a cut, or the old one
		}
		if want[blk] = fill; err != nil {
			want[blk] = -1
		}
		if i%20 == 0 {
			left, err := Open(noClose{cut.Cut(rnd)}, OpenOptions{})
			must(t, err)
			holds(left, flushed)
			must(t, left.Close())
		}
	}
	if refused < 50 {
		t.Errorf("metadata was refused %d times", refused)
	}
	failing = false
	must(t, d.Flush(ctx))
	holds(d, want)
	left := cut.Cut(rnd)
	d, err = Open(noClose{left}, OpenOptions{})
	must(t, err)
	holds(d, want)
	must(t, d.Close())
	if r, err := Check(left); err != nil || !r.Clean() {
		t.Fatalf("%v %+v", err, r.Findings)
	}
}

// TestReplay: entries that are whole are replayed, others are not.
func TestReplay(t *testing.T) {
	// BAT pages are lost, as if they had not reached the disk.
	lose := func(f *block.MemFile) { put(t, f, batStart, make([]byte, 4096)) }
	last := func(f *block.MemFile) (off int64) { // the newest entry: flush k wrote two sectors at 2k
		return logStart + 4*logSector
	}
	for _, c := range []struct {
		name   string
		change func(f *block.MemFile)
		blocks int // that must be there
		err    error
	}{
		{"whole", func(*block.MemFile) {}, 3, nil},
		{"newest torn in its data", func(f *block.MemFile) { put(t, f, last(f)+logSector+4096-4, []byte{9}) }, 2, nil},
		{"newest torn in its header", func(f *block.MemFile) { put(t, f, last(f)+20, []byte{9}) }, 2, nil},
		{"newest without its data", func(f *block.MemFile) { put(t, f, last(f)+logSector, make([]byte, logSector)) }, 2, nil},
		{"two newest torn", func(f *block.MemFile) {
			put(t, f, last(f), make([]byte, 8))
			put(t, f, last(f)-2*logSector, make([]byte, 8))
		}, 1, nil},
		{"all torn", func(f *block.MemFile) { put(t, f, logStart, make([]byte, 6*logSector)) }, 0, ErrCorrupt},
		{"garbage behind", func(f *block.MemFile) { put(t, f, last(f)+2*logSector, bytes.Repeat([]byte("loge"), 5000)) }, 3, nil},
		{"file cut", func(f *block.MemFile) { must(t, f.Truncate(6*mib)) }, 0, ErrTruncated},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := small(t, false)
			lose(f)
			c.change(f)
			before := f.Snapshot()
			for _, ro := range []bool{true, false} {
				d, err := Open(noClose{f}, OpenOptions{ReadOnly: ro})
				if !errors.Is(err, c.err) {
					t.Fatalf("Open = %v, want %v", err, c.err)
				}
				if err != nil {
					continue
				}
				for i := range int64(3) {
					got, want := make([]byte, 5000), byte(i+1)
					if int(i) >= c.blocks {
						want = 0
					}
					must(t, d.ReadAt(ctx, got, i*2*mib+100))
					if !bytes.Equal(got, bytes.Repeat([]byte{want}, 5000)) {
						t.Errorf("read-only %v: block %d holds %d, want %d", ro, i*2, got[0], want)
					}
				}
				if ro {
					if err := d.WriteAt(ctx, []byte{1}, 0, 0); !errors.Is(err, block.ErrReadOnly) {
						t.Errorf("WriteAt = %v", err)
					}
				}
				must(t, d.Close())
				if ro {
					sameFile(t, f, before)
				}
			}
			if c.err == nil {
				r, err := Check(f)
				must(t, err)
				if !r.Clean() || r.Info.LogInUse {
					t.Errorf("after replay: %+v", r)
				}
			}
		})
	}
}
