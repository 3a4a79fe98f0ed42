package block

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// outage is the time between a device's loss and its return.
type outage struct {
	since    time.Time
	over     chan struct{} // closed when requests need not wait any more
	patience chan struct{} // closed when they are not to; under Resilient.mu
	given    bool          // patience is over; under Resilient.mu
	attempt  chan struct{} // closed with the attempt under way; under Resilient.mu
	err      error         // the last cause; under Resilient.mu
	timer    *time.Timer   // ends patience; under Resilient.mu
	kick     chan struct{} // asks for the next attempt at once
}

// Attempts to open a device again follow each other in this time.
const (
	attemptMin = 10 * time.Millisecond
	attemptMax = 2 * time.Second
)

// failedIn decides on a request that failed in a term, which it leaves: nil has it
// repeated.
func (r *Resilient) failedIn(ctx context.Context, t *term, err error, flush bool) error {
	failed := errors.Is(err, ErrFailed)
	full := r.o.NoSpace != nil && r.o.NoSpace(err)
	refused := flush && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrReadOnly) && !errors.Is(err, ErrOutOfRange)
	switch {
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		t.leave()
		return err
	case r.o.Lost(err), full && (failed || refused):
		r.mu.Lock()
		t.explained = t.explained || failed
		r.mu.Unlock()
	case failed, refused:
		r.mu.Lock()
		if onlyFailed(err) {
			t.failed = err
		} else {
			t.refused = err
		}
		r.mu.Unlock()
	default:
		t.leave()
		return err
	}
	r.suspend(t, err)
	t.leave()
	if full {
		return err
	}
	return r.wait(ctx, t)
}

// onlyFailed tells whether an error says that the device has failed, and no cause.
func onlyFailed(err error) bool {
	switch x := err.(type) {
	case interface{ Unwrap() error }:
		return onlyFailed(x.Unwrap())
	case interface{ Unwrap() []error }:
		return !slices.ContainsFunc(x.Unwrap(), func(err error) bool { return !onlyFailed(err) })
	}
	return err == ErrFailed
}

// verdict is why a device must not be used again, though it may come back: a flush
// was refused. Who finds a device failed by another's request does not know why. It
// is asked when the last request has left.
func (r *Resilient) verdict(t *term) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case t.refused != nil:
		if errors.Is(t.refused, ErrFailed) {
			return t.refused
		}
		return fmt.Errorf("%w: %w", ErrFailed, t.refused)
	case t.failed != nil && !t.explained:
		return t.failed
	}
	return nil
}

// suspend ends a term, and has the next one prepared.
func (r *Resilient) suspend(t *term, cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !t.end() || r.closed {
		return
	}
	r.trouble = &outage{since: time.Now(), over: make(chan struct{}), patience: make(chan struct{}), attempt: make(chan struct{}),
		err: cause, kick: make(chan struct{}, 1)}
	o := r.trouble
	r.wg.Go(func() { r.recover(t, o) })
}

// wait waits until there is another term than t; an error says why not.
func (r *Resilient) wait(ctx context.Context, t *term) error {
	for {
		r.mu.Lock()
		o, final, closed := r.trouble, r.final, r.closed
		if r.term.Load() != t {
			r.mu.Unlock()
			return nil
		}
		if final != nil || closed || o == nil {
			r.mu.Unlock()
			if final != nil {
				return final
			}
			return ErrClosed
		}
		given, attempt, patience := o.given, o.attempt, o.patience
		r.mu.Unlock()
		if given {
			return r.ask(ctx, t, o, attempt)
		}
		select {
		case <-o.over:
		case <-patience:
			if err := r.gaveUp(t, o); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-r.ctx.Done():
		}
	}
}

// ask waits for the attempt under way, after patience is over.
func (r *Resilient) ask(ctx context.Context, t *term, o *outage, attempt chan struct{}) error {
	select {
	case o.kick <- struct{}{}:
	default:
	}
	limit := time.NewTimer(r.o.Patience) // of a device that does not end what it began
	defer limit.Stop()
	select {
	case <-o.over:
	case <-attempt:
	case <-limit.C:
	case <-ctx.Done():
		return ctx.Err()
	case <-r.ctx.Done():
		return ErrClosed
	}
	return r.gaveUp(t, o)
}

// gaveUp is the error of a request that does not wait any longer, nil if it need not.
func (r *Resilient) gaveUp(t *term, o *outage) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.term.Load() != t:
		return nil
	case r.final != nil:
		return r.final
	}
	return fmt.Errorf("%w since %s, requests wait for %v: %w", ErrNoAnswer, o.since.Format(time.TimeOnly), r.o.Patience, o.err)
}

// Resume has requests wait anew after patience was over.
func (r *Resilient) Resume() {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.trouble
	if o == nil || !o.given {
		return
	}
	o.given, o.patience = false, make(chan struct{})
	o.timer = time.AfterFunc(r.o.Patience, func() { r.giveUp(o) })
	select {
	case o.kick <- struct{}{}:
	default:
	}
}

// giveUp ends the patience with an outage.
func (r *Resilient) giveUp(o *outage) {
	r.told.Lock()
	defer r.told.Unlock()
	r.mu.Lock()
	if r.trouble != o || o.given || r.closed {
		r.mu.Unlock()
		return
	}
	o.given = true
	close(o.patience)
	err := o.err
	r.mu.Unlock()
	r.notify(o, TroubleGivenUp, err)
}

// notify tells the owner; under told.
func (r *Resilient) notify(o *outage, s TroubleState, err error) {
	if r.o.Notify != nil {
		r.o.Notify(Trouble{State: s, Since: o.since, Err: err})
	}
}

func (r *Resilient) tell(o *outage, s TroubleState, err error) {
	r.told.Lock()
	defer r.told.Unlock()
	r.notify(o, s, err)
}

// recover brings a lost device back.
func (r *Resilient) recover(t *term, o *outage) {
	r.tell(o, TroubleBegan, o.err)
	r.mu.Lock()
	o.timer = time.AfterFunc(r.o.Patience, func() { r.giveUp(o) })
	r.mu.Unlock()
	select {
	case <-t.idle:
	case <-r.ctx.Done():
		return
	}
	if err := r.verdict(t); err != nil {
		r.finish(t, o, nil, err)
		return
	}
	_ = t.dev.Close() // what it could not flush is kept
	t.shut = true
	for wait := attemptMin; ; wait = min(2*wait, attemptMax) {
		dev, err := r.openAgain(t)
		if err == nil {
			r.finish(t, o, dev, nil)
			return
		}
		full := r.o.NoSpace != nil && r.o.NoSpace(err)
		if r.ctx.Err() != nil {
			return
		}
		if errors.Is(err, ErrChanged) {
			r.finish(t, o, nil, fmt.Errorf("%w: opened again: %w", ErrFailed, err))
			return
		}
		r.mu.Lock()
		o.err = err
		close(o.attempt)
		o.attempt = make(chan struct{})
		r.mu.Unlock()
		r.tell(o, TroubleGoesOn, err)
		if full { // whoever waits is to hear of it
			r.giveUp(o)
		}
		select {
		case <-time.After(wait):
		case <-o.kick:
			wait = attemptMin / 2
		case <-r.ctx.Done():
			return
		}
	}
}

// finish ends an outage, with a device or an error.
func (r *Resilient) finish(t *term, o *outage, dev Device, final error) {
	r.told.Lock()
	defer r.told.Unlock()
	state := TroubleOver
	if final != nil {
		state = TroubleFinal
	}
	r.notify(o, state, final)
	r.mu.Lock()
	defer r.mu.Unlock()
	o.timer.Stop()
	if final != nil {
		r.final = final
	} else {
		r.term.Store(newTerm(dev))
	}
	r.trouble = nil
	close(o.over)
}

// openAgain opens the device, and writes again what was not flushed.
func (r *Resilient) openAgain(t *term) (Device, error) {
	dev, err := r.o.Open(r.ctx)
	if err != nil {
		return nil, err
	}
	was, is := t.dev.Geometry(), dev.Geometry()
	switch {
	case dev.Size() != t.dev.Size():
		err = fmt.Errorf("%w: it has %d bytes, and had %d", ErrChanged, dev.Size(), t.dev.Size())
	case is.LogicalSectorSize != was.LogicalSectorSize:
		err = fmt.Errorf("%w: its sectors have %d bytes, and had %d", ErrChanged, is.LogicalSectorSize, was.LogicalSectorSize)
	default:
		err = r.writeAgain(dev)
	}
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return dev, nil
}

// writeAgain writes all that is kept. It is disjoint, so that the order does not matter.
func (r *Resilient) writeAgain(dev Device) error {
	if sabotaged("kept-forgotten") {
		return nil
	}
	runs := r.kept.runs()
	ctx, cancel := context.WithCancelCause(r.ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(8, len(runs)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(runs)) && ctx.Err() == nil; i = next.Add(1) - 1 {
				run := &runs[i]
				c := change{kind: OpWrite, data: run.data, off: run.off, n: run.n, flags: run.flags}
				if run.data == nil {
					c.kind = OpZero
				}
				if err := c.do(ctx, dev); err != nil {
					cancel(fmt.Errorf("repeat the unflushed write at %d: %w", run.off, err))
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// sabotage names a step to do wrong, so that tests can show that they would
// notice. Nothing but a test sets it.
var sabotage string

func sabotaged(name string) bool { return sabotage == name }
