package state

import (
	"slices"
	"time"
)

// durable is what of a record outlives the process: its persistent opens and what
// is theirs. was is what is kept of it so far.
//
// The last open of a link that is going is kept, as it was, until Deleted says that
// the name is gone, although it is in the record no more: a loss of power in between
// must not leave a file that was to go, with nobody left to delete it. Its client
// gets the open back and closes it again.
func (r *Record) durable(was *Record) Record {
	var out Record
	for i := range r.Opens {
		if r.Opens[i].Handle.Kind == Persistent {
			out.Opens = append(out.Opens, r.Opens[i].kept())
		}
	}
	locks, leases := slices.Clip(r.Locks), slices.Clip(r.Leases)
	for i := range was.Opens {
		o := &was.Opens[i]
		left := func(p Open) bool { return p.ID == o.ID || p.Link == o.Link }
		if !r.IsDeleting(o.Link) || slices.ContainsFunc(r.Opens, left) {
			continue
		}
		out.Opens = append(out.Opens, *o)
		for _, l := range was.Locks {
			if l.Owner == o.ID {
				locks = append(locks, l)
			}
		}
		if o.HasLease && !slices.ContainsFunc(leases, func(l Lease) bool { return l.Key == o.Lease }) {
			leases = append(leases, was.Leases[was.findLease(o.Lease)])
		}
	}
	if len(out.Opens) == 0 {
		return Record{}
	}
	has := func(match func(*Open) bool) bool {
		return slices.ContainsFunc(out.Opens, func(o Open) bool { return match(&o) })
	}
	for _, l := range locks {
		if has(func(o *Open) bool { return o.ID == l.Owner }) {
			out.Locks = append(out.Locks, l)
		}
	}
	for _, link := range r.Deleting {
		if has(func(o *Open) bool { return o.Link == link }) {
			out.Deleting = append(out.Deleting, link)
		}
	}
	for _, l := range leases {
		if has(func(o *Open) bool { return o.HasLease && o.Lease == l.Key }) {
			l.Unsent = false
			out.Leases = append(out.Leases, l)
		}
	}
	return out
}

// kept is an open without what a restart decides.
func (o *Open) kept() Open {
	k := *o
	k.Closing, k.Oplock.Unsent, k.Oplock.Told, k.Former = false, false, false, ""
	k.Handle.Replayable, k.Handle.Disconnected, k.Handle.Deadline = false, false, time.Time{}
	return k
}

// Recover is Relink by a server that starts, and finds what was open by from under
// another name.
func Recover(from, to string) Change {
	relink := Relink(from, to)
	return func(r Record) (Record, Effects, error) {
		next, fx, err := relink(r)
		next.Opens = slices.Clone(next.Opens)
		for i := range next.Opens {
			if i < len(r.Opens) && r.Opens[i].Link == from {
				next.Opens[i].Former = from
			}
		}
		return next, fx, err
	}
}

// restore makes a durable record one of a server that has just started: its opens
// wait for their clients, each for its full timeout from now.
func (r *Record) restore(now time.Time) {
	for i := range r.Opens {
		o := &r.Opens[i]
		o.Oplock.Unsent = o.Oplock.Breaking
		h := &o.Handle
		h.Replayable, h.Disconnected, h.Deadline = true, true, now.Add(h.Timeout)
	}
	for i := range r.Leases {
		r.Leases[i].Unsent = r.Leases[i].Breaking
	}
}
