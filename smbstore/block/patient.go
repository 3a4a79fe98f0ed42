package block

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrNoAnswer: a device did not answer in the time it was given.
var ErrNoAnswer = errors.New("no answer")

// Patient is a device whose requests fail with ErrNoAnswer after a time, whatever
// the device below does: a mirror's destination must not hold its guest. A request
// that was given up may still be carried out. It uses none of its caller's memory but what
// WriteLent is given.
type Patient struct {
	Device
	limit time.Duration
	bufs  sync.Pool // *[]byte
}

// NewPatient wraps dev.
func NewPatient(dev Device, limit time.Duration) *Patient { return &Patient{Device: dev, limit: limit} }

// Unwrap returns the device below.
func (p *Patient) Unwrap() Device { return p.Device }

// do runs a request until it ends, or its time is over.
func (p *Patient) do(what string, request func() error) error {
	done := make(chan error, 1)
	go func() { done <- request() }()
	t := time.NewTimer(p.limit)
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-t.C:
		return fmt.Errorf("%s: %w for %v", what, ErrNoAnswer, p.limit)
	}
}

// buffer takes one of n bytes from the pool; whoever ends a request puts it back.
func (p *Patient) buffer(n int) *[]byte {
	if b, ok := p.bufs.Get().(*[]byte); ok && cap(*b) >= n {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n)
	return &b
}

// ReadAt implements Device.
func (p *Patient) ReadAt(ctx context.Context, b []byte, off int64) error {
	own := p.buffer(len(b))
	err := p.do("read", func() error { return p.Device.ReadAt(ctx, *own, off) })
	if errors.Is(err, ErrNoAnswer) {
		return err // the request has the buffer still
	}
	copy(b, *own)
	p.bufs.Put(own)
	return err
}

// WriteAt implements Device.
func (p *Patient) WriteAt(ctx context.Context, b []byte, off int64, flags WriteFlags) error {
	own := p.buffer(len(b))
	copy(*own, b)
	return p.do("write", func() error {
		defer p.bufs.Put(own)
		return p.Device.WriteAt(ctx, *own, off, flags)
	})
}

// WriteLent is WriteAt that does without a copy of b: if kept, the request was given
// up and may use b still, which is then not the caller's to change ever again.
func (p *Patient) WriteLent(ctx context.Context, b []byte, off int64, flags WriteFlags) (kept bool, err error) {
	err = p.do("write", func() error { return p.Device.WriteAt(ctx, b, off, flags) })
	return errors.Is(err, ErrNoAnswer), err
}

// WriteZeroes implements Device.
func (p *Patient) WriteZeroes(ctx context.Context, off, n int64, flags WriteFlags) error {
	return p.do("zero", func() error { return p.Device.WriteZeroes(ctx, off, n, flags) })
}

// Trim implements Device.
func (p *Patient) Trim(ctx context.Context, off, n int64) error {
	return p.do("trim", func() error { return p.Device.Trim(ctx, off, n) })
}

// Flush implements Device.
func (p *Patient) Flush(ctx context.Context) error {
	return p.do("flush", func() error { return p.Device.Flush(ctx) })
}
