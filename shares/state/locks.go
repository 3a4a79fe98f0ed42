package state

import "slices"

// overlaps says whether [off, off+n) and the lock's range share a byte. A range
// of no bytes overlaps another one strictly around it, except at 0 (MS-FSA 2.1.4.10).
func (l *Lock) overlaps(off, n uint64) bool {
	if off == 0 && n == 0 || l.Offset == 0 && l.Length == 0 {
		return false
	}
	last, lockLast := off+n-1, l.Offset+l.Length-1 // no overflow: ranges end at 2^64 at most
	return off <= lockLast && last >= l.Offset
}

// conflicts says whether an access of open to the range is shut out by the lock.
// MS-FSA 2.1.4.10; exclusive is true of WRITE, locking of LOCK.
func (l *Lock) conflicts(open OpenID, off, n uint64, exclusive, locking bool) bool {
	if !l.overlaps(off, n) {
		return false
	}
	if l.Exclusive {
		return l.Owner != open || exclusive && locking
	}
	return exclusive
}

func blocked(locks []Lock, want *Lock) bool {
	for i := range locks {
		if locks[i].conflicts(want.Owner, want.Offset, want.Length, want.Exclusive, true) {
			return true
		}
	}
	return false
}

// MaxLocks bounds the locks of one file, and with them the time a Change takes.
const MaxLocks = 8192

func badRange(off, n uint64) bool { return n != 0 && off+n-1 < off }

// AddLocks grants all of want, which one open asks for, or none (MS-FSA 2.1.5.8,
// MS-SMB2 3.3.5.14.2): ErrLockRange, ErrLockNotGranted, ErrTooManyLocks.
func AddLocks(want []Lock) Change {
	return func(r Record) (Record, Effects, error) {
		if len(r.Locks)+len(r.Waiters)+len(want) > MaxLocks {
			return r, Effects{}, ErrTooManyLocks
		}
		locks := slices.Clip(r.Locks)
		for i := range want {
			if badRange(want[i].Offset, want[i].Length) {
				return r, Effects{}, ErrLockRange
			}
			if r.find(want[i].Owner) < 0 {
				return r, Effects{}, ErrUnknownOpen
			}
			if blocked(locks, &want[i]) {
				return r, Effects{}, ErrLockNotGranted
			}
			locks = append(locks, want[i])
		}
		r.Locks = locks
		return r, Effects{}, nil
	}
}

// AddLockOrWait grants want, and says so in Effects.Granted, or lets t wait for it.
func AddLockOrWait(want Lock, t Ticket) Change {
	add := AddLocks([]Lock{want})
	return func(r Record) (Record, Effects, error) {
		next, fx, err := add(r)
		switch err {
		case nil:
			fx.Granted = []Ticket{t}
			return next, fx, nil
		case ErrLockNotGranted:
			r.Waiters = append(slices.Clip(r.Waiters), Waiter{Ticket: t, Lock: want})
			return r, Effects{}, nil
		}
		return r, Effects{}, err
	}
}

// CancelWait takes a waiting request back, be it for a lock or as Effects.Wait
// says. ErrRangeNotLocked if it waits no more: then its ticket has its answer.
func CancelWait(t Ticket) Change {
	return func(r Record) (Record, Effects, error) {
		n := len(r.Waiters) + len(r.Breaks)
		r.Breaks = keep(r.Breaks, func(b Ticket) bool { return b != t })
		r.Waiters = keep(r.Waiters, func(w Waiter) bool { return w.Ticket != t })
		if len(r.Waiters)+len(r.Breaks) == n {
			return r, Effects{}, ErrRangeNotLocked
		}
		return r, Effects{}, nil
	}
}

// Unlock takes away one lock of exactly this range, an exclusive one first
// (MS-FSA 2.1.5.9): ErrLockRange, ErrRangeNotLocked.
func Unlock(id OpenID, off, n uint64) Change {
	return func(r Record) (Record, Effects, error) {
		if badRange(off, n) {
			return r, Effects{}, ErrLockRange
		}
		found := -1
		for i := range r.Locks {
			l := &r.Locks[i]
			if l.Owner == id && l.Offset == off && l.Length == n {
				found = i
				if l.Exclusive {
					break
				}
			}
		}
		if found < 0 {
			return r, Effects{}, ErrRangeNotLocked
		}
		var fx Effects
		r.Locks = slices.Delete(slices.Clone(r.Locks), found, found+1)
		r, fx.Granted = grantWaiters(r)
		return r, fx, nil
	}
}

// grantWaiters grants what no lock blocks any more, first come first served.
func grantWaiters(r Record) (Record, []Ticket) {
	var granted []Ticket
	locks := slices.Clip(r.Locks)
	r.Waiters = keep(r.Waiters, func(w Waiter) bool {
		if blocked(locks, &w.Lock) {
			return true
		}
		locks = append(locks, w.Lock)
		granted = append(granted, w.Ticket)
		r.setSequence(w.Lock.Owner, w.Sequence, true)
		return false
	})
	r.Locks = locks
	return r, granted
}
