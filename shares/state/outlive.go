package state

import (
	"slices"
	"time"
)

// durable is what of a record outlives the process: its persistent opens and what
// is theirs. was is what is kept of it so far.
//
// The last open of a link that is going is kept until Deleted says that the name
// is gone, although it is in the record no more: a loss of power in between must
// not leave a file that was to go, with nobody left to delete it. Its client gets
// the open back and closes it again.
func (r *Record) durable(was *Record) Record {
	var out Record
	for i := range r.Opens {
		if r.Opens[i].Handle.Kind == Persistent {
			out.Opens = append(out.Opens, r.Opens[i].kept())
		}
	}
	for i := range was.Opens {
		o := &was.Opens[i]
		left := func(p Open) bool { return p.ID == o.ID || p.Link == o.Link }
		if r.IsDeleting(o.Link) && !slices.ContainsFunc(r.Opens, left) {
			out.Opens = append(out.Opens, *o)
		}
	}
	if len(out.Opens) == 0 {
		return Record{}
	}
	has := func(match func(*Open) bool) bool {
		return slices.ContainsFunc(out.Opens, func(o Open) bool { return match(&o) })
	}
	for _, l := range r.Locks {
		if has(func(o *Open) bool { return o.ID == l.Owner }) {
			out.Locks = append(out.Locks, l)
		}
	}
	for _, link := range r.Deleting {
		if has(func(o *Open) bool { return o.Link == link }) {
			out.Deleting = append(out.Deleting, link)
		}
	}
	for i := range r.Leases {
		if has(func(o *Open) bool { return o.HasLease && o.Lease == r.Leases[i].Key }) {
			l := r.Leases[i]
			l.Unsent = false
			out.Leases = append(out.Leases, l)
		}
	}
	for i := range out.Opens { // kept for its link alone
		if o := &out.Opens[i]; o.HasLease && out.findLease(o.Lease) < 0 {
			o.HasLease, o.Lease = false, LeaseKey{}
		}
	}
	return out
}

// kept is an open without what a restart decides.
func (o *Open) kept() Open {
	k := *o
	k.Closing, k.Oplock.Unsent, k.Oplock.Told = false, false, false
	k.Handle.Replayable, k.Handle.Disconnected, k.Handle.Deadline = false, false, time.Time{}
	return k
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
