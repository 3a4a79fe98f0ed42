package powertest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"lunless/smbstore/block"
)

const (
	workOps  = 40 // requests of a writer in a round
	adminOps = 3
)

// pattern returns n bytes filled with copies of tag.
func pattern(n int64, tag uint64) []byte {
	p := make([]byte, n)
	binary.LittleEndian.PutUint64(p, tag)
	for done := 8; done < len(p); done *= 2 {
		copy(p[done:], p[:done])
	}
	return p
}

// writer is one of those that use the disk. Each has sectors of its own, so that
// what they hold is known. The admin, which comes after the others, has those
// past the size the disk began with.
type writer struct {
	*run
	rnd *rand.Rand
	no  int64
}

// work has all writers send requests, and the admin at times.
func (r *run) work() error {
	admin := &writer{r, r.source(r.writers), int64(r.writers)}
	if r.writers == 1 {
		w := &writer{r, r.source(0), 0}
		for range workOps {
			if err := w.request(); err != nil {
				return err
			}
			if w.rnd.IntN(12) == 0 {
				if err := admin.administer(); err != nil {
					return err
				}
			}
		}
		return nil
	}
	var wg sync.WaitGroup
	errs := make(chan error, r.writers+1)
	for no := range r.writers {
		w := &writer{r, r.source(no), int64(no)}
		wg.Go(func() { errs <- repeat(workOps, w.request) })
	}
	wg.Go(func() { errs <- repeat(admin.rnd.IntN(adminOps+1), admin.administer) })
	wg.Wait()
	close(errs)
	var all error
	for err := range errs {
		all = errors.Join(all, err)
	}
	return all
}

func repeat(n int, do func() error) error {
	for range n {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// owner is whose a sector is.
func (r *run) owner(s int64) int64 {
	switch off := s * sectorSize; {
	case off >= r.disk.Size:
		return int64(r.writers)
	case r.blocks:
		return int64(max(0, slices.Index(r.disk.Blocks, off/r.disk.BlockSize))) % int64(r.writers)
	default:
		return off / slotSize % int64(r.writers)
	}
}

func (w *writer) owns(s int64) bool { return w.owner(s) == w.no }

// request sends one request.
func (w *writer) request() error {
	off, n := w.pick()
	shared := w.writers > 1 && !w.blocks // whole blocks are nobody's
	switch k := w.rnd.IntN(24); {
	case k < 10:
		return w.write(off, n, 0)
	case k < 12:
		return w.write(off, n, block.FUA)
	case k < 15:
		return w.flush()
	case k < 17:
		return w.read(off, n)
	case k < 20 && !shared:
		off, n = w.widen(off, n)
		return w.zero(off, n, block.WriteFlags(w.rnd.IntN(4)/3)*block.NoUnmap)
	case k < 22 && !shared:
		off, n = w.widen(off, n)
		return w.trim(off, n)
	case k < 23 && !shared:
		return w.recycle(off)
	}
	return w.write(w.crumble(off, n))
}

// recycle gives a block up for good, so that the next to need room gets its.
func (w *writer) recycle(off int64) error {
	off -= off % w.disk.BlockSize
	if err := w.zero(off, min(w.disk.BlockSize, w.disk.Size-off), 0); err != nil {
		return err
	}
	if err := w.flush(); err != nil {
		return err
	}
	for range 3 {
		if err := w.write(w.plain()); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) plain() (off, n int64, flags block.WriteFlags) {
	off, n = w.pick()
	return off, n, 0
}

// pick returns sectors of the writer's own: in one of the places that get
// written, or, for a single writer, across a border of blocks.
func (w *writer) pick() (off, n int64) {
	d, slots := w.disk, w.disk.slots()
	for {
		blk := d.Blocks[w.rnd.IntN(len(d.Blocks))]
		off = blk*d.BlockSize + slots[w.rnd.IntN(len(slots))]*slotSize
		n = (1 + w.rnd.Int64N(slotSize/d.Sector)) * d.Sector
		if w.writers == 1 && w.rnd.IntN(6) == 0 && slices.Contains(d.Blocks, blk+1) {
			return (blk+1)*d.BlockSize - d.Sector, min(2*d.Sector, d.Size-(blk+1)*d.BlockSize+d.Sector)
		}
		if off+n <= d.Size && w.owns(off/sectorSize) {
			return off, n
		}
	}
}

// crumble makes a range one that neither begins nor ends with a sector.
func (w *writer) crumble(off, n int64) (int64, int64, block.WriteFlags) {
	from := w.rnd.Int64N(n/laneSize) * laneSize
	n = (1 + w.rnd.Int64N((n-from)/laneSize)) * laneSize
	return off + from, n, block.WriteFlags(w.rnd.IntN(6)/5) * block.FUA
}

// widen makes most ranges whole blocks.
func (w *writer) widen(off, n int64) (int64, int64) {
	if w.rnd.IntN(3) == 0 {
		return off, n
	}
	off -= off % w.disk.BlockSize
	return off, min(w.disk.BlockSize, w.disk.Size-off)
}

func (w *writer) write(off, n int64, flags block.WriteFlags) error {
	name := "write"
	if flags&block.FUA != 0 {
		name = "write FUA"
	}
	tag := w.model.tag()
	w.model.begin(off, n, tag, false)
	err := w.during(name, func() error { return w.dev.WriteAt(context.Background(), pattern(n, tag), off, flags) })
	if err != nil {
		return fmt.Errorf("%s of %d at %d: %w", name, n, off, err)
	}
	if flags&block.FUA != 0 {
		w.model.stableRange(off, n)
	}
	return nil
}

func (w *writer) read(off, n int64) error {
	p := make([]byte, n)
	if err := w.dev.ReadAt(context.Background(), p, off); err != nil {
		return fmt.Errorf("read of %d at %d: %w", n, off, err)
	}
	return w.model.reads(p, off)
}

func (w *writer) flush() error {
	if err := w.during("flush", func() error { return w.dev.Flush(context.Background()) }); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	w.model.stable(w.owns)
	return nil
}

func (w *writer) zero(off, n int64, flags block.WriteFlags) error {
	w.model.begin(off, n, 0, false)
	err := w.during("zero", func() error { return w.dev.WriteZeroes(context.Background(), off, n, flags) })
	if err != nil {
		return fmt.Errorf("zero %d at %d: %w", n, off, err)
	}
	return nil
}

func (w *writer) trim(off, n int64) error {
	w.model.begin(off, n, 0, true)
	if err := w.during("trim", func() error { return w.dev.Trim(context.Background(), off, n) }); err != nil {
		return fmt.Errorf("trim %d at %d: %w", n, off, err)
	}
	return nil
}

// administer does one of what the disk can beside requests.
func (w *writer) administer() error {
	var can []func() error
	if w.disk.Resize != nil {
		can = append(can, w.resize, w.resize, w.tail)
	}
	if w.disk.Relink != nil {
		can = append(can, w.relink)
	}
	for _, op := range w.disk.Live {
		can = append(can, func() error {
			err := w.during(op.Name, func() error { return op.Do(context.Background(), w.dev) })
			if err != nil {
				return fmt.Errorf("%s: %w", op.Name, err)
			}
			return nil
		})
	}
	if len(can) == 0 {
		return nil
	}
	return can[w.rnd.IntN(len(can))]()
}

// tailEnd is where the admin's sectors end.
func (w *writer) tailEnd() int64 {
	return min(w.dev.Size(), w.disk.Size+tailBlocks*w.disk.BlockSize)
}

// resize makes the disk larger, or smaller again, mostly after the tail has
// been given up.
func (w *writer) resize() error {
	d, m, have := w.disk, w.model, w.dev.Size()
	size := d.Size + w.rnd.Int64N(tailBlocks*d.BlockSize/d.Sector)*d.Sector
	if w.rnd.IntN(3) == 0 {
		size -= (size - d.Size) % d.BlockSize
	}
	if d.Huge > 0 && w.rnd.IntN(5) == 0 {
		size = d.Huge + w.rnd.Int64N(tailBlocks)*d.Sector
	}
	if end := w.tailEnd(); size < end && w.rnd.IntN(4) > 0 {
		give := w.zero
		if w.rnd.IntN(2) == 0 {
			give = func(off, n int64, _ block.WriteFlags) error { return w.trim(off, n) }
		}
		if err := give(size, end-size, 0); err != nil {
			return err
		}
	}
	may(&m.mu, &m.sizes, size)
	err := w.during("resize", func() error { return d.Resize(context.Background(), w.dev, size) })
	if err != nil && size < have && d.InUse(err) {
		unmay(&m.mu, &m.sizes)
		return nil
	}
	if err != nil {
		return fmt.Errorf("resize from %d to %d: %w", have, size, err)
	}
	settled(&m.mu, &m.sizes)
	if size < have {
		m.forget(size)
	}
	if got := w.dev.Size(); got != size {
		return fmt.Errorf("resize from %d to %d: it has %d", have, size, got)
	}
	return nil
}

// tail writes, trims or reads past the size the disk began with.
func (w *writer) tail() error {
	from, end := (w.disk.Size+slotSize-1)/slotSize*slotSize, w.tailEnd()
	if from >= end {
		return nil
	}
	off := from + w.rnd.Int64N((end-from+slotSize-1)/slotSize)*slotSize
	n := min(slotSize, end-off)
	switch w.rnd.IntN(8) {
	case 0:
		return w.flush()
	case 1:
		return w.trim(off, end-off)
	case 2:
		return w.zero(off, end-off, 0)
	case 3:
		return w.read(off, n)
	}
	return w.write(off, n, block.WriteFlags(w.rnd.IntN(3)/2)*block.FUA)
}

// relink records another link.
func (w *writer) relink() error {
	m := w.model
	link := m.tag()
	may(&m.mu, &m.links, link)
	if err := w.during("relink", func() error { return w.disk.Relink(context.Background(), w.dev, link) }); err != nil {
		return fmt.Errorf("relink: %w", err)
	}
	settled(&m.mu, &m.links)
	return nil
}
