package state

import (
	"slices"
	"sync/atomic"
)

// Token is what READ and WRITE ask about byte-range locks and others' caching,
// without waiting for anybody: mostly it says that there are none. It follows the file's record: a
// lock is in it before the request that took the lock is answered.
//
// An access that asked before a lock was granted may still be on its way to the
// file when the lock's holder is answered. Its request was sent before that
// answer, so no client can have meant it to come after; a store that several
// nodes share has to drain such accesses before it grants, as it takes Tokens back.
type Token struct {
	locks   atomic.Pointer[[]Lock]  // nil: none. What it points to never changes.
	readers atomic.Pointer[readers] // nil: nobody caches reads. As locks.
}

// readers are who caches what it reads.
type readers struct {
	anybody bool     // whoever writes has to break some of it
	opens   []OpenID // in order: those that do not, because all of it is theirs
}

func (t *Token) publish(r *Record) {
	t.publishLocks(r.Locks)
	now := r.readers()
	if p := t.readers.Load(); p == nil && now == nil ||
		p != nil && now != nil && p.anybody == now.anybody && slices.Equal(p.opens, now.opens) {
		return
	}
	t.readers.Store(now)
}

// readers finds whose read caching a write would end. A level II oplock goes with
// its own open's writes too.
func (r *Record) readers() *readers {
	var lease *Lease
	var open OpenID
	n := 0
	for i := range r.Leases {
		if r.Leases[i].left()&CacheRead != 0 {
			lease = &r.Leases[i]
			n++
		}
	}
	for i := range r.Opens {
		switch left := r.Opens[i].Oplock.left(); {
		case left == LevelII && !r.Opens[i].Oplock.Breaking:
			return &readers{anybody: true}
		case left != 0:
			open = r.Opens[i].ID
			n++
		}
	}
	switch {
	case n == 0:
		return nil
	case n > 1:
		return &readers{anybody: true}
	case lease == nil:
		return &readers{opens: []OpenID{open}}
	}
	out := new(readers)
	for i := range r.Opens {
		if r.Opens[i].HasLease && r.Opens[i].Lease == lease.Key {
			out.opens = append(out.opens, r.Opens[i].ID)
		}
	}
	slices.Sort(out.opens)
	return out
}

// MustBreak says whether a write through open has to commit BreakForWrite first,
// because somebody caches what he has read.
func (t *Token) MustBreak(open OpenID) bool {
	p := t.readers.Load()
	if p == nil {
		return false
	}
	if p.anybody {
		return true
	}
	_, own := slices.BinarySearch(p.opens, open)
	return !own
}

func (t *Token) publishLocks(locks []Lock) {
	if len(locks) == 0 {
		if t.locks.Load() != nil {
			t.locks.Store(nil)
		}
		return
	}
	if p := t.locks.Load(); p != nil && len(*p) == len(locks) && &(*p)[0] == &locks[0] {
		return
	}
	t.locks.Store(&locks)
}

// Conflicts says whether a lock keeps open from reading (or writing) n bytes at
// off. No bytes conflict with nothing.
func (t *Token) Conflicts(open OpenID, off, n uint64, write bool) bool {
	p := t.locks.Load()
	if p == nil || n == 0 {
		return false
	}
	for i := range *p {
		if (*p)[i].conflicts(open, off, n, write, false) {
			return true
		}
	}
	return false
}
