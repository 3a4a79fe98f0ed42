package host

import (
	"context"
	"errors"
	"sync"
	"time"

	"lunless/smbstore/block"
)

// overdue is the disk of a guest whose policy is to be told of its storage's trouble:
// a request without an answer for limit fails with block.ErrNoAnswer. What was given up
// may still be carried out; so that it undoes nothing that is written after it, all
// requests fail until no such one is left. Then the disk works again: what it is on
// waits for its server as long as that takes, and loses nothing meanwhile.
type overdue struct {
	*block.Patient
	below *counted
}

func newOverdue(dev block.Device, limit time.Duration) *overdue {
	c := &counted{Device: dev}
	return &overdue{block.NewPatient(c, limit), c}
}

// late tells whether a request that was given up is still there.
func (o *overdue) late() bool {
	o.below.mu.Lock()
	defer o.below.mu.Unlock()
	return o.below.givenUp
}

// do makes a request unless one that was given up is there.
func (o *overdue) do(request func() error) error {
	if o.late() {
		return block.ErrNoAnswer
	}
	err := request()
	if errors.Is(err, block.ErrNoAnswer) {
		o.below.giveUp()
	}
	return err
}

// ReadAt implements block.Device.
func (o *overdue) ReadAt(ctx context.Context, p []byte, off int64) error {
	return o.do(func() error { return o.Patient.ReadAt(ctx, p, off) })
}

// WriteAt implements block.Device.
func (o *overdue) WriteAt(ctx context.Context, p []byte, off int64, flags block.WriteFlags) error {
	return o.do(func() error { return o.Patient.WriteAt(ctx, p, off, flags) })
}

// WriteZeroes implements block.Device.
func (o *overdue) WriteZeroes(ctx context.Context, off, n int64, flags block.WriteFlags) error {
	return o.do(func() error { return o.Patient.WriteZeroes(ctx, off, n, flags) })
}

// Trim implements block.Device.
func (o *overdue) Trim(ctx context.Context, off, n int64) error {
	return o.do(func() error { return o.Patient.Trim(ctx, off, n) })
}

// Flush implements block.Device.
func (o *overdue) Flush(ctx context.Context) error {
	return o.do(func() error { return o.Patient.Flush(ctx) })
}

// counted knows how many requests are at the device below.
type counted struct {
	block.Device
	mu      sync.Mutex // guards what follows
	under   int
	givenUp bool
}

func (c *counted) giveUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.givenUp = c.under > 0
}

// do makes a request. One that comes by when another was given up is refused: it had
// been let through just before.
func (c *counted) do(request func() error) error {
	c.mu.Lock()
	if c.givenUp {
		c.mu.Unlock()
		return block.ErrNoAnswer
	}
	c.under++
	c.mu.Unlock()
	err := request()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.under--; c.under == 0 {
		c.givenUp = false
	}
	return err
}

func (c *counted) ReadAt(ctx context.Context, p []byte, off int64) error {
	return c.do(func() error { return c.Device.ReadAt(ctx, p, off) })
}

func (c *counted) WriteAt(ctx context.Context, p []byte, off int64, flags block.WriteFlags) error {
	return c.do(func() error { return c.Device.WriteAt(ctx, p, off, flags) })
}

func (c *counted) WriteZeroes(ctx context.Context, off, n int64, flags block.WriteFlags) error {
	return c.do(func() error { return c.Device.WriteZeroes(ctx, off, n, flags) })
}

func (c *counted) Trim(ctx context.Context, off, n int64) error {
	return c.do(func() error { return c.Device.Trim(ctx, off, n) })
}

func (c *counted) Flush(ctx context.Context) error {
	return c.do(func() error { return c.Device.Flush(ctx) })
}
