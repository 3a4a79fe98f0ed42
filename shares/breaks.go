package shares

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"lunless/shares/fs"
	"lunless/shares/state"
	"lunless/smbstore/smb2"
)

// brokered is a state.Store that does what the Effects of a Change ask of the
// server: it tells clients of breaks, and ends opens that have to go.
type brokered struct {
	state.Store
	srv *Server
}

// Update implements state.Store. Nothing it starts is waited for.
func (b *brokered) Update(ctx context.Context, id fs.FileID, fn state.Change) (state.Effects, error) {
	fx, err := b.Store.Update(ctx, id, fn)
	for i := range fx.Breaks {
		b.srv.startBreak(id, fx.Breaks[i])
	}
	for _, o := range fx.Close {
		b.srv.background(func() { b.srv.endOpen(id, o) })
	}
	return fx, err
}

// background runs fn in a goroutine that Shutdown waits for.
func (srv *Server) background(fn func()) {
	srv.tasks.Add(1)
	go func() {
		defer srv.tasks.Done()
		fn()
	}()
}

// startBreak tells the holder of an oplock or a lease that it is breaking, and sees
// to it that the break ends (MS-SMB2 3.3.4.6, 3.3.4.7, 3.3.6.1, 3.3.6.5).
func (srv *Server) startBreak(id fs.FileID, br state.Break) {
	if sabotaged("break-not-sent") {
		srv.awaitAck(id, br)
		return
	}
	if sabotaged("ack-early") {
		srv.background(func() { srv.endBreak(id, br) })
	}
	srv.sendBreak(&br, func(err error) {
		switch {
		case err == nil:
			srv.awaitAck(id, br)
		case errors.Is(err, errNoChannel) && br.IsLease && len(srv.targetsOf(br.Lease.Client, false)) > 0:
			srv.startBreak(id, br) // the client is back already
		case errors.Is(err, errNoChannel):
			srv.log.Info("nobody to tell of a break", "err", err)
			srv.settleBreak(id, state.BreakUnsent(br))
		default:
			srv.log.Info("a break is not heard of", "err", err)
			srv.endBreak(id, br)
		}
	})
}

// awaitAck bounds the time its holder has to acknowledge a break, from when he has
// been told (MS-SMB2 3.3.4.6, 3.3.4.7).
func (srv *Server) awaitAck(id fs.FileID, br state.Break) {
	if br.AckRequired {
		time.AfterFunc(srv.cfg.Limits.Break, func() { srv.endBreak(id, br) })
	}
}

// endBreak takes the caching of a holder who has not acknowledged its break, or
// takes no notice of it.
func (srv *Server) endBreak(id fs.FileID, br state.Break) {
	srv.settleBreak(id, state.BreakTimeout(br))
}

func (srv *Server) settleBreak(id fs.FileID, end state.Change) {
	if srv.stopping.Load() {
		return
	}
	if _, err := srv.store.Update(context.Background(), id, end); err != nil {
		srv.log.Error("break not ended", "err", err)
	}
}

// sendBreak sends the notification. It does not wait for that; done is told how it
// went.
func (srv *Server) sendBreak(br *state.Break, done func(error)) {
	if !br.IsLease {
		o := srv.table.find(br.Open)
		if o == nil || o.parked.Load() {
			done(errNoChannel)
			return
		}
		m := &smb2.OplockBreakNotification{OplockLevel: oplockLevel(br.To), FileID: o.id}
		o.session.sendNotice(m, o.tree.encrypt, done)
		return
	}
	m := &smb2.LeaseBreakNotification{
		LeaseKey: br.Lease.Key, CurrentLeaseState: smb2.LeaseState(br.From), NewLeaseState: smb2.LeaseState(br.To),
	}
	if br.AckRequired {
		m.Flags = smb2.LeaseFlagBreakAckRequired
	}
	if br.Version == 2 {
		m.NewEpoch = br.Epoch
	}
	srv.sendNotice(br.Lease.Client, m, false, done)
}

// endOpen closes an open that somebody else's Change has asked to end.
func (srv *Server) endOpen(id fs.FileID, open state.OpenID) {
	o := srv.table.find(open)
	if o == nil || o.fileID != id {
		srv.endLost(context.Background(), id, open)
		return
	}
	o.takeBack(context.Background(), srv, errForced)
}

// fault is the name of a fault that is switched on, for a test to see that it is
// noticed. Nothing but a test sets it.
var fault atomic.Pointer[string]

func sabotaged(name string) bool {
	p := fault.Load()
	return p != nil && *p == name
}

// dropHold takes back one holdNotices of the request: there is no response that
// notifications have to wait for.
func (r *request) dropHold() {
	r.reply.holds--
	r.conn.releaseNotices(&reply{holds: 1})
}
