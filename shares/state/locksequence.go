package state

import "slices"

// LockSequence numbers a LOCK request (MS-SMB2 2.2.26). The zero value is that of
// one without.
type LockSequence struct {
	Index  uint8 // 1 to 64
	Number uint8 // 0 to 15
}

// Once is do for a LOCK request of an open that verifies lock sequences (MS-SMB2
// 3.3.5.14): Effects.Replayed says that the request has been done before, and is
// to be answered with success. Else do is committed, and its success remembered
// with it. What do fails with comes back by Effects.Err, because the sequence
// that was there is forgotten all the same.
func Once(id OpenID, seq LockSequence, do Change) Change {
	if seq.Index == 0 || seq.Index > 64 {
		return do
	}
	return func(r Record) (Record, Effects, error) {
		i := r.find(id)
		if i < 0 {
			return r, Effects{}, ErrUnknownOpen
		}
		was := r.Opens[i].Handle.LockSequences[seq.Index-1]
		if was == seq.Number+1 {
			return r, Effects{Replayed: true}, nil
		}
		next, fx, err := do(r)
		switch {
		case err != nil:
			r.setSequence(id, LockSequence{Index: seq.Index}, false)
			return r, Effects{Err: err}, nil
		case len(next.Waiters) > len(r.Waiters):
			next.setSequence(id, seq, false)
			next.Waiters[len(next.Waiters)-1].Sequence = seq
		default:
			next.setSequence(id, seq, true)
		}
		return next, fx, nil
	}
}

// setSequence remembers that a request has been done, or forgets its predecessor.
func (r *Record) setSequence(id OpenID, seq LockSequence, done bool) {
	i := r.find(id)
	var entry uint8
	if done {
		entry = seq.Number + 1
	}
	if i < 0 || seq.Index == 0 || r.Opens[i].Handle.LockSequences[seq.Index-1] == entry {
		return
	}
	r.Opens = slices.Clone(r.Opens)
	r.Opens[i].Handle.LockSequences[seq.Index-1] = entry
}
