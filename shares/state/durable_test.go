package state

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"lunless/shares/fs"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func disconnect(id OpenID) Change { return Disconnect(id, noon) }

// What becomes of opens whose connection is lost, and of those they are in the way
// of (MS-SMB2 3.3.7.1, 3.3.4.6, 3.3.4.7, 3.3.5.9).
func TestDisconnected(t *testing.T) {
	unavailable, unreclaimable := ErrNotAvailable.Error(), ErrNotReclaimable.Error()
	back := func(id OpenID, key byte) Change {
		q := Reclaim{Owner: "hv", Link: "f", V2: true, CreateGUID: [16]byte{byte(id)}}
		if key != 0 {
			q.HasLease, q.Lease, q.Version = true, leaseKey(key, key), 2
			q.ClientGUID = q.Lease.Client
		}
		return Reconnect(id, q)
	}
	testRules(t, []rule{
		{"an open that is not durable ends", []doing{{oplock(1, Batch), "=RWH"}, {disconnect(1), "close 1"}, {RemoveOpen(1, false), ""}}},
		{"durable with batch", []doing{{oplock(1, Batch, handle(DurableV2)), "=RWH kept 2"}, {disconnect(1), "=RWH kept 2"}, {back(1, 0), "=RWH kept 2"}}},
		{"durable with a lease of handles", []doing{{leased(1, 1, "RH", handle(DurableV2)), "=RH kept 2"}, {disconnect(1), "=0 kept 2"}, {back(1, 1), "=RH kept 2"}}},
		{"not without (3.3.5.9.6)", []doing{{leased(1, 1, "R", handle(DurableV2)), "=R"}, {disconnect(1), "close 1"}}},
		{"not of folders (3.3.5.9.10)", []doing{{leased(1, 1, "RH", folder, handle(DurableV2)), "=RH"}}},
		{"durable while its oplock breaks", []doing{{oplock(1, Batch, handle(DurableV2)), "=RWH kept 2"}, {plain(2), "O1 RWH>R!, wait"}, {disconnect(1), "close 1"}, {RemoveOpen(1, false), "retry"}, {plain(2), "=0"}}},
		{"durable after its handle caching went", []doing{
			{leased(1, 1, "RH", handle(DurableV2)), "=RH kept 2"}, {plain(2, sharingOnly(0)), "L1 RH>R!, wait"}, {ack(1, "R"), "retry"}, {disconnect(1), "close 1"}}},
		{"resilient without anything", []doing{{plain(1), "=0"}, {SetResilient(1, time.Minute, "hv"), "=0 kept 3"}, {disconnect(1), "=0 kept 3"}, {plain(2), "=0"}, {plain(3, sharingOnly(0)), violation}}},
		{"a durable one gives way to who takes its writes", []doing{
			{leased(1, 1, "RWH", handle(DurableV2)), "=RWH kept 2"}, {disconnect(1), "=0 kept 2"}, {plain(2), "close 1, wait"}, {plain(3), "wait"},
			{back(1, 1), unreclaimable}, {RemoveOpen(1, false), "retry"}, {plain(2), "=0"}, {plain(3), "=0"}}},
		{"to who breaks its batch oplock", []doing{{oplock(1, Batch, handle(Durable)), "=RWH kept 1"}, {disconnect(1), "=RWH kept 1"}, {plain(2), "close 1, wait"}}},
		{"to who excludes it", []doing{{leased(1, 1, "RH", handle(DurableV2)), "=RH kept 2"}, {disconnect(1), "=0 kept 2"}, {plain(2, sharingOnly(0)), "close 1, wait"}}},
		{"to who writes", []doing{{leased(1, 1, "RH", handle(DurableV2)), "=RH kept 2"}, {disconnect(1), "=0 kept 2"}, {plain(2), "=0"}, {BreakForWrite(2, 1), "close 1, wait"}}},
		{"to who renames", []doing{{leased(1, 1, "RH", handle(DurableV2)), "=RH kept 2"}, {disconnect(1), "=0 kept 2"}, {plain(2), "=0"}, {BreakForRename(2, 1), "close 1, wait"}}},
		{"not to who only reads beside RH", []doing{
			{leased(1, 1, "RH", handle(DurableV2)), "=RH kept 2"}, {disconnect(1), "=0 kept 2"}, {leased(2, 2, "RH"), "=RH"}, {back(1, 1), "=RH kept 2"}}},
		{"not to attributes", []doing{{oplock(1, Batch, handle(Durable)), "=RWH kept 1"}, {disconnect(1), "=RWH kept 1"}, {plain(2, access(attributes)), "=0"}}},
		{"a lease with another open is told of breaks", []doing{
			{leased(1, 1, "RWH", handle(DurableV2)), "=RWH kept 2"}, {leased(2, 1, "RWH"), "=RWH"}, {disconnect(1), "=0 kept 2"}, {plain(3), "L1 RWH>RH!, wait"}}},
		{"a persistent one keeps everybody out (3.3.5.9)", []doing{
			{plain(1, handle(Persistent)), "=0 kept 4"}, {disconnect(1), "=0 kept 4"}, {plain(2), unavailable}, {plain(2, access(attributes)), unavailable},
			{Reconnect(1, Reclaim{Owner: "hv", V2: true, Persistent: true, CreateGUID: [16]byte{1}}), "=0 kept 4"}, {plain(2), "=0"}}},
		{"and hears of breaks when it is back (3.3.5.9.12)", []doing{
			{leased(1, 1, "RH", handle(Persistent)), "=RH kept 4"}, {plain(2), "=0"}, {disconnect(1), "=0 kept 4"}, {BreakForRename(2, 1), "wait"},
			{Reconnect(1, Reclaim{
				ClientGUID: [16]byte{1}, Owner: "hv", Link: "f", V2: true, Persistent: true, CreateGUID: [16]byte{1},
				HasLease: true, Lease: leaseKey(1, 1), Version: 2,
			}), "L1 RH>R!, =RH breaking kept 4"}, {ack(1, "R"), "retry"}, {BreakForRename(2, 1), ""}}},
		{"who waited for a persistent one that goes away does no longer", []doing{
			{leased(1, 1, "RWH", handle(Persistent)), "=RWH kept 4"}, {plain(2), "L1 RWH>RH!, wait"}, {disconnect(1), "=0 kept 4, retry"}, {plain(2), unavailable}}},
		{"in time (3.3.6.2)", []doing{
			{leased(1, 1, "RH", handle(DurableV2)), "=RH kept 2"}, {Expire(1, noon), ""}, {disconnect(1), "=0 kept 2"}, {Expire(1, noon.Add(59*time.Second)), ""}, {Expire(1, noon.Add(time.Minute)), "close 1"}, {back(1, 1), unreclaimable}}},
		{"a delete on close of one that gives way is done first", []doing{
			{oplock(1, Batch, deleting, handle(Durable)), "=RWH kept 1"}, {disconnect(1), "=RWH kept 1"}, {plain(2), "close 1, wait"}, {RemoveOpen(1, false), ""}, {plain(2), ErrDeletePending.Error()}, {Deleted("f"), "retry"}, {plain(2), "=0"}}},
	})
}

// Whose claim to an open is good (MS-SMB2 3.3.5.9.7, 3.3.5.9.12).
func TestReclaim(t *testing.T) {
	good := Reclaim{
		ClientGUID: [16]byte{1}, Owner: "hv", Link: "f", V2: true, CreateGUID: [16]byte{1},
		HasLease: true, Lease: leaseKey(1, 1), Version: 2,
	}
	tests := []struct {
		name  string
		alter func(*Reclaim)
		want  error
	}{
		{"good", func(q *Reclaim) {}, nil},
		{"version 1 context", func(q *Reclaim) { q.V2, q.CreateGUID = false, [16]byte{} }, nil},
		{"another client's", func(q *Reclaim) { q.ClientGUID[0] = 2 }, ErrNotReclaimable},
		{"another CreateGuid", func(q *Reclaim) { q.CreateGUID[0] = 2 }, ErrNotReclaimable},
		{"without the lease", func(q *Reclaim) { q.HasLease = false }, ErrNotReclaimable},
		{"another lease", func(q *Reclaim) { q.Lease = leaseKey(1, 2) }, ErrNotReclaimable},
		{"the lease in another version", func(q *Reclaim) { q.Version = 1 }, ErrNotReclaimable},
		{"another name", func(q *Reclaim) { q.Link = "g" }, ErrBadReclaim},
		{"as persistent", func(q *Reclaim) { q.Persistent = true }, ErrBadReclaim},
		{"another user's", func(q *Reclaim) { q.Owner = "eve" }, ErrNotOwner},
	}
	for _, tt := range tests {
		m := NewMemory()
		update(t, m, leased(1, 1, "RWH", handle(DurableV2)), nil)
		update(t, m, Reconnect(1, good), ErrNotReclaimable) // it is in use
		update(t, m, disconnect(1), nil)
		q := good
		tt.alter(&q)
		if _, err := m.Update(context.Background(), file, Reconnect(1, q)); !errors.Is(err, tt.want) || tt.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	m := NewMemory()
	update(t, m, plain(1, handle(Persistent)), nil)
	update(t, m, disconnect(1), nil)
	update(t, m, Reconnect(1, Reclaim{Owner: "hv", V2: true, CreateGUID: [16]byte{1}}), ErrNotReclaimable) // persistent, not asked for as that
	update(t, m, Reconnect(2, Reclaim{}), ErrUnknownOpen)
}

// Opens of newer instances of an application (MS-SMB2 3.3.5.9.13).
func TestApplicationInstances(t *testing.T) {
	refused := ErrForcedClosed.Error()
	testRules(t, []rule{
		{"another client's open goes", []doing{{plain(1, sharingOnly(0), app(9, 1), client(1)), "=0"}, {plain(2, sharingOnly(0), app(9, 2), client(2)), "close 1, wait"}, {RemoveOpen(1, false), "retry"}, {plain(2, sharingOnly(0), app(9, 2), client(2)), "=0"}}},
		{"without versions too", []doing{{plain(1, app(9, 0), client(1)), "=0"}, {plain(2, app(9, 0), client(2)), "close 1, wait"}}},
		{"not to the same version", []doing{{plain(1, app(9, 2), client(1)), "=0"}, {plain(2, app(9, 2), client(2)), refused}}},
		{"not to an older one", []doing{{plain(1, app(9, 2), client(1)), "=0"}, {plain(2, app(9, 1), client(2)), refused}}},
		{"not to one without", []doing{{plain(1, app(9, 2), client(1)), "=0"}, {plain(2, app(9, 0), client(2)), refused}}},
		{"one without goes", []doing{{plain(1, app(9, 0), client(1)), "=0"}, {plain(2, app(9, 1), client(2)), "close 1, wait"}}},
		{"the client's own stays", []doing{{plain(1, app(9, 1), client(1)), "=0"}, {plain(2, app(9, 2), client(1)), "=0"}}},
		{"another application's stays", []doing{{plain(1, sharingOnly(0), app(8, 1), client(1)), "=0"}, {plain(2, app(9, 2), client(2)), violation}}},
		{"who may not read the file closes nothing", []doing{{plain(1, sharingOnly(0), app(9, 1), client(1)), "=0"}, {plain(2, app(9, 2), client(2), func(q *OpenRequest) { q.TakeOver = false }), violation}}},
		{"a persistent one that is away goes", []doing{
			{plain(1, sharingOnly(0), app(9, 1), client(1), handle(Persistent)), "=0 kept 4"}, {disconnect(1), "=0 kept 4"},
			{plain(2, app(9, 2), client(2)), "close 1, wait"}, {RemoveOpen(1, false), "retry"}, {plain(2, app(9, 2), client(2)), "=0"}}},
	})
}

// LOCK requests that come twice (MS-SMB2 3.3.5.14).
func TestLockSequences(t *testing.T) {
	m := NewMemory()
	update(t, m, plain(1), nil)
	update(t, m, plain(2), nil)
	seq := LockSequence{Index: 64, Number: 15}
	once := func(id OpenID, n uint8, do Change, want error, replayed bool) {
		t.Helper()
		s := seq
		s.Number = n
		if fx := update(t, m, Once(id, s, do), want); fx.Replayed != replayed {
			t.Errorf("replayed %v", fx.Replayed)
		}
	}
	once(1, 15, locks(lock(1, 0, 1)), nil, false)
	once(1, 15, locks(lock(1, 0, 1)), nil, true)  // the same again
	once(2, 15, locks(lock(2, 5, 1)), nil, false) // another open's
	once(1, 0, Unlock(1, 0, 1), nil, false)
	once(1, 0, Unlock(1, 0, 1), nil, true)
	once(1, 1, Unlock(1, 0, 1), ErrRangeNotLocked, false)
	once(1, 0, Unlock(1, 0, 1), ErrRangeNotLocked, false) // a request between has made it forget
	ticket, granted := m.NewTicket()
	once(1, 2, AddLockOrWait(lock(1, 5, 1), ticket), nil, false)
	update(t, m, Unlock(2, 5, 1), nil)
	if err := <-granted; err != nil {
		t.Fatal(err)
	}
	once(1, 2, AddLockOrWait(lock(1, 5, 1), ticket), nil, true) // granted in the end
	update(t, m, Once(9, seq, locks()), ErrUnknownOpen)
	update(t, m, Once(1, LockSequence{Index: 65}, locks(lock(1, 50, 1))), nil) // no index: no sequence
}

// What a WRITE asks before it goes to the file.
func TestTokenOfCaching(t *testing.T) {
	tests := []struct {
		name  string
		steps []Change
		must  [4]bool // for opens 1 to 3
	}{
		{"nobody caches", []Change{plain(1), plain(2)}, [4]bool{}},
		{"a lease", []Change{leased(1, 1, "RH"), leased(2, 1, "RH"), plain(3)}, [4]bool{3: true}},
		{"two leases", []Change{leased(1, 1, "R"), leased(2, 2, "R"), plain(3)}, [4]bool{1: true, 2: true, 3: true}},
		{"exclusive", []Change{oplock(1, Exclusive)}, [4]bool{2: true, 3: true}},
		{"level II", []Change{oplock(1, LevelII), plain(2)}, [4]bool{1: true, 2: true, 3: true}},
		{"a lease that breaks to none", []Change{leased(1, 1, "RH"), plain(2), BreakForWrite(2, 1)}, [4]bool{}},
		{"a lease that breaks to R", []Change{leased(1, 1, "RH"), plain(2), BreakForRename(2, 1)}, [4]bool{2: true, 3: true}},
		{"an open that has gone", []Change{leased(1, 1, "RH"), plain(2), RemoveOpen(1, false)}, [4]bool{}},
	}
	for _, tt := range tests {
		m := NewMemory()
		update(t, m, tt.steps[0], nil)
		tok := m.Token(file)
		for _, c := range tt.steps[1:] {
			update(t, m, c, nil)
		}
		for id := OpenID(1); id <= 3; id++ {
			if got := tok.MustBreak(id); got != tt.must[id] {
				t.Errorf("%s: open %d must break: %v", tt.name, id, got)
			}
		}
		if n := testing.AllocsPerRun(100, func() { tok.MustBreak(1) }); n != 0 {
			t.Errorf("%s: %v allocations", tt.name, n)
		}
	}
}

func TestFindCreateGUID(t *testing.T) {
	m := NewMemory()
	for i := range 10 {
		id := fs.FileID{Volume: 1, Inode: uint64(i)}
		if _, err := m.Update(context.Background(), id, plain(OpenID(i+1), handle(Persistent))); err != nil {
			t.Fatal(err)
		}
	}
	all := func(*Open) bool { return true }
	id, o, found, err := FindCreateGUID(context.Background(), m, [16]byte{5}, all)
	if err != nil || !found || id.Inode != 4 || o.ID != 5 {
		t.Errorf("%v %d %v %v", id, o.ID, found, err)
	}
	if _, _, found, err = FindCreateGUID(context.Background(), m, [16]byte{77}, all); found || err != nil {
		t.Errorf("%v %v", found, err)
	}
}

// The time of an operation grows with the opens of the file, not with their square.
func BenchmarkOpens(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m := NewMemory()
			for i := range n {
				if _, err := m.Update(context.Background(), file, leased(OpenID(i+1), byte(i), "RH", handle(DurableV2))); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				m.Update(context.Background(), file, plain(OpenID(n+1)))
				m.Update(context.Background(), file, RemoveOpen(OpenID(n+1), false))
			}
		})
	}
}
