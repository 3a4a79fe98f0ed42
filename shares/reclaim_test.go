package shares

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"lunless/shares/state"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

const fsccRename = fscc.FileRenameInformation

func renameTo(name string) *fscc.RenameInfo { return &fscc.RenameInfo{Name: name} }

func putMessageID(msg []byte, id uint64) { binary.LittleEndian.PutUint64(msg[24:], id) }

// durableV2 asks for a durable handle of version 2.
func durableV2(guid byte, flags smb2.DurableFlags, timeout time.Duration) smb2.CreateContext {
	d := smb2.DurableRequestV2{CreateGUID: smb2.GUID{guid}, Flags: flags, Timeout: uint32(timeout / time.Millisecond)}
	return d.Context()
}

// reclaimV2 asks for it back.
func reclaimV2(id smb2.FileID, guid byte, flags smb2.DurableFlags) smb2.CreateContext {
	d := smb2.DurableReconnectV2{FileID: id, CreateGUID: smb2.GUID{guid}, Flags: flags}
	return d.Context()
}

// lost cuts the client's connection and waits until the server has parked what it
// had open.
func (s *testServer) lost(t *testing.T, c *rawClient, id smb2.FileID) {
	t.Helper()
	c.nc.Close()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); sleepBriefly() {
		if o := s.table.find(state.OpenID(id.Persistent)); o == nil || o.parked.Load() {
			return
		}
	}
	t.Fatal("the open is not parked")
}

func lockOf(c *rawClient, id smb2.FileID, off uint64) smb2.Status {
	c.t.Helper()
	e := smb2.LockElement{Offset: off, Length: 4, Flags: smb2.LockFlagExclusiveLock | smb2.LockFlagFailImmediately}
	return c.call(smb2.CommandLock, lockRequest(id, e), nil).hdr.Status
}

// checkReclaim reclaims a durable open with a lock in place, and returns what was
// wrong about it.
func checkReclaim(t *testing.T) (wrong string) {
	srv := startServer(t, nil)
	one, two := loginAs(t, srv.addr, 1, testUser, "vms"), loginAs(t, srv.addr, 2, testUser, "vms")
	m := one.mustCreate(cached("disk", smb2.OplockLease, 7, leaseRH, durableV2(3, 0, 0)))
	other := two.create("disk")
	if st := lockOf(one, m.FileID, 0); st != smb2.StatusSuccess {
		t.Fatal(st)
	}
	for len(one.notices) > 0 { // the lock, and the second open, take caching away
		one.notices = one.notices[1:]
	}
	_ = other
	srv.lost(t, one, m.FileID)
	again := loginAs(t, srv.addr, 1, testUser, "vms")
	back, st := again.tryCreate(cached("disk", smb2.OplockLease, 7, leaseRH, reclaimV2(m.FileID, 3, 0)))
	if st != smb2.StatusSuccess {
		return "reclaim: " + st.String()
	}
	if back.FileID.Persistent != m.FileID.Persistent || back.CreateAction != smb2.FileOpened {
		return "the open is another one"
	}
	if st := again.write(back.FileID, 0, "mine"); st != smb2.StatusSuccess {
		return "write: " + st.String()
	}
	if st := two.write(other, 0, "not yours"); st != smb2.StatusFileLockConflict {
		return "another's write under the lock: " + st.String()
	}
	return ""
}

// MS-SMB2 3.3.5.9.12: a durable open comes back with its locks.
func TestReclaimKeepsLocks(t *testing.T) {
	if wrong := checkReclaim(t); wrong != "" {
		t.Error(wrong)
	}
}

// MS-SMB2 3.3.5.9.7, 3.3.5.9.12: whoever shows something else than what the open was
// made with does not get it, and who is refused does not end it.
func TestReclaimRefused(t *testing.T) {
	srv := startServer(t, func(c *Config) {
		if err := c.Accounts.AddUser("other", testPassword); err != nil {
			t.Fatal(err)
		}
	})
	one := loginAs(t, srv.addr, 1, testUser, "vms")
	m := one.mustCreate(cached("disk", smb2.OplockLease, 7, leaseRH, durableV2(3, 0, 0)))
	claim := func(key, guid byte, level smb2.OplockLevel) *smb2.CreateRequest {
		return cached("disk", level, key, leaseRH, reclaimV2(m.FileID, guid, 0))
	}
	const notFound = smb2.StatusObjectNameNotFound
	if _, st := one.tryCreate(claim(7, 3, smb2.OplockLease)); st != notFound {
		t.Errorf("while it is in use: %v", st)
	}
	srv.lost(t, one, m.FileID)
	same, stranger := loginAs(t, srv.addr, 1, testUser, "vms"), loginAs(t, srv.addr, 2, testUser, "vms")
	user := loginAs(t, srv.addr, 1, "other", "vms")
	noLease := createRequest("disk")
	noLease.Contexts = []smb2.CreateContext{reclaimV2(m.FileID, 3, 0)}
	elsewhere := claim(7, 3, smb2.OplockLease)
	elsewhere.Name = "elsewhere"
	persistent := cached("disk", smb2.OplockLease, 7, leaseRH, reclaimV2(m.FileID, 3, smb2.DurableFlagPersistent))
	both := claim(7, 3, smb2.OplockLease)
	both.Contexts = append(both.Contexts, smb2.DurableRequest{}.Context())
	unknown := cached("disk", smb2.OplockLease, 7, leaseRH, reclaimV2(smb2.FileID{Persistent: 77, Volatile: 77}, 3, 0))
	for _, tt := range []struct {
		name string
		c    *rawClient
		q    *smb2.CreateRequest
		want smb2.Status
	}{
		{"by another client", stranger, claim(7, 3, smb2.OplockLease), notFound},
		{"by another user", user, claim(7, 3, smb2.OplockLease), smb2.StatusAccessDenied},
		{"with another CreateGuid", same, claim(7, 4, smb2.OplockLease), notFound},
		{"with another lease key", same, claim(8, 3, smb2.OplockLease), notFound},
		{"without its lease", same, noLease, notFound},
		{"by another name", same, elsewhere, smb2.StatusInvalidParameter},
		{"as persistent", same, persistent, smb2.StatusInvalidParameter},
		{"and asked for at once", same, both, smb2.StatusInvalidParameter},
		{"with another FileId", same, unknown, notFound},
		{"at last", same, claim(7, 3, smb2.OplockLease), smb2.StatusSuccess},
		{"twice", same, claim(7, 3, smb2.OplockLease), notFound},
	} {
		if _, st := tt.c.tryCreate(tt.q); st != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, st, tt.want)
		}
	}
}

// MS-SMB2 3.3.5.9.6, 3.3.5.9.7: version 1 is for batch oplocks, and for leases with handle caching.
func TestDurableV1(t *testing.T) {
	srv := startServer(t, nil)
	one := loginAs(t, srv.addr, 1, testUser, "vms")
	has := func(m *smb2.CreateResponse) bool {
		_, ok := smb2.FindCreateContext(m.Contexts, smb2.CreateContextDurableRequest)
		return ok
	}
	for level, want := range map[smb2.OplockLevel]bool{smb2.OplockNone: false, smb2.OplockII: false, smb2.OplockExclusive: false, smb2.OplockBatch: true} {
		m := one.mustCreate(cached("some", level, 0, 0, smb2.DurableRequest{}.Context()))
		if has(&m) != want {
			t.Errorf("oplock %v: durable %v", level, !want)
		}
		one.closeFile(m.FileID)
	}
	m := one.mustCreate(cached("disk", smb2.OplockBatch, 0, 0, smb2.DurableRequest{}.Context()))
	if st := one.write(m.FileID, 0, "data"); st != smb2.StatusSuccess {
		t.Fatal(st)
	}
	srv.lost(t, one, m.FileID)
	again := loginAs(t, srv.addr, 1, testUser, "vms")
	q := createRequest("")
	q.Contexts = []smb2.CreateContext{(&smb2.DurableReconnect{FileID: m.FileID}).Context()}
	back := again.mustCreate(q)
	if back.OplockLevel != smb2.OplockBatch {
		t.Errorf("came back with oplock %v", back.OplockLevel)
	}
	if got, st := again.read(back.FileID, 4); got != "data" || st != smb2.StatusSuccess {
		t.Errorf("read %q, %v", got, st)
	}
	if _, st := again.read(m.FileID, 4); st != smb2.StatusFileClosed && back.FileID != m.FileID {
		t.Errorf("the old FileId: %v", st)
	}
}

// MS-SMB2 3.3.6.2: what nobody reclaims is closed when its time is over, and 3.3.4.7:
// what another client needs before that.
func TestDurableEnds(t *testing.T) {
	srv := startServer(t, nil)
	two := loginAs(t, srv.addr, 2, testUser, "vms")
	for name, timeout := range map[string]time.Duration{"expires": 30 * time.Millisecond, "in the way": time.Minute} {
		one := loginAs(t, srv.addr, 1, testUser, "vms")
		q := cached(name, smb2.OplockLease, 7, leaseRWH, durableV2(3, 0, timeout))
		q.ShareAccess = 0
		m := one.mustCreate(q)
		srv.lost(t, one, m.FileID)
		if timeout < time.Second {
			for srv.table.find(state.OpenID(m.FileID.Persistent)) != nil {
				sleepBriefly()
			}
		}
		send := two.build(smb2.CommandCreate, createRequest(name), nil)
		two.send(send)
		r := two.response()
		if r.hdr.Status == smb2.StatusPending {
			r = two.response()
		}
		if r.hdr.Status != smb2.StatusSuccess {
			t.Errorf("%s: %v", name, r.hdr.Status)
		}
		if n := srv.opens.Load(); n > 2 {
			t.Errorf("%s: %d opens counted", name, n)
		}
	}
}

// MS-SMB2 3.3.5.15.9: a resilient open needs no caching to outlive its connection.
func TestResilient(t *testing.T) {
	srv := startServer(t, nil)
	one := loginAs(t, srv.addr, 1, testUser, "vms")
	id := one.create("disk")
	if _, st := one.ioctl(id, smb2.FsctlLMRRequestResiliency, &smb2.NetworkResiliencyRequest{Timeout: 301_000}, 0); st != smb2.StatusInvalidParameter {
		t.Errorf("a longer time than MaxResiliencyTimeout: %v", st)
	}
	if _, st := one.ioctl(id, smb2.FsctlLMRRequestResiliency, &smb2.NetworkResiliencyRequest{Timeout: 60_000}, 0); st != smb2.StatusSuccess {
		t.Fatal(st)
	}
	if st := lockOf(one, id, 0); st != smb2.StatusSuccess {
		t.Fatal(st)
	}
	srv.lost(t, one, id)
	two := loginAs(t, srv.addr, 2, testUser, "vms")
	other := two.create("disk")
	if st := two.write(other, 0, "data"); st != smb2.StatusFileLockConflict {
		t.Errorf("write under the lock of a client that is away: %v", st)
	}
	again := loginAs(t, srv.addr, 1, testUser, "vms")
	q := createRequest("disk")
	q.Contexts = []smb2.CreateContext{(&smb2.DurableReconnect{FileID: id}).Context()}
	back := again.mustCreate(q)
	if st := again.write(back.FileID, 0, "mine"); st != smb2.StatusSuccess {
		t.Error(st)
	}
}

// MS-SMB2 3.3.5.9, 3.3.5.9.10: a CREATE that is sent again makes no second open.
func TestCreateReplay(t *testing.T) {
	srv := startServer(t, nil)
	c := loginAs(t, srv.addr, 1, testUser, "vms")
	q := func() *smb2.CreateRequest { return cached("disk", smb2.OplockBatch, 0, 0, durableV2(3, 0, 0)) }
	send := func(replay bool) (m smb2.CreateResponse, st smb2.Status) {
		msg := c.build(smb2.CommandCreate, q(), nil)
		if replay {
			binary.LittleEndian.PutUint32(msg[16:], uint32(smb2.FlagReplayOperation))
		}
		c.send(msg)
		r := c.response()
		if r.hdr.Status == smb2.StatusSuccess {
			if err := m.Decode(r.msg); err != nil {
				t.Fatal(err)
			}
		}
		return m, r.hdr.Status
	}
	first, st := send(false)
	if st != smb2.StatusSuccess {
		t.Fatal(st)
	}
	again, st := send(true)
	if st != smb2.StatusSuccess || again.FileID != first.FileID || again.CreateAction != smb2.FileCreated || again.OplockLevel != first.OplockLevel {
		t.Errorf("%v: %+v, the first time %+v", st, again, first)
	}
	if _, st := send(false); st != statusDuplicateObjectID {
		t.Errorf("not marked as a replay: %v", st)
	}
	if n := srv.opens.Load(); n != 1 {
		t.Errorf("%d opens", n)
	}
}

// An acknowledgment for the lease, which its client may have had from another open
// (MS-SMB2 3.3.5.22.2), does not cost it the open of which it has not heard.
func TestCreateReplayAfterLeaseAck(t *testing.T) {
	srv := startServer(t, func(c *Config) {
		c.StateDir, c.Shares[0].ContinuouslyAvailable = t.TempDir(), true
	})
	c, other := loginAs(t, srv.addr, 1, testUser, "vms"), loginAs(t, srv.addr, 2, testUser, "vms")
	q := func(guid byte) *smb2.CreateRequest {
		return cached("disk", smb2.OplockLease, 7, leaseRWH, durableV2(guid, smb2.DurableFlagPersistent, 0))
	}
	c.mustCreate(q(3))
	c.mustCreate(q(4)) // and suppose that this response is lost
	other.pending(smb2.CommandCreate, cached("disk", smb2.OplockNone, 0, 0))
	c.leaseBreak()
	if st := c.ackLease(7, leaseRH); st != smb2.StatusSuccess {
		t.Fatal(st)
	}
	if r := other.response(); r.hdr.Status != smb2.StatusSuccess {
		t.Fatal(r.hdr.Status)
	}
	if st := c.replayCreate(q(4)); st != smb2.StatusSuccess {
		t.Errorf("replay: %v", st)
	}
	if n := srv.opens.Load(); n != 3 {
		t.Errorf("%d opens, want no second one of the replayed CREATE", n)
	}
}

// MS-SMB2 3.3.5.9.13: a newer instance of an application takes over from an older one,
// whose later writes find no handle; an older one does not.
func TestAppInstance(t *testing.T) {
	srv := startServer(t, nil)
	app := func(version uint64) *smb2.CreateRequest {
		q := cached("disk", smb2.OplockNone, 0, 0, (&smb2.AppInstanceID{ID: smb2.GUID{5}}).Context(),
			(&smb2.AppInstanceVersion{High: 1, Low: version}).Context(), durableV2(byte(version), 0, 0))
		q.ShareAccess = smb2.FileShareRead
		return q
	}
	old, fresh, late := loginAs(t, srv.addr, 1, testUser, "vms"), loginAs(t, srv.addr, 2, testUser, "vms"), loginAs(t, srv.addr, 3, testUser, "vms")
	m := old.mustCreate(app(2))
	fresh.send(fresh.build(smb2.CommandCreate, app(3), nil))
	r := fresh.response()
	if r.hdr.Status == smb2.StatusPending {
		r = fresh.response()
	}
	if r.hdr.Status != smb2.StatusSuccess {
		t.Fatalf("a newer instance: %v", r.hdr.Status)
	}
	if st := old.write(m.FileID, 0, "late"); st != smb2.StatusFileClosed {
		t.Errorf("a write of the older host: %v", st)
	}
	for _, version := range []uint64{2, 3} {
		if _, st := late.tryCreate(app(version)); st != smb2.StatusFileForcedClosed {
			t.Errorf("version %d: %v", version, st)
		}
	}
}

// Parked opens count for the limits, and are gone with their share.
func TestParkedOpensAreBounded(t *testing.T) {
	srv := startServer(t, func(c *Config) { c.Limits.AllOpens = 1 })
	one, two := loginAs(t, srv.addr, 1, testUser, "vms"), loginAs(t, srv.addr, 2, testUser, "vms")
	m := one.mustCreate(cached("disk", smb2.OplockBatch, 0, 0, durableV2(3, 0, time.Minute)))
	srv.lost(t, one, m.FileID)
	if _, st := two.tryCreate(createRequest("more")); st != smb2.StatusInsufficientResources {
		t.Errorf("beside a parked open: %v", st)
	}
	if err := srv.RemoveShare(context.Background(), "vms"); err != nil {
		t.Fatal(err)
	}
	if n := srv.opens.Load(); n != 0 {
		t.Errorf("%d opens left", n)
	}
}
