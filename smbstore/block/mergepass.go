package block

import (
	"context"
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/sync/errgroup"
)

// MergeGranularity is a Mirror's granularity for a MergePass: fine, so that
// little is copied that the destination has already, and the bitmap below 2 MiB.
func MergeGranularity(size int64) int64 {
	least := max(size>>24, 4096)
	return 1 << bits.Len64(uint64(least-1))
}

// MergePass is CopyPass for a mirror whose destination has all that its source, a
// layer of a chain of differencing disks, lacks: as the layer's parent, or as a new
// layer over a copy of that parent. What is there stays untouched. Data is copied, what the layer
// holds as zeroes is zeroed there. layer is the mirror's source.
//
// The chain reads the same throughout: where the destination changes, the layer
// has its own content.
func (m *Mirror) MergePass(ctx context.Context, layer Layered, opts CopyOptions) error {
	if opts.Parallel <= 0 {
		opts.Parallel = 8
	}
	g := m.todo.Granularity()
	opts.ChunkSize = max(opts.ChunkSize, g, 1<<20)
	opts.ChunkSize -= opts.ChunkSize % g
	m.dstZero.Store(false)
	p := &copyPass{m: m, opts: opts, progress: CopyProgress{Remaining: m.Remaining()}}
	p.bufs.New = func() any { return &copyBuffer{b: make([]byte, opts.ChunkSize)} }
	for m.todo.Count() > 0 {
		if err := p.merge(ctx, layer); err != nil {
			return err
		}
	}
	return m.Err()
}

// merge walks the layer once.
func (p *copyPass) merge(ctx context.Context, layer Layered) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(p.opts.Parallel)
	copyLater := func(off, n int64) {
		g.Go(func() error { return p.copyChunk(ctx, off, n) })
	}
	err := p.mergeWalk(ctx, layer, copyLater, func(off, n int64) {
		g.Go(func() error { return p.settle(ctx, layer, off, n) })
	})
	if gErr := g.Wait(); gErr != nil {
		return gErr
	}
	return err
}

// mergeWalk gives the layer's data to spawn in chunks, and the rest to settle.
func (p *copyPass) mergeWalk(ctx context.Context, layer Layered, spawn, settle func(off, n int64)) error {
	size := p.m.Size()
	for at := int64(0); at < size; {
		off, n, ok := p.m.todo.Next(at, size)
		if !ok {
			return nil
		}
		n = min(n, extentWindow)
		runs, err := p.runsOf(ctx, layer.LayerExtents, off, n)
		if err != nil {
			return err
		}
		pos := off
		for _, r := range append(runs, Extent{Offset: off + n}) {
			if gap := r.Offset - pos; gap > 0 {
				p.gap(ctx, pos, gap, spawn, settle)
			}
			p.chunks(ctx, r.Offset, r.Length, spawn)
			pos = r.Offset + r.Length
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		at = off + n
	}
	return nil
}

// gap gives a range in which the layer has no data to settle, but for what a write
// that failed left different: the destination may have that write, and the layer not.
func (p *copyPass) gap(ctx context.Context, off, n int64, spawn, settle func(off, n int64)) {
	for end := off + n; off < end; {
		at, c, ok := p.m.torn.Next(off, end)
		if !ok {
			at, c = end, 0
		}
		if at > off {
			settle(off, at-off)
		}
		p.chunks(ctx, at, c, spawn)
		off = at + c
	}
}

// settle brings over a range in which the layer had no data: zeroes what it
// holds as zeroes, and takes all of it off the list, but for the granules that
// have got data meanwhile, and those where a write has failed.
func (p *copyPass) settle(ctx context.Context, layer Layered, off, n int64) error {
	hold, err := p.m.ranges.Lock(ctx, off, n)
	if err != nil {
		return err
	}
	defer p.m.ranges.Unlock(hold)
	var states []Extent
	err = layer.LayerExtents(ctx, off, n, func(e Extent) error {
		states = append(states, e)
		return nil
	})
	if err != nil {
		return fmt.Errorf("extents of the layer at %d: %w", off, err)
	}
	todo := p.m.todo
	g := todo.Granularity()
	todo.Clear(off, n)
	for _, e := range states {
		switch e.State {
		case Zero:
			err = p.zeroTarget(ctx, e.Offset, e.Length)
		case Data: // a mirrored write's; its granules are whole in [off, off+n)
			start := e.Offset - e.Offset%g
			todo.Set(start, e.Offset+e.Length-start)
		}
		if err != nil {
			todo.Set(off, n)
			return err
		}
	}
	for at := off; ; {
		from, c, ok := p.m.torn.Next(at, off+n)
		if !ok {
			break
		}
		todo.Set(from, c)
		at = from + c
	}
	p.report(CopyProgress{Skipped: n})
	return nil
}

func (p *copyPass) zeroTarget(ctx context.Context, off, n int64) error {
	if err := p.m.Err(); err != nil {
		return err
	}
	err := p.m.dst.WriteZeroes(ctx, off, n, 0)
	if err == nil || ctx.Err() != nil && !errors.Is(err, ErrNoAnswer) {
		return ctx.Err()
	}
	p.m.Detach(fmt.Errorf("zero in the destination: %w", err))
	return p.m.Err()
}
