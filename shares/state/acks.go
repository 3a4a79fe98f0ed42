package state

import "slices"

// AckLease is a client's acknowledgment of a lease break (MS-SMB2 3.3.5.22.2):
// ErrUnknownLease, ErrNotBreaking (STATUS_UNSUCCESSFUL), ErrNotAccepted. What came
// meanwhile may break the lease again: send Effects.Breaks, after the response,
// which is of state.
func AckLease(key LeaseKey, state Caching) Change {
	return func(r Record) (Record, Effects, error) {
		i := r.findLease(key)
		if i < 0 {
			return r, Effects{}, ErrUnknownLease
		}
		l := r.Leases[i]
		switch {
		case !l.Breaking:
			return r, Effects{}, ErrNotBreaking
		case state&^l.BreakTo != 0:
			return r, Effects{}, ErrNotAccepted
		}
		var fx Effects
		needed := l.Needed
		l.Cache = Cache{State: state.without(0), Serial: l.Serial}
		fx.Lease = l
		if to, more := l.State.next(needed); more {
			fx.Breaks = []Break{l.notice(l.Cache.start(to, needed))}
		}
		r.Leases = slices.Clone(r.Leases)
		r.Leases[i] = l
		if !l.Breaking {
			r.retry(&fx)
		}
		return r, fx, nil
	}
}

// next is the next step from c to no more than needed, as Windows goes them: writes
// first, then handles, then reads. It is taken at once after the step before,
// without another epoch (MS-SMB2 3.3.4.7, note 248).
func (c Caching) next(needed Caching) (to Caching, more bool) {
	for _, b := range []Caching{CacheWrite, CacheHandle, CacheRead} {
		if c&b != 0 && needed&b == 0 {
			return c.without(b), true
		}
	}
	return c, false
}

// AckOplock is a client's acknowledgment of an oplock break (MS-SMB2 3.3.5.22.1):
// ErrUnknownOpen, ErrNotBreaking (STATUS_INVALID_DEVICE_STATE); ErrOplockProtocol
// and ErrNotAccepted are committed as acknowledgments of level none. level is
// none, LevelII, Exclusive or Batch; a client that answers with
// SMB2_OPLOCK_LEVEL_LEASE gets Update's error replaced by
// STATUS_INVALID_PARAMETER, for which level is Batch. The response is of
// Effects.Open.Oplock.State.
func AckOplock(id OpenID, level Caching) Change {
	return func(r Record) (Record, Effects, error) {
		i := r.find(id)
		if i < 0 {
			return r, Effects{}, ErrUnknownOpen
		}
		if c := r.Opens[i].Oplock; !c.Breaking && !c.Told {
			return r, Effects{}, ErrNotBreaking
		}
		var fx Effects
		r.Opens = slices.Clone(r.Opens)
		o := &r.Opens[i]
		o.Handle.Replayable = false
		c := &o.Oplock
		switch {
		case !c.Breaking: // a break to none of level II (MS-SMB2 3.3.4.6), which MS-FSA 2.1.5.19 has no acknowledgment of
			level, fx.Err = 0, ErrOplockProtocol
		case level == Batch, level == Exclusive && c.State == Exclusive:
			level, fx.Err = 0, ErrOplockProtocol
		case level == Exclusive:
			level = 0 // a batch oplock acknowledged so is none (MS-SMB2 3.3.5.22.1)
		case level&^c.Needed != 0:
			level, fx.Err = 0, ErrNotAccepted
		}
		if c.Breaking {
			r.retry(&fx)
		}
		*c = Cache{State: level, Serial: c.Serial}
		fx.Open = *o
		return r, fx, nil
	}
}

// BreakUnsent is for a break of which its holder could not be told, because he has
// no connection any more, which the record may not know yet. He keeps what he
// would if it did (MS-SMB2 3.3.4.6, 3.3.4.7): a persistent open its caching, whose
// break he is told of when he is back; a resilient one nothing but itself; others
// go, in Effects.Close.
func BreakUnsent(br Break) Change {
	return func(r Record) (Record, Effects, error) {
		var fx Effects
		b := breaking{r: &r, fx: &fx}
		if br.IsLease {
			i := r.findLease(br.Lease)
			if i < 0 || !r.Leases[i].Breaking || r.Leases[i].Serial != br.Serial {
				return r, fx, nil
			}
			if r.hasPersistent(br.Lease) {
				b.ownLeases()
				r.Leases[i].Unsent = true
				return r, fx, nil
			}
			b.breakAbandoned(i)
		} else {
			i := r.find(br.Open)
			if i < 0 || !r.Opens[i].Oplock.Breaking || r.Opens[i].Oplock.Serial != br.Serial {
				return r, fx, nil
			}
			b.ownOpens()
			o := &r.Opens[i]
			if o.Handle.Kind == Persistent {
				o.Oplock.Unsent = true
				return r, fx, nil
			}
			o.Oplock = Cache{Serial: br.Serial}
			if o.Handle.Kind != Resilient {
				b.close(i)
			}
		}
		if !b.wait { // else they try again when those have gone
			r.retry(&fx)
		}
		return r, fx, nil
	}
}

// hasPersistent says whether a persistent open has the lease.
func (r *Record) hasPersistent(k LeaseKey) bool {
	return slices.ContainsFunc(r.Opens, func(o Open) bool { return o.HasLease && o.Lease == k && o.Handle.Kind == Persistent })
}

// BreakTimeout ends a break its holder has not acknowledged in time: all its caching is gone (MS-SMB2 3.3.6.1, 3.3.6.5). A break that is
// over already stays as it is.
func BreakTimeout(br Break) Change {
	return func(r Record) (Record, Effects, error) {
		var fx Effects
		if br.IsLease {
			i := r.findLease(br.Lease)
			if i < 0 || !r.Leases[i].Breaking || r.Leases[i].Serial != br.Serial {
				return r, fx, nil
			}
			r.Leases = slices.Clone(r.Leases)
			r.Leases[i].Cache = Cache{Serial: br.Serial}
		} else {
			i := r.find(br.Open)
			if i < 0 || !r.Opens[i].Oplock.Breaking || r.Opens[i].Oplock.Serial != br.Serial {
				return r, fx, nil
			}
			r.Opens = slices.Clone(r.Opens)
			r.Opens[i].Oplock = Cache{Serial: br.Serial}
		}
		r.retry(&fx)
		return r, fx, nil
	}
}
