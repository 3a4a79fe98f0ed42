package state

import (
	"context"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// model keeps books of its own in the plainest way there is: who holds which byte.
type model struct {
	t     *rapid.T
	m     *Memory
	opens map[OpenID]Open
	going map[string]bool
	locks []Lock
}

const span = 12 // bytes that locks are about

func (s *model) bytes(l Lock) (b [span]bool) {
	for i := l.Offset; i < l.Offset+l.Length; i++ {
		b[i] = true
	}
	return b
}

func (s *model) lockable(want Lock, held []Lock) bool {
	w := s.bytes(want)
	for _, h := range held {
		for i, b := range s.bytes(h) {
			if !b || !w[i] {
				continue
			}
			if want.Exclusive || h.Exclusive && h.Owner != want.Owner {
				return false
			}
		}
	}
	return true
}

func (s *model) do(fn Change) (Effects, error) {
	return s.m.Update(context.Background(), file, fn)
}

func (s *model) some() (OpenID, bool) {
	if len(s.opens) == 0 {
		return 0, false
	}
	var ids []OpenID
	for id := range s.opens {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return rapid.SampledFrom(ids).Draw(s.t, "open"), true
}

func (s *model) open(t *rapid.T) {
	o := Open{ID: OpenID(rapid.IntRange(1, 6).Draw(t, "id")), Link: rapid.SampledFrom([]string{"A", "B"}).Draw(t, "link")}
	if _, there := s.opens[o.ID]; there {
		return
	}
	rights := []uint32{ReadData, WriteData, Delete}
	for i, r := range rights {
		if rapid.Bool().Draw(t, "asks") {
			o.Access |= r
		}
		if rapid.IntRange(0, 3).Draw(t, "shares") > 0 {
			o.Share |= 1 << i
		}
	}
	o.DeleteOnClose = o.Access&Delete != 0 && rapid.Bool().Draw(t, "delete on close")
	var want error
	for _, other := range s.opens {
		for i, r := range rights {
			if o.Access&r != 0 && other.Access != 0 && other.Share&(1<<i) == 0 ||
				other.Access&r != 0 && o.Access != 0 && o.Share&(1<<i) == 0 {
				want = ErrSharingViolation
			}
		}
	}
	if s.going[o.Link] {
		want = ErrDeletePending
	}
	if _, err := s.do(addOpen(o, 0)); !errors.Is(err, want) || want == nil && err != nil {
		t.Fatalf("open %+v: %v, want %v", o, err, want)
	}
	if want == nil {
		s.opens[o.ID] = o
	}
}

func (s *model) close(t *rapid.T) {
	id, ok := s.some()
	if !ok {
		return
	}
	link := s.opens[id].Link
	s.going[link] = s.going[link] || s.opens[id].DeleteOnClose
	delete(s.opens, id)
	s.locks = slices.DeleteFunc(s.locks, func(l Lock) bool { return l.Owner == id })
	last := true
	for _, o := range s.opens {
		last = last && o.Link != link
	}
	fx, err := s.do(RemoveOpen(id, false))
	if err != nil || fx.Delete != (last && s.going[link]) {
		t.Fatalf("close %d: %+v, %v; last %v, going %v", id, fx, err, last, s.going[link])
	}
	if fx.Delete {
		if _, err := s.do(Deleted(link)); err != nil {
			t.Fatal(err)
		}
		s.going[link] = false
	}
}

func (s *model) mark(t *rapid.T) {
	if id, ok := s.some(); ok {
		pending := rapid.Bool().Draw(t, "pending")
		if _, err := s.do(SetDeletePending(id, pending)); err != nil {
			t.Fatal(err)
		}
		s.going[s.opens[id].Link] = pending
	}
}

func drawLock(t *rapid.T, id OpenID) Lock {
	off := rapid.Uint64Range(0, span-1).Draw(t, "offset")
	return Lock{id, off, rapid.Uint64Range(1, span-off).Draw(t, "length"), rapid.Bool().Draw(t, "exclusive")}
}

func (s *model) lock(t *rapid.T) {
	id, ok := s.some()
	if !ok {
		return
	}
	var want []Lock
	held, fits := slices.Clone(s.locks), true
	for range rapid.IntRange(1, 3).Draw(t, "elements") {
		l := drawLock(t, id)
		fits = fits && s.lockable(l, held)
		held = append(held, l)
		want = append(want, l)
	}
	_, err := s.do(AddLocks(want))
	if fits != (err == nil) || !fits && !errors.Is(err, ErrLockNotGranted) {
		t.Fatalf("lock %+v over %+v: %v", want, s.locks, err)
	}
	if fits {
		s.locks = held
	}
}

func (s *model) unlock(t *rapid.T) {
	id, ok := s.some()
	if !ok {
		return
	}
	l := drawLock(t, id)
	if len(s.locks) > 0 && rapid.Bool().Draw(t, "one that is held") {
		l = rapid.SampledFrom(s.locks).Draw(t, "lock")
	}
	at := -1
	for _, exclusive := range []bool{true, false} {
		if at < 0 {
			at = slices.Index(s.locks, Lock{l.Owner, l.Offset, l.Length, exclusive})
		}
	}
	_, err := s.do(Unlock(l.Owner, l.Offset, l.Length))
	if (at >= 0) != (err == nil) {
		t.Fatalf("unlock %+v of %+v: %v", l, s.locks, err)
	}
	if at >= 0 {
		s.locks = slices.Delete(s.locks, at, at+1)
	}
}

func (s *model) access(t *rapid.T) {
	id, ok := s.some()
	if !ok {
		return
	}
	a := drawLock(t, id)
	want := false
	for i, b := range s.bytes(a) {
		for _, l := range s.locks {
			if b && s.bytes(l)[i] && (l.Exclusive && l.Owner != id || !l.Exclusive && a.Exclusive) {
				want = true
			}
		}
	}
	if got := s.m.Token(file).Conflicts(id, a.Offset, a.Length, a.Exclusive); got != want {
		t.Fatalf("access %+v under %+v: conflicts %v", a, s.locks, got)
	}
}

func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &model{t: t, m: NewMemory(), opens: map[OpenID]Open{}, going: map[string]bool{}}
		t.Repeat(map[string]func(*rapid.T){
			"open": s.open, "close": s.close, "mark": s.mark,
			"lock": s.lock, "unlock": s.unlock, "access": s.access,
			"": func(t *rapid.T) {
				r := record(t, s.m)
				if len(r.Opens) != len(s.opens) || len(r.Locks) != len(s.locks) {
					t.Fatalf("record %+v, model %d opens %d locks", r, len(s.opens), len(s.locks))
				}
			},
		})
	})
}
