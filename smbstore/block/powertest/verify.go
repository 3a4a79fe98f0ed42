package powertest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"lunless/smbstore/block"
)

// verify opens what a cut has left and holds it against the model; at times it
// reads it without changing it, repairs it first, and cuts the power of either.
// The caller holds the run's and the model's locks.
func (r *run) verify(dir *Folder, depth int) (State, error) {
	r.verified++
	state, err := r.disk.Check(dir)
	if err != nil {
		return state, fmt.Errorf("check before opening: %w", err)
	}
	if r.verified%4 == 0 { // the replay in memory costs as much again
		if err := r.readOnly(dir); err != nil {
			return state, fmt.Errorf("read-only: %w", err)
		}
	}
	if depth < maxDepth && r.rnd.IntN(3) == 0 {
		dir.Watch(func(kind block.OpKind) { r.cutInner(dir, depth, kind) })
	}
	if r.disk.Repair != nil && r.verified%5 == 0 {
		var mended bool
		err := r.inner("repair", func() (err error) { mended, err = r.disk.Repair(dir); return err })
		if err != nil {
			return state, fmt.Errorf("repair: %w", err)
		}
		if mended {
			state = max(state, Mend)
		}
		if left, err := r.disk.Check(dir); err != nil || left != Whole {
			return state, fmt.Errorf("check after repair: %w", orState(left, err))
		}
	}
	err = r.inner("replay", func() error {
		dev, err := r.disk.Open(dir, false)
		if err != nil {
			return fmt.Errorf("open: %w", err)
		}
		return errors.Join(r.compareLocked(dev, false), dev.Close())
	})
	if err != nil {
		return state, err
	}
	if left, err := r.disk.Check(dir); err != nil || left != Whole {
		return state, fmt.Errorf("check after replay: %w", orState(left, err))
	}
	return state, nil
}

func orState(s State, err error) error {
	if err == nil {
		err = fmt.Errorf("state %d", s)
	}
	return err
}

// inner is during for the holder of the run's lock.
func (r *run) inner(name string, do func() error) error {
	r.busy[name]++
	defer func() { r.busy[name]-- }()
	return do()
}

// cutInner cuts the power of an image that is being opened or repaired.
func (r *run) cutInner(dir *Folder, depth int, kind block.OpKind) {
	if r.cuts <= 0 || len(r.result.failed) > 0 || r.rnd.Float64() >= inner.of(kind) {
		return
	}
	during := r.doing()
	state, err := r.verify(dir.Cut(r.rnd), depth+1)
	r.tally(during, state, err)
}

// readOnly opens an image for reading, which must leave it as it is.
func (r *run) readOnly(dir *Folder) error {
	before := dir.Clone()
	dev, err := r.disk.Open(dir, true)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if err := errors.Join(r.compareLocked(dev, false), dev.Close()); err != nil {
		return err
	}
	if !dir.Equal(before) {
		return errors.New("the image was changed")
	}
	return nil
}

func (r *run) compare(dev block.Device, adopt bool) error {
	r.model.mu.Lock()
	defer r.model.mu.Unlock()
	return r.compareLocked(dev, adopt)
}

// compareLocked holds a device against the model. adopt makes the model that of
// the device.
func (r *run) compareLocked(dev block.Device, adopt bool) error {
	m, size := r.model, dev.Size()
	if !slices.Contains(m.sizes, size) {
		return fmt.Errorf("size holds %d, may hold %v", size, m.sizes)
	}
	if r.disk.Link != nil {
		link, err := r.disk.Link(dev)
		if err != nil {
			return fmt.Errorf("read link: %w", err)
		}
		if !slices.Contains(m.links, link) {
			return fmt.Errorf("link holds %d, may hold %v", link, m.links)
		}
		if adopt {
			m.links = []uint64{link}
		}
	}
	if adopt {
		m.sizes = []int64{size}
	}
	all := r.verified%16 == 0
	for _, blk := range r.touched(size) {
		if err := r.compareBlock(dev, blk, all, adopt); err != nil {
			return fmt.Errorf("block %d: %w", blk, err)
		}
	}
	if adopt {
		m.cutOff(size)
	}
	return nil
}

// touched are the blocks to look at: those of the workload, those past the size
// the disk began with, and of a huge disk its last.
func (r *run) touched(size int64) []int64 {
	n := r.disk.BlockSize
	first, last := r.disk.Size/n, (size-1)/n
	blocks := slices.Clone(r.disk.Blocks)
	for blk := first; blk <= min(last, first+tailBlocks); blk++ {
		if !slices.Contains(blocks, blk) {
			blocks = append(blocks, blk)
		}
	}
	if last > first+tailBlocks {
		blocks = append(blocks, last)
	}
	return blocks
}

// compareBlock reads where a block gets written, and all of it or a sample of
// the rest.
func (r *run) compareBlock(dev block.Device, blk int64, all, adopt bool) error {
	d := r.disk
	n := min(d.BlockSize, dev.Size()-blk*d.BlockSize)
	if tail := blk*d.BlockSize+n > d.Size; all || tail && blk <= d.Size/d.BlockSize+tailBlocks { // the tail gets written anywhere
		return r.comparePart(dev, blk, 0, n, adopt)
	}
	for _, s := range append(d.slots(), r.rnd.Int64N(d.BlockSize/slotSize)) {
		if c := min(slotSize, n-s*slotSize); c > 0 {
			if err := r.comparePart(dev, blk, s*slotSize, c, adopt); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *run) comparePart(dev block.Device, blk, in, n int64, adopt bool) error {
	p := make([]byte, n)
	if err := dev.ReadAt(context.Background(), p, blk*r.disk.BlockSize+in); err != nil {
		return fmt.Errorf("read %d bytes at %d of it: %w", n, in, err)
	}
	cells := r.model.blocks[blk]
	for i := range n / sectorSize {
		got := p[i*sectorSize : (i+1)*sectorSize]
		var c *cell
		if cells != nil {
			c = cells[in/sectorSize+i]
		}
		if c == nil {
			if !block.IsZero(got) {
				return fmt.Errorf("sector %d of it holds something where nothing was written", in/sectorSize+i)
			}
			continue
		}
		if err := c.check(got); err != nil {
			return fmt.Errorf("sector %d of it %w", in/sectorSize+i, err)
		}
		if adopt {
			c.adopt(got)
		}
	}
	return nil
}
