package state

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"lunless/shares/fs"
)

var file = fs.FileID{Volume: 1, Inode: 7}

func update(t testing.TB, m Store, fn Change, want error) Effects {
	t.Helper()
	fx, err := m.Update(context.Background(), file, fn)
	if !errors.Is(err, want) || (want == nil && err != nil) {
		t.Fatalf("Update: %v, want %v", err, want)
	}
	return fx
}

func addOpen(o Open, transient uint32) Change {
	return AddOpen(OpenRequest{Open: o, Transient: transient})
}

func record(t interface{ Fatal(...any) }, m Store) Record {
	var out Record
	if _, err := m.Update(context.Background(), file, func(r Record) (Record, Effects, error) {
		out = r
		return r, Effects{}, nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// The matrix of MS-FSA 2.1.5.1.2.2: what each kind of access needs of the other's share mode.
func TestShareModes(t *testing.T) {
	const all = ShareRead | ShareWrite | ShareDelete
	tests := []struct {
		name            string
		access1, share1 uint32
		access2, share2 uint32
		transient       uint32
		want            error
	}{
		{"readers share read", ReadData, ShareRead, ReadData, ShareRead, 0, nil},
		{"reader denies read", ReadData, 0, ReadData, ShareRead, 0, ErrSharingViolation},
		{"second denies read", ReadData, ShareRead, ReadData, 0, 0, ErrSharingViolation},
		{"execute counts as read", Execute, all, ReadData, ShareWrite, 0, ErrSharingViolation},
		{"writer against read-only sharing", ReadData, ShareRead, WriteData, all, 0, ErrSharingViolation},
		{"append counts as write", ReadData, ShareRead, AppendData, all, 0, ErrSharingViolation},
		{"writers share write", WriteData, ShareWrite, WriteData, ShareWrite, 0, nil},
		{"delete against no delete sharing", ReadData, ShareRead | ShareWrite, Delete, all, 0, ErrSharingViolation},
		{"delete shared", ReadData, all, Delete, all, 0, nil},
		{"opener denies delete that is there", Delete, all, ReadData, ShareRead | ShareWrite, 0, ErrSharingViolation},
		{"attributes conflict with nobody", 0x80, 0, ReadData | WriteData | Delete, 0, 0, nil},
		{"nobody conflicts with attributes", ReadData | WriteData | Delete, 0, 0x100180, 0, 0, nil},
		{"WRITE_DAC conflicts with nobody", 0x40000, 0, WriteData, 0, 0, nil},
		{"overwriting writes", ReadData, ShareRead, ReadData, ShareRead, WriteData, ErrSharingViolation},
		{"overwriting for attributes writes", ReadData, ShareRead, 0x80, all, WriteData, ErrSharingViolation},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := NewMemory()
			update(t, m, addOpen(Open{ID: 1, Access: tt.access1, Share: tt.share1}, 0), nil)
			update(t, m, addOpen(Open{ID: 2, Access: tt.access2, Share: tt.share2}, tt.transient), tt.want)
			n := 2
			if tt.want != nil {
				n = 1
			}
			if got := record(t, m).Opens; len(got) != n {
				t.Errorf("%d opens, want %d", len(got), n)
			}
		})
	}
}

func TestTransientRightsAreNotKept(t *testing.T) {
	m := NewMemory()
	update(t, m, addOpen(Open{ID: 1, Access: ReadData, Share: ShareRead}, WriteData), nil)
	update(t, m, addOpen(Open{ID: 2, Access: ReadData, Share: ShareRead}, 0), nil)
}

func TestDeletePending(t *testing.T) {
	m := NewMemory()
	all := Open{Access: ReadData | Delete, Share: 7, Link: "A"}
	o1, o2, other := all, all, all
	o1.ID, o2.ID, other.ID, other.Link = 1, 2, 3, "B"
	update(t, m, addOpen(o1, 0), nil)
	update(t, m, addOpen(o2, 0), nil)
	update(t, m, addOpen(other, 0), nil)
	update(t, m, SetDeletePending(1, true), nil)
	update(t, m, addOpen(Open{ID: 4, Link: "A"}, 0), ErrDeletePending)
	update(t, m, addOpen(Open{ID: 5, Link: "B", Share: 7}, 0), nil)
	if fx := update(t, m, RemoveOpen(1, false), nil); fx.Delete {
		t.Error("deleted while another open of the link is there")
	}
	if fx := update(t, m, RemoveOpen(2, false), nil); !fx.Delete {
		t.Error("not deleted with the link's last open")
	}
	update(t, m, addOpen(Open{ID: 6, Link: "A"}, 0), ErrDeletePending) // until the name is gone
	update(t, m, Deleted("A"), nil)
	update(t, m, addOpen(Open{ID: 6, Link: "A"}, 0), nil)
	update(t, m, SetDeletePending(6, true), nil)
	update(t, m, SetDeletePending(6, false), nil)
	if fx := update(t, m, RemoveOpen(6, false), nil); fx.Delete {
		t.Error("deleted although the mark was taken back")
	}
}

func TestDeleteOnClose(t *testing.T) {
	m := NewMemory()
	update(t, m, addOpen(Open{ID: 1, Access: Delete, Share: 7, Link: "A", DeleteOnClose: true}, 0), nil)
	update(t, m, addOpen(Open{ID: 2, Access: ReadData, Share: 7, Link: "A"}, 0), nil)
	if fx := update(t, m, RemoveOpen(1, false), nil); fx.Delete {
		t.Error("deleted under an open")
	}
	update(t, m, addOpen(Open{ID: 3, Access: ReadData, Share: 7, Link: "A"}, 0), ErrDeletePending)
	if fx := update(t, m, RemoveOpen(2, false), nil); !fx.Delete {
		t.Error("not deleted with the last open")
	}
}

func TestDeleteOnCloseOfFullFolder(t *testing.T) {
	m := NewMemory()
	update(t, m, addOpen(Open{ID: 1, Access: Delete, Share: 7, Link: "A", DeleteOnClose: true}, 0), nil)
	if fx := update(t, m, RemoveOpen(1, true), nil); fx.Delete {
		t.Error("deleted all the same")
	}
	update(t, m, addOpen(Open{ID: 2, Access: Delete, Share: 7, Link: "A"}, 0), nil)
	update(t, m, SetDeletePending(2, true), nil)
	if fx := update(t, m, RemoveOpen(2, true), nil); !fx.Delete {
		t.Error("a delete that was asked for counts, whatever the folder holds")
	}
}

func TestRenamedWhileDeleting(t *testing.T) {
	m := NewMemory()
	update(t, m, addOpen(Open{ID: 1, Access: Delete, Share: 7, Link: "A", DeleteOnClose: true}, 0), nil)
	update(t, m, Replaceable("A"), ErrInUse)
	update(t, m, Relink("A", "B"), nil)
	if r := record(t, m); r.Opens[0].Link != "B" {
		t.Errorf("link %q", r.Opens[0].Link)
	}
	if fx := update(t, m, RemoveOpen(1, false), nil); !fx.Delete {
		t.Error("not deleted")
	}
	update(t, m, Replaceable("B"), ErrDeletePending)
	update(t, m, Deleted("B"), nil)
	update(t, m, Replaceable("B"), nil)
}

type step struct {
	do   Change
	want error
}

func lock(id OpenID, off, n uint64) Lock  { return Lock{id, off, n, true} }
func share(id OpenID, off, n uint64) Lock { return Lock{id, off, n, false} }
func locks(l ...Lock) Change              { return AddLocks(l) }

const maxOff = 1<<64 - 1

func TestLocks(t *testing.T) {
	tests := []struct {
		name  string
		steps []step
	}{
		{"exclusive excludes", []step{{locks(lock(1, 0, 10)), nil}, {locks(lock(2, 9, 1)), ErrLockNotGranted}, {locks(lock(2, 10, 1)), nil}}},
		{"even the owner's exclusive", []step{{locks(lock(1, 0, 10)), nil}, {locks(lock(1, 0, 10)), ErrLockNotGranted}}},
		{"shared over one's own exclusive", []step{{locks(lock(1, 0, 10)), nil}, {locks(share(1, 0, 10)), nil}, {locks(share(2, 0, 10)), ErrLockNotGranted}}},
		{"shared stack", []step{{locks(share(1, 0, 10)), nil}, {locks(share(1, 0, 10)), nil}, {locks(share(2, 5, 10)), nil}, {locks(lock(1, 0, 1)), ErrLockNotGranted}}},
		{"unlock wants the exact range", []step{{locks(lock(1, 0, 10)), nil}, {Unlock(1, 0, 9), ErrRangeNotLocked}, {Unlock(2, 0, 10), ErrRangeNotLocked}, {Unlock(1, 0, 10), nil}, {Unlock(1, 0, 10), ErrRangeNotLocked}}},
		{"exclusive goes first", []step{{locks(lock(1, 0, 10)), nil}, {locks(share(1, 0, 10)), nil}, {Unlock(1, 0, 10), nil}, {locks(share(2, 0, 10)), nil}, {Unlock(1, 0, 10), nil}}},
		{"no bytes at an edge", []step{{locks(lock(1, 10, 10)), nil}, {locks(lock(2, 10, 0)), nil}, {locks(lock(2, 20, 0)), nil}}},
		{"no bytes inside", []step{{locks(lock(1, 10, 10)), nil}, {locks(lock(2, 11, 0)), ErrLockNotGranted}}},
		{"around no bytes", []step{{locks(lock(1, 10, 0)), nil}, {locks(lock(2, 10, 1)), nil}, {locks(lock(2, 5, 5)), nil}, {locks(lock(1, 30, 0)), nil}, {locks(lock(2, 29, 2)), ErrLockNotGranted}}},
		{"no bytes at 0 never conflict", []step{{locks(lock(1, 0, 0)), nil}, {locks(lock(2, 0, 0)), nil}, {locks(lock(2, 0, maxOff)), nil}}},
		{"to the last byte", []step{{locks(lock(1, maxOff, 1)), nil}, {locks(lock(2, maxOff, 1)), ErrLockNotGranted}, {locks(lock(2, 0, maxOff)), nil}}},
		{"past the last byte", []step{{locks(lock(1, maxOff, 2)), ErrLockRange}, {Unlock(1, 2, maxOff), ErrLockRange}, {locks(lock(1, maxOff, 0)), nil}}},
		{"all or nothing", []step{{locks(lock(1, 0, 10)), nil}, {locks(lock(2, 20, 5), lock(2, 5, 5)), ErrLockNotGranted}, {locks(lock(1, 20, 5)), nil}}},
		{"elements of one request conflict", []step{{locks(lock(1, 0, 10), lock(1, 5, 1)), ErrLockNotGranted}, {locks(lock(2, 0, 10)), nil}}},
		{"close unlocks", []step{{locks(lock(1, 0, 10)), nil}, {RemoveOpen(1, false), nil}, {locks(lock(2, 0, 10)), nil}}},
		{"no such open", []step{{locks(lock(9, 0, 1)), ErrUnknownOpen}, {RemoveOpen(9, false), ErrUnknownOpen}, {SetDeletePending(9, true), ErrUnknownOpen}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := NewMemory()
			for id := OpenID(1); id <= 2; id++ {
				update(t, m, addOpen(Open{ID: id, Access: ReadData | WriteData, Share: 7}, 0), nil)
			}
			for i, s := range tt.steps {
				if _, err := m.Update(context.Background(), file, s.do); !errors.Is(err, s.want) || s.want == nil && err != nil {
					t.Fatalf("step %d: %v, want %v", i+1, err, s.want)
				}
			}
		})
	}
}

func TestLocksAreBounded(t *testing.T) {
	m := NewMemory()
	update(t, m, addOpen(Open{ID: 1, Access: WriteData, Share: 7}, 0), nil)
	many := make([]Lock, MaxLocks)
	for i := range many {
		many[i] = lock(1, uint64(i), 1)
	}
	update(t, m, AddLocks(many[1:]), nil)
	update(t, m, AddLocks(append(many[:1:1], lock(1, MaxLocks, 1))), ErrTooManyLocks)
	update(t, m, AddLocks(many[:1]), nil)
	ticket, _ := m.NewTicket()
	update(t, m, AddLockOrWait(lock(1, 0, 1), ticket), ErrTooManyLocks)
	m.ReleaseTicket(ticket)
	update(t, m, Unlock(1, 5, 1), nil)
	update(t, m, AddLocks(many[5:6]), nil)
}

func TestToken(t *testing.T) {
	m := NewMemory()
	for id := OpenID(1); id <= 2; id++ {
		update(t, m, addOpen(Open{ID: id, Access: ReadData | WriteData, Share: 7}, 0), nil)
	}
	tok := m.Token(file)
	if tok.Conflicts(1, 0, 100, true) {
		t.Error("conflict without locks")
	}
	update(t, m, locks(lock(1, 10, 10), share(2, 30, 10)), nil)
	tests := []struct {
		open   OpenID
		off, n uint64
		write  bool
		want   bool
	}{
		{2, 0, 10, false, false}, {2, 0, 11, false, true}, {2, 19, 1, true, true}, {2, 20, 1, true, false},
		{1, 10, 10, true, false}, {1, 10, 10, false, false}, // the owner of an exclusive lock
		{1, 30, 1, false, false}, {1, 30, 1, true, true}, {2, 30, 1, true, true}, // shared: nobody writes
		{2, 15, 0, false, false}, {2, 15, 0, true, false}, // no bytes
	}
	for _, tt := range tests {
		if got := tok.Conflicts(tt.open, tt.off, tt.n, tt.write); got != tt.want {
			t.Errorf("%+v: got %v", tt, got)
		}
	}
	update(t, m, Unlock(1, 10, 10), nil)
	update(t, m, Unlock(2, 30, 10), nil)
	if tok.Conflicts(2, 10, 30, true) {
		t.Error("conflict after unlock")
	}
	if n := testing.AllocsPerRun(100, func() { tok.Conflicts(1, 0, 4096, true) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestWaiters(t *testing.T) {
	m := NewMemory()
	for id := OpenID(1); id <= 3; id++ {
		update(t, m, addOpen(Open{ID: id, Access: ReadData | WriteData, Share: 7}, 0), nil)
	}
	update(t, m, locks(lock(1, 0, 10)), nil)
	t2, c2 := m.NewTicket()
	t3, c3 := m.NewTicket()
	update(t, m, AddLockOrWait(lock(2, 5, 1), t2), nil)
	update(t, m, AddLockOrWait(share(3, 5, 1), t3), nil)
	update(t, m, Unlock(1, 0, 10), nil)
	if err := <-c2; err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-c3:
		t.Fatalf("second waiter: %v, want it to wait", err)
	default:
	}
	update(t, m, CancelWait(t2), ErrRangeNotLocked)
	update(t, m, RemoveOpen(3, false), nil)
	if err := <-c3; !errors.Is(err, ErrRangeNotLocked) {
		t.Fatalf("waiter of a closed open: %v", err)
	}
	t1, _ := m.NewTicket()
	update(t, m, AddLockOrWait(lock(1, 5, 1), t1), nil)
	update(t, m, CancelWait(t1), nil)
	m.ReleaseTicket(t1)
	update(t, m, RemoveOpen(2, false), nil)
	if r := record(t, m); len(r.Locks)+len(r.Waiters) != 0 {
		t.Errorf("left behind: %+v", r)
	}
	t4, c4 := m.NewTicket()
	update(t, m, AddLockOrWait(lock(1, 5, 1), t4), nil)
	if err := <-c4; err != nil {
		t.Fatal(err)
	}
	if len(m.waits) != 0 {
		t.Errorf("%d tickets left", len(m.waits))
	}
}

func TestMemoryForgets(t *testing.T) {
	m := NewMemory()
	update(t, m, addOpen(Open{ID: 1}, 0), nil)
	n := 0
	count := func(fs.FileID, Record) bool { n++; return true }
	if err := m.Walk(context.Background(), count); err != nil || n != 1 {
		t.Fatalf("%d records, %v; want 1", n, err)
	}
	update(t, m, RemoveOpen(1, false), nil)
	n = 0
	if err := m.Walk(context.Background(), count); err != nil || n != 0 {
		t.Fatalf("%d records, %v; want 0", n, err)
	}
}

// Many opens fight for one exclusive lock; whoever holds it must be alone.
func TestLockIsExclusive(t *testing.T) {
	m := NewMemory()
	const openers, rounds = 8, 200
	var wg sync.WaitGroup
	held := 0
	errs := make(chan error, openers)
	for id := OpenID(1); id <= openers; id++ {
		update(t, m, addOpen(Open{ID: id, Access: WriteData, Share: 7}, 0), nil)
	}
	for id := OpenID(1); id <= openers; id++ {
		wg.Go(func() {
			ctx := context.Background()
			for range rounds {
				ticket, granted := m.NewTicket()
				if _, err := m.Update(ctx, file, AddLockOrWait(lock(id, 0, 1), ticket)); err != nil {
					errs <- err
					return
				}
				if err := <-granted; err != nil {
					errs <- err
					return
				}
				if held++; held != 1 { // a data race too, if two hold the lock
					errs <- fmt.Errorf("%d hold the lock", held)
					return
				}
				held--
				if _, err := m.Update(ctx, file, Unlock(id, 0, 1)); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}
