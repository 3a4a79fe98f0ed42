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
	pace     *pacer
	bufs     sync.Pool // *[]byte of copyChunk
}

func newCopier(src, dst smbstore.Store, journal *Journal, job *Job) *copier {
	c := &copier{src: src, dst: dst, journal: journal, job: job, pace: job.pace}
	c.bufs.New = func() any { b := make([]byte, copyChunk); return &b }
	return c
}

// run copies what the journal says is left, and leaves every folder and file
// durable.
func (c *copier) run(ctx context.Context) error {
	for _, d := range c.journal.Folders {
		if err := c.dst.MkdirAll(d); err != nil {
			return err
		}
	}
	for _, f := range c.journal.Files {
		if f.Role != "" {
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

// maxCopies bounds how often a file is copied because its server lost it.
const maxCopies = 10

// file copies one file from where the journal says. What a server that went down had
// copied itself is copied again from the last sync on.
func (c *copier) file(ctx context.Context, f *FileState) error {
	for try := 1; ; try++ {
		told, err := c.fileOnce(ctx, f)
		if !errors.Is(err, smbstore.ErrCopyLost) || try == maxCopies || ctx.Err() != nil {
			return err
		}
		c.job.resumed(-told)
	}
}

// fileOnce gives how many bytes of the file the job was told of.
func (c *copier) fileOnce(ctx context.Context, f *FileState) (told int64, err error) {
	flags := smbstore.ReadWrite | smbstore.Create
	if f.Copied == 0 {
		flags |= smbstore.Truncate // it may hold what the source held before it changed
	} else if st, err := c.dst.Stat(f.Name); err == nil && st.Size == f.Size && f.Copied == f.Size {
		c.job.resumed(f.Size)
		return f.Size, nil
	}
	src, err := c.src.OpenFile(f.Name, smbstore.Read)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	dst, err := c.dst.OpenFile(f.Name, flags)
	if err != nil {
		return 0, err
	}
	defer func() {
		if cerr := dst.Close(); err == nil {
			err = cerr
		}
	}()
	if size, err := dst.Size(); err != nil {
		return 0, err
	} else if size < f.Copied {
		f.Copied, f.Verified = 0, false // the destination lost what it had
		if err := dst.Truncate(0); err != nil {
			return 0, err
		}
	}
	if err := dst.Truncate(f.Size); err != nil {
		return 0, err
	}
	c.job.resumed(f.Copied)
	p := newPair(src, dst)
	p.told.Store(f.Copied)
	if err := c.ranges(ctx, f, p); err != nil {
		return p.told.Load(), err
	}
	if err := dst.Sync(); err != nil {
		return p.told.Load(), err
	}
	f.Copied = f.Size
	return p.told.Load(), nil
}

// window is how many bytes are copied between two looks at the clock.
const window = 64 * copyChunk

// ranges copies window by window; the journal learns of whole windows only.
func (c *copier) ranges(ctx context.Context, f *FileState, p *pair) error {
	last := time.Now()
	for off := f.Copied - f.Copied%copyChunk; off < f.Size; {
		n := min(window, f.Size-off)
		if err := c.window(ctx, p, off, n); err != nil {
			return err
		}
		off += n
		failpoint("copied-window")
		if time.Since(last) >= journalEvery && off < f.Size {
			if err := p.dst.Sync(); err != nil {
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
	g.SetLimit(maxParallel)
	visit := func(e block.Extent) error {
		if e.State != block.Data {
			p.told.Add(e.Length)
			c.job.hole(e.Length, true)
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
	serverCopies atomic.Bool  // until it turns out that the server does not
	told         atomic.Int64 // bytes that the job was told of
}

func newPair(src, dst smbstore.File) *pair {
	p := &pair{src: src, dst: dst}
	_, ok := dst.(block.RangeCopier)
	p.serverCopies.Store(ok)
	return p
}

// unit is the largest range to copy at a time: a request of the server's own is
// large, but where there is a limit no larger than a quarter of a second of it.
func (c *copier) unit(p *pair) int64 {
	if !p.serverCopies.Load() {
		return copyChunk
	}
	if rate := c.pace.rate(); rate > 0 {
		return min(serverChunk, max(rate/4-rate/4%copyChunk, copyChunk))
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
	if p.serverCopies.Load() {
		done, err := c.atServer(ctx, p, off, n)
		if done || err != nil {
			return err
		}
	}
	for end := off + n; off < end; off += copyChunk {
		if err := c.through(ctx, p, off, min(copyChunk, end-off)); err != nil {
			return err
		}
	}
	return nil
}

// atServer has the server copy a range; done is false where it does not.
func (c *copier) atServer(ctx context.Context, p *pair, off, n int64) (done bool, err error) {
	if err := c.pace.Begin(ctx, n); err != nil {
		return false, err
	}
	defer func() { c.pace.End(n) }()
	m, err := p.dst.(block.RangeCopier).CopyFrom(p.src, off, off, n)
	switch {
	case err == nil && m == n:
		p.told.Add(n)
		c.job.advance(n, 0)
		return true, nil
	case err != nil && !errors.Is(err, block.ErrNotSupported):
		return false, err
	}
	p.serverCopies.Store(false)
	return false, nil
}

// through copies at most copyChunk bytes through this process. A destination
// file starts as one hole, so zeroes are left out.
func (c *copier) through(ctx context.Context, p *pair, off, n int64) error {
	if err := c.pace.Begin(ctx, n); err != nil {
		return err
	}
	moved := int64(0)
	defer func() { c.pace.End(moved) }()
	buf := c.bufs.Get().(*[]byte)
	defer c.bufs.Put(buf)
	b := (*buf)[:n]
	if err := readFull(p.src, b, off); err != nil {
		return err
	}
	if block.IsZero(b) {
		p.told.Add(n)
		c.job.advance(0, n)
		return nil
	}
	if _, err := p.dst.WriteAt(b, off); err != nil {
		return err
	}
	moved = n
	p.told.Add(n)
	c.job.advance(n, 0)
	return nil
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
