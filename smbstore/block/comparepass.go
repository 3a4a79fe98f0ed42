package block

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
)

// ErrDiffers: a mirror's destination does not hold what its source holds.
var ErrDiffers = errors.New("the mirror's ends differ")

// Compare reads both ends of a mirror that is in sync, under writers, and fails
// with ErrDiffers where they are not the same. What neither end has room for is
// not read. Progress gets what was compared as Copied, one chunk at a time, and no
// sum of them.
func (m *Mirror) Compare(ctx context.Context, opts CopyOptions) error {
	if opts.Parallel <= 0 {
		opts.Parallel = 8
	}
	c := &comparePass{m: m, opts: opts}
	c.bufs.New = func() any { return &[2][]byte{make([]byte, compareChunk), make([]byte, compareChunk)} }
	g, group := errgroup.WithContext(ctx)
	g.SetLimit(opts.Parallel)
	for off := int64(0); off < m.Size() && group.Err() == nil; off += compareChunk {
		n := min(compareChunk, m.Size()-off)
		g.Go(func() error { return c.chunk(group, off, n) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return errors.Join(ctx.Err(), m.Err())
}

const compareChunk = 1 << 20

type comparePass struct {
	m    *Mirror
	opts CopyOptions
	bufs sync.Pool // *[2][]byte of compareChunk each
	mu   sync.Mutex
}

func (c *comparePass) chunk(ctx context.Context, off, n int64) error {
	if c.opts.Pace != nil {
		if err := c.opts.Pace.Begin(ctx, n); err != nil {
			return err
		}
		defer c.opts.Pace.End(n)
	}
	hold, err := c.m.ranges.Lock(ctx, off, n)
	if err != nil {
		return err
	}
	defer c.m.ranges.Unlock(hold)
	if err := c.m.Err(); err != nil {
		return err
	}
	empty, err := c.empty(ctx, off, n)
	if err == nil && !empty {
		err = c.compare(ctx, off, n)
	}
	if err != nil {
		return err
	}
	if c.opts.Progress != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.opts.Progress(CopyProgress{Copied: n})
	}
	return nil
}

// empty tells whether both ends know that they have nothing but zeroes.
func (c *comparePass) empty(ctx context.Context, off, n int64) (bool, error) {
	for _, d := range []Device{c.m.src, c.m.dst} {
		data := false
		err := d.Extents(ctx, off, n, func(e Extent) error {
			data = data || e.State == Data
			return nil
		})
		if data || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (c *comparePass) compare(ctx context.Context, off, n int64) error {
	bufs := c.bufs.Get().(*[2][]byte)
	defer c.bufs.Put(bufs)
	a, b := bufs[0][:n], bufs[1][:n]
	if err := c.m.src.ReadAt(ctx, a, off); err != nil {
		return fmt.Errorf("read the source: %w", err)
	}
	if err := c.m.dst.ReadAt(ctx, b, off); err != nil {
		return fmt.Errorf("read the destination: %w", err)
	}
	if bytes.Equal(a, b) {
		return nil
	}
	at := 0
	for a[at] == b[at] {
		at++
	}
	return fmt.Errorf("%w at %d", ErrDiffers, off+int64(at))
}
