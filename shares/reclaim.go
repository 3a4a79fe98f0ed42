package shares

import (
	"context"
	"fmt"

	"lunless/shares/state"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// begin enters a CREATE that can be recognised if it is sent again. finish ends that.
func (c *creation) begin() error {
	data, there := smb2.FindCreateContext(c.req.Contexts, smb2.CreateContextDurableRequestV2)
	if !there || c.r.conn.neg.dialect < smb2.Dialect300 {
		return nil
	}
	var d smb2.DurableRequestV2
	if err := d.Decode(data); err != nil || d.CreateGUID.IsZero() {
		return err
	}
	table := &c.r.conn.srv.table
	k := createKey{c.r.conn.neg.clientGUID, d.CreateGUID}
	first, began := table.beginCreate(k)
	if !began {
		if c.r.hdr.Flags&smb2.FlagReplayOperation == 0 {
			return statusDuplicateObjectID
		}
		c.first = first
		return nil
	}
	c.key = k
	return nil
}

// finish ends what begin has begun, unless the CREATE is to be known beyond its request.
func (c *creation) finish(ctx context.Context, left *mustWait) {
	if left != nil && c.outlive(ctx, left) {
		return
	}
	giveUp(ctx, left)
	if c.key != (createKey{}) {
		c.r.conn.srv.table.endCreate(c.key)
	}
}

// outlive keeps a CREATE known that waits for others when its channel is lost, as
// long as the session has another one: until it need not wait any more, or the
// session ends. Nothing comes of it (MS-SMB2 3.3.7.1 has it cancelled), but if it is
// sent again over another channel, race answers it as before. Windows does so because its
// object store does not let go of an open that waits for a break.
func (c *creation) outlive(ctx context.Context, left *mustWait) bool {
	s, srv, limits := c.r.session, c.r.conn.srv, &c.r.conn.srv.cfg.Limits
	if c.key == (createKey{}) || !c.r.lostChannel(ctx) {
		return false
	}
	mine, all := s.outlived.Add(1), srv.asyncs.Add(1)
	if int(mine) > limits.Async || all > int64(limits.AllAsync) {
		s.outlived.Add(-1)
		srv.asyncs.Add(-1)
		return false
	}
	key := c.key // the request is another's soon
	srv.background(func() {
		defer srv.table.endCreate(key)
		defer srv.asyncs.Add(-1)
		defer s.outlived.Add(-1)
		select {
		case <-left.woken:
		case <-s.over:
			left.giveUp()
		}
	})
	return true
}

// race decides about a CREATE that is sent again while the first is waiting for
// others. As with Windows, one that waits for caching alone has an open without an
// owner yet, which nobody may have; one that waits because sharing keeps it out has
// none, and this one waits beside it.
func (c *creation) race(ctx context.Context, o *open, transient fscc.AccessMask) error {
	select {
	case <-c.first:
		return nil
	default:
	}
	if c.first == nil {
		return nil
	}
	_, err := o.store.Update(ctx, o.fileID, state.CanOpen(uint32(o.access)|uint32(transient), uint32(c.req.ShareAccess)))
	if err == nil {
		return smb2.StatusAccessDenied
	}
	return nil
}

// replay looks for the open that the same CREATE has made before, if its response
// has been lost (MS-SMB2 3.3.5.9, "Create Context Validation", 3.3.5.9.10). Without
// one it returns neither an open nor an error.
func (c *creation) replay(ctx context.Context) (*open, error) {
	d, r := c.ctxs.durableV2, c.r
	if d == nil || d.CreateGUID.IsZero() || c.first != nil {
		return nil, nil
	}
	o := r.conn.srv.table.findCreate(createKey{r.conn.neg.clientGUID, d.CreateGUID})
	switch {
	case o == nil || o.share != r.tree.share:
		return nil, nil
	case r.hdr.Flags&smb2.FlagReplayOperation == 0:
		return nil, statusDuplicateObjectID // also of one that cannot be replayed any more, as Windows has it
	case !o.replayable.Load():
		return nil, nil
	}
	rec, lease, err := o.record(ctx)
	if err != nil {
		return nil, err
	}
	h := &rec.Handle
	switch {
	case h.Owner != r.session.owner():
		return nil, smb2.StatusAccessDenied
	case o.hasLease && (c.ctxs.lease == nil || o.lease.Key != [16]byte(c.ctxs.lease.LeaseKey)),
		!o.hasLease && c.wantsLease(o.dir):
		return nil, smb2.StatusAccessDenied
	case h.Disconnected && h.Kind == state.Persistent:
		return c.reclaimCreated(ctx, o, &rec)
	case o.session != r.session:
		return nil, statusDuplicateObjectID
	case h.Kind == state.Persistent && d.Flags&smb2.DurableFlagPersistent == 0:
		return nil, smb2.StatusInvalidParameter
	}
	if c.info, err = o.file.Stat(ctx); err != nil {
		return nil, err
	}
	c.action, c.attached = o.action, true
	rec.Oplock.State &= c.wanted(o.dir) // who asks for less this time counts on no more
	c.caching = grantedCaching{open: rec, lease: lease}
	return o, nil
}

// reclaimCreated gives a persistent open back to a client that has not heard of it
// and sends its CREATE again (MS-SMB2 3.3.5.9).
func (c *creation) reclaimCreated(ctx context.Context, o *open, rec *state.Open) (*open, error) {
	if rec.Handle.Options != uint32(c.req.CreateOptions) || rec.Handle.Desired != uint32(c.req.DesiredAccess) ||
		rec.Share != uint32(c.req.ShareAccess) {
		return nil, statusContextMismatch
	}
	q := c.claim()
	q.V2, q.CreateGUID, q.Persistent = true, c.ctxs.durableV2.CreateGUID, true
	o, err := c.reconnect(ctx, o, q)
	if err == nil {
		c.action = o.action // its client has not heard of that yet
	}
	c.caching.reclaims = false
	return o, err
}

// reclaim gives a durable, resilient or persistent open back to its client, if the
// request is for that (MS-SMB2 3.3.5.9.7, 3.3.5.9.12). What else it says does not
// matter but for the lease.
func (c *creation) reclaim(ctx context.Context) (o *open, err error, done bool) {
	if err := c.ctxs.parse(c.req.Contexts, c.r.conn.neg.dialect); err != nil {
		return nil, err, true
	}
	if !c.ctxs.reclaims() {
		return nil, nil, false
	}
	q := c.claim()
	var id smb2.FileID
	if v2 := c.ctxs.reconnectV2; v2 != nil {
		id, q.V2, q.CreateGUID = v2.FileID, true, v2.CreateGUID
		q.Persistent = v2.Flags&smb2.DurableFlagPersistent != 0
	} else {
		id = c.ctxs.reconnect.FileID
	}
	table := &c.r.conn.srv.table
	old := table.find(state.OpenID(id.Persistent))
	if old == nil && q.Persistent && c.r.tree.share.ContinuouslyAvailable {
		old = table.findCreate(createKey{c.r.conn.neg.clientGUID, q.CreateGUID})
	}
	if old == nil || old.share != c.r.tree.share {
		return nil, smb2.StatusObjectNameNotFound, true
	}
	o, err = c.reconnect(ctx, old, q)
	return o, err, true
}

// claim is what the request shows of itself, whichever way it reclaims.
func (c *creation) claim() state.Reclaim {
	q := state.Reclaim{ClientGUID: c.r.conn.neg.clientGUID, Owner: c.r.session.owner()}
	if name, err := parsePath(c.req.Name); err == nil {
		q.Link = c.r.tree.share.link(name.path)
	}
	if l := c.ctxs.lease; l != nil {
		q.HasLease, q.Lease, q.Version = true, leaseKey(q.ClientGUID, l.LeaseKey), uint8(l.Version)
	}
	return q
}

// reconnect makes old the session's: an open of its own with the same handle. All
// that the old session had under way has ended before it was parked.
func (c *creation) reconnect(ctx context.Context, old *open, q state.Reclaim) (*open, error) {
	srv := c.r.conn.srv
	// Its breaks are for the new open, which there is not yet.
	fx, err := srv.memory.Update(ctx, old.fileID, state.Reconnect(old.stateID(), q))
	if err != nil {
		return nil, fmt.Errorf("reclaim: %w", err)
	}
	if !old.parked.CompareAndSwap(true, false) {
		return nil, smb2.StatusObjectNameNotFound // it is being closed
	}
	srv.opens.Add(-1)
	if sabotaged("lock-forgotten-on-reclaim") {
		old.store.Update(ctx, old.fileID, func(r state.Record) (state.Record, state.Effects, error) {
			r.Locks = nil
			return r, state.Effects{}, nil
		})
	}
	o := &open{
		handle: old.handle, id: smb2.FileID{Persistent: old.id.Persistent, Volatile: srv.ids.next()},
		tree: c.r.tree, session: c.r.session,
	}
	o.busy.start(old.busy.sequence())
	srv.table.add(o)
	if len(fx.Breaks) > 0 {
		c.r.holdNotices()
	}
	for i := range fx.Breaks {
		srv.startBreak(o.fileID, fx.Breaks[i])
	}
	c.action, c.reclaimed = smb2.FileOpened, true
	c.caching = grantedCaching{open: fx.Open, lease: fx.Lease, reclaims: true}
	if c.info, err = o.file.Stat(ctx); err != nil {
		o.detach(ctx, err)
		return nil, err
	}
	return o, nil
}

// giveBack undoes what an open is good for that its client will not hear of.
func (c *creation) giveBack(ctx context.Context, o *open, why error) error {
	if c.reclaimed {
		o.detach(ctx, why)
		return nil
	}
	return o.close(ctx, why)
}
