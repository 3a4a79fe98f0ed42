package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"lunless/smbstore"
)

// verify reads both sides again and compares every byte, the holes too. What is
// found good is journalled, so that a resumed job need not repeat it.
func (c *copier) verify(ctx context.Context) error {
	last := time.Now()
	for _, f := range c.journal.Files {
		if f.Role != "" {
			continue
		}
		if f.Verified {
			c.job.resumed(f.Size)
			continue
		}
		if err := c.verifyFile(ctx, f); err != nil {
			if errors.Is(err, ErrVerify) {
				f.Copied = 0 // to be copied again
			}
			return fmt.Errorf("verify %s: %w", f.Name, err)
		}
		f.Verified = true
		failpoint("verified-file")
		if time.Since(last) > journalEvery {
			if err := c.journal.write(c.dst); err != nil {
				return err
			}
			last = time.Now()
		}
	}
	return nil
}

func (c *copier) verifyFile(ctx context.Context, f *FileState) error {
	src, err := c.src.OpenFile(f.Name, smbstore.Read)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := c.dst.OpenFile(f.Name, smbstore.Read)
	if err != nil {
		return err
	}
	defer dst.Close()
	size, err := dst.Size()
	if err != nil {
		return err
	}
	if size != f.Size {
		return fmt.Errorf("%w: %d bytes, want %d", ErrVerify, size, f.Size)
	}
	g, group := errgroup.WithContext(ctx)
	g.SetLimit(maxParallel)
	for off := int64(0); off < f.Size && group.Err() == nil; off += copyChunk {
		n := min(copyChunk, f.Size-off)
		g.Go(func() error { return c.compare(group, src, dst, off, n) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

func (c *copier) compare(ctx context.Context, src, dst smbstore.File, off, n int64) error {
	if err := c.pace.enter(ctx); err != nil { // a limit is for what is copied
		return err
	}
	defer c.pace.End(0)
	a, b := c.bufs.Get().(*[]byte), c.bufs.Get().(*[]byte)
	defer c.bufs.Put(a)
	defer c.bufs.Put(b)
	p, q := (*a)[:n], (*b)[:n]
	if err := readFull(src, p, off); err != nil {
		return err
	}
	if err := readFull(dst, q, off); err != nil {
		return err
	}
	if !bytes.Equal(p, q) {
		return fmt.Errorf("%w: in [%d, +%d)", ErrVerify, off, n)
	}
	c.job.compared(n)
	return nil
}
