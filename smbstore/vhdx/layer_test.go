package vhdx

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"

	"lunless/smbstore/block"
)

// seedOf is SEED, or a random one, which is printed.
func seedOf(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		must(t, err)
	}
	t.Logf("SEED=%d", seed)
	return seed
}

// modelDisk is a disk over others beside what each of them has to hold.
type modelDisk struct {
	t     testing.TB
	rnd   *rand.Rand
	files []*block.MemFile // base first
	want  []byte
	below []byte // what the leaf's parent holds, to the leaf's size
	dev   *Disk
}

// grow makes the leaf a parent, with a new leaf over it.
func (m *modelDisk) grow(size int64, o CreateOptions) {
	link := &ParentLink{Relative: "parent.vhdx"}
	if m.dev != nil {
		must(m.t, m.dev.Close())
		m.dev = nil
		link.Linkage = m.open(len(m.files)-1, true).Info().DataWriteGUID
		o.Parent, o.ParentDevice = link, m.open(len(m.files)-1, true)
	}
	o.Size = size
	f := block.NewMemFile(0)
	d, err := Create(noClose{f}, o)
	must(m.t, err)
	m.files = append(m.files, f)
	m.below = make([]byte, size)
	copy(m.below, m.want)
	m.want = bytes.Clone(m.below)
	m.dev = d
}

// open opens layer i with what is below it.
func (m *modelDisk) open(i int, ro bool) *Disk {
	o := OpenOptions{ReadOnly: ro}
	if i > 0 {
		o.Parent = m.open(i-1, true)
	}
	d, err := Open(noClose{m.files[i]}, o)
	must(m.t, err)
	return d
}

func (m *modelDisk) reopen() {
	leaf := len(m.files) - 1
	switch m.rnd.IntN(3) {
	case 0:
		must(m.t, m.dev.Close())
	case 1: // the process is gone, the log is in use
		must(m.t, m.dev.Flush(ctx))
		m.files[leaf] = m.files[leaf].Snapshot()
		before := m.files[leaf].Snapshot()
		ro := m.open(leaf, true)
		m.same(ro)
		must(m.t, ro.Close())
		if !before.Equal(m.files[leaf]) {
			m.t.Fatal("opening a disk read-only has changed its file")
		}
	default:
		return
	}
	if r, err := Check(m.files[leaf]); err != nil || !r.Clean() {
		m.t.Fatalf("check: %v %+v", err, r.Findings)
	}
	m.dev = m.open(leaf, false)
}

// pick is a range: of bytes, of sectors, or of whole blocks.
func (m *modelDisk) pick() (off, n int64) {
	size, blk := int64(len(m.want)), m.dev.blockSize
	off = m.rnd.Int64N(size)
	n = 1 + m.rnd.Int64N([]int64{100, 20000, 3 * mib}[m.rnd.IntN(3)])
	switch m.rnd.IntN(4) {
	case 0:
		off -= off % m.dev.sector
		n = roundUp(n, m.dev.sector)
	case 1:
		off -= off % blk
		n = roundUp(n, blk)
	}
	return off, min(n, size-off)
}

func (m *modelDisk) step() error {
	off, n := m.pick()
	was := m.want[off : off+n]
	switch k := m.rnd.IntN(20); {
	case k < 11:
		p := make([]byte, max(n, 8))
		pattern(p, m.rnd.Uint64())
		p = p[:n]
		copy(was, p)
		return m.dev.WriteAt(ctx, p, off, block.WriteFlags(m.rnd.IntN(8)/7)*block.FUA)
	case k < 14:
		clear(was)
		return m.dev.WriteZeroes(ctx, off, n, block.WriteFlags(m.rnd.IntN(2))*block.NoUnmap)
	case k < 17:
		if err := m.dev.Trim(ctx, off, n); err != nil {
			return err
		}
		return m.afterTrim(was, off)
	case k < 18:
		return m.dev.Flush(ctx)
	case k < 19 && m.rnd.IntN(2) == 0 && m.dev.Info().Type != "fixed":
		_, err := m.dev.Compact(ctx, CompactOptions{}, nil)
		return err
	default:
		m.reopen()
		return nil
	}
}

// afterTrim: each sector holds what it did, or zeroes in the range.
func (m *modelDisk) afterTrim(was []byte, off int64) error {
	got := make([]byte, len(was))
	if err := m.dev.ReadAt(ctx, got, off); err != nil {
		return err
	}
	for at := 0; at < len(got); {
		n := min(len(got)-at, int(512-(off+int64(at))%512))
		if g := got[at : at+n]; !bytes.Equal(g, was[at:at+n]) && !block.IsZero(g) {
			return fmt.Errorf("trimmed sector at %d is neither old nor zero", off+int64(at))
		}
		at += n
	}
	copy(was, got)
	return nil
}

// same holds a disk against the model: content, and what its extents say.
func (m *modelDisk) same(d *Disk) {
	m.t.Helper()
	got := make([]byte, len(m.want))
	must(m.t, d.ReadAt(ctx, got, 0))
	if !bytes.Equal(got, m.want) {
		at := 0
		for got[at] == m.want[at] {
			at++
		}
		m.t.Fatalf("differs at %#x", at)
	}
	for name, walk := range map[string]func(visit func(block.Extent) error) error{
		"Extents":      func(v func(block.Extent) error) error { return d.Extents(ctx, 0, d.Size(), v) },
		"LayerExtents": func(v func(block.Extent) error) error { return d.LayerExtents(ctx, 0, d.Size(), v) },
	} {
		end, last := int64(0), block.ExtentState(99)
		must(m.t, walk(func(e block.Extent) error {
			if e.Offset != end || e.Length <= 0 || e.State == last {
				return fmt.Errorf("%s: %+v after %d at %d", name, e, last, end)
			}
			end, last = e.Offset+e.Length, e.State
			part := m.want[e.Offset:end]
			switch {
			case e.State == block.Data:
			case e.State == block.Unallocated && name == "LayerExtents":
				if !bytes.Equal(part, m.below[e.Offset:end]) {
					return fmt.Errorf("%s: %+v is not what the parent has", name, e)
				}
			case !block.IsZero(part):
				return fmt.Errorf("%s: %+v is not zero", name, e)
			}
			return nil
		}))
		if end != d.Size() {
			m.t.Fatalf("%s end at %d", name, end)
		}
	}
}

// differencing returns a disk over a parent that is full of 0x55, in blocks of
// bs, both of size bytes, and its file.
func differencing(t testing.TB, size, bs int64, sector int) (*Disk, *block.MemFile) {
	t.Helper()
	parent, err := Create(block.NewMemFile(0), CreateOptions{Size: size, BlockSize: mib, LogicalSectorSize: sector})
	must(t, err)
	must(t, parent.WriteAt(ctx, bytes.Repeat([]byte{0x55}, int(size)), 0, 0))
	must(t, parent.Flush(ctx))
	f := block.NewMemFile(0)
	d, err := Create(noClose{f}, CreateOptions{BlockSize: bs, Parent: &ParentLink{Linkage: parent.Info().DataWriteGUID, Relative: "p.vhdx"}, ParentDevice: parent})
	must(t, err)
	return d, f
}

// TestConcurrentLayer: writers of neighbouring ranges that share sectors and
// blocks, readers beside them.
func TestConcurrentLayer(t *testing.T) {
	for _, c := range []struct {
		bs     int64
		sector int
	}{{mib, 512}, {mib, 4096}, {256 * mib, 512}, {256 * mib, 4096}} {
		t.Run(fmt.Sprintf("%d MiB, %d", c.bs/mib, c.sector), func(t *testing.T) {
			const size, piece, writers = 3 * mib, 700, 6
			d, f := differencing(t, size, c.bs, c.sector)
			want := bytes.Repeat([]byte{0x55}, size)
			var wg sync.WaitGroup
			for w := range int64(writers) {
				wg.Go(func() {
					rnd := rand.New(rand.NewPCG(uint64(w), 2))
					for range 150 {
						off := (rnd.Int64N(size/piece/writers)*writers + w) * piece
						p := bytes.Repeat([]byte{byte(rnd.UintN(255) + 1)}, piece)
						var err error
						switch rnd.IntN(8) {
						case 0:
							clear(p)
							err = d.WriteZeroes(ctx, off, piece, 0)
						case 1:
							err = d.WriteAt(ctx, p, off, block.FUA)
						default:
							err = d.WriteAt(ctx, p, off, 0)
						}
						copy(want[off:], p) // nobody else's
						if err == nil {
							got := make([]byte, piece)
							if err = d.ReadAt(ctx, got, off); err == nil && !bytes.Equal(got, p) {
								err = fmt.Errorf("read other than was written at %d", off)
							}
						}
						if err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			compare := func(d *Disk) {
				t.Helper()
				got := make([]byte, size)
				must(t, d.ReadAt(ctx, got, 0))
				if !bytes.Equal(got, want) {
					t.Error("content differs")
				}
			}
			compare(d)
			must(t, d.Close())
			if r, err := Check(f); err != nil || !r.Clean() {
				t.Fatalf("check: %v %+v", err, r.Findings)
			}
		})
	}
}

// entryOf returns a block's BAT entry.
func entryOf(t testing.TB, d *Disk, blk int64) batEntry {
	t.Helper()
	w, err := d.meta.word(d.entryOffset(blk))
	must(t, err)
	return batEntry(w)
}

// TestBlockStates: what becomes of blocks (MS-VHDX 2.5.1.1).
func TestBlockStates(t *testing.T) {
	d, _ := differencing(t, 8*mib, mib, 512)
	full := make([]byte, mib)
	must(t, d.WriteAt(ctx, full, mib, 0))             // whole
	must(t, d.WriteAt(ctx, full[:512], 2*mib+512, 0)) // a sector
	must(t, d.WriteZeroes(ctx, 3*mib, mib, 0))        // whole zeroes
	must(t, d.WriteZeroes(ctx, 4*mib+7, 100, 0))      // part of a sector
	must(t, d.Trim(ctx, 5*mib, mib))                  // nothing is here
	must(t, d.WriteAt(ctx, full[:512], 6*mib, 0))
	must(t, d.Trim(ctx, 6*mib, mib))
	for at := int64(0); at < mib; at += mib / 4 { // in order
		must(t, d.WriteAt(ctx, full[:mib/4], 7*mib+at, 0))
	}
	for blk, want := range []int{stateNotPresent, statePresent, statePartial, stateZero, statePartial, stateNotPresent, stateUnmapped, statePresent} {
		if got := entryOf(t, d, int64(blk)).state(); got != want {
			t.Errorf("block %d is in state %d, want %d", blk, got, want)
		}
	}
	// From a partially present block, bit by bit.
	base, err := d.partial(2)
	must(t, err)
	for s := range int64(4) {
		_, here, err := d.run(base, s, 4)
		must(t, err)
		if here != (s == 1) {
			t.Errorf("sector %d of block 2: here is %v", s, here)
		}
	}
	// A zero block that is written to is not the parent's elsewhere.
	must(t, d.WriteAt(ctx, []byte{1}, 3*mib+5000, 0))
	got := make([]byte, mib)
	must(t, d.ReadAt(ctx, got, 3*mib))
	got[5000]--
	if !block.IsZero(got) || entryOf(t, d, 3).state() != statePresent {
		t.Error("a zero block shows its parent")
	}
	must(t, d.Close())
}

// TestParentOptions: what Open and Create make of parents.
func TestParentOptions(t *testing.T) {
	d, f := differencing(t, 4*mib, mib, 4096)
	must(t, d.WriteAt(ctx, bytes.Repeat([]byte{1}, 4096), 4096, 0))
	id := d.parent.(*Disk).Info().ID
	in := d.Info()
	if in.Type != "differencing" || in.ID != id || in.LogicalSectorSize != 4096 || in.VirtualSize != 4*mib || in.ParentLink == nil || in.ParentLink.Relative != "p.vhdx" {
		t.Errorf("%+v", in)
	}
	must(t, d.Close())
	if _, err := Open(noClose{f}, OpenOptions{}); !errors.Is(err, ErrNoParent) {
		t.Errorf("without parent: %v", err)
	}
	if _, err := Open(noClose{f}, OpenOptions{Parent: block.NewMem(4 * mib)}); !errors.Is(err, ErrWrongParent) {
		t.Errorf("sectors of 512 below 4096: %v", err)
	}
	bare, err := Open(noClose{f}, OpenOptions{Bare: true})
	must(t, err)
	p := make([]byte, 4096)
	must(t, bare.ReadAt(ctx, p, 4096))
	if err := bare.ReadAt(ctx, p, 8192); !errors.Is(err, ErrNoParent) {
		t.Errorf("read of what is not here: %v", err)
	}
	if err := bare.WriteAt(ctx, p, 0, 0); !errors.Is(err, block.ErrReadOnly) {
		t.Errorf("write without parent: %v", err)
	}
	must(t, bare.Close())
	link := &ParentLink{Relative: "p"}
	for _, o := range []CreateOptions{
		{Size: mib, Parent: &ParentLink{}}, {Size: mib, Parent: link, Fixed: true}, {Size: mib, ParentDevice: block.NewMem(mib)},
		{Parent: link, ParentDevice: block.NewMem(mib), LogicalSectorSize: 4096}, {Size: mib, Parent: &ParentLink{Relative: "p", Linkage2: newGUID()}},
	} {
		if _, err := Create(block.NewMemFile(0), o); !errors.Is(err, ErrBadOptions) {
			t.Errorf("Create(%+v) = %v", o, err)
		}
	}
}
