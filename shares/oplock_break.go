package shares

import (
	"context"
	"errors"

	"lunless/shares/state"
	"lunless/smbstore/smb2"
)

// handleOplockBreak takes acknowledgments of breaks (MS-SMB2 3.3.5.22).
func handleOplockBreak(ctx context.Context, r *request) error {
	if r.conn.neg.dialect != smb2.Dialect202 && smb2.IsLeaseBreak(r.msg) {
		return r.ackLease(ctx)
	}
	var ack smb2.OplockBreakAcknowledgment
	if err := ack.Decode(r.msg); err != nil {
		return err
	}
	o := r.session.findOpen(ack.FileID)
	if o == nil || o.pipe != nil {
		return smb2.StatusFileClosed
	}
	o.replayable.Store(false)
	level := state.Batch // which no acknowledgment may ask for
	if ack.OplockLevel != smb2.OplockLease {
		level = cachingOf(ack.OplockLevel)
	}
	r.holdNotices()
	fx, err := o.store.Update(ctx, o.fileID, state.AckOplock(o.stateID(), level))
	switch {
	case errors.Is(err, state.ErrNotBreaking) && ack.OplockLevel != smb2.OplockNone:
		return smb2.StatusInvalidOplockProtocol // nothing is left to keep, as Windows says
	case errors.Is(err, state.ErrNotBreaking):
		return smb2.StatusInvalidDeviceState
	case err != nil && ack.OplockLevel == smb2.OplockLease:
		return smb2.StatusInvalidParameter
	case err != nil:
		return err
	}
	return r.respond(&smb2.OplockBreakResponse{OplockLevel: oplockLevel(fx.Open.Oplock.State), FileID: o.id})
}

// ackLease takes the acknowledgment of a lease break (MS-SMB2 3.3.5.22.2). By that
// section no open of the lease can be replayed from then on; here they can. The
// client acknowledges for the lease, and may be waiting for the response to the
// CREATE of one of its opens: if that was lost, the replay would find nothing, and
// what the first made would be kept for nobody, with everyone else kept out.
func (r *request) ackLease(ctx context.Context) error {
	var ack smb2.LeaseBreakAcknowledgment
	if err := ack.Decode(r.msg); err != nil {
		return err
	}
	srv := r.conn.srv
	key := leaseKey(r.conn.neg.clientGUID, ack.LeaseKey)
	file, ok := srv.table.leaseFile(key)
	if !ok {
		return smb2.StatusObjectNameNotFound
	}
	if ack.LeaseState&^(smb2.LeaseReadCaching|smb2.LeaseHandleCaching|smb2.LeaseWriteCaching) != 0 {
		return smb2.StatusRequestNotAccepted
	}
	r.holdNotices() // another break may follow, and is not to overtake the response
	fx, err := srv.store.Update(ctx, file, state.AckLease(key, state.Caching(ack.LeaseState)))
	if errors.Is(err, state.ErrNotBreaking) {
		return smb2.StatusUnsuccessful
	}
	if err != nil {
		return err
	}
	return r.respond(&smb2.LeaseBreakResponse{LeaseKey: ack.LeaseKey, LeaseState: smb2.LeaseState(fx.Lease.State)})
}
