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
		lost := state &^ l.Needed
		l.State, l.Breaking = state.without(0), false
		fx.Lease = l
		if l.State&lost != 0 {
			br, _ := l.Cache.lower(lost)
			br.IsLease, br.Lease, br.Version = true, l.Key, l.Version
			fx.Breaks = []Break{br}
		}
		r.Leases = slices.Clone(r.Leases)
		r.Leases[i] = l
		r.forgetReplay(key)
		r.retry(&fx)
		return r, fx, nil
	}
}

// forgetReplay ends that opens of a lease can be replayed (MS-SMB2 3.3.5.22.2).
func (r *Record) forgetReplay(key LeaseKey) {
	copied := false
	for i := range r.Opens {
		if o := &r.Opens[i]; o.Handle.Replayable && o.HasLease && o.Lease == key {
			if !copied {
				r.Opens, copied = slices.Clone(r.Opens), true
			}
			r.Opens[i].Handle.Replayable = false
		}
	}
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
		if !r.Opens[i].Oplock.Breaking {
			return r, Effects{}, ErrNotBreaking
		}
		var fx Effects
		r.Opens = slices.Clone(r.Opens)
		o := &r.Opens[i]
		o.Handle.Replayable = false
		c := &o.Oplock
		switch {
		case level == Batch, level == Exclusive && c.State == Exclusive:
			level, fx.Err = 0, ErrOplockProtocol
		case level == Exclusive:
			level = 0 // a batch oplock acknowledged so is none (MS-SMB2 3.3.5.22.1)
		case level&^c.Needed != 0:
			level, fx.Err = 0, ErrNotAccepted
		}
		c.State, c.Breaking = level, false
		fx.Open = *o
		r.retry(&fx)
		return r, fx, nil
	}
}

// BreakTimeout ends a break its holder has not acknowledged in time, or could not
// be told of: all its caching is gone (MS-SMB2 3.3.6.1, 3.3.6.5). A break that is
// over already stays as it is.
func BreakTimeout(br Break) Change {
	return func(r Record) (Record, Effects, error) {
		var fx Effects
		if br.IsLease {
			i := r.findLease(br.Lease)
			if i < 0 || !r.Leases[i].Breaking || r.Leases[i].Epoch != br.Epoch {
				return r, fx, nil
			}
			r.Leases = slices.Clone(r.Leases)
			r.Leases[i].Cache = Cache{Epoch: br.Epoch}
		} else {
			i := r.find(br.Open)
			if i < 0 || !r.Opens[i].Oplock.Breaking || r.Opens[i].Oplock.Epoch != br.Epoch {
				return r, fx, nil
			}
			r.Opens = slices.Clone(r.Opens)
			r.Opens[i].Oplock = Cache{Epoch: br.Epoch}
		}
		r.retry(&fx)
		return r, fx, nil
	}
}
