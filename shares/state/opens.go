package state

import "slices"

// AddOpen adds o. MS-FSA 2.1.5.1.2.1 and 2.1.5.1.2.2: it fails with
// ErrSharingViolation where o and an open that is there exclude each other,
// with ErrDeletePending where the link is going. transient are rights that the
// opening itself uses (to overwrite, say) and the open does not keep.
func AddOpen(o Open, transient uint32) Change {
	return func(r Record) (Record, Effects, error) {
		if slices.Contains(r.Deleting, o.Link) {
			return r, Effects{}, ErrDeletePending
		}
		asks := o
		asks.Access |= transient
		for i := range r.Opens {
			if excludes(&asks, &r.Opens[i]) {
				return r, Effects{}, ErrSharingViolation
			}
		}
		r.Opens = append(slices.Clip(r.Opens), o)
		return r, Effects{}, nil
	}
}

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
		return r, fx, nil
	}
}

// Deleted ends the delete of a link: its name is gone, or stays because it could
// not be removed.
func Deleted(link string) Change {
	return func(r Record) (Record, Effects, error) {
		r.Deleting = keep(r.Deleting, func(l string) bool { return l != link })
		return r, Effects{}, nil
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
