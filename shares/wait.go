package shares

import (
	"context"
	"errors"

	"lunless/shares/fs"
	"lunless/shares/state"
)

// mustWait is why an operation cannot go on: other clients have been asked to give
// up what they cache of the file, or to close it. Nothing else has been done yet.
type mustWait struct {
	store  state.Store
	file   fs.FileID
	ticket state.Ticket
	woken  <-chan error
}

func (w *mustWait) Error() string { return "waiting for another client to give up its caching" }
func (w *mustWait) Unwrap() error { return state.ErrCannotWait }

// commit commits a Change that may have to wait for other clients: a *mustWait
// then, which the caller waits for or gives up. Effects are taken care of.
func commit(ctx context.Context, store state.Store, id fs.FileID, make func(t state.Ticket) state.Change) (state.Effects, error) {
	t, woken := store.NewTicket()
	fx, err := store.Update(ctx, id, make(t))
	if err == nil && fx.Wait {
		return fx, &mustWait{store, id, t, woken}
	}
	store.ReleaseTicket(t)
	return fx, err
}

// wait waits until it is worth trying again, or ctx ends.
func (w *mustWait) wait(ctx context.Context) error {
	select {
	case err := <-w.woken:
		return err
	case <-ctx.Done():
		w.giveUp()
		return ctx.Err()
	}
}

// giveUp takes the request out of those that wait.
func (w *mustWait) giveUp() {
	_, err := w.store.Update(context.Background(), w.file, state.CancelWait(w.ticket))
	_ = err // it has been woken just now
	w.store.ReleaseTicket(w.ticket)
}

// waiting answers the request with fn, which is run again and again as long as it
// returns a *mustWait, and calls done after that. It waits with no lock held and
// off the connection's lane, with STATUS_PENDING sent (MS-SMB2 3.3.4.2); fn is
// told when it runs there. done gets what is still waited for where the request
// ends before that, and sees to it.
func (r *request) waiting(ctx context.Context, fn func(ctx context.Context, off bool) error, done func(ctx context.Context, left *mustWait)) error {
	err := fn(ctx, false)
	w := waitOf(err)
	if w == nil {
		done(ctx, nil)
		return err
	}
	err = r.suspend(func(ctx context.Context) error {
		var left *mustWait
		defer func() { done(ctx, left) }()
		for {
			select {
			case err := <-w.woken:
				if err != nil {
					return err
				}
			case <-ctx.Done():
				left = w
				return ctx.Err()
			}
			err := fn(ctx, true)
			if w = waitOf(err); w == nil {
				return err
			}
		}
	})
	if err != nil {
		done(ctx, w)
	}
	return err
}

// giveUp is the usual end of a wait whose request has ended.
func giveUp(_ context.Context, left *mustWait) {
	if left != nil {
		left.giveUp()
	}
}

func waitOf(err error) *mustWait {
	var w *mustWait
	errors.As(err, &w)
	return w
}
