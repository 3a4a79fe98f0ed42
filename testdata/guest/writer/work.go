package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"lunless/testdata/guest/stamp"
)

const (
	flushWithin = 48 // operations, at most, between two flushes
	retryEvery  = 100 * time.Millisecond
)

func (d *disk) start(depth int64) {
	for range depth {
		go d.work()
	}
	go d.flusher()
}

func (d *disk) setPaused(p bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.paused, d.flushing = p, p
	d.changed.Broadcast()
}

func (d *disk) setRate(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rate = n
}

// quiesce returns when a paused disk has nothing in flight and all is flushed.
func (d *disk) quiesce() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.flushed < d.issued || len(d.flying) > 0 {
		d.changed.Wait()
	}
}

// take waits for its turn and begins the schedule's next operation. Operations
// begin in order, and one that overlaps another waits until that is done.
func (d *disk) take() stamp.Op {
	d.issuing.Lock()
	defer d.issuing.Unlock()
	d.pace()
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		op := d.expect.Op(d.g.run, d.super.Disk, d.issued+1)
		if !d.paused && d.issued-d.flushed < stamp.Window-1 && !slices.ContainsFunc(d.flying, op.Overlaps) {
			d.issued++
			d.flying = append(d.flying, op)
			d.changed.Broadcast()
			return op
		}
		d.changed.Wait()
	}
}

// pace waits as the rate says; a hold-up is not made up for.
func (d *disk) pace() {
	d.mu.Lock()
	rate := d.rate
	d.mu.Unlock()
	if rate == 0 {
		return
	}
	now := time.Now()
	if d.next.Before(now.Add(-20 * time.Millisecond)) {
		d.next = now
	}
	d.next = d.next.Add(time.Second / time.Duration(rate))
	time.Sleep(time.Until(d.next))
}

func (d *disk) done(op stamp.Op) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if op.Seq > 0 {
		d.expect.Do(len(d.super.Runs)-1, op, true)
	}
	i := slices.Index(d.flying, op)
	d.flying = slices.Delete(d.flying, i, i+1)
	d.changed.Broadcast()
}

// work does operations, and verifies a piece after every fourth or so.
func (d *disk) work() {
	buf := aligned(stamp.MaxOp * stamp.BlockSize)
	for {
		op := d.take()
		d.do(op, buf)
		d.done(op)
		if rand.IntN(4) == 0 {
			d.readSome(buf)
		}
	}
}

func (d *disk) do(op stamp.Op, buf []byte) {
	off, n := d.expect.At(op.First)*stamp.BlockSize, op.Count*stamp.BlockSize
	switch op.Kind {
	case stamp.Zero:
		d.try("zero", op.Seq, func() error { return d.rangeIoctl(unix.BLKZEROOUT, off, n) })
	case stamp.Trim:
		if d.noDisc {
			return
		}
		d.try("trim", op.Seq, func() error {
			err := d.rangeIoctl(unix.BLKDISCARD, off, n)
			if errors.Is(err, unix.EOPNOTSUPP) {
				d.noDisc, err = true, nil
			}
			return err
		})
	default:
		buf = buf[:n]
		s := stamp.Stamp{Set: d.super.Set, Run: d.g.run, Disk: d.super.Disk, Seq: op.Seq, Flushed: d.g.flushed.load()}
		for i := range op.Count {
			s.Block = d.expect.At(op.First + i)
			s.Put(buf[i*stamp.BlockSize:])
		}
		d.try("write", op.Seq, func() error { return full(unix.Pwrite(d.fd, buf, off))(len(buf)) })
	}
}

// readSome verifies a random piece that nothing is in flight for.
func (d *disk) readSome(buf []byte) {
	op := d.expect.Op(rand.Uint64(), 0, 1)
	op.Seq, op.Kind = 0, stamp.Write
	d.mu.Lock()
	if d.paused || slices.ContainsFunc(d.flying, op.Overlaps) {
		d.mu.Unlock()
		return
	}
	d.flying = append(d.flying, op)
	d.mu.Unlock()
	buf = buf[:op.Count*stamp.BlockSize]
	if _, err := d.ReadAt(buf, d.expect.At(op.First)*stamp.BlockSize); err == nil {
		for i := range op.Count {
			d.mu.Lock()
			err := d.expect.Check(op.First+i, buf[i*stamp.BlockSize:(i+1)*stamp.BlockSize])
			d.mu.Unlock()
			if err != nil {
				d.g.stats.errors(1)
				d.g.con.Say("BAD %v", err)
			}
		}
	}
	d.done(op)
}

// flusher flushes at random, and when all the others wait for it.
func (d *disk) flusher() {
	for {
		after := uint64(1 + rand.IntN(flushWithin))
		d.mu.Lock()
		for d.issued-d.flushed < after && (!d.flushing || d.flushed == d.issued) {
			d.changed.Wait()
		}
		upTo := d.complete()
		if upTo == d.flushed {
			d.changed.Wait()
			d.mu.Unlock()
			continue
		}
		d.mu.Unlock()
		d.try("flush", upTo, func() error { return unix.Fdatasync(d.fd) })
		d.g.flushed.of[d.super.Disk].Store(upTo)
		d.g.con.Say("FLUSHED %d %d %016x", d.super.Disk, upTo, d.g.run)
		d.mu.Lock()
		d.flushed = upTo
		d.changed.Broadcast()
		d.mu.Unlock()
	}
}

// complete is the operation up to which all are done.
func (d *disk) complete() uint64 {
	upTo := d.issued
	for _, op := range d.flying {
		if op.Seq > 0 {
			upTo = min(upTo, op.Seq-1)
		}
	}
	return upTo
}

// try makes a request until it succeeds, or the device's end of the world.
func (d *disk) try(kind string, seq uint64, request func() error) error {
	for {
		end := d.g.stats.begin(kind, d.number(), seq)
		err := request()
		end(err)
		if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENXIO) {
			return err
		}
		d.g.con.Say("IOERR %d %s %d %v", d.number(), kind, seq, err)
		time.Sleep(retryEvery)
	}
}

func (d *disk) number() int {
	if d.super == nil {
		return -1
	}
	return d.super.Disk
}

func (d *disk) rangeIoctl(req uint, off, n int64) error {
	r := [2]uint64{uint64(off), uint64(n)}
	if err := ioctlRange(d.fd, req, &r); err != nil {
		return fmt.Errorf("%d bytes at %d: %w", n, off, err)
	}
	return nil
}
