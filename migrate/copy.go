package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

const (
	// copyChunk is the unit of copying, in bytes: one request on the wire.
	copyChunk = 1 << 20
	// serverChunk is the unit where the server copies, in bytes.
	serverChunk = 16 << 20
	// journalEvery is how often progress within a file is made durable.
	journalEvery = 2 * time.Second
)

// copier brings the planned files to the destination.
type copier struct {
	src, dst smbstore.Store
	journal  *Journal
	job      *Job
	parallel int
	limit    *rate.Limiter // nil: none
	bufs     sync.Pool     // *[]byte of copyChunk
}

func newCopier(src, dst smbstore.Store, journal *Journal, job *Job, o *Options) *copier {
	c := &copier{src: src, dst: dst, journal: journal, job: job, parallel: o.Parallel}
	if c.parallel <= 0 {
		c.parallel = 8
	}
	if o.RateLimit > 0 {
		c.limit = rate.NewLimiter(rate.Limit(o.RateLimit), int(max(o.RateLimit/4, copyChunk)))
	}
	c.bufs.New = func() any { b := make([]byte, copyChunk); return &b }
	return c
}

// run copies what the journal says is left, and leaves every folder and file
// durable.
func (c *copier) run(ctx context.Context, skip func(name string) bool) error {
	for _, d := range c.journal.Folders {
		if err := c.dst.MkdirAll(d); err != nil {
			return err
		}
	}
	for _, f := range c.journal.Files {
		if skip != nil && skip(f.Name) {
			continue
		}
		if err := c.file(ctx, f); err != nil {
			return fmt.Errorf("copy %s: %w", f.Name, err)
		}
		failpoint("copied-file")
	}
	for _, d := range append([]string{""}, c.journal.Folders...) {
		if err := c.dst.SyncDir(d); err != nil {
			return err
		}
	}
	return c.journal.write(c.dst)
}

// file copies one file from where the journal says.
func (c *copier) file(ctx context.Context, f *FileState) (err error) {
	flags := smbstore.ReadWrite | smbstore.Create
	if f.Copied == 0 {
		flags |= smbstore.Truncate // it may hold what the source held before it changed
	} else if st, err := c.dst.Stat(f.Name); err == nil && st.Size == f.Size && f.Copied == f.Size {
		c.job.resumed(f.Size)
		return nil
	}
	src, err := c.src.OpenFile(f.Name, smbstore.Read)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := c.dst.OpenFile(f.Name, flags)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := dst.Close(); err == nil {
			err = cerr
		}
	}()
	if size, err := dst.Size(); err != nil {
		return err
	} else if size < f.Copied {
		f.Copied, f.Verified = 0, false // the destination lost what it had
		if err := dst.Truncate(0); err != nil {
			return err
		}
	}
	if err := dst.Truncate(f.Size); err != nil {
		return err
	}
	c.job.resumed(f.Copied)
	if err := c.ranges(ctx, f, src, dst); err != nil {
		return err
	}
	if err := dst.Sync(); err != nil {
		return err
	}
	f.Copied = f.Size
	return nil
}

// window is how many bytes are copied between two looks at the clock.
const window = 64 * copyChunk

// ranges copies window by window; the journal learns of whole windows only.
func (c *copier) ranges(ctx context.Context, f *FileState, src, dst smbstore.File) error {
	p := newPair(src, dst)
	last := time.Now()
	for off := f.Copied - f.Copied%copyChunk; off < f.Size; {
		n := min(window, f.Size-off)
		if err := c.window(ctx, p, off, n); err != nil {
			return err
		}
		off += n
		failpoint("copied-window")
		if time.Since(last) >= journalEvery && off < f.Size {
			if err := dst.Sync(); err != nil {
				return err
			}
			f.Copied = off
			if err := c.journal.write(c.dst); err != nil {
				return err
			}
			failpoint("journalled")
			last = time.Now()
		}
	}
	return nil
}

func (c *copier) window(ctx context.Context, p *pair, off, n int64) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(c.parallel)
	visit := func(e block.Extent) error {
		if e.State != block.Data {
			c.job.advance(0, e.Length, 0)
			return ctx.Err()
		}
		for at, end := e.Offset, e.Offset+e.Length; at < end && ctx.Err() == nil; {
			unit := c.unit(p)
			m, from := min(unit-at%unit, end-at), at
			g.Go(func() error { return c.chunk(ctx, p, from, m) })
			at += m
		}
		return ctx.Err()
	}
	err := extents(p.src, off, n, visit)
	if werr := g.Wait(); werr != nil {
		return werr
	}
	return err
}

// pair is a file at both ends.
type pair struct {
	src, dst     smbstore.File
	serverCopies atomic.Bool // until it turns out that the server does not
}

func newPair(src, dst smbstore.File) *pair {
	p := &pair{src: src, dst: dst}
	_, ok := dst.(block.RangeCopier)
	p.serverCopies.Store(ok)
	return p
}

// unit is the largest range to copy at a time: no more than the limiter grants at
// once, or the requests in flight would wait for each other's share.
func (c *copier) unit(p *pair) int64 {
	switch {
	case !p.serverCopies.Load():
		return copyChunk
	case c.limit != nil:
		return min(serverChunk, int64(c.limit.Burst()))
	}
	return serverChunk
}

// extents are the file's own, or one extent of data where it cannot tell.
func extents(f smbstore.File, off, n int64, visit func(block.Extent) error) error {
	all := block.Extent{Offset: off, Length: n, State: block.Data}
	x, ok := f.(block.Extenter)
	if !ok {
		return visit(all)
	}
	seen := false
	err := x.FileExtents(off, n, func(e block.Extent) error { seen = true; return visit(e) })
	if errors.Is(err, block.ErrNotSupported) && !seen {
		return visit(all)
	}
	return err
}

// chunk copies a range: on the server where both ends are one, else through this
// process.
func (c *copier) chunk(ctx context.Context, p *pair, off, n int64) error {
	granted := false
	if p.serverCopies.Load() {
		if err := c.wait(ctx, n); err != nil {
			return err
		}
		granted = true
		m, err := p.dst.(block.RangeCopier).CopyFrom(p.src, off, off, n)
		if err == nil && m == n {
			c.job.advance(n, 0, 0)
			return nil
		}
		if err != nil && !errors.Is(err, block.ErrNotSupported) {
			return err
		}
		p.serverCopies.Store(false)
	}
	for end := off + n; off < end; off += copyChunk {
		if !granted {
			if err := c.wait(ctx, min(copyChunk, end-off)); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.through(p, off, min(copyChunk, end-off)); err != nil {
			return err
		}
	}
	return nil
}

// through copies at most copyChunk bytes through this process. A destination
// file starts as one hole, so zeroes are left out.
func (c *copier) through(p *pair, off, n int64) error {
	buf := c.bufs.Get().(*[]byte)
	defer c.bufs.Put(buf)
	b := (*buf)[:n]
	if err := readFull(p.src, b, off); err != nil {
		return err
	}
	if block.IsZero(b) {
		c.job.advance(0, n, 0)
		return nil
	}
	if _, err := p.dst.WriteAt(b, off); err != nil {
		return err
	}
	c.job.advance(n, 0, 0)
	return nil
}

// wait asks the limiter for n bytes, in pieces it can grant.
func (c *copier) wait(ctx context.Context, n int64) error {
	for n > 0 && c.limit != nil {
		m := min(n, int64(c.limit.Burst()))
		if err := c.limit.WaitN(ctx, int(m)); err != nil {
			return err
		}
		n -= m
	}
	return ctx.Err()
}

// readFull reads all of p; a file that ends before is one that changed.
func readFull(f smbstore.File, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		return fmt.Errorf("%s ends at %d: %w", path.Base(f.Name()), off+int64(n), ErrSourceChanged)
	}
	return err
}
