package block

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// ResilientOptions say how a Resilient gets over trouble. Open and Lost must be set.
type ResilientOptions struct {
	// Open opens the device again after the last one was closed. The error wraps
	// ErrChanged if it is not the one it was, or others have written to it since, or
	// may have, before anything is written to it; after any other it is tried again.
	Open func(ctx context.Context) (Device, error)
	// Lost tells the errors that mean that the device below has lost its files
	// rather than that they refused.
	Lost func(error) bool
	// NoSpace, if not nil, tells the errors of a file system that is full.
	NoSpace func(error) bool
	// Stable, if not nil, tells whether whatever the device has acknowledged so far
	// is on stable storage, but for what Uncommitted says. It is asked after each write.
	Stable func(Device) bool
	// Patience is how long requests wait for the device before they fail; 0 is a minute.
	Patience time.Duration
	// Keep bounds the unflushed writes kept in memory, in bytes; 0 is 64 MiB. At
	// the bound the device is flushed.
	Keep int64
	// Notify, if not nil, is told of trouble, one call at a time. Requests wait for
	// it: it must not block, and not use the device.
	Notify func(Trouble)
}

// TroubleState says where a Resilient's trouble stands.
type TroubleState uint8

// The states of trouble, in the order in which they come.
const (
	TroubleBegan   TroubleState = iota // requests wait from now on
	TroubleGoesOn                      // another attempt to open the device failed
	TroubleGivenUp                     // patience is over: requests fail; attempts go on
	TroubleOver                        // the device is back with all that was written
	TroubleFinal                       // it never will be
)

// String implements fmt.Stringer.
func (s TroubleState) String() string {
	return [...]string{"began", "goes on", "given up", "over", "final"}[s]
}

// Trouble is what a Resilient tells of the device below.
type Trouble struct {
	State TroubleState
	Since time.Time
	Err   error // the last cause
}

// ErrChanged: what was opened again is not the device that was lost, or others
// have written to it.
var ErrChanged = errors.New("the device is not as it was left")

// Resilient is a Device that outlasts the devices below it. When one loses its
// files, requests wait while it is opened again; then what was not acknowledged is
// sent again. A server that lost its power may have lost writes that it acknowledged,
// and a device may have had more in memory: so a copy of every write since the last
// good flush is kept, and written again before anything else. What Options.Stable and
// Uncommitted say is safe is not kept.
//
// A flush that succeeds covers all that was acknowledged before it, whatever
// happened in between. One that is refused fails the device for good: every request
// is ErrFailed then. A want of room is not waited for: the error goes to the caller,
// and the device stays in use.
//
// Trouble that outlasts Options.Patience gives errors that wrap ErrNoAnswer and the
// cause; attempts go on, and a request waits for the one under way. Resume makes
// requests wait anew.
//
// All methods may be called concurrently. Writes to overlapping ranges run one after
// the other. A request's context ends its waiting; the device below decides what it
// ends of a request under way there. A trim that is not flushed is repeated as
// zeroes: what a trimmed range reads as may change from its old content to zeroes once.
//
// Lock order: range lock, told, mu.
type Resilient struct {
	o      ResilientOptions
	ctx    context.Context // done by Close
	cancel context.CancelFunc
	term   atomic.Pointer[term]
	kept   keptWrites
	ranges RangeLock
	room   sync.Mutex // held to flush for the sake of the bound
	wg     sync.WaitGroup

	told    sync.Mutex // held through Notify, and changes of state it tells of
	mu      sync.Mutex // guards all below, and the terms' verdicts
	trouble *outage    // nil: none
	final   error      // the device has failed for good
	closing bool
	closed  bool
}

// term is the time of one device below.
type term struct {
	dev      Device
	users    atomic.Int64 // requests in the device
	over     atomic.Bool  // no request enters any more
	idle     chan struct{}
	idleOnce sync.Once
	shut     bool // dev is closed; the recovery's, then Close's

	// What requests have found, under Resilient.mu.
	refused   error // a flush was refused
	failed    error // ErrFailed, which another request may have the cause of
	explained bool  // a flush failed for something that is got over
}

func newTerm(dev Device) *term { return &term{dev: dev, idle: make(chan struct{})} }

// enter counts a request in, unless the term is over.
func (t *term) enter() bool {
	t.users.Add(1)
	if t.over.Load() {
		t.leave()
		return false
	}
	return true
}

func (t *term) leave() {
	if t.users.Add(-1) == 0 && t.over.Load() {
		t.idleOnce.Do(func() { close(t.idle) })
	}
}

// end lets no request enter any more; idle is closed when the last has left. It
// tells whether it was the first to.
func (t *term) end() bool {
	first := t.over.CompareAndSwap(false, true)
	t.users.Add(1)
	t.leave()
	return first
}

// NewResilient returns a Resilient over dev, which it owns.
func NewResilient(dev Device, o ResilientOptions) *Resilient {
	if o.Patience <= 0 {
		o.Patience = time.Minute
	}
	if o.Keep <= 0 {
		o.Keep = 64 << 20
	}
	r := &Resilient{o: o}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.term.Store(newTerm(dev))
	return r
}

// Size implements Device.
func (r *Resilient) Size() int64 { return r.term.Load().dev.Size() }

// Geometry implements Device.
func (r *Resilient) Geometry() Geometry { return r.term.Load().dev.Geometry() }

// Unwrap returns the device below of the moment.
func (r *Resilient) Unwrap() Device { return r.term.Load().dev }

// Uncommitted implements Committer.
func (r *Resilient) Uncommitted() bool { return Uncommitted(r.term.Load().dev) }

// Kept is how much memory unflushed writes are kept in, about, in bytes.
func (r *Resilient) Kept() int64 { return r.kept.held.Load() }

// check is what is wrong with a request whatever the state of the device.
func (r *Resilient) check(ctx context.Context, off, n int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return CheckRange(r.Size(), off, n)
}

// enter gives the term that a request is part of, when there is one.
func (r *Resilient) enter(ctx context.Context) (*term, error) {
	for {
		t := r.term.Load()
		if t.enter() {
			return t, nil
		}
		if err := r.wait(ctx, t); err != nil {
			return nil, err
		}
	}
}

// ReadAt implements Device. It allocates nothing and takes no lock of its own.
func (r *Resilient) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := r.check(ctx, off, int64(len(p))); err != nil {
		return err
	}
	for {
		t, err := r.enter(ctx)
		if err != nil {
			return err
		}
		if err = t.dev.ReadAt(ctx, p, off); err == nil {
			t.leave()
			return nil
		}
		if err = r.failedIn(ctx, t, err, false); err != nil {
			return err
		}
	}
}

// Extents implements Device. visit must not use the Resilient.
func (r *Resilient) Extents(ctx context.Context, off, n int64, visit func(Extent) error) error {
	if err := r.check(ctx, off, n); err != nil {
		return err
	}
	var own error
	m := NewMerger(func(e Extent) error {
		own = visit(e)
		return own
	})
	for end := off + n; ; {
		t, err := r.enter(ctx)
		if err != nil {
			return err
		}
		err = t.dev.Extents(ctx, off, end-off, func(e Extent) error {
			off = e.Offset + e.Length
			return m.Add(e)
		})
		switch {
		case own != nil:
			t.leave()
			return own
		case err == nil:
			t.leave()
			return m.Flush()
		}
		if err = r.failedIn(ctx, t, err, false); err != nil {
			return err
		}
	}
}

// change is a write of any kind.
type change struct {
	kind   OpKind // OpWrite, OpZero or OpTrim
	data   []byte
	off, n int64
	flags  WriteFlags
}

func (c *change) do(ctx context.Context, dev Device) error {
	switch c.kind {
	case OpZero:
		return dev.WriteZeroes(ctx, c.off, c.n, c.flags)
	case OpTrim:
		return dev.Trim(ctx, c.off, c.n)
	}
	return dev.WriteAt(ctx, c.data, c.off, c.flags)
}

// WriteAt implements Device.
func (r *Resilient) WriteAt(ctx context.Context, p []byte, off int64, flags WriteFlags) error {
	return r.change(ctx, change{kind: OpWrite, data: p, off: off, n: int64(len(p)), flags: flags})
}

// WriteZeroes implements Device.
func (r *Resilient) WriteZeroes(ctx context.Context, off, n int64, flags WriteFlags) error {
	return r.change(ctx, change{kind: OpZero, off: off, n: n, flags: flags})
}

// Trim implements Device.
func (r *Resilient) Trim(ctx context.Context, off, n int64) error {
	return r.change(ctx, change{kind: OpTrim, off: off, n: n})
}

func (r *Resilient) change(ctx context.Context, c change) error {
	if err := r.check(ctx, c.off, c.n); err != nil {
		return err
	}
	weight := keptWeight(c.n, c.kind != OpWrite)
	large := weight > r.o.Keep
	switch {
	case c.n == 0: // whatever it says of the device
	case large && c.kind != OpTrim:
		c.flags |= FUA // then nothing need be kept
	case large:
	case r.kept.held.Load()+weight > r.o.Keep:
		if err := r.makeRoom(ctx, weight); err != nil {
			return err
		}
	}
	if err := r.carryOut(ctx, c); err != nil || !large || c.kind != OpTrim {
		return err
	}
	return r.Flush(ctx)
}

// carryOut makes a change, as often as it takes, and keeps it.
func (r *Resilient) carryOut(ctx context.Context, c change) error {
	hold, err := r.ranges.Lock(ctx, c.off, c.n)
	if err != nil {
		return err
	}
	defer r.ranges.Unlock(hold)
	for {
		t, err := r.enter(ctx)
		if err != nil {
			return err
		}
		if err = c.do(ctx, t.dev); err == nil {
			r.keep(t.dev, &c)
			t.leave()
			return nil
		}
		if err = r.failedIn(ctx, t, err, false); err != nil {
			return err
		}
	}
}

// keep takes in an acknowledged change, within its term: nothing is written again
// before it is kept.
func (r *Resilient) keep(dev Device, c *change) {
	safe := c.flags&FUA != 0 || r.o.Stable != nil && r.o.Stable(dev) && (!Uncommitted(dev) || sabotaged("uncommitted-forgotten"))
	switch {
	case c.n == 0:
	case safe:
		r.kept.drop(c.off, c.n)
	default:
		r.kept.put(c.off, c.n, c.data, c.kind != OpWrite, c.flags&NoUnmap)
	}
}

// makeRoom flushes for the sake of the bound; those who find it reached together
// flush once.
func (r *Resilient) makeRoom(ctx context.Context, weight int64) error {
	r.room.Lock()
	defer r.room.Unlock()
	if r.kept.held.Load()+weight <= r.o.Keep {
		return nil
	}
	return r.Flush(ctx)
}

// Flush implements Device.
func (r *Resilient) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for {
		t, err := r.enter(ctx)
		if err != nil {
			return err
		}
		mark := r.kept.mark()
		if err = t.dev.Flush(ctx); err == nil {
			if sabotaged("flush-covers-later") {
				mark = r.kept.mark()
			}
			r.kept.settle(mark)
			t.leave()
			return nil
		}
		if err = r.failedIn(ctx, t, err, true); err != nil {
			return err
		}
	}
}

// Close implements Device: it flushes, waiting as a request does, and closes the
// device below. What could not be flushed is lost with it.
func (r *Resilient) Close() error {
	r.mu.Lock()
	if r.closing {
		r.mu.Unlock()
		return ErrClosed
	}
	r.closing = true
	r.mu.Unlock()
	err := r.Flush(r.ctx)
	if left := r.kept.held.Load(); err != nil && left > 0 {
		err = fmt.Errorf("what was written since the last flush may be lost: %w", err)
	}
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
	t := r.term.Load()
	t.end()
	<-t.idle
	if t.shut {
		return err
	}
	return errors.Join(err, t.dev.Close())
}
