package statetest

import "slices"

// lock is a locked range.
type lock struct {
	offset, length int
	exclusive      bool
}

func (l lock) overlaps(offset, length int) bool {
	for b := offset; b < offset+length; b++ {
		if b >= l.offset && b < l.offset+l.length {
			return true
		}
	}
	return false
}

// lockWait is a request that waits for its lock.
type lockWait struct {
	open *Open
	op   *Op
}

// Locked says whether anything is locked.
func (m *Model) Locked() bool { return m.anyLock() }

// Queue is the opens whose requests wait for locks, in order of arrival.
func (m *Model) Queue() (ids []int) {
	for _, w := range m.queue {
		ids = append(ids, w.open.ID)
	}
	return ids
}

func (m *Model) anyLock() bool {
	return slices.ContainsFunc(m.Opens, func(o *Open) bool { return len(o.locks) > 0 })
}

// lockedFor says whether a read or write is kept out (MS-FSA 2.1.4.10).
func (m *Model) lockedFor(o *Open, op *Op) bool {
	for _, other := range m.Opens {
		for _, l := range other.locks {
			if l.overlaps(op.Offset, op.Length) && (l.exclusive && other != o || !l.exclusive && op.Kind == "write") {
				return true
			}
		}
	}
	return false
}

// lockable says whether a lock may be taken: no byte is locked by anybody, unless
// the lock is shared, and so are those of others.
func (m *Model) lockable(o *Open, op *Op) bool {
	for _, other := range m.Opens {
		for _, l := range other.locks {
			if l.overlaps(op.Offset, op.Length) && (op.Exclusive || l.exclusive && other != o) {
				return false
			}
		}
	}
	return true
}

// done remembers the sequence of a request, or forgets it (MS-SMB2 3.3.5.14).
func (o *Open) done(op *Op, ok bool) {
	if op.Sequence == 0 {
		return
	}
	delete(o.sequence, op.Sequence)
	if ok {
		o.sequence[op.Sequence] = op.Number
	}
}

func (o *Open) repeats(op *Op) bool {
	n, ok := o.sequence[op.Sequence]
	return op.Sequence != 0 && ok && n == op.Number
}

func (m *Model) lock(o *Open, op *Op) string {
	switch {
	case o.repeats(op):
		return "ok"
	case m.lockable(o, op):
		o.locks = append(o.locks, lock{op.Offset, op.Length, op.Exclusive})
		o.done(op, true)
		return "ok"
	}
	o.done(op, false)
	if !op.Wait {
		return "not granted"
	}
	m.queue = append(m.queue, &lockWait{o, op})
	return "queued"
}

func (m *Model) unlock(o *Open, op *Op) string {
	if o.repeats(op) {
		return "ok"
	}
	for _, exclusive := range []bool{true, false} {
		if i := slices.Index(o.locks, lock{op.Offset, op.Length, exclusive}); i >= 0 {
			o.locks = slices.Delete(o.locks, i, i+1)
			o.done(op, true)
			m.grantLocks()
			return "ok"
		}
	}
	o.done(op, false)
	return "not locked"
}

// grantLocks grants what can be of what waits, first come first served.
func (m *Model) grantLocks() {
	m.queue = slices.DeleteFunc(m.queue, func(w *lockWait) bool {
		if !m.lockable(w.open, w.op) {
			return false
		}
		w.open.locks = append(w.open.locks, lock{w.op.Offset, w.op.Length, w.op.Exclusive})
		w.open.done(w.op, true)
		m.say("%d lock: granted", w.op.ID)
		return true
	})
}

// drop ends the requests of an open that wait for locks.
func (m *Model) drop(o *Open) {
	m.queue = slices.DeleteFunc(m.queue, func(w *lockWait) bool {
		if w.open == o {
			m.say("%d lock: dropped", w.op.ID)
		}
		return w.open == o
	})
}

func (m *Model) dropLocks(o *Open) {
	m.drop(o)
	o.locks = nil
	m.grantLocks()
}
