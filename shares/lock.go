package shares

import (
	"context"
	"errors"

	"lunless/shares/state"
	"lunless/smbstore/smb2"
)

// lockSequences remembers what LOCK requests have been answered with success, so
// that one sent again is not done again (MS-SMB2 3.3.1.10 Open.LockSequenceArray).
type lockSequences [65]struct { // by LockSequenceIndex; 0 is none
	valid  bool
	number uint8
}

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
	if r.repeatedLock(&req) {
		return r.respond(&smb2.LockResponse{})
	}
	if req.Locks[0].Flags&smb2.LockFlagUnlock != 0 {
		if err := o.unlock(ctx, req.Locks); err != nil {
			return err
		}
		return r.locked(&req)
	}
	return r.lock(ctx, &req)
}

// verifiesLocks says whether lock sequences count (MS-SMB2 3.3.5.14): on
// connections that may have several channels. Durable opens would too.
func (r *request) verifiesLocks(req *smb2.LockRequest) bool {
	index := req.LockSequenceIndex()
	return index > 0 && index < uint32(len(lockSequences{})) &&
		r.conn.neg.dialect >= smb2.Dialect300 && r.conn.neg.capabilities&smb2.CapMultiChannel != 0
}

// repeatedLock says whether the request has been done before.
func (r *request) repeatedLock(req *smb2.LockRequest) bool {
	if !r.verifiesLocks(req) {
		return false
	}
	o := r.open
	o.lockSeqMu.Lock()
	defer o.lockSeqMu.Unlock()
	e := &o.lockSeq[req.LockSequenceIndex()]
	if e.valid && e.number == req.LockSequenceNumber() {
		return true
	}
	e.valid = false
	return false
}

// locked answers with success, and remembers that.
func (r *request) locked(req *smb2.LockRequest) error {
	if r.verifiesLocks(req) {
		o := r.open
		o.lockSeqMu.Lock()
		e := &o.lockSeq[req.LockSequenceIndex()]
		e.valid, e.number = true, req.LockSequenceNumber()
		o.lockSeqMu.Unlock()
	}
	return r.respond(&smb2.LockResponse{})
}

// unlock takes locks away one by one; what was unlocked before a failure stays
// unlocked (MS-SMB2 3.3.5.14.1).
func (o *open) unlock(ctx context.Context, list []smb2.LockElement) error {
	for _, e := range list {
		if e.Flags != smb2.LockFlagUnlock {
			return smb2.StatusInvalidParameter
		}
		if _, err := o.store.Update(ctx, o.fileID, state.Unlock(o.stateID(), e.Offset, e.Length)); err != nil {
			return err
		}
	}
	return nil
}

// lock takes all locks or none; only one alone may wait (MS-SMB2 3.3.5.14.2).
func (r *request) lock(ctx context.Context, req *smb2.LockRequest) error {
	o := r.open
	want := make([]state.Lock, 0, len(req.Locks))
	wait := false
	for _, e := range req.Locks {
		switch e.Flags {
		case smb2.LockFlagSharedLock, smb2.LockFlagExclusiveLock:
			wait = true
		case smb2.LockFlagSharedLock | smb2.LockFlagFailImmediately, smb2.LockFlagExclusiveLock | smb2.LockFlagFailImmediately:
		default:
			return smb2.StatusInvalidParameter
		}
		want = append(want, state.Lock{
			Owner: o.stateID(), Offset: e.Offset, Length: e.Length,
			Exclusive: e.Flags&smb2.LockFlagExclusiveLock != 0,
		})
	}
	if wait && len(want) > 1 {
		return smb2.StatusInvalidParameter
	}
	_, err := o.store.Update(ctx, o.fileID, state.AddLocks(want))
	switch {
	case err == nil:
		return r.locked(req)
	case wait && errors.Is(err, state.ErrLockNotGranted):
		return r.goAsync(func(ctx context.Context) error { return r.waitForLock(ctx, req, want[0]) })
	}
	return err
}

// waitForLock waits until the lock is granted, the client cancels, or the open is
// gone, which is the same to it as a range that is not locked.
func (r *request) waitForLock(ctx context.Context, req *smb2.LockRequest, want state.Lock) error {
	o := r.open
	ticket, granted := o.store.NewTicket()
	defer o.store.ReleaseTicket(ticket)
	if _, err := o.store.Update(ctx, o.fileID, state.AddLockOrWait(want, ticket)); err != nil {
		return lockEnd(ctx, err)
	}
	select {
	case err := <-granted:
		if err != nil {
			return err
		}
		return r.locked(req)
	case <-ctx.Done():
	}
	_, err := o.store.Update(context.WithoutCancel(ctx), o.fileID, state.CancelWait(ticket))
	if err == nil {
		return lockEnd(ctx, ctx.Err())
	}
	if err := <-granted; err != nil { // it has just been decided
		return err
	}
	return r.locked(req)
}

// lockEnd is why a lock was not waited for any longer: STATUS_CANCELLED for
// CANCEL, STATUS_RANGE_NOT_LOCKED when tree connect or session end.
func lockEnd(ctx context.Context, err error) error {
	if ctx.Err() == nil || errors.Is(context.Cause(ctx), errCancelled) {
		return err
	}
	return errors.Join(state.ErrRangeNotLocked, context.Cause(ctx))
}
