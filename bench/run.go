package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"lunless/smbstore/block"
)

// Options of a run.
type Options struct {
	Workload
	Duration  time.Duration
	WarmUp    time.Duration // not counted
	Seed      uint64        // of offsets, mix and content
	Verify    bool          // stamp every block written, check every block read back
	ServerPID int           // process whose CPU, with its descendants', is charged to the run; 0 none
}

// Run drives one disk through its devices, one a connection, all of them the
// same disk. A request that fails, or in verify mode reads something else than
// was written, ends the run with an error.
func Run(ctx context.Context, devices []block.Device, o Options) (Result, error) {
	if len(devices) == 0 {
		return Result{}, errors.New("bench: no device to drive")
	}
	size := devices[0].Size()
	if err := o.check(size); err != nil {
		return Result{}, err
	}
	workers := make([]*worker, o.Depth)
	blocks := size / int64(o.BlockSize)
	for i := range workers {
		workers[i] = newWorker(devices[i%len(devices)], o, i, blocks/int64(o.Depth))
	}
	if err := drive(ctx, workers, o.WarmUp); err != nil {
		return Result{}, fmt.Errorf("warm-up: %w", err)
	}
	for _, w := range workers {
		w.reset()
	}
	server, err := newMeter(o.ServerPID)
	if err != nil {
		return Result{}, err
	}
	client := selfCPU()
	start := time.Now()
	err = drive(ctx, workers, o.Duration)
	elapsed := time.Since(start)
	clientCPU := selfCPU() - client
	serverCPU, meterErr := server.since()
	if err := errors.Join(err, meterErr); err != nil {
		return Result{}, err
	}
	return summarise(o, len(devices), elapsed, clientCPU, serverCPU, workers), nil
}

// drive lets all workers go for d and returns the first failure.
func drive(ctx context.Context, workers []*worker, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	until := time.Now().Add(d)
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(func() {
			if err := w.loop(ctx, until); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// worker keeps one request in flight, on blocks no other worker touches, so
// that in verify mode it knows what each of them must hold: of every run of
// depth blocks, the one with its number. Workers that walk in step make the one
// sequential stream of a sequential workload.
type worker struct {
	dev      block.Device
	o        Options
	number   int64
	count    int64 // blocks it has
	next     int64 // of a sequential walk
	rng      *rand.Rand
	buf      []byte
	stamps   []uint32 // verify: sequence last written to each block, 0 none in this run
	sequence uint32

	reads, writes *hdrhistogram.Histogram // ns
}

// Latencies are kept from 1 µs to 10 minutes at three digits.
func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1000, int64(10*time.Minute), 3) }

func newWorker(dev block.Device, o Options, n int, count int64) *worker {
	w := &worker{dev: dev, o: o, number: int64(n), count: count,
		rng: rand.New(rand.NewPCG(o.Seed, uint64(n))), buf: make([]byte, o.BlockSize)}
	fill(w.buf, w.rng)
	if o.Verify {
		w.stamps = make([]uint32, count)
	}
	w.reset()
	return w
}

func (w *worker) reset() { w.reads, w.writes = newHistogram(), newHistogram() }

func (w *worker) loop(ctx context.Context, until time.Time) error {
	for now := time.Now(); now.Before(until); {
		if ctx.Err() != nil {
			return nil
		}
		n := w.pick()
		off := (n*int64(w.o.Depth) + w.number) * int64(w.o.BlockSize)
		var err error
		histogram := w.reads
		if w.rng.IntN(100) < w.o.ReadPercent {
			err = w.read(ctx, n, off)
		} else {
			histogram = w.writes
			err = w.write(ctx, n, off)
		}
		if err != nil {
			return fmt.Errorf("at offset %d: %w", off, err)
		}
		end := time.Now()
		_ = histogram.RecordValue(max(1000, int64(end.Sub(now)))) // out of range only after 10 minutes
		now = end
	}
	return nil
}

func (w *worker) pick() int64 {
	if w.o.Random {
		return w.rng.Int64N(w.count)
	}
	n := w.next
	w.next = (w.next + 1) % w.count
	return n
}

func (w *worker) read(ctx context.Context, n, off int64) error {
	if err := w.dev.ReadAt(ctx, w.buf, off); err != nil {
		return err
	}
	if w.o.Verify && w.stamps[n] != 0 {
		return checkStamp(w.buf, off, w.stamps[n], w.o.Seed)
	}
	return nil
}

func (w *worker) write(ctx context.Context, n, off int64) error {
	if w.o.Verify {
		w.sequence++
		w.stamps[n] = w.sequence
		stamp(w.buf, off, w.sequence, w.o.Seed)
	}
	return w.dev.WriteAt(ctx, w.buf, off, 0)
}

// Prepare fills the device, so that reads find data and not holes.
func Prepare(ctx context.Context, dev block.Device, seed uint64, progress func(done, total int64)) error {
	rng := rand.New(rand.NewPCG(seed, 1))
	buf := make([]byte, 1<<20)
	size := dev.Size()
	for off := int64(0); off < size; off += int64(len(buf)) {
		fill(buf, rng)
		if err := dev.WriteAt(ctx, buf[:min(int64(len(buf)), size-off)], off, 0); err != nil {
			return fmt.Errorf("preparing at offset %d: %w", off, err)
		}
		if progress != nil {
			progress(min(off+int64(len(buf)), size), size)
		}
	}
	return dev.Flush(ctx)
}
