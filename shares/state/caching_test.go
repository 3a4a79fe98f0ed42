package state

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// Clients, by the first byte of their GUIDs, and leases of theirs.
func leaseKey(client, key byte) LeaseKey {
	return LeaseKey{Client: [16]byte{client}, Key: [16]byte{key}}
}

const (
	everything = ReadData | WriteData | Delete | 0x100180
	attributes = 0x100180
	shareAll   = ShareRead | ShareWrite | ShareDelete
)

// with options for opens
type option func(*OpenRequest)

func overwriting(q *OpenRequest) { q.Overwrites, q.Transient = true, WriteData }
func folder(q *OpenRequest)      { q.Dir = true }
func access(a uint32) option     { return func(q *OpenRequest) { q.Open.Access = a } }
func sharingOnly(s uint32) option {
	return func(q *OpenRequest) { q.Open.Share = s }
}
func handle(k HandleKind) option {
	return func(q *OpenRequest) {
		q.Open.Handle.Kind, q.Open.Handle.Timeout = k, time.Minute
		q.Open.Handle.Owner, q.Open.Handle.CreateGUID = "hv", [16]byte{byte(q.Open.ID)}
	}
}
func version(v uint8, epoch uint16) option {
	return func(q *OpenRequest) { q.Lease.Version, q.Lease.Epoch = v, epoch }
}
func deleting(q *OpenRequest) { q.Open.DeleteOnClose = true }
func app(id byte, low uint64) option {
	return func(q *OpenRequest) {
		q.Open.Handle.AppInstance = AppInstance{ID: [16]byte{id}, HasVersion: low != 0, Low: low}
		q.TakeOver = true
	}
}
func client(c byte) option {
	return func(q *OpenRequest) { q.Open.Handle.ClientGUID = [16]byte{c} }
}

func request(id OpenID, opts []option) OpenRequest {
	q := OpenRequest{Open: Open{ID: id, Access: everything, Share: shareAll, Link: "f"}, Allocation: 4096, Ticket: Ticket(1000 + id)}
	for _, o := range opts {
		o(&q)
	}
	return q
}

func plain(id OpenID, opts ...option) Change { return AddOpen(request(id, opts)) }

func oplock(id OpenID, level Caching, opts ...option) Change {
	q := request(id, opts)
	q.Want = level
	return AddOpen(q)
}

// lease opens with the lease of a client of the same number.
func leased(id OpenID, key byte, want string, opts ...option) Change {
	q := request(id, append([]option{version(2, 0)}, opts...))
	q.Want = caching(want)
	q.Open.HasLease, q.Open.Lease = true, leaseKey(key, key)
	q.Open.Handle.ClientGUID = q.Open.Lease.Client
	q.Lease.Key = q.Open.Lease
	return AddOpen(q)
}

func caching(s string) (c Caching) {
	for i, l := range "RHW" {
		if strings.ContainsRune(s, l) {
			c |= 1 << i
		}
	}
	return c
}

func letters(c Caching) string {
	s := ""
	for _, l := range []struct {
		bit Caching
		s   string
	}{{CacheRead, "R"}, {CacheWrite, "W"}, {CacheHandle, "H"}} {
		if c&l.bit != 0 {
			s += l.s
		}
	}
	if s == "" {
		return "0"
	}
	return s
}

func ack(key byte, state string) Change { return AckLease(leaseKey(key, key), caching(state)) }

// outcome is what a Change did, in short: breaks ("L1 RWH>RH!", "O2 RWH>R!", with !
// for one to acknowledge), opens to close, "wait", and what an open got.
func outcome(fx Effects, err error) string {
	var out []string
	if err != nil {
		out = append(out, err.Error())
	}
	for _, b := range fx.Breaks {
		who := fmt.Sprintf("O%d", b.Open)
		if b.IsLease {
			who = fmt.Sprintf("L%d", b.Lease.Key[0])
		}
		s := who + " " + letters(b.From) + ">" + letters(b.To)
		if b.AckRequired {
			s += "!"
		}
		out = append(out, s)
	}
	for _, id := range fx.Close {
		out = append(out, fmt.Sprintf("close %d", id))
	}
	if fx.Wait {
		out = append(out, "wait")
	}
	if fx.Open.ID != 0 && err == nil {
		got := letters(fx.Open.Oplock.State)
		if fx.Open.HasLease {
			got = letters(fx.Lease.State)
			if fx.Lease.Breaking {
				got += " breaking"
			}
		}
		if fx.Open.Handle.Kind != NotDurable {
			got += fmt.Sprint(" kept ", fx.Open.Handle.Kind)
		}
		out = append(out, "="+got)
	}
	if fx.Retry != nil {
		out = append(out, "retry")
	}
	return strings.Join(out, ", ")
}

type doing struct {
	do   Change
	want string
}

type rule struct {
	name  string // with the section it is of
	steps []doing
}

func testRules(t *testing.T, rules []rule) {
	for _, tt := range rules {
		t.Run(tt.name, func(t *testing.T) {
			m := NewMemory()
			for i, s := range tt.steps {
				fx, err := m.Update(context.Background(), file, s.do)
				if got := outcome(fx, err); got != s.want {
					t.Fatalf("step %d: %q, want %q", i+1, got, s.want)
				}
			}
		})
	}
}

var violation = ErrSharingViolation.Error()

// What operations take from leases of others (MS-FSA 2.1.4.12, MS-SMB2 3.3.1.4).
func TestLeaseBreaks(t *testing.T) {
	testRules(t, []rule{
		{"an open takes writes (MS-FSA 2.1.4.12, OPEN)", []doing{
			{leased(1, 1, "RWH"), "=RWH"}, {plain(2), "L1 RWH>RH!, wait"}, {ack(1, "RH"), "retry"}, {plain(2), "=0"}}},
		{"and nothing else", []doing{{leased(1, 1, "RH"), "=RH"}, {plain(2), "=0"}}},
		{"RW goes to R", []doing{{leased(1, 1, "RW"), "=RW"}, {plain(2), "L1 RW>R!, wait"}, {ack(1, "R"), "retry"}, {plain(2), "=0"}}},
		{"an open for attributes takes nothing", []doing{{leased(1, 1, "RWH"), "=RWH"}, {plain(2, access(attributes)), "=0"}}},
		{"READ_CONTROL neither", []doing{{leased(1, 1, "RWH"), "=RWH"}, {plain(2, access(attributes|0x20000)), "=0"}}},
		{"READ_EA does", []doing{{leased(1, 1, "RWH"), "=RWH"}, {plain(2, access(0x8)), "L1 RWH>RH!, wait"}}},
		{"the same key takes nothing (MS-SMB2 3.3.1.4)", []doing{{leased(1, 1, "RWH"), "=RWH"}, {leased(2, 1, "RWH", overwriting), "=RWH"}}},
		{"overwriting takes all, from RWH first", []doing{
			{leased(1, 1, "RWH"), "=RWH"}, {plain(2, overwriting), "L1 RWH>0!, wait"}, {ack(1, ""), "retry"}, {plain(2, overwriting), "=0"}}},
		{"overwriting does not wait for RH", []doing{
			{leased(1, 1, "RH"), "=RH"}, {plain(2, overwriting), "L1 RH>0!, =0"}, {plain(3, overwriting), "=0"},
			{leased(4, 1, ""), "=RH breaking"}, {ack(1, ""), ""}}},
		{"R goes without acknowledgment (MS-SMB2 3.3.4.7)", []doing{
			{leased(1, 1, "R"), "=R"}, {plain(2, overwriting), "L1 R>0, =0"}, {ack(1, ""), ErrNotBreaking.Error()}, {leased(3, 1, ""), "=0"}}},
		{"overwriting for attributes is no open for attributes", []doing{
			{leased(1, 1, "RWH"), "=RWH"}, {plain(2, access(attributes), overwriting), "L1 RWH>0!, wait"}}},
		{"a sharing violation takes handles (OPEN_BREAK_H)", []doing{
			{leased(1, 1, "RWH"), "=RWH"}, {plain(2, sharingOnly(ShareRead)), "L1 RWH>RW!, wait"}, {ack(1, "RW"), "retry"},
			{plain(2, sharingOnly(ShareRead)), violation}, {plain(2), "L1 RW>R!, wait"}}},
		{"from RH too", []doing{{leased(1, 1, "RH"), "=RH"}, {plain(2, sharingOnly(0)), "L1 RH>R!, wait"}, {RemoveOpen(1, false), "retry"}, {plain(2, sharingOnly(0)), "=0"}}},
		{"not from R", []doing{{leased(1, 1, "R"), "=R"}, {plain(2, sharingOnly(0)), violation}}},
		{"a write takes reads (WRITE)", []doing{
			{leased(1, 1, "RH"), "=RH"}, {leased(2, 2, "R"), "=R"}, {plain(3), "=0"},
			{BreakForWrite(3, 1), "L1 RH>0!, L2 R>0"}, {BreakForWrite(3, 1), ""}}},
		{"a lease's own writes do not", []doing{{leased(1, 1, "RWH"), "=RWH"}, {BreakForWrite(1, 1), ""}, {BreakForLock(1, 1), ""}, {BreakForSize(1, 1), ""}}},
		{"a lock takes reads (LOCK_CONTROL)", []doing{{leased(1, 1, "RH"), "=RH"}, {plain(2), "=0"}, {BreakForLock(2, 1), "L1 RH>0!"}}},
		{"so does a new size (SET_INFORMATION)", []doing{{leased(1, 1, "R"), "=R"}, {plain(2), "=0"}, {BreakForSize(2, 1), "L1 R>0"}}},
		{"a rename takes handles and waits", []doing{
			{leased(1, 1, "RH"), "=RH"}, {leased(2, 2, "RH"), "=RH"}, {BreakForRename(1, 1), "L2 RH>R!, wait"}, {ack(2, "R"), "retry"}, {BreakForRename(1, 1), ""}}},
		{"of RWH too", []doing{{leased(1, 1, "RWH"), "=RWH"}, {BreakForRename(0, 1), "L1 RWH>RW!, wait"}}},
		{"a delete takes handles", []doing{{leased(1, 1, "RH"), "=RH"}, {plain(2), "=0"}, {BreakForDelete(2, 1), "L1 RH>R!, wait"}}},
		{"a delete on close does when it is known, and does not wait", []doing{
			{leased(1, 1, "RH"), "=RH"}, {plain(2, deleting), "L1 RH>R!, =0"}, {ack(1, "R"), ""}, {leased(3, 1, "RH"), "=RH"}, {RemoveOpen(2, false), "L1 RH>R!"}}},
		{"a security descriptor takes handles (SET_SECURITY)", []doing{{leased(1, 1, "RH"), "=RH"}, {plain(2), "=0"}, {BreakForSecurity(2, 1), "L1 RH>R!, wait"}}},
		{"a change in a folder takes its leases but the parent's (PARENT_OBJECT)", []doing{
			{leased(1, 1, "RH", folder), "=RH"}, {leased(2, 2, "R", folder), "=R"},
			{BreakForDirChange(true, leaseKey(1, 1)), "L2 R>0"}, {BreakForDirChange(false, LeaseKey{}), "L1 RH>0!"}}},
	})
}

// Breaks while a break is not acknowledged (MS-FSA 2.1.4.12, states of breaking
// oplocks; MS-SMB2 3.3.5.22.2, 3.3.4.7 with note 248).
func TestBreaksWhileBreaking(t *testing.T) {
	testRules(t, []rule{
		{"a second open waits without another break", []doing{
			{leased(1, 1, "RWH"), "=RWH"}, {plain(2), "L1 RWH>RH!, wait"}, {plain(3), "wait"}, {ack(1, "RH"), "retry"}, {plain(2), "=0"}, {plain(3), "=0"}}},
		{"the same key does not wait (MS-SMB2 3.3.1.4)", []doing{
			{leased(1, 1, "RWH"), "=RWH"}, {plain(2), "L1 RWH>RH!, wait"}, {leased(3, 1, "RWH"), "=RWH breaking"}}},
		{"what overtakes a break breaks on, step by step", []doing{
			{leased(1, 1, "RWH"), "=RWH"}, {plain(2), "L1 RWH>RH!, wait"}, {plain(3, overwriting), "wait"},
			{ack(1, "RH"), "L1 RH>R!"}, {leased(4, 1, "RWH"), "=RH breaking"}, {ack(1, "R"), "L1 R>0, retry"}, {plain(3, overwriting), "=0"}}},
		{"unless all is given back at once", []doing{
			{leased(1, 1, "RWH"), "=RWH"}, {plain(2), "L1 RWH>RH!, wait"}, {plain(3, overwriting), "wait"}, {ack(1, ""), "retry"}, {plain(3, overwriting), "=0"}}},
		{"an acknowledgment may keep less", []doing{{leased(1, 1, "RWH"), "=RWH"}, {plain(2), "L1 RWH>RH!, wait"}, {ack(1, ""), "retry"}, {leased(3, 1, ""), "=0"}}},
		{"but not more", []doing{
			{leased(1, 1, "RWH"), "=RWH"}, {plain(2), "L1 RWH>RH!, wait"}, {ack(1, "RW"), ErrNotAccepted.Error()}, {ack(1, "RWH"), ErrNotAccepted.Error()},
			{ack(2, ""), ErrUnknownLease.Error()}, {ack(1, "RH"), "retry"}}},
		{"a write during RH>R ends with none", []doing{
			{leased(1, 1, "RH"), "=RH"}, {plain(2), "=0"}, {BreakForRename(2, 1), "L1 RH>R!, wait"}, {BreakForWrite(2, 2), ""}, {ack(1, "R"), "L1 R>0, retry"}}},
		{"a holder that goes ends its break", []doing{
			{leased(1, 1, "RWH"), "=RWH"}, {plain(2), "L1 RWH>RH!, wait"}, {RemoveOpen(1, false), "retry"}, {plain(2), "=0"}}},
		{"a time-out ends it with nothing (MS-SMB2 3.3.6.5)", []doing{
			{leased(1, 1, "RWH"), "=RWH"}, {plain(2), "L1 RWH>RH!, wait"},
			{BreakTimeout(Break{IsLease: true, Lease: leaseKey(1, 1), Serial: 1}), "retry"}, {leased(3, 1, ""), "=0"}}},
		{"not that of an earlier break", []doing{
			{leased(1, 1, "RWH"), "=RWH"}, {plain(2), "L1 RWH>RH!, wait"},
			{BreakTimeout(Break{IsLease: true, Lease: leaseKey(1, 1)}), ""}, {leased(3, 1, ""), "=RWH breaking"}}},
	})
}

// Oplocks (MS-FSA 2.1.4.12, 2.1.5.18.1, 2.1.5.18.2, 2.1.5.19; MS-SMB2 3.3.5.22.1).
func TestOplocks(t *testing.T) {
	timeout := BreakTimeout(Break{Open: 1, Serial: 1})
	testRules(t, []rule{
		{"batch breaks to level II, before the sharing check", []doing{
			{oplock(1, Batch, sharingOnly(0)), "=RWH"}, {plain(2), "O1 RWH>R!, wait"}, {AckOplock(1, LevelII), "=R, retry"}, {plain(2), violation}}},
		{"exclusive does not break before it", []doing{{oplock(1, Exclusive, sharingOnly(0)), "=RW"}, {plain(2), violation}}},
		{"exclusive breaks after it", []doing{{oplock(1, Exclusive), "=RW"}, {plain(2), "O1 RW>R!, wait"}, {AckOplock(1, LevelII), "=R, retry"}, {oplock(2, Exclusive), "=R"}}},
		{"overwriting breaks to none", []doing{{oplock(1, Batch), "=RWH"}, {plain(2, overwriting), "O1 RWH>0!, wait"}, {AckOplock(1, 0), "=0, retry"}, {oplock(2, Batch, overwriting), "=R"}}},
		{"attributes do not break", []doing{{oplock(1, Batch), "=RWH"}, {oplock(2, Batch, access(attributes)), "=0"}}},
		{"READ_CONTROL does", []doing{{oplock(1, Batch), "=RWH"}, {plain(2, access(0x20000)), "O1 RWH>R!, wait"}}},
		{"level II goes without acknowledgment, even its own open's", []doing{
			{oplock(1, LevelII), "=R"}, {oplock(2, LevelII), "=R"}, {BreakForWrite(2, 1), "O1 R>0, O2 R>0"},
			{AckOplock(1, 0), ErrOplockProtocol.Error()}, {AckOplock(1, 0), ErrNotBreaking.Error()}}},
		{"an exclusive one stays for its own open's writes", []doing{{oplock(1, Batch), "=RWH"}, {BreakForWrite(1, 1), ""}, {BreakForLock(1, 1), ""}}},
		{"a rename breaks batch to none", []doing{{oplock(1, Batch), "=RWH"}, {BreakForRename(0, 1), "O1 RWH>0!, wait"}}},
		{"not exclusive", []doing{{oplock(1, Exclusive), "=RW"}, {BreakForRename(0, 1), ""}}},
		{"exclusive only for who is alone", []doing{{plain(1), "=0"}, {oplock(2, Batch), "=R"}, {RemoveOpen(1, false), ""}, {RemoveOpen(2, false), ""}, {oplock(3, Batch), "=RWH"}}},
		{"level II beside R", []doing{{leased(1, 1, "R"), "=R"}, {oplock(2, Batch), "=R"}}},
		{"not beside RH", []doing{{leased(1, 1, "RH"), "=RH"}, {oplock(2, Batch), "=0"}}},
		{"R beside level II, not RH", []doing{{oplock(1, LevelII), "=R"}, {leased(2, 2, "RWH"), "=R"}}},
		{"locks keep level II out", []doing{
			{plain(1), "=0"}, {AddLocks([]Lock{{Owner: 1, Offset: 10, Length: 1}}), ""}, {oplock(2, LevelII), "=0"}, {leased(3, 3, "RH"), "=0"}}},
		{"locks past the allocation do not", []doing{
			{plain(1), "=0"}, {AddLocks([]Lock{{Owner: 1, Offset: 4096, Length: 1}}), ""}, {oplock(2, LevelII), "=R"}, {leased(3, 3, "R"), "=R"}}},
		{"no oplock on folders (MS-FSA 2.1.5.18)", []doing{{oplock(1, Batch, folder), "=0"}}},
		{"an acknowledgment of too much ends the oplock", []doing{
			{oplock(1, Batch), "=RWH"}, {plain(2), "O1 RWH>R!, wait"}, {AckOplock(1, Batch), ErrOplockProtocol.Error() + ", retry"}, {plain(2), "=0"}}},
		{"of exclusive by batch is of none", []doing{{oplock(1, Batch), "=RWH"}, {plain(2), "O1 RWH>R!, wait"}, {AckOplock(1, Exclusive), "=0, retry"}}},
		{"of exclusive by exclusive is wrong", []doing{{oplock(1, Exclusive), "=RW"}, {plain(2), "O1 RW>R!, wait"}, {AckOplock(1, Exclusive), ErrOplockProtocol.Error() + ", retry"}}},
		{"overtaken by an overwrite (note 441)", []doing{
			{oplock(1, Batch), "=RWH"}, {plain(2), "O1 RWH>R!, wait"}, {plain(3, overwriting), "wait"}, {AckOplock(1, LevelII), ErrNotAccepted.Error() + ", retry"}, {plain(3, overwriting), "=0"}}},
		{"unknown", []doing{{AckOplock(1, 0), ErrUnknownOpen.Error()}}},
		{"a time-out ends it (MS-SMB2 3.3.6.1)", []doing{{oplock(1, Batch), "=RWH"}, {plain(2), "O1 RWH>R!, wait"}, {timeout, "retry"}, {timeout, ""}, {oplock(2, LevelII), "=R"}}},
		{"it goes with its open", []doing{{oplock(1, Batch, sharingOnly(0)), "=RWH"}, {oplock(2, Batch), "O1 RWH>R!, wait"}, {RemoveOpen(1, false), "retry"}, {oplock(2, Batch), "=RWH"}}},
	})
}

// What a lease grows to (MS-SMB2 3.3.5.9.8, 3.3.5.9.11, MS-FSA 2.1.5.18).
func TestLeaseGrants(t *testing.T) {
	combinations := []string{"0", "R", "RW", "RH", "RWH", "H", "W", "WH"}
	granted := map[string]string{"R": "R", "RW": "RW", "RH": "RH", "RWH": "RWH"} // others: nothing
	for _, first := range combinations {
		for _, second := range combinations {
			m := NewMemory()
			update(t, m, leased(1, 1, first), nil)
			got := update(t, m, leased(2, 1, second), nil).Lease.State
			want := caching(granted[first])
			if more := caching(granted[second]); more&want == want {
				want = more // a superset is granted, anything else changes nothing
			}
			if got != want {
				t.Errorf("%s, then %s: %s, want %s", first, second, letters(got), letters(want))
			}
		}
	}
	testRules(t, []rule{
		{"beside an open", []doing{{plain(1), "=0"}, {leased(2, 2, "RWH"), "=RH"}}},
		{"beside an open for attributes", []doing{{plain(1, access(0x80)), "=0"}, {leased(2, 2, "RWH"), "=RWH"}}},
		{"RW beside an open", []doing{{plain(1), "=0"}, {leased(2, 2, "RW"), "=R"}}},
		{"beside another lease", []doing{{leased(1, 1, "R"), "=R"}, {leased(2, 2, "R"), "=R"}, {leased(3, 1, "RWH"), "=R"}, {leased(4, 1, "RH"), "=RH"}, {leased(5, 2, "RW"), "=R"}}},
		{"a new one less than it asks for", []doing{{leased(1, 1, "R"), "=R"}, {leased(2, 2, "RWH"), "=RH"}}},
		{"for attributes beside RWH", []doing{{leased(1, 1, "RWH"), "=RWH"}, {leased(2, 2, "RWH", access(attributes)), "=0"}}},
		{"no handles of what is to go", []doing{{plain(1), "=0"}, {leased(2, 2, ""), "=0"}, {SetDeletePending(1, true), ""}, {SetDeletePending(1, false), ""}, {leased(3, 2, "RH"), "=RH"}}},
		{"of a folder", []doing{{leased(1, 1, "RWH", folder), "=RH"}, {leased(2, 1, "RW", folder), "=RH"}}},
		{"of a folder, version 1", []doing{{leased(1, 1, "RWH", folder, version(1, 0)), "=0"}}},
	})
}

// Epochs of version 2 (MS-SMB2 3.3.1.12, 3.3.5.9.11, 3.3.4.7).
func TestEpochs(t *testing.T) {
	m := NewMemory()
	epoch := func(fx Effects, want uint16) {
		t.Helper()
		got := fx.Lease.Epoch
		if len(fx.Breaks) > 0 {
			got = fx.Breaks[0].Epoch
		}
		if got != want {
			t.Errorf("epoch %#x, want %#x", got, want)
		}
	}
	epoch(update(t, m, leased(1, 1, "R", version(2, 0x4711)), nil), 0x4712)
	epoch(update(t, m, leased(2, 1, "RH", version(2, 0)), nil), 0x4713)
	epoch(update(t, m, leased(3, 1, "RH", version(2, 0x11)), nil), 0x4713) // no change
	epoch(update(t, m, leased(3, 1, "RWH", version(2, 0x11)), nil), 0x4714)
	epoch(update(t, m, plain(4), nil), 0x4715)
	epoch(update(t, m, plain(5, overwriting), nil), 0)
	epoch(update(t, m, ack(1, "RH"), nil), 0x4715) // the break goes on without another epoch
	epoch(update(t, m, ack(1, "R"), nil), 0x4715)
}

// A request that cannot wait, and one too many of those that wait.
func TestWaitsAreBounded(t *testing.T) {
	m := NewMemory()
	update(t, m, leased(1, 1, "RWH"), nil)
	q := request(2, nil)
	q.Ticket = 0
	if fx := update(t, m, AddOpen(q), ErrCannotWait); len(fx.Breaks) != 1 {
		t.Errorf("%d breaks, want one all the same", len(fx.Breaks))
	}
	for range MaxWaiters {
		update(t, m, plain(2), nil)
	}
	update(t, m, plain(2), ErrTooManyWaiters)
	update(t, m, CancelWait(1002), nil)
	update(t, m, CancelWait(1002), ErrRangeNotLocked)
	ticket, woken := m.NewTicket()
	q.Ticket = ticket
	update(t, m, AddOpen(q), nil)
	update(t, m, ack(1, ""), nil)
	if err := <-woken; err != nil {
		t.Error(err)
	}
}

// A break nobody is there to be told of (MS-SMB2 3.3.4.6, 3.3.4.7).
func TestUnsentBreaks(t *testing.T) {
	lease := BreakUnsent(Break{IsLease: true, Lease: leaseKey(1, 1), Serial: 1})
	oplocked := BreakUnsent(Break{Open: 1, Serial: 1})
	q := Reclaim{Owner: "hv", Persistent: true, V2: true, CreateGUID: [16]byte{1}}
	leaseBack := q
	leaseBack.HasLease, leaseBack.Lease, leaseBack.Version, leaseBack.Link, leaseBack.ClientGUID = true, leaseKey(1, 1), 2, "f", [16]byte{1}
	testRules(t, []rule{
		{"a durable open goes, and all the others of its lease", []doing{
			{leased(1, 1, "RWH", handle(DurableV2)), "=RWH kept 2"}, {leased(3, 1, "RWH"), "=RWH"}, {plain(2), "L1 RWH>RH!, wait"},
			{lease, "close 1, close 3"}, {lease, ""}, {RemoveOpen(1, false), "retry"}, {plain(2), "wait"}, {RemoveOpen(3, false), "retry"}, {leased(2, 2, "RWH"), "=RWH"}}},
		{"a resilient one stays without it", []doing{
			{leased(1, 1, "RWH", handle(Resilient)), "=RWH kept 3"}, {plain(2), "L1 RWH>RH!, wait"}, {lease, "retry"}, {leased(3, 1, ""), "=0"}}},
		{"a persistent one is told later", []doing{
			{leased(1, 1, "RWH", handle(Persistent), client(1)), "=RWH kept 4"}, {plain(2), "L1 RWH>RH!, wait"}, {lease, ""},
			{Disconnect(1, time.Now()), "=0 kept 4, retry"}, {plain(2), ErrNotAvailable.Error()}, {Reconnect(1, leaseBack), "L1 RWH>RH!, =RWH breaking kept 4"}, {ack(1, "RH"), ""}}},
		{"not one of before", []doing{
			{leased(1, 1, "RWH"), "=RWH"}, {plain(2), "L1 RWH>RH!, wait"}, {ack(1, "RH"), "retry"}, {lease, ""}, {leased(3, 1, "RH"), "=RH"}}},
		{"oplock of a durable open", []doing{
			{oplock(1, Batch, handle(DurableV2)), "=RWH kept 2"}, {plain(2), "O1 RWH>R!, wait"}, {oplocked, "close 1"}, {oplocked, ""}, {RemoveOpen(1, false), "retry"}, {oplock(2, Batch), "=RWH"}}},
		{"oplock of a resilient open", []doing{
			{oplock(1, Batch, handle(Resilient)), "=RWH kept 3"}, {plain(2), "O1 RWH>R!, wait"}, {oplocked, "retry"}, {oplock(2, Batch), "=R"}}},
		{"oplock of a persistent open", []doing{
			{oplock(1, Batch, handle(Persistent)), "=RWH kept 4"}, {plain(2), "O1 RWH>R!, wait"}, {oplocked, ""},
			{Disconnect(1, time.Now()), "=RWH kept 4, retry"}, {Reconnect(1, q), "O1 RWH>R!, =RWH kept 4"}, {AckOplock(1, LevelII), "=R kept 4"}}},
	})
}
