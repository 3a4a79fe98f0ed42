package smbstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"lunless/smbstore/block"
)

// ConvertOptions steer Convert. The zero value is usable.
type ConvertOptions struct {
	Parallel int   // requests in flight; 0 means 8
	Rate     int64 // bytes read from the source a second; 0 is no limit
	// DestinationZero: the destination is new and reads as zeroes.
	DestinationZero bool
	// Writers bounds how many of the requests write at a time; 0 is no limit. A
	// local file takes one write at a time: more of them fight over its lock.
	Writers int
	// LeastHole is how many zeroes in a row are not written, in bytes; 0 means 4 KiB.
	LeastHole int64
	// ServerCopy has the server that holds both raw files copy what has data, as far
	// as it can: then zeroes that have room at the source get some, too.
	ServerCopy bool
	// Pace, if not nil, says when a merge's requests may run; Parallel is then the most
	// it can let run at a time. Nothing but merges asks it.
	Pace block.Pace
}

// ConvertProgress is where a Convert stands, in bytes of the source.
type ConvertProgress struct {
	Total, Done, Copied int64 // Done is Copied and what was zero
}

const (
	// convertChunk is the largest request: chunks begin at multiples of it, so
	// that none crosses a block of a VHDX, nor, mostly, of a VHD.
	convertChunk    = 1 << 20
	convertParallel = 8
	// convertBridge is up to how large a hole is read along with the data on both
	// its sides: one request costs more than so many bytes.
	convertBridge = 64 << 10
	leastHole     = 4 << 10
)

// Convert copies all of src into dst, which is at least as large, and flushes
// dst. What is unallocated or zero at the source is not copied. progress may be
// nil; it is not called concurrently. A full file system is a *FullError.
func Convert(ctx context.Context, src, dst block.Device, o ConvertOptions, progress func(ConvertProgress)) error {
	c := &converter{src: src, dst: dst, o: o, progress: progress, state: ConvertProgress{Total: src.Size()}}
	if dst.Size() < src.Size() {
		return fmt.Errorf("a disk of %d bytes does not fit into one of %d: %w", src.Size(), dst.Size(), block.ErrOutOfRange)
	}
	c.o.Parallel = cmp.Or(max(o.Parallel, 0), convertParallel)
	c.o.LeastHole = cmp.Or(max(o.LeastHole, 0), leastHole)
	if o.Rate > 0 {
		c.limit = rate.NewLimiter(rate.Limit(o.Rate), int(max(o.Rate/4, convertChunk)))
	}
	_, from := src.(*block.Raw)
	_, to := dst.(*block.Raw)
	c.direct.Store(o.ServerCopy && from && to)
	if o.Writers > 0 {
		c.writers = make(chan struct{}, o.Writers)
	}
	if err := c.run(ctx); err != nil {
		return LeadFull(err)
	}
	return LeadFull(dst.Flush(ctx))
}

// converter is a Convert under way.
type converter struct {
	src, dst block.Device
	o        ConvertOptions
	limit    *rate.Limiter // nil: none
	writers  chan struct{} // one in it for every request that writes; nil: no limit
	jobs     chan convertJob
	direct   atomic.Bool // the server copies, or is still believed to

	progress func(ConvertProgress)
	mu       sync.Mutex
	state    ConvertProgress // under mu
}

// convertJob is a range that is copied: at most a chunk, or any length of zeroes.
type convertJob struct {
	off, n int64
	zero   bool
}

// run walks the source's extents and has workers copy what has data. It allocates
// nothing for a chunk.
func (c *converter) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	c.jobs = make(chan convertJob, c.o.Parallel)
	for range c.o.Parallel {
		g.Go(func() error { return c.work(ctx) })
	}
	g.Go(func() error {
		defer close(c.jobs)
		return c.walk(ctx)
	})
	return g.Wait()
}

// walk hands out the source's data, in order.
func (c *converter) walk(ctx context.Context) error {
	var run block.Extent // data that is still to be handed out
	for e, err := range extents(ctx, c.src, c.src.Size()) {
		if err != nil {
			return fmt.Errorf("cannot map the source: %w", err)
		}
		end := run.Offset + run.Length
		switch {
		case e.State == block.Data && run.Length > 0 && e.Offset-end <= convertBridge:
			run.Length = e.Offset + e.Length - run.Offset
			continue
		case e.State != block.Data && run.Length > 0 && e.Length <= convertBridge:
			continue // perhaps a bridge
		}
		if err := c.handOut(ctx, run, e.Offset); err != nil {
			return err
		}
		if run = e; e.State != block.Data {
			run = block.Extent{Offset: e.Offset}
		}
	}
	return c.handOut(ctx, run, c.src.Size())
}

// handOut gives a run of data to the workers, and the hole between it and next.
func (c *converter) handOut(ctx context.Context, run block.Extent, next int64) error {
	for run.Length > 0 {
		n := min(run.Length, convertChunk-run.Offset%convertChunk)
		if err := c.give(ctx, convertJob{off: run.Offset, n: n}); err != nil {
			return err
		}
		run.Offset, run.Length = run.Offset+n, run.Length-n
	}
	return c.give(ctx, convertJob{off: run.Offset, n: next - run.Offset, zero: true})
}

func (c *converter) give(ctx context.Context, j convertJob) error {
	switch {
	case j.n == 0:
		return nil
	case j.zero && c.o.DestinationZero:
		c.report(j.n, 0)
		return ctx.Err()
	}
	select {
	case c.jobs <- j:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// work copies chunks until there are no more.
func (c *converter) work(ctx context.Context) error {
	var buf []byte
	for j := range c.jobs {
		var copied int64
		var err error
		if j.zero {
			err = c.zero(ctx, j.off, j.n)
		} else {
			if buf == nil {
				buf = make([]byte, convertChunk)
			}
			copied, err = c.copyChunk(ctx, buf[:j.n], j.off)
		}
		if err != nil {
			return err
		}
		c.report(j.n, copied)
	}
	return nil
}

// copyChunk reads p's length and writes what of it is not zero.
func (c *converter) copyChunk(ctx context.Context, p []byte, off int64) (copied int64, err error) {
	if c.limit != nil {
		if err := c.limit.WaitN(ctx, len(p)); err != nil {
			return 0, fmt.Errorf("rate limit: %w", err)
		}
	}
	if c.direct.Load() {
		err := c.dst.(*block.Raw).CopyRange(c.src.(*block.Raw), off, int64(len(p)))
		if err == nil {
			return int64(len(p)), nil
		}
		if !errors.Is(err, block.ErrNotSupported) {
			return 0, fmt.Errorf("copy at the server: %w", err)
		}
		c.direct.Store(false)
	}
	if err := c.src.ReadAt(ctx, p, off); err != nil {
		return 0, fmt.Errorf("copy from source: %w", err)
	}
	for len(p) > 0 {
		zeroes, data := split(p, c.o.LeastHole)
		if !c.o.DestinationZero {
			if err := c.zero(ctx, off, zeroes); err != nil {
				return copied, err
			}
		}
		if err := c.write(ctx, p[zeroes:zeroes+data], off+zeroes); err != nil {
			return copied, err
		}
		copied += data
		p, off = p[zeroes+data:], off+zeroes+data
	}
	return copied, nil
}

func (c *converter) write(ctx context.Context, p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	c.enter()
	defer c.leave()
	if err := c.dst.WriteAt(ctx, p, off, 0); err != nil {
		return fmt.Errorf("copy to destination: %w", err)
	}
	return nil
}

func (c *converter) zero(ctx context.Context, off, n int64) error {
	if n == 0 {
		return nil
	}
	c.enter()
	defer c.leave()
	if err := c.dst.WriteZeroes(ctx, off, n, 0); err != nil {
		return fmt.Errorf("zero the destination: %w", err)
	}
	return nil
}

// enter waits for a turn to write, leave ends it.
func (c *converter) enter() {
	if c.writers != nil {
		c.writers <- struct{}{}
	}
}

func (c *converter) leave() {
	if c.writers != nil {
		<-c.writers
	}
}

func (c *converter) report(done, copied int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.Done += done
	c.state.Copied += copied
	if c.progress != nil {
		c.progress(c.state)
	}
}

// split tells how many zeroes p begins with, in whole units but at its end, and
// how much data follows up to the next unit of zeroes.
func split(p []byte, unit int64) (zeroes, data int64) {
	size := int64(len(p))
	for zeroes < size && block.IsZero(p[zeroes:min(zeroes+unit, size)]) {
		zeroes = min(zeroes+unit, size)
	}
	for data = min(unit, size-zeroes); zeroes+data < size; data = min(data+unit, size-zeroes) {
		if block.IsZero(p[zeroes+data : min(zeroes+data+unit, size)]) {
			break
		}
	}
	return zeroes, data
}
