package state

import "slices"

// MaxOpens bounds the opens of one file, and with them the time a Change takes.
const MaxOpens = 16384

// OpenRequest is what a CREATE asks of an existing file.
type OpenRequest struct {
	Open Open
	// Transient are rights that the opening itself uses (to overwrite, say) and the
	// open does not keep.
	Transient  uint32
	Overwrites bool   // FILE_SUPERSEDE, FILE_OVERWRITE, FILE_OVERWRITE_IF
	Dir        bool   // a folder: leases of version 2 alone, and no durability
	Allocation uint64 // allocation size: locks past it do not keep anybody from caching
	// Want is the oplock (LevelII, Exclusive, Batch) or, if Open.HasLease, the lease
	// state wanted. Lease.Key is then Open.Lease.
	Want  Caching
	Lease LeaseRequest
	// TakeOver says that the user may read the file, which a new instance of an
	// application must to have the open of an older one closed.
	TakeOver bool
	Ticket   Ticket
}

// AddOpen opens the file once more (MS-FSA 2.1.5.1.2, MS-SMB2 3.3.5.9). It fails
// with ErrSharingViolation where the open and one that is there exclude each
// other, ErrDeletePending where the link is going, ErrNotAvailable while the file
// is kept for the holder of a persistent handle, ErrForcedClosed by MS-SMB2
// 3.3.5.9.13, ErrTooManyOpens, ErrTooManyWaiters; ErrCannotWait without a ticket.
//
// Whatever it returns, send Effects.Breaks and end the opens of Effects.Close.
// With Effects.Wait the open has not been added: wait, look the name up again and
// commit AddOpen again with a new ticket. Else it has been, and Effects.Open and
// Effects.Lease say what it got: Open.Oplock.State, Lease.State with
// Lease.Breaking (SMB2_LEASE_FLAG_BREAK_IN_PROGRESS), and Open.Handle.Kind, which
// is NotDurable if durability was not granted.
func AddOpen(q OpenRequest) Change {
	return func(r Record) (Record, Effects, error) {
		var fx Effects
		b := breaking{r: &r, fx: &fx, by: q.Open.holder()}
		if err := b.takeOver(&q); err != nil {
			return r, Effects{}, err
		}
		if b.wait {
			return b.suspend(q.Ticket)
		}
		switch {
		case slices.Contains(r.Deleting, q.Open.Link):
			return r, Effects{}, ErrDeletePending
		case slices.ContainsFunc(r.Opens, func(o Open) bool { return o.Handle.Kind == Persistent && o.Handle.Disconnected }):
			return r, Effects{}, ErrNotAvailable
		case len(r.Opens) >= MaxOpens:
			return r, Effects{}, ErrTooManyOpens
		}
		err := b.makeRoom(&q)
		switch {
		case err != nil && !b.copied && !b.leases:
			return r, Effects{}, err
		case err != nil: // in vain, but others have lost caching all the same
			fx.Err = err
			return r, fx, nil
		case b.wait:
			return b.suspend(q.Ticket)
		}
		if q.Open.DeleteOnClose { // others shall let go of what they only cache, as with BreakForDelete
			b.breakLeases(CacheHandle)
		}
		r.Opens = append(slices.Clip(r.Opens), q.Open)
		r.grant(&q)
		r.grantDurability(&q)
		fx.Open = r.Opens[len(r.Opens)-1]
		if q.Open.HasLease {
			fx.Lease = r.Leases[r.findLease(q.Open.Lease)]
		}
		return r, fx, nil
	}
}

// makeRoom breaks what keeps the open out, or would not notice it (MS-FSA
// 2.1.5.1.2): batch oplocks before the sharing check, handle caching after it has
// failed, write caching after it has not.
func (b *breaking) makeRoom(q *OpenRequest) error {
	asks := q.Open
	asks.Access |= q.Transient
	left := LevelII
	if q.Overwrites {
		left = 0
	}
	if asks.Access&^oplockStat != 0 {
		if b.breakOplocks(left, isBatch); b.wait {
			return nil
		}
	}
	if err := b.shareWith(&asks); err != nil || b.wait {
		return err
	}
	if asks.Access&^oplockStat != 0 {
		b.breakOplocks(left, func(c Caching) bool { return q.Overwrites || c&CacheWrite != 0 })
	}
	if asks.Access&^leaseStat != 0 {
		lost := CacheWrite
		if q.Overwrites {
			lost |= CacheRead
		}
		b.breakLeases(lost)
	}
	return nil
}

// shareWith is the sharing check (MS-FSA 2.1.5.1.2.2).
func (b *breaking) shareWith(asks *Open) error {
	excluded := false
	for i := range b.r.Opens {
		o := &b.r.Opens[i]
		if o.Closing && asks.Access&^leaseStat != 0 {
			b.wait = true
		}
		excluded = excluded || excludes(asks, o)
	}
	if !excluded || b.wait {
		return nil
	}
	if b.breakLeases(CacheHandle); b.wait {
		return nil
	}
	for i := range b.r.Opens {
		o := &b.r.Opens[i]
		if o.Handle.Disconnected && o.Handle.Kind != Resilient && excludes(asks, o) {
			b.close(i)
		}
	}
	if b.wait {
		return nil
	}
	return ErrSharingViolation
}

// takeOver closes the opens of older instances of the application, on other
// clients (MS-SMB2 3.3.5.9.13).
func (b *breaking) takeOver(q *OpenRequest) error {
	app := &q.Open.Handle.AppInstance
	if app.ID == ([16]byte{}) {
		return nil
	}
	for i := range b.r.Opens {
		o := &b.r.Opens[i]
		if o.Handle.AppInstance.ID != app.ID || o.Link != q.Open.Link || o.Handle.ClientGUID == q.Open.Handle.ClientGUID {
			continue
		}
		if o.Handle.AppInstance.keepsOut(app) {
			return ErrForcedClosed
		}
		if q.TakeOver {
			b.close(i)
		}
	}
	return nil
}

// TakeOver is the first step of AddOpen alone, for a file that cannot be opened as it
// is: opens of older instances are closed first (MS-SMB2 3.3.5.9.13), and what they
// kept from being opened is looked at again. It fails with ErrForcedClosed; without
// Effects.Wait there is nothing to close.
func TakeOver(q OpenRequest) Change {
	return func(r Record) (Record, Effects, error) {
		var fx Effects
		b := breaking{r: &r, fx: &fx, by: q.Open.holder()}
		if err := b.takeOver(&q); err != nil {
			return r, Effects{}, err
		}
		if b.wait {
			return b.suspend(q.Ticket)
		}
		return r, fx, nil
	}
}

// grantDurability takes from the new open the durability it does not get for
// lack of handle caching (MS-SMB2 3.3.5.9.6, 3.3.5.9.10), which persistent ones do
// without.
func (r *Record) grantDurability(q *OpenRequest) {
	o := &r.Opens[len(r.Opens)-1]
	held := o.Oplock.State
	if o.HasLease {
		held = r.Leases[r.findLease(o.Lease)].State
	}
	if q.Dir || o.Handle.Kind != Persistent && held&CacheHandle == 0 {
		o.Handle.Kind = NotDurable
	}
}

// Rights with which an open neither breaks oplocks, and leases (MS-FSA 2.1.4.12,
// OPEN): attributes and SYNCHRONIZE, and READ_CONTROL for leases.
const (
	oplockStat uint32 = 0x00000080 | 0x00000100 | 0x00100000
	leaseStat  uint32 = oplockStat | 0x00020000
)

// CanOpen fails with ErrSharingViolation where AddOpen would; it adds nothing.
func CanOpen(access, share uint32) Change {
	return func(r Record) (Record, Effects, error) {
		asks := Open{Access: access, Share: share}
		for i := range r.Opens {
			if excludes(&asks, &r.Opens[i]) {
				return r, Effects{}, ErrSharingViolation
			}
		}
		return r, Effects{}, nil
	}
}

// excludes says whether two opens cannot be at once. It is symmetric.
func excludes(a, b *Open) bool {
	if a.Access&sharing == 0 || b.Access&sharing == 0 {
		return false
	}
	if a.OfStream || b.OfStream {
		return a.OfStream != b.OfStream && (preventsDelete(a, b) || preventsDelete(b, a))
	}
	return denies(a.Share, b.Access) || denies(b.Share, a.Access)
}

// denies says whether share leaves out something access asks for.
func denies(share, access uint32) bool {
	return share&ShareRead == 0 && access&reads != 0 ||
		share&ShareWrite == 0 && access&writes != 0 ||
		share&ShareDelete == 0 && access&Delete != 0
}

// RemoveOpen takes an open away with its locks and waiting requests (MS-FSA
// 2.1.5.5). Effects.Delete says that it was the last one of a link to delete.
// keepLink says that the open's own delete on close is void: its folder is not empty.
func RemoveOpen(id OpenID, keepLink bool) Change {
	return func(r Record) (Record, Effects, error) {
		i := r.find(id)
		if i < 0 {
			return r, Effects{}, ErrUnknownOpen
		}
		var fx Effects
		gone := r.Opens[i]
		fx.Link = gone.Link
		r.Opens = slices.Delete(slices.Clone(r.Opens), i, i+1)
		if gone.DeleteOnClose && !keepLink {
			r.Deleting = with(r.Deleting, gone.Link)
		}
		if slices.Contains(r.Deleting, gone.Link) {
			fx.Delete = !slices.ContainsFunc(r.Opens, func(o Open) bool { return o.Link == gone.Link })
		}
		r.Waiters = keep(r.Waiters, func(w Waiter) bool {
			if w.Lock.Owner == id {
				fx.Dropped = append(fx.Dropped, w.Ticket)
			}
			return w.Lock.Owner != id
		})
		r.Locks = keep(r.Locks, func(l Lock) bool { return l.Owner != id })
		r, fx.Granted = grantWaiters(r)
		r.dropCaching(&gone, &fx)
		if gone.DeleteOnClose && !keepLink && len(r.Leases) > 0 {
			// Others who only cache handles shall let go of what is to be deleted.
			b := breaking{r: &r, fx: &fx, by: gone.holder()}
			b.breakLeases(CacheHandle)
		}
		return r, fx, nil
	}
}

// dropCaching ends the oplock of an open that has gone, or its lease if no other
// open has it, and lets those try again who waited for that.
func (r *Record) dropCaching(gone *Open, fx *Effects) {
	waited := gone.Closing || gone.Oplock.Breaking
	if gone.HasLease && !slices.ContainsFunc(r.Opens, func(o Open) bool { return o.HasLease && o.Lease == gone.Lease }) {
		r.Leases = keep(r.Leases, func(l Lease) bool {
			waited = waited || l.Breaking && l.Key == gone.Lease
			return l.Key != gone.Lease
		})
	}
	if waited && !fx.Delete { // else Deleted wakes them, when the name is gone
		r.retry(fx)
	}
}

// Deleted ends the delete of a link: its name is gone, or stays because it could
// not be removed.
func Deleted(link string) Change {
	return func(r Record) (Record, Effects, error) {
		var fx Effects
		r.Deleting = keep(r.Deleting, func(l string) bool { return l != link })
		r.retry(&fx)
		return r, fx, nil
	}
}

// SetDeletePending marks the link of an open to go with the last open of it, or
// takes the mark back (MS-FSA 2.1.5.15.3).
func SetDeletePending(id OpenID, pending bool) Change {
	return func(r Record) (Record, Effects, error) {
		i := r.find(id)
		if i < 0 {
			return r, Effects{}, ErrUnknownOpen
		}
		link := r.Opens[i].Link
		if pending {
			r.Deleting = with(r.Deleting, link)
		} else {
			r.Deleting = keep(r.Deleting, func(l string) bool { return l != link })
		}
		return r, Effects{}, nil
	}
}

// Relink gives every open by one link another: the file was renamed.
func Relink(from, to string) Change {
	return func(r Record) (Record, Effects, error) {
		r.Opens = slices.Clone(r.Opens)
		for i := range r.Opens {
			if r.Opens[i].Link == from {
				r.Opens[i].Link = to
			}
		}
		if slices.Contains(r.Deleting, from) {
			r.Deleting = with(keep(r.Deleting, func(l string) bool { return l != from }), to)
		}
		return r, Effects{}, nil
	}
}

// Replaceable fails with ErrDeletePending or ErrInUse unless a rename may take
// the file's name away: MS-FSA 2.1.5.15.12 wants no open of the target.
func Replaceable(link string) Change {
	return func(r Record) (Record, Effects, error) {
		switch {
		case slices.Contains(r.Deleting, link):
			return r, Effects{}, ErrDeletePending
		case len(r.Opens) > 0:
			return r, Effects{}, ErrInUse
		}
		return r, Effects{}, nil
	}
}

// IsDeleting says whether an open's link is marked to go.
func (r *Record) IsDeleting(link string) bool { return slices.Contains(r.Deleting, link) }

func with(links []string, link string) []string {
	if slices.Contains(links, link) {
		return links
	}
	return append(slices.Clip(links), link)
}

// keep is a copy of s without what f refuses; s itself if it refuses nothing.
func keep[T any](s []T, f func(T) bool) []T {
	var out []T
	for i, v := range s {
		if f(v) {
			if out != nil {
				out = append(out, v)
			}
			continue
		}
		if out == nil {
			out = append(make([]T, 0, len(s)), s[:i]...)
		}
	}
	if out == nil {
		return s
	}
	return out
}
