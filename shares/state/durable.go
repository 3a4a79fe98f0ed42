package state

import (
	"context"
	"slices"
	"time"

	"lunless/shares/fs"
)

// change is a Change of one open.
func change(id OpenID, do func(r *Record, o *Open, fx *Effects) error) Change {
	return func(r Record) (Record, Effects, error) {
		i := r.find(id)
		if i < 0 {
			return r, Effects{}, ErrUnknownOpen
		}
		var fx Effects
		old := r
		r.Opens = slices.Clone(r.Opens)
		if err := do(&r, &r.Opens[i], &fx); err != nil {
			return old, Effects{}, err
		}
		return r, fx, nil
	}
}

// Disconnect parks an open whose connection is lost, or says in Effects.Close that
// it is to be closed (MS-SMB2 3.3.7.1). A parked one is closed at
// Effects.Open.Handle.Deadline: commit Expire then. Its waiting lock requests fail.
func Disconnect(id OpenID, now time.Time) Change {
	return change(id, func(r *Record, o *Open, fx *Effects) error {
		if o.Handle.Disconnected || o.Closing {
			return nil
		}
		if !r.outlives(o) {
			o.Closing = true
			fx.Close = []OpenID{id}
			return nil
		}
		o.Handle.Disconnected = true
		o.Handle.Deadline = now.Add(o.Handle.Timeout)
		r.Waiters = keep(r.Waiters, func(w Waiter) bool {
			if w.Lock.Owner == id {
				fx.Dropped = append(fx.Dropped, w.Ticket)
			}
			return w.Lock.Owner != id
		})
		fx.Open = *o
		r.retry(fx) // of those who waited for an answer of this client
		return nil
	})
}

// outlives says whether the open is to be preserved for reconnect.
func (r *Record) outlives(o *Open) bool {
	switch o.Handle.Kind {
	case Resilient, Persistent:
		return true
	case NotDurable:
		return false
	}
	c := o.Oplock
	if o.HasLease {
		c = r.Leases[r.findLease(o.Lease)].Cache
	}
	return c.State&CacheHandle != 0 && !c.Breaking
}

// Reclaim is what a client shows to get an open back (MS-SMB2 3.3.5.9.7, 3.3.5.9.12).
type Reclaim struct {
	ClientGUID [16]byte
	Owner      string
	Link       string // of the name in the request
	V2         bool   // "DH2C"
	CreateGUID [16]byte
	Persistent bool // SMB2_DHANDLE_FLAG_PERSISTENT
	HasLease   bool
	Lease      LeaseKey
	Version    uint8 // of the lease context
}

// Reconnect gives an open back to its client: ErrUnknownOpen and ErrNotReclaimable
// (STATUS_OBJECT_NAME_NOT_FOUND), ErrBadReclaim (STATUS_INVALID_PARAMETER),
// ErrNotOwner (STATUS_ACCESS_DENIED). Effects.Open and Effects.Lease are what it
// is; Effects.Breaks are those that could not be sent while it was away, and that
// which may have been lost with the connection.
func Reconnect(id OpenID, q Reclaim) Change {
	return change(id, func(r *Record, o *Open, fx *Effects) error {
		if err := r.reclaimable(o, &q); err != nil {
			return err
		}
		o.Handle.Disconnected = false
		o.Handle.Deadline = time.Time{}
		o.Handle.ClientGUID = q.ClientGUID // another's perhaps, where there is no lease
		if c := &o.Oplock; c.Breaking {
			c.Unsent = false
			fx.Breaks = []Break{{Open: id, From: c.State, To: c.BreakTo, AckRequired: true, Serial: c.Serial}}
		}
		fx.Open = *o
		if !o.HasLease {
			return nil
		}
		i := r.findLease(o.Lease)
		if l := r.Leases[i]; l.Unsent || l.Breaking && !r.sharesLease(o) {
			l.Unsent = false
			fx.Breaks = []Break{l.notice(Break{From: l.State, To: l.BreakTo, AckRequired: true, Serial: l.Serial})}
			r.Leases = slices.Clone(r.Leases)
			r.Leases[i] = l
		}
		fx.Lease = r.Leases[i]
		return nil
	})
}

// sharesLease says whether another open with a connection has the lease of o: then
// its client has heard of a break, or hears of it there.
func (r *Record) sharesLease(o *Open) bool {
	return slices.ContainsFunc(r.Opens, func(p Open) bool {
		return p.ID != o.ID && p.HasLease && p.Lease == o.Lease && !p.Handle.Disconnected
	})
}

func (r *Record) reclaimable(o *Open, q *Reclaim) error {
	h := &o.Handle
	var held Caching
	switch {
	case !h.Disconnected, o.Closing, h.Kind == NotDurable:
		return ErrNotReclaimable
	case o.HasLease != q.HasLease, o.HasLease && (h.ClientGUID != q.ClientGUID || o.Lease != q.Lease):
		return ErrNotReclaimable
	case q.V2 && (h.CreateGUID != q.CreateGUID || h.Kind == Persistent && !q.Persistent):
		return ErrNotReclaimable
	}
	if o.HasLease {
		l := &r.Leases[r.findLease(o.Lease)]
		if l.Version != q.Version {
			return ErrNotReclaimable
		}
		held = l.State
	} else {
		held = o.Oplock.State
	}
	switch {
	case (h.Kind == Durable || h.Kind == DurableV2) && held&CacheHandle == 0:
		return ErrNotReclaimable
	case o.HasLease && !o.DeleteOnClose && o.Link != q.Link && (o.Former == "" || o.Former != q.Link),
		q.V2 && h.Kind != Persistent && q.Persistent:
		return ErrBadReclaim
	case h.Owner != q.Owner:
		return ErrNotOwner
	}
	return nil
}

// Expire says in Effects.Close that a parked open is to be closed, if its time is
// over at now (MS-SMB2 3.3.6.2, 3.3.6.4).
func Expire(id OpenID, now time.Time) Change {
	return change(id, func(r *Record, o *Open, fx *Effects) error {
		if o.Handle.Disconnected && !o.Closing && !now.Before(o.Handle.Deadline) {
			o.Closing = true
			fx.Close = []OpenID{id}
		}
		return nil
	})
}

// SetResilient makes an open resilient (MS-SMB2 3.3.5.15.9), which takes the place
// of its durability.
func SetResilient(id OpenID, timeout time.Duration, owner string) Change {
	return change(id, func(r *Record, o *Open, fx *Effects) error {
		if o.Handle.Kind != Persistent {
			o.Handle.Kind = Resilient
		}
		o.Handle.Timeout, o.Handle.Owner = timeout, owner
		fx.Open = *o
		return nil
	})
}

// FindCreateGUID looks for an open by the GUID its CREATE came with (MS-SMB2
// 3.3.5.9.10). It visits every record, so that whoever asks often keeps a table.
func FindCreateGUID(ctx context.Context, s Store, guid [16]byte, match func(*Open) bool) (id fs.FileID, o Open, found bool, err error) {
	err = s.Walk(ctx, func(f fs.FileID, r Record) bool {
		for i := range r.Opens {
			if h := &r.Opens[i].Handle; h.CreateGUID == guid && match(&r.Opens[i]) {
				id, o, found = f, r.Opens[i], true
			}
		}
		return !found
	})
	return id, o, found, err
}
