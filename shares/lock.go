package shares

import (
	"context"
	"errors"

	"lunless/shares/state"
	"lunless/smbstore/smb2"
)

// handleLock locks or unlocks ranges (MS-SMB2 3.3.5.14).
func handleLock(ctx context.Context, r *request) error {
	var req smb2.LockRequest
	if err := req.Decode(r.msg); err != nil {
		return err
	}
	o := r.open
	if len(req.Locks) == 0 || o.pipe != nil || o.dir {
		return smb2.StatusInvalidParameter
	}
	if req.Locks[0].Flags&smb2.LockFlagUnlock != 0 {
		if err := r.unlock(ctx, &req); err != nil {
			return err
		}
		return r.respond(&smb2.LockResponse{})
	}
	want, wait, err := o.wantedLocks(&req)
	if err != nil {
		return err
	}
	// Whoever caches what he reads must not, beside a lock (MS-FSA 2.1.5.8).
	return r.waiting(ctx, func(ctx context.Context, off bool) error {
		if err := o.breakOthers(ctx, state.BreakForLock); err != nil {
			return err
		}
		return r.lock(ctx, &req, want, wait, off)
	}, giveUp)
}

// lockSequence is the number of a LOCK request that may come again, and is not to
// be done twice then (MS-SMB2 3.3.5.14): on opens that outlive their connection, and
// where sessions may have several.
func (r *request) lockSequence(req *smb2.LockRequest) (seq state.LockSequence) {
	n := &r.conn.neg
	index := req.LockSequenceIndex()
	if index == 0 || index > 64 || n.dialect == smb2.Dialect202 {
		return seq
	}
	if r.open.outlives.Load() || n.dialect >= smb2.Dialect300 && n.capabilities&smb2.CapMultiChannel != 0 {
		seq = state.LockSequence{Index: uint8(index), Number: req.LockSequenceNumber()}
	}
	return seq
}

// unlock takes locks away; what was unlocked before a failure stays unlocked
// (MS-SMB2 3.3.5.14.1).
func (r *request) unlock(ctx context.Context, req *smb2.LockRequest) error {
	o, list, bad := r.open, req.Locks, false
	for i, e := range list {
		if e.Flags != smb2.LockFlagUnlock {
			list, bad = list[:i], true
			break
		}
	}
	all := func(rec state.Record) (state.Record, state.Effects, error) {
		var fx state.Effects
		for _, e := range list {
			next, f, err := state.Unlock(o.stateID(), e.Offset, e.Length)(rec)
			if err != nil {
				return rec, state.Effects{}, err
			}
			rec, fx.Granted = next, append(fx.Granted, f.Granted...)
		}
		return rec, fx, nil
	}
	if !bad {
		_, err := o.store.Update(ctx, o.fileID, state.Once(o.stateID(), r.lockSequence(req), all))
		if err == nil || len(list) == 1 {
			return err
		}
	}
	for _, e := range list {
		if _, err := o.store.Update(ctx, o.fileID, state.Unlock(o.stateID(), e.Offset, e.Length)); err != nil {
			return err
		}
	}
	return smb2.StatusInvalidParameter
}

// wantedLocks are the locks of a request: all or none are granted, and only one
// alone may wait (MS-SMB2 3.3.5.14.2).
func (o *open) wantedLocks(req *smb2.LockRequest) (want []state.Lock, wait bool, err error) {
	want = make([]state.Lock, 0, len(req.Locks))
	for _, e := range req.Locks {
		switch e.Flags {
		case smb2.LockFlagSharedLock, smb2.LockFlagExclusiveLock:
			wait = true
		case smb2.LockFlagSharedLock | smb2.LockFlagFailImmediately, smb2.LockFlagExclusiveLock | smb2.LockFlagFailImmediately:
		default:
			return nil, false, smb2.StatusInvalidParameter
		}
		want = append(want, state.Lock{
			Owner: o.stateID(), Offset: e.Offset, Length: e.Length,
			Exclusive: e.Flags&smb2.LockFlagExclusiveLock != 0,
		})
	}
	if wait && len(want) > 1 {
		return nil, false, smb2.StatusInvalidParameter
	}
	return want, wait, nil
}

// lock takes the locks, or waits for the only one.
func (r *request) lock(ctx context.Context, req *smb2.LockRequest, want []state.Lock, wait, off bool) error {
	o, seq := r.open, r.lockSequence(req)
	_, err := o.store.Update(ctx, o.fileID, state.Once(o.stateID(), seq, state.AddLocks(want)))
	switch {
	case err == nil:
		return r.respond(&smb2.LockResponse{})
	case !wait || !errors.Is(err, state.ErrLockNotGranted):
		return err
	case off:
		return r.waitForLock(ctx, seq, want[0])
	}
	return r.goAsync(func(ctx context.Context) error { return r.waitForLock(ctx, seq, want[0]) })
}

// waitForLock waits until the lock is granted, the client cancels, or the open is
// gone, which is the same to it as a range that is not locked.
func (r *request) waitForLock(ctx context.Context, seq state.LockSequence, want state.Lock) error {
	o := r.open
	ticket, granted := o.store.NewTicket()
	defer o.store.ReleaseTicket(ticket)
	if _, err := o.store.Update(ctx, o.fileID, state.Once(o.stateID(), seq, state.AddLockOrWait(want, ticket))); err != nil {
		return lockEnd(ctx, err)
	}
	select {
	case err := <-granted:
		if err != nil {
			return err
		}
		return r.respond(&smb2.LockResponse{})
	case <-ctx.Done():
	}
	_, err := o.store.Update(context.WithoutCancel(ctx), o.fileID, state.CancelWait(ticket))
	if err == nil {
		return lockEnd(ctx, ctx.Err())
	}
	if err := <-granted; err != nil { // it has just been decided
		return err
	}
	return r.respond(&smb2.LockResponse{})
}

// lockEnd is why a lock was not waited for any longer: STATUS_CANCELLED for
// CANCEL, STATUS_RANGE_NOT_LOCKED when tree connect or session end.
func lockEnd(ctx context.Context, err error) error {
	if ctx.Err() == nil || errors.Is(context.Cause(ctx), errCancelled) {
		return err
	}
	return errors.Join(state.ErrRangeNotLocked, context.Cause(ctx))
}
