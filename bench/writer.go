package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"lunless/smbstore/block"
)

// Writer is a guest that keeps account: it writes stamped blocks at random into
// a range of a disk, one at a time, flushes now and then, and remembers what was
// acknowledged. Verify then finds any acknowledged write that is missing.
type Writer struct {
	dev    block.Device
	first  int64 // bytes
	seed   uint64
	rng    *rand.Rand
	acked  []uint32 // sequence last acknowledged for each block; 0 none
	trying int64    // block whose write is in flight or failed; -1 none
	next   uint32   // sequence of the next write
	buf    []byte

	writes, flushes int64
	worst           time.Duration
}

// writerBlock is what a Writer writes at a time.
const writerBlock = 4096

// writerFlush is how many writes lie between two flushes.
const writerFlush = 64

// NewWriter makes a writer for [first, first+n) of dev.
func NewWriter(dev block.Device, first, n int64, seed uint64) (*Writer, error) {
	if first < 0 || first%sector != 0 || n < writerBlock || first > dev.Size()-n {
		return nil, fmt.Errorf("writer's range %d+%d: %w", first, n, block.ErrOutOfRange)
	}
	return &Writer{dev: dev, first: first, seed: seed, rng: rand.New(rand.NewPCG(seed, 2)),
		acked: make([]uint32, n/writerBlock), trying: -1, next: 1, buf: make([]byte, writerBlock)}, nil
}

// Run writes until ctx ends, which is no error. It must not run twice at a time.
func (w *Writer) Run(ctx context.Context) error {
	// The request in flight when ctx ends is finished, so that its outcome is known.
	io := context.WithoutCancel(ctx)
	for ctx.Err() == nil {
		n := w.rng.Int64N(int64(len(w.acked)))
		off := w.first + n*writerBlock
		stamp(w.buf, off, w.next, w.seed)
		w.trying = n
		start := time.Now()
		if err := w.dev.WriteAt(io, w.buf, off, 0); err != nil {
			return fmt.Errorf("write at offset %d: %w", off, err)
		}
		w.acked[n], w.trying = w.next, -1
		w.next++
		w.writes++
		if w.writes%writerFlush == 0 {
			if err := w.dev.Flush(io); err != nil {
				return fmt.Errorf("flush: %w", err)
			}
			w.flushes++
		}
		w.worst = max(w.worst, time.Since(start))
	}
	return nil
}

// Writes is how many writes were acknowledged, Flushes how many flushes, and
// WorstStall the longest a write with its flush took. For use when Run has returned.
func (w *Writer) Writes() int64             { return w.writes }
func (w *Writer) Flushes() int64            { return w.flushes }
func (w *Writer) WorstStall() time.Duration { return w.worst }

// Verify reads every block that was acknowledged from dev and compares. Blocks
// whose write failed may hold the old or the new content.
func (w *Writer) Verify(ctx context.Context, dev block.Device) error {
	buf := make([]byte, writerBlock)
	for n, sequence := range w.acked {
		if sequence == 0 || int64(n) == w.trying {
			continue
		}
		off := w.first + int64(n)*writerBlock
		if err := dev.ReadAt(ctx, buf, off); err != nil {
			return fmt.Errorf("read at offset %d: %w", off, err)
		}
		if err := checkStamp(buf, off, sequence, w.seed); err != nil {
			return errors.Join(errors.New("an acknowledged write is lost"), err)
		}
	}
	return nil
}
