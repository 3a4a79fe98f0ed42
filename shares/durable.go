package shares

import (
	"context"
	"errors"
	"time"

	"lunless/shares/state"
)

var errForced = errors.New("closed in favour of another open, or not reclaimed in time")

// owner is who the session's opens belong to when it is gone (Open.DurableOwner).
func (s *session) owner() string { return s.user + " " + s.token.User.String() }

// keepsOpens says whether what ends a session leaves its durable opens to be
// reclaimed (MS-SMB2 3.3.7.1, 3.3.5.6, 3.3.5.5.3).
func keepsOpens(why error) bool {
	for _, e := range []error{errConnEnded, errServerStops, errLogoff, errReplaced} {
		if errors.Is(why, e) {
			return true
		}
	}
	return false
}

// detach is the end of an open's session, which the caller has taken it from: it
// is kept for its client, or closed (MS-SMB2 3.3.7.1).
func (o *open) detach(ctx context.Context, why error) {
	if !o.park(ctx, why) {
		o.lose(ctx, why)
	}
}

// detachAll is detach of several. Those are closed last that are not kept, whose
// closing may take from the others what they are kept for.
func detachAll(ctx context.Context, list []*open, why error) {
	var lost []*open
	for _, o := range list {
		if !o.park(ctx, why) {
			lost = append(lost, o)
		}
	}
	for _, o := range lost {
		o.lose(ctx, why)
	}
}

// park keeps an open for its client, or says that it is to be lost.
func (o *open) park(ctx context.Context, why error) bool {
	o.drain(why) // nothing of this session reaches the file after it has been reclaimed, or closed
	if !o.outlives.Load() {
		return false
	}
	srv := o.session.srv
	srv.opens.Add(1)
	o.parked.Store(true)
	// Who ends it, if it is to end, is the caller.
	fx, err := srv.memory.Update(context.WithoutCancel(ctx), o.fileID, state.Disconnect(o.stateID(), time.Now()))
	if err != nil || !fx.Open.Handle.Disconnected {
		return false
	}
	o.session.log.Info("open kept for its client", "user", o.session.user, "file", fx.Open.Link, "until", fx.Open.Handle.Deadline, "reason", why)
	srv.expireAt(o, fx.Open.Handle.Deadline)
	return true
}

// lose closes an open that is not kept.
func (o *open) lose(ctx context.Context, why error) {
	if o.outlives.Load() {
		o.unparkAndClose(ctx, o.session.srv, why)
		return
	}
	o.close(ctx, why)
}

// unparkAndClose closes an open that has no session, once.
func (o *open) unparkAndClose(ctx context.Context, srv *Server, why error) {
	if !o.parked.CompareAndSwap(true, false) {
		return
	}
	srv.opens.Add(-1)
	if o.persistent && errors.Is(why, errServerStops) {
		o.leave()
		return
	}
	o.close(ctx, why)
}

// leave lets go of a persistent open that the next server will have again: its
// record stays.
func (o *open) leave() {
	if o.closed.Swap(true) {
		return
	}
	o.table.remove(o)
	if err := o.file.Close(); err != nil {
		o.share.srv.log.Warn("close failed", "reason", errServerStops, "err", err)
	}
}

// expireAt closes a parked open at its deadline, if nobody has reclaimed it by
// then (MS-SMB2 3.3.6.2, 3.3.6.4).
func (srv *Server) expireAt(o *open, deadline time.Time) {
	t := time.AfterFunc(time.Until(deadline), func() {
		if !srv.stopping.Load() {
			// The store's Effects end it.
			o.store.Update(context.Background(), o.fileID, state.Expire(o.stateID(), time.Now()))
		}
	})
	if last := o.expiry.Swap(t); last != nil {
		last.Stop() // of a time before it was reclaimed: it has nothing to end any more
	}
}

// takeBack closes an open, whether a session has it or none: its requests are
// cancelled, and those that are using the file waited for (MS-SMB2 3.3.4.17).
func (o *open) takeBack(ctx context.Context, srv *Server, why error) {
	if o.parked.Load() {
		o.unparkAndClose(ctx, srv, why)
		return
	}
	if s := o.session; s == nil || !s.removeOpen(o) {
		// It is being closed, or a session is about to have it: then whoever enters it
		// there takes it back.
		o.doomed.Store(true)
		now := srv.table.find(o.stateID())
		if now == nil || now.session == nil || !now.session.removeOpen(now) {
			return
		}
		o = now
	}
	o.drain(why)
	o.close(ctx, why)
}

// closeParked closes what no session has: at the end of the server, or of a share.
// Persistent opens stay in the state that way, for the next server.
func (srv *Server) closeParked(ctx context.Context, why error, which func(o *open) bool) {
	for _, o := range srv.table.list(func(o *open) bool { return o.parked.Load() && which(o) }) {
		o.unparkAndClose(ctx, srv, why)
	}
}

// endOpens ends what is open when no connection is left.
func (srv *Server) endOpens() {
	srv.tasks.Wait()
	srv.closeParked(context.Background(), errServerStops, func(*open) bool { return true })
}
