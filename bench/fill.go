package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

// Fill is a fixed number of writes, each a step behind the last, round the disk's
// end: what `qemu-img bench -w` does. Into a new disk it measures what growing costs.
type Fill struct {
	Count      int   `json:"count"`       // writes
	Request    int   `json:"request"`     // bytes of one
	Step       int64 `json:"step"`        // bytes from one's start to the next one's; 0 is Request
	Depth      int   `json:"depth"`       // writes in flight
	FlushEvery int   `json:"flush_every"` // writes, which are waited for first; 0 flushes at the end alone
}

// FillResult is what a Fill took, its last flush included.
type FillResult struct {
	Target string `json:"target"`
	Fill
	Seconds   float64 `json:"seconds"`
	MiBPerSec float64 `json:"mib_per_s"`
	MaxRSS    int64   `json:"client_max_rss"` // bytes, of this process since its start
}

func (f Fill) check(size int64) error {
	switch {
	case f.Count < 1:
		return fmt.Errorf("%d writes: want at least one", f.Count)
	case f.Request < 512 || f.Request > 64<<20:
		return fmt.Errorf("requests of %d bytes: want 512 to 64 MiB", f.Request)
	case f.Step < 0 || f.FlushEvery < 0:
		return fmt.Errorf("step %d, flush every %d: neither may be negative", f.Step, f.FlushEvery)
	case f.Depth < 1 || f.Depth > 1024:
		return fmt.Errorf("depth %d: want 1 to 1024", f.Depth)
	case size < int64(f.Request):
		return fmt.Errorf("target of %d bytes is too small for requests of %d: %w", size, f.Request, block.ErrOutOfRange)
	}
	return nil
}

// RunFill writes to dev as f says. What is written is not zero.
func RunFill(ctx context.Context, dev block.Device, f Fill) (FillResult, error) {
	if f.Step == 0 {
		f.Step = int64(f.Request)
	}
	if err := f.check(dev.Size()); err != nil {
		return FillResult{}, err
	}
	buf := make([]byte, f.Request)
	fill(buf, rand.New(rand.NewPCG(1, 2)))
	room := dev.Size() - int64(f.Request) + 1 // where a request may begin
	start := time.Now()
	for done := 0; done < f.Count; {
		n := f.Count - done
		if f.FlushEvery > 0 {
			n = min(n, f.FlushEvery)
		}
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(f.Depth)
		for i := range n {
			off := int64(done+i) * f.Step % room
			g.Go(func() error { return dev.WriteAt(gctx, buf, off, 0) })
		}
		err := g.Wait()
		if err == nil {
			err = dev.Flush(ctx)
		}
		if err != nil {
			return FillResult{}, fmt.Errorf("writes %d to %d: %w", done, done+n, err)
		}
		done += n
	}
	took := time.Since(start).Seconds()
	return FillResult{Fill: f, Seconds: took, MaxRSS: maxRSS(),
		MiBPerSec: float64(f.Count) * float64(f.Request) / (1 << 20) / took}, nil
}

// FillDisk makes a disk at l, fills it, and removes it unless keep is set.
func FillDisk(ctx context.Context, l smbstore.Location, o smbstore.Options, disk smbstore.CreateDiskOptions, f Fill, keep bool) (_ FillResult, err error) {
	s, err := smbstore.Open(ctx, l.Dir(), o)
	if err != nil {
		return FillResult{}, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	dev, err := smbstore.CreateDisk(ctx, s, l.Base(), disk)
	if err != nil {
		return FillResult{}, err
	}
	r, err := RunFill(ctx, dev, f)
	if err = errors.Join(err, dev.Close()); err != nil || !keep {
		err = errors.Join(err, s.Remove(l.Base()))
	}
	r.Target = l.String()
	return r, err
}

// WriteText prints the result for people.
func (r FillResult) WriteText(w io.Writer) {
	fmt.Fprintf(w, "%s  %d writes of %d bytes, %d apart, depth %d, a flush every %d\n",
		r.Target, r.Count, r.Request, r.Step, r.Depth, r.FlushEvery)
	fmt.Fprintf(w, "  %12.3f s  %10.1f MiB/s  %d MiB of memory at most\n", r.Seconds, r.MiBPerSec, r.MaxRSS>>20)
}
