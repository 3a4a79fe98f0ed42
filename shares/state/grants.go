package state

import "slices"

// LeaseRequest is what a CREATE asks for with "RqLs" (MS-SMB2 2.2.13.2.8, 2.2.13.2.10).
type LeaseRequest struct {
	Key       LeaseKey
	Version   uint8
	HasParent bool
	Parent    [16]byte
	Epoch     uint16 // as the client sent it; the lease counts on from there
}

// grant gives the last open of the record what the request wants of caching, or
// less (MS-SMB2 3.3.5.9.8, 3.3.5.9.11, "Oplock Acquisition"; MS-FSA 2.1.5.18).
func (r *Record) grant(q *OpenRequest) {
	o := &r.Opens[len(r.Opens)-1]
	if !o.HasLease {
		o.Oplock = Cache{State: r.grantOplock(q)}
		return
	}
	i := r.findLease(o.Lease)
	if i < 0 {
		l := Lease{
			Key: o.Lease, Version: q.Lease.Version, HasParent: q.Lease.HasParent, Parent: q.Lease.Parent,
			Epoch: q.Lease.Epoch,
		}
		r.Leases = append(slices.Clip(r.Leases), l)
		i = len(r.Leases) - 1
	} else {
		r.Leases = slices.Clone(r.Leases)
	}
	l := &r.Leases[i]
	if l.Breaking {
		return
	}
	if state := r.grantLease(q, l.State); state != l.State {
		l.State = state
		l.Epoch++
	}
}

// grantLease is the state of the lease of the new open, which is held now. It
// never shrinks, and grows only to what contains it.
func (r *Record) grantLease(q *OpenRequest, held Caching) Caching {
	want := q.Want
	if q.Dir {
		want &^= CacheWrite
		if q.Lease.Version < 2 {
			want = 0
		}
	}
	want = want.without(0)
	if want == held || held&^want != 0 {
		return held
	}
	less := []Caching{0, CacheWrite, CacheWrite | CacheHandle}
	if held != 0 {
		less = less[:1] // a promotion is granted as a whole (smb2.lease.upgrade3)
	}
	for _, l := range less {
		if try := want.without(l); try != 0 && r.leaseFits(q, try) {
			return try
		}
	}
	return held
}

// leaseFits says whether the lease of the new open may have state beside what
// others have (MS-FSA 2.1.5.18.1 and 2.1.5.18.2). Opens for attributes alone do
// not matter to write caching, although 2.1.5.18.1 counts them: they neither see
// data nor change it, and Windows does not count them (smb2.lease.statopen3). An
// open of another key without any caching does, although only NO_OPLOCK counts it
// there: nobody would take the writes from the cache before it reads.
func (r *Record) leaseFits(q *OpenRequest, state Caching) bool {
	if state&CacheHandle != 0 && slices.Contains(r.Deleting, q.Open.Link) {
		return false
	}
	exclusive := state&CacheWrite != 0
	if !exclusive && r.lockedBelow(q.Allocation) {
		return false
	}
	for i := range r.Opens {
		o := &r.Opens[i]
		if o.ID == q.Open.ID || o.OfStream || o.HasLease && o.Lease == q.Lease.Key {
			continue
		}
		switch {
		case exclusive && o.Access&^leaseStat != 0, o.Oplock.Breaking, o.Oplock.State&CacheWrite != 0:
			return false
		case o.Oplock.State != 0 && state != CacheRead:
			return false
		}
	}
	for i := range r.Leases {
		l := &r.Leases[i]
		if l.Key != q.Lease.Key && (l.State&CacheWrite != 0 || exclusive && l.State != 0) {
			return false
		}
	}
	return true
}

// grantOplock is the oplock of the new open.
func (r *Record) grantOplock(q *OpenRequest) Caching {
	want := q.Want
	if q.Dir || want == 0 {
		return 0
	}
	if want&CacheWrite != 0 && r.fileOpens() == 1 {
		return want
	}
	if r.lockedBelow(q.Allocation) {
		return 0
	}
	for i := range r.Opens {
		if c := &r.Opens[i].Oplock; c.Breaking || c.State&CacheWrite != 0 {
			return 0
		}
	}
	for i := range r.Leases {
		if l := &r.Leases[i]; l.Breaking || l.State&(CacheWrite|CacheHandle) != 0 {
			return 0
		}
	}
	return LevelII
}

// lockedBelow says whether a byte range below the allocation size is locked.
func (r *Record) lockedBelow(allocation uint64) bool {
	return slices.ContainsFunc(r.Locks, func(l Lock) bool { return l.Offset < allocation })
}
