package block

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// CopyOptions steer a copy pass. The zero value is usable.
type CopyOptions struct {
	// Parallel is how many requests are in flight; 0 means 8.
	Parallel int
	// ChunkSize in bytes of one request, a multiple of the mirror's granularity
	// if above it; 0 means 1 MiB. Guest writes to a chunk wait while it is copied.
	ChunkSize int64
	// Limit, if not nil, is asked for every byte read from the source.
	Limit *rate.Limiter
	// Pace, if not nil, is asked before and told after each request. Parallel is
	// then the most it can let run at a time.
	Pace Pace
	// Progress, if not nil, is called after each step, never concurrently.
	Progress func(CopyProgress)
}

// Pace says when a copy's requests may run.
type Pace interface {
	// Begin waits for leave to move n bytes, or until ctx ends.
	Begin(ctx context.Context, n int64) error
	// End is called for every Begin that gave leave, with how many of the bytes
	// were moved: none of zeroes.
	End(moved int64)
}

// CopyProgress is where a copy pass stands, in bytes.
type CopyProgress struct {
	Copied    int64 // read from the source and written
	Zeroed    int64 // written to the destination as zeroes
	Skipped   int64 // zero at the source, and at the new destination anyway
	Remaining int64 // what the destination still lacks, rounded up to granules
}

// extentWindow is how much of the source is asked for its extents at a time.
const extentWindow = 1 << 30

// CopyPass brings to the destination what it lacks and mirrored writes have not
// brought yet. When it returns nil the ends hold the same and stay so; it may be
// called again after an error. A failure of the destination detaches it and is
// returned as ErrDetached. One pass runs at a time.
//
// Bytes that the source gives as Unallocated are taken for zeroes, as a Device
// reads them: a differencing chain must answer with its parents' states.
func (m *Mirror) CopyPass(ctx context.Context, opts CopyOptions) error {
	if opts.Parallel <= 0 {
		opts.Parallel = 8
	}
	opts.ChunkSize = max(opts.ChunkSize, m.todo.Granularity())
	opts.ChunkSize -= opts.ChunkSize % m.todo.Granularity()
	p := &copyPass{m: m, opts: opts, progress: CopyProgress{Remaining: m.Remaining()}}
	p.bufs.New = func() any { return &copyBuffer{b: make([]byte, opts.ChunkSize)} }
	// A failed guest write puts its range back, perhaps behind the pass.
	for m.todo.Count() > 0 {
		if err := p.run(ctx); err != nil {
			return err
		}
	}
	return m.Err()
}

// Survey settles what a CopyPass would find to be zero at the source, or, with the
// layer that is the source, what a MergePass would not have to copy. What Remaining
// says after it is what will be copied, but for zeroes among data.
func (m *Mirror) Survey(ctx context.Context, layer Layered) error {
	p := &copyPass{m: m, opts: CopyOptions{ChunkSize: m.todo.Granularity()}}
	if layer == nil {
		return p.walk(ctx, func(int64, int64) {})
	}
	m.dstZero.Store(false)
	var err error
	werr := p.mergeWalk(ctx, layer, func(int64, int64) {}, func(off, n int64) {
		if err == nil {
			err = p.settle(ctx, layer, off, n)
		}
	})
	return errors.Join(err, werr)
}

// copyPass is one CopyPass under way.
type copyPass struct {
	m        *Mirror
	opts     CopyOptions
	bufs     sync.Pool // *copyBuffer of ChunkSize
	mu       sync.Mutex
	progress CopyProgress // under mu
}

// copyBuffer is what a chunk passes through.
type copyBuffer struct {
	b    []byte
	kept bool // by a request that was given up: it is not used again
}

// lender is a Device that a write's memory can be lent to; see Patient.WriteLent.
type lender interface {
	WriteLent(ctx context.Context, b []byte, off int64, flags WriteFlags) (kept bool, err error)
}

// run walks the device once.
func (p *copyPass) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(p.opts.Parallel)
	err := p.walk(ctx, func(off, n int64) {
		g.Go(func() error { return p.copyChunk(ctx, off, n) })
	})
	if gErr := g.Wait(); gErr != nil {
		return gErr
	}
	return err
}

// walk finds what is left to do, settles ranges the destination need not get,
// and gives the rest to spawn in chunks.
func (p *copyPass) walk(ctx context.Context, spawn func(off, n int64)) error {
	size := p.m.Size()
	for at := int64(0); at < size; {
		off, n, ok := p.m.todo.Next(at, size)
		if !ok {
			return nil
		}
		n = min(n, extentWindow)
		redo := p.m.redo.Load()
		zero := p.m.dstZero.Load()
		runs, err := p.runsOf(ctx, p.m.src.Extents, off, n)
		if err != nil {
			return err
		}
		pos := off
		for _, r := range append(runs, Extent{Offset: off + n}) {
			if gap := r.Offset - pos; gap > 0 {
				if zero {
					err = p.skip(ctx, pos, gap, redo, spawn)
				} else {
					p.chunks(ctx, pos, gap, spawn)
				}
				if err != nil {
					return err
				}
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

// runsOf lists the data in [off, off+n) as extents tells it, rounded out to
// granules, in order and disjoint.
func (p *copyPass) runsOf(ctx context.Context, extents func(context.Context, int64, int64, func(Extent) error) error, off, n int64) ([]Extent, error) {
	g := p.m.todo.Granularity()
	var runs []Extent
	err := extents(ctx, off, n, func(e Extent) error {
		if e.State != Data {
			return nil
		}
		start := max(e.Offset-e.Offset%g, off)
		end := min(roundUp(e.Offset+e.Length, g), off+n)
		if k := len(runs); k > 0 && start <= runs[k-1].Offset+runs[k-1].Length {
			runs[k-1].Length = max(end-runs[k-1].Offset, runs[k-1].Length)
			return nil
		}
		runs = append(runs, Extent{start, end - start, Data})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("extents of the source at %d: %w", off, err)
	}
	return runs, nil
}

// skip settles a range that was zero at the source while the destination had
// nothing but mirrored writes, unless a write left the ends different since.
func (p *copyPass) skip(ctx context.Context, off, n, redo int64, spawn func(off, n int64)) error {
	hold, err := p.m.ranges.Lock(ctx, off, n)
	if err != nil {
		return err
	}
	ok := p.m.redo.Load() == redo
	if ok {
		p.m.todo.Clear(off, n)
	}
	p.m.ranges.Unlock(hold)
	if !ok {
		p.chunks(ctx, off, n, spawn)
		return nil
	}
	p.report(CopyProgress{Skipped: n})
	return nil
}

func (p *copyPass) chunks(ctx context.Context, off, n int64, spawn func(off, n int64)) {
	for n > 0 && ctx.Err() == nil {
		c := min(n, p.opts.ChunkSize-off%p.opts.ChunkSize)
		spawn(off, c)
		off, n = off+c, n-c
	}
}

// copyChunk copies what is still to do in one chunk, under the chunk's lock.
func (p *copyPass) copyChunk(ctx context.Context, off, n int64) error {
	if err := p.wait(ctx, n); err != nil {
		return err
	}
	var moved int64
	if p.opts.Pace != nil {
		if err := p.opts.Pace.Begin(ctx, n); err != nil {
			return err
		}
		defer func() { p.opts.Pace.End(moved) }()
	}
	hold, err := p.m.ranges.Lock(ctx, off, n)
	if err != nil {
		return err
	}
	defer p.m.ranges.Unlock(hold)
	buf := p.bufs.Get().(*copyBuffer)
	defer func() {
		if !buf.kept {
			p.bufs.Put(buf)
		}
	}()
	for at := off; ; {
		from, c, ok := p.m.todo.Next(at, off+n)
		if !ok {
			return nil
		}
		m, err := p.copyRange(ctx, buf, from, c)
		if moved += m; err != nil {
			return err
		}
		at = from + c
	}
}

// copyRange brings granules over, by buf, and takes them off the list; the caller
// holds their lock. moved is how many bytes were written.
func (p *copyPass) copyRange(ctx context.Context, buf *copyBuffer, off, n int64) (moved int64, err error) {
	if err := p.m.Err(); err != nil {
		return 0, err
	}
	b := buf.b[:n]
	if err := p.m.src.ReadAt(ctx, b, off); err != nil {
		return 0, fmt.Errorf("copy from source: %w", err)
	}
	count := CopyProgress{Copied: n}
	switch {
	case p.m.dstZero.Load():
		// Even a new destination may hold a mirrored write where the source has
		// zeroes since, but then the zeroing was mirrored too.
		moved, err = p.writeData(ctx, buf, b, off)
		count = CopyProgress{Copied: moved, Skipped: n - moved}
	case !IsZero(b):
		moved, err = n, p.write(ctx, buf, b, off)
	default:
		err = p.m.dst.WriteZeroes(ctx, off, n, 0)
		count = CopyProgress{Zeroed: n}
	}
	switch {
	case err == nil:
		p.m.torn.Clear(off, n)
		p.m.todo.Clear(off, n)
		p.report(count)
		return moved, nil
	case ctx.Err() != nil && !errors.Is(err, ErrNoAnswer):
		return 0, ctx.Err()
	}
	// One that was given up may still reach the destination, after later writes.
	p.m.Detach(fmt.Errorf("copy to destination: %w", err))
	return 0, p.m.Err()
}

// dataUnit is how many zeroes, in whole units, are worth leaving out of a write.
const dataUnit = 64 << 10

// write writes b, a part of buf.
func (p *copyPass) write(ctx context.Context, buf *copyBuffer, b []byte, off int64) error {
	l, ok := p.m.dst.(lender)
	if !ok {
		return p.m.dst.WriteAt(ctx, b, off, 0)
	}
	kept, err := l.WriteLent(ctx, b, off, 0)
	buf.kept = buf.kept || kept
	return err
}

// writeData writes what of b, a part of buf, is not zero.
func (p *copyPass) writeData(ctx context.Context, buf *copyBuffer, b []byte, off int64) (moved int64, err error) {
	for at := 0; at < len(b); {
		end := min(at+dataUnit, len(b))
		if IsZero(b[at:end]) {
			at = end
			continue
		}
		for end < len(b) && !IsZero(b[end:min(end+dataUnit, len(b))]) {
			end = min(end+dataUnit, len(b))
		}
		if err := p.write(ctx, buf, b[at:end], off+int64(at)); err != nil {
			return moved, err
		}
		moved, at = moved+int64(end-at), end
	}
	return moved, nil
}

// wait asks the limiter for n bytes, in pieces it can grant.
func (p *copyPass) wait(ctx context.Context, n int64) error {
	lim := p.opts.Limit
	if lim == nil {
		return nil
	}
	for n > 0 {
		c := n
		if burst := int64(lim.Burst()); lim.Limit() != rate.Inf && burst > 0 {
			c = min(n, burst)
		}
		if err := lim.WaitN(ctx, int(c)); err != nil {
			return fmt.Errorf("rate limit: %w", err)
		}
		n -= c
	}
	return nil
}

// report adds to the progress.
func (p *copyPass) report(c CopyProgress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.progress.Copied += c.Copied
	p.progress.Zeroed += c.Zeroed
	p.progress.Skipped += c.Skipped
	p.progress.Remaining = p.m.Remaining()
	if p.opts.Progress != nil {
		p.opts.Progress(p.progress)
	}
}

func roundUp(v, unit int64) int64 {
	if r := v % unit; r != 0 {
		if v > 1<<63-1-(unit-r) {
			return 1<<63 - 1
		}
		return v + unit - r
	}
	return v
}
