package smbstore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"sync"

	"lunless/smbstore/block"
)

// CompareDisksOptions describe a comparison. A and B are all it needs.
type CompareDisksOptions struct {
	A, B               Location
	AOptions, BOptions Options
	Strict             bool                  // disks of different virtual sizes differ
	All                bool                  // count all bytes that differ, not those of the first place alone
	Parallel           int                   // requests in flight; 0 means 16
	Progress           func(CompareProgress) // may be nil; never called concurrently
}

// CompareProgress is where a comparison stands, in bytes of the larger disk.
type CompareProgress struct {
	Total, Done int64
}

// DiskComparison is what a comparison found. Numbers are bytes.
type DiskComparison struct {
	Identical       bool   `json:"identical"`
	FirstDifference *int64 `json:"first_difference"` // its offset; nil if there is none
	// DifferentBytes counts all with All, else those in the chunk, of 1 MiB at
	// most, that has the first. With Strict the rest of the larger disk is one.
	DifferentBytes int64 `json:"different_bytes"`
	Compared       int64 `json:"compared"` // read and compared
	Skipped        int64 `json:"skipped"`  // not read: both disks tell that they have no data there
}

// CompareDisks compares the virtual content of two images of any formats. What
// one disk has more than the other must be zero, unless Strict has it differ.
// It ends at the first difference, which is the one of the lowest offset, unless
// All is set. Nothing is changed.
//
// A disk that cannot be read before the first difference is an error; with All
// every such place is one.
func CompareDisks(ctx context.Context, o CompareDisksOptions) (DiskComparison, error) {
	a, err := openCompared(ctx, o.A, o.AOptions)
	if err != nil {
		return DiskComparison{}, err
	}
	defer a.close()
	b, err := openCompared(ctx, o.B, o.BOptions)
	if err != nil {
		return DiskComparison{}, err
	}
	defer b.close()
	return compareDevices(ctx, [2]compared{a, b}, o)
}

// compared is one disk of a comparison.
type compared struct {
	block.Device
	name  string // in errors
	store Store
}

func openCompared(ctx context.Context, l Location, o Options) (compared, error) {
	s, err := Open(ctx, l.Dir(), o)
	if err != nil {
		return compared{}, err
	}
	dev, _, err := OpenDisk(ctx, s, l.Base(), DiskOptions{ReadOnly: true})
	if err != nil {
		return compared{}, errors.Join(err, s.Close())
	}
	return compared{dev, l.String(), s}, nil
}

// close gives up what was only read: nothing can be lost by it.
func (c compared) close() {
	_ = c.Device.Close()
	_ = c.store.Close()
}

const (
	// compareChunk is the unit of work: chunks begin at multiples of it, so that
	// what is found does not depend on the order in which they are done.
	compareChunk = 1 << 20
	// compareParallel chunks in flight take two buffers each, 32 MiB in all.
	compareParallel = 16
)

// comparison is a compareDevices under way.
type comparison struct {
	disks  [2]compared
	o      CompareDisksOptions
	common int64  // bytes both disks have
	total  int64  // bytes the larger one has
	zeroes []byte // compareChunk of them; nobody writes to it
	chunks chan compareJob

	mu      sync.Mutex // guards what follows
	done    DiskComparison
	first   int64 // offset of the first difference; math.MaxInt64 if there is none
	last    int64 // nothing from here on needs to be looked at
	err     error
	errorAt int64 // the chunk or extent err belongs to
}

// compareJob is a range that lies in one chunk, and which of the disks may hold
// data there: at least one.
type compareJob struct {
	off, n int64
	data   [2]bool
}

// compareDevices walks both disks' extents side by side and has what may differ
// read by workers. It allocates nothing for a chunk.
func compareDevices(ctx context.Context, disks [2]compared, o CompareDisksOptions) (DiskComparison, error) {
	sizes := [2]int64{disks[0].Size(), disks[1].Size()}
	c := &comparison{disks: disks, o: o, common: min(sizes[0], sizes[1]), total: max(sizes[0], sizes[1]),
		zeroes: make([]byte, compareChunk), first: math.MaxInt64, last: math.MaxInt64}
	parallel := cmp.Or(max(o.Parallel, 0), compareParallel)
	c.chunks = make(chan compareJob, parallel)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var workers sync.WaitGroup
	for range parallel {
		workers.Go(func() { c.work(ctx) })
	}
	c.walk(ctx)
	close(c.chunks)
	workers.Wait()
	return c.result(ctx)
}

// result is called when all is done.
func (c *comparison) result(ctx context.Context) (DiskComparison, error) {
	if err := ctx.Err(); err != nil {
		return DiskComparison{}, fmt.Errorf("cannot compare %s with %s: %w", c.disks[0].name, c.disks[1].name, err)
	}
	if c.err != nil && (c.o.All || c.errorAt < c.first) {
		return DiskComparison{}, c.err
	}
	if c.o.Strict && c.common < c.total && (c.o.All || c.first == math.MaxInt64) {
		c.first = min(c.first, c.common)
		c.done.DifferentBytes += c.total - c.common
	}
	if c.done.Identical = c.first == math.MaxInt64; !c.done.Identical {
		c.done.FirstDifference = &c.first
	}
	return c.done, nil
}

// work compares chunks until there are no more.
func (c *comparison) work(ctx context.Context) {
	bufs := [2][]byte{make([]byte, compareChunk), make([]byte, compareChunk)}
	for j := range c.chunks {
		if c.needed(ctx, j.off) {
			c.compare(ctx, j, bufs)
		}
	}
}

// needed tells whether what lies at an offset can still matter.
func (c *comparison) needed(ctx context.Context, off int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return off < c.last && ctx.Err() == nil
}

// compare does one chunk. A disk without data there is not read.
func (c *comparison) compare(ctx context.Context, j compareJob, bufs [2][]byte) {
	var content [2][]byte
	for i, d := range c.disks {
		if content[i] = c.zeroes[:j.n]; !j.data[i] {
			continue
		}
		content[i] = bufs[i][:j.n]
		if err := d.ReadAt(ctx, content[i], j.off); err != nil {
			c.fail(j.off, fmt.Errorf("cannot compare %s at offset %d: %w", d.name, j.off, err))
			return
		}
	}
	first, n := differences(content[0], content[1])
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done.Compared += j.n
	switch at := j.off + int64(first); {
	case n == 0:
	case c.o.All:
		c.first = min(c.first, at)
		c.done.DifferentBytes += n
	case at < c.first:
		c.first, c.done.DifferentBytes = at, n
		c.last = min(c.last, j.off)
	}
	c.report()
}

// fail takes note of an error at an offset: nothing behind it is looked at.
func (c *comparison) fail(off int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil || off < c.errorAt {
		c.err, c.errorAt = err, off
		c.last = min(c.last, off)
	}
}

// report tells how far the work is; under mu.
func (c *comparison) report() {
	if c.o.Progress != nil {
		c.o.Progress(CompareProgress{Total: c.total, Done: c.done.Compared + c.done.Skipped})
	}
}

// walk finds the ranges where a disk may hold data and hands them out in chunks.
func (c *comparison) walk(ctx context.Context) {
	end := c.total
	if c.o.Strict {
		end = c.common
	}
	var streams [2]*extentStream
	for i, d := range c.disks {
		streams[i] = newExtentStream(ctx, d, end)
		defer streams[i].stop()
	}
	for off := int64(0); off < end && c.needed(ctx, off); {
		next := end
		var data [2]bool
		for i, s := range streams {
			e, err := s.at(off)
			if err != nil {
				c.fail(off, fmt.Errorf("cannot map %s at offset %d: %w", c.disks[i].name, off, err))
				return
			}
			next, data[i] = min(next, e.Offset+e.Length), e.State == block.Data
		}
		if data[0] || data[1] {
			next = min(next, off-off%compareChunk+compareChunk)
			select {
			case c.chunks <- compareJob{off, next - off, data}:
			case <-ctx.Done():
				return
			}
		} else {
			c.skip(next - off)
		}
		off = next
	}
}

func (c *comparison) skip(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done.Skipped += n
	c.report()
}

// differences gives the place of the first byte in which two slices of one
// length differ, and how many do.
func differences(a, b []byte) (first int, n int64) {
	const page, word = 4096, 8
	note := func(at, count int) {
		if n == 0 {
			first = at
		}
		n += int64(count)
	}
	for off := 0; off < len(a); off += page {
		end := min(off+page, len(a))
		if bytes.Equal(a[off:end], b[off:end]) {
			continue
		}
		i := off
		for ; i+word <= end; i += word {
			x := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:])
			if x != 0 {
				note(i+bits.TrailingZeros64(x)/8, bytesSet(x))
			}
		}
		for ; i < end; i++ {
			if a[i] != b[i] {
				note(i, 1)
			}
		}
	}
	return first, n
}

// bytesSet is how many bytes of a word are not zero: adding 127 to a byte's low
// seven bits carries into its top bit unless they are all zero.
func bytesSet(x uint64) int {
	const low, top = 0x7f7f7f7f7f7f7f7f, 0x8080808080808080
	return bits.OnesCount64((x&low + low | x) & top)
}
