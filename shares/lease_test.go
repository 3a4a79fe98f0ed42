package shares

import (
	"testing"
	"time"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

const leaseRWH = smb2.LeaseReadCaching | smb2.LeaseHandleCaching | smb2.LeaseWriteCaching
const leaseRH = smb2.LeaseReadCaching | smb2.LeaseHandleCaching

// loginAs is loginRaw as a client with a GUID of its own, and as a user.
func loginAs(t testing.TB, addr string, guid byte, user, share string) *rawClient {
	t.Helper()
	c := dialRaw(t, addr)
	c.guid = smb2.GUID{guid}
	c.negotiate(smb2.Dialect311)
	c.login(user, testPassword)
	if st := c.treeConnect(share); st != smb2.StatusSuccess {
		t.Fatalf("tree connect %s: %v", share, st)
	}
	return c
}

// cached asks for a file with a lease of version 2, or with the oplock of a level.
func cached(name string, level smb2.OplockLevel, key byte, state smb2.LeaseState, more ...smb2.CreateContext) *smb2.CreateRequest {
	q := createRequest(name)
	q.RequestedOplockLevel, q.Contexts = level, more
	if level == smb2.OplockLease {
		l := smb2.Lease{Version: 2, LeaseKey: smb2.GUID{key}, LeaseState: state}
		q.Contexts = append([]smb2.CreateContext{l.Context()}, more...)
	}
	return q
}

// leaseOf is the lease a response grants.
func leaseOf(t testing.TB, m *smb2.CreateResponse) (l smb2.Lease) {
	t.Helper()
	data, ok := smb2.FindCreateContext(m.Contexts, smb2.CreateContextLease)
	if !ok || m.OplockLevel != smb2.OplockLease {
		t.Fatalf("no lease in the response: level %v", m.OplockLevel)
	}
	if err := l.Decode(data); err != nil {
		t.Fatal(err)
	}
	return l
}

// notice is the next message, which has to be a break.
func (c *rawClient) notice() response {
	c.t.Helper()
	if len(c.notices) > 0 {
		r := c.notices[0]
		c.notices = c.notices[1:]
		return r
	}
	list := c.receive()
	if len(list) != 1 || !isNotice(list[0].msg) {
		c.t.Fatalf("%d responses, want a notification", len(list))
	}
	return list[0]
}

func (c *rawClient) leaseBreak() (m smb2.LeaseBreakNotification) {
	c.t.Helper()
	if err := m.Decode(c.notice().msg); err != nil {
		c.t.Fatal(err)
	}
	return m
}

func (c *rawClient) ackLease(key byte, state smb2.LeaseState) smb2.Status {
	c.t.Helper()
	return c.call(smb2.CommandOplockBreak, &smb2.LeaseBreakAcknowledgment{LeaseKey: smb2.GUID{key}, LeaseState: state}, nil).hdr.Status
}

// pending sends a request that must go async, and returns when it has.
func (c *rawClient) pending(cmd smb2.Command, m body) {
	c.t.Helper()
	c.send(c.build(cmd, m, nil))
	if r := c.response(); r.hdr.Status != smb2.StatusPending || r.hdr.Flags&smb2.FlagAsyncCommand == 0 {
		c.t.Fatalf("%v: %v, want STATUS_PENDING", cmd, r.hdr.Status)
	}
}

// idle fails the test if anything arrives within a moment.
func (c *rawClient) idle() {
	c.t.Helper()
	c.nc.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	defer c.nc.SetDeadline(time.Now().Add(30 * time.Second))
	var b [1]byte
	if n, _ := c.nc.Read(b[:]); n != 0 {
		c.t.Fatal("a message has arrived that must not")
	}
}

// MS-SMB2 3.3.4.7, 3.3.5.9.11, 3.3.5.22.2: who opens what another client caches for
// writing waits until that has acknowledged the break, with STATUS_PENDING.
func TestLeaseBreak(t *testing.T) {
	srv := startServer(t, nil)
	one, two := loginAs(t, srv.addr, 1, testUser, "vms"), loginAs(t, srv.addr, 2, testUser, "vms")
	m := one.mustCreate(cached("disk", smb2.OplockLease, 7, leaseRWH))
	if l := leaseOf(t, &m); l.LeaseState != leaseRWH || l.Version != 2 || l.LeaseKey != (smb2.GUID{7}) || l.Epoch != 1 {
		t.Fatalf("granted %+v", l)
	}
	if m := one.mustCreate(cached("disk", smb2.OplockLease, 7, leaseRWH)); leaseOf(t, &m).LeaseState != leaseRWH {
		t.Error("a lease breaks itself")
	}
	two.pending(smb2.CommandCreate, cached("disk", smb2.OplockLease, 9, leaseRWH))
	b := one.leaseBreak()
	if b.LeaseKey != (smb2.GUID{7}) || b.CurrentLeaseState != leaseRWH || b.NewLeaseState != leaseRH ||
		b.Flags != smb2.LeaseFlagBreakAckRequired || b.NewEpoch != 2 {
		t.Fatalf("break %+v", b)
	}
	two.idle()
	if st := one.ackLease(7, leaseRWH); st != smb2.StatusRequestNotAccepted {
		t.Errorf("more than the break leaves is acknowledged: %v", st)
	}
	if st := one.ackLease(8, leaseRH); st != smb2.StatusObjectNameNotFound {
		t.Errorf("acknowledged for another key: %v", st)
	}
	if st := one.ackLease(7, leaseRH); st != smb2.StatusSuccess {
		t.Fatal(st)
	}
	r := two.response()
	if err := m.Decode(r.msg); err != nil || r.hdr.Status != smb2.StatusSuccess {
		t.Fatal(r.hdr.Status, err)
	}
	if l := leaseOf(t, &m); l.LeaseState != leaseRH {
		t.Errorf("the second client has %+v", l)
	}
	if st := one.ackLease(7, leaseRH); st != smb2.StatusUnsuccessful {
		t.Errorf("acknowledged twice: %v", st)
	}
	// A write takes the read caching of others, without waiting for anybody (MS-FSA 2.1.5.4).
	if st := two.write(m.FileID, 0, "new"); st != smb2.StatusSuccess {
		t.Fatal(st)
	}
	if b := one.leaseBreak(); b.NewLeaseState != smb2.LeaseNone {
		t.Errorf("break %+v, want to nothing", b)
	}
}

// MS-SMB2 3.3.4.6, 3.3.5.22.1: the same for oplocks, which breaks name by FileId.
func TestOplockBreak(t *testing.T) {
	srv := startServer(t, nil)
	one, two := loginAs(t, srv.addr, 1, testUser, "vms"), loginAs(t, srv.addr, 2, testUser, "vms")
	m := one.mustCreate(cached("disk", smb2.OplockBatch, 0, 0))
	if m.OplockLevel != smb2.OplockBatch {
		t.Fatalf("granted %v", m.OplockLevel)
	}
	two.pending(smb2.CommandCreate, cached("disk", smb2.OplockII, 0, 0))
	var b smb2.OplockBreakNotification
	if err := b.Decode(one.notice().msg); err != nil || b.FileID != m.FileID || b.OplockLevel != smb2.OplockII {
		t.Fatalf("break %+v, %v", b, err)
	}
	two.idle()
	ack := func(level smb2.OplockLevel) smb2.Status {
		return one.call(smb2.CommandOplockBreak, &smb2.OplockBreakAcknowledgment{OplockLevel: level, FileID: m.FileID}, nil).hdr.Status
	}
	if st := ack(smb2.OplockII); st != smb2.StatusSuccess {
		t.Fatal(st)
	}
	if r := two.response(); r.hdr.Status != smb2.StatusSuccess {
		t.Fatal(r.hdr.Status)
	}
	if st := ack(smb2.OplockII); st == smb2.StatusSuccess {
		t.Error("acknowledged twice")
	}
}

// MS-SMB2 3.3.6.1, 3.3.6.5: a break nobody acknowledges ends after its time, and
// with it all the holder's caching.
func TestBreakTimeout(t *testing.T) {
	srv := startServer(t, func(c *Config) { c.Limits.Break = 20 * time.Millisecond })
	one, two := loginAs(t, srv.addr, 1, testUser, "vms"), loginAs(t, srv.addr, 2, testUser, "vms")
	one.mustCreate(cached("disk", smb2.OplockLease, 7, leaseRWH))
	two.pending(smb2.CommandCreate, createRequest("disk"))
	one.leaseBreak()
	if r := two.response(); r.hdr.Status != smb2.StatusSuccess {
		t.Fatal(r.hdr.Status)
	}
	if st := one.ackLease(7, leaseRH); st != smb2.StatusUnsuccessful {
		t.Errorf("acknowledged too late: %v", st)
	}
}

// MS-SMB2 3.3.7.1: a holder whose connection ends during a break keeps nothing,
// durable or not, and nobody waits for him any longer.
func TestConnectionLostDuringBreak(t *testing.T) {
	srv := startServer(t, func(c *Config) { c.Limits.Break = time.Hour })
	one, two := loginAs(t, srv.addr, 1, testUser, "vms"), loginAs(t, srv.addr, 2, testUser, "vms")
	d := smb2.DurableRequestV2{CreateGUID: smb2.GUID{1}}
	one.mustCreate(cached("disk", smb2.OplockLease, 7, leaseRWH, d.Context()))
	two.pending(smb2.CommandCreate, createRequest("disk"))
	one.leaseBreak()
	one.nc.Close()
	if r := two.response(); r.hdr.Status != smb2.StatusSuccess {
		t.Fatal(r.hdr.Status)
	}
}

// A CREATE that waits holds up neither its connection nor the names of the share,
// and CANCEL ends it.
func TestWaitingCreateHoldsNothingUp(t *testing.T) {
	srv := startServer(t, func(c *Config) { c.Limits.Break = time.Hour })
	one, two := loginAs(t, srv.addr, 1, testUser, "vms"), loginAs(t, srv.addr, 2, testUser, "vms")
	one.mustCreate(cached("disk", smb2.OplockLease, 7, leaseRWH))
	other := two.create("other")
	waiting := two.message
	two.pending(smb2.CommandCreate, createRequest("disk"))
	one.leaseBreak()
	if st := two.setInfo(other, fsccRename, renameTo("renamed")); st != smb2.StatusSuccess { // takes all names of the share
		t.Fatal(st)
	}
	cancel := two.build(smb2.CommandCancel, &smb2.CancelRequest{}, nil)
	two.message--
	putMessageID(cancel, waiting)
	two.send(cancel)
	if r := two.response(); r.hdr.Status != smb2.StatusCancelled {
		t.Fatal(r.hdr.Status)
	}
	if st := one.ackLease(7, leaseRH); st != smb2.StatusSuccess {
		t.Fatal(st)
	}
}

// MS-SMB2 3.3.5.9.8: a lease key stands for one file of its client.
func TestLeaseKeyOfAnotherFile(t *testing.T) {
	srv := startServer(t, nil)
	one, two := loginAs(t, srv.addr, 1, testUser, "vms"), loginAs(t, srv.addr, 2, testUser, "vms")
	m := one.mustCreate(cached("disk", smb2.OplockLease, 7, leaseRH))
	for range 2 {
		if _, st := one.tryCreate(cached("other", smb2.OplockLease, 7, leaseRH)); st != smb2.StatusInvalidParameter {
			t.Errorf("same key, other file: %v", st)
		}
	}
	if _, st := one.tryCreate(&smb2.CreateRequest{Name: "other", DesiredAccess: 1, ShareAccess: shareAll, CreateDisposition: smb2.FileOpen}); st != smb2.StatusObjectNameNotFound {
		t.Errorf("the refused CREATE has left a file: %v", st)
	}
	two.mustCreate(cached("other", smb2.OplockLease, 7, leaseRH))
	one.closeFile(m.FileID)
	one.mustCreate(cached("third", smb2.OplockLease, 7, leaseRH))
}

// MS-FSA 2.1.4.12, PARENT_OBJECT: what changes in a folder breaks its leases, but
// that which the lease of the file changed names as its folder's.
func TestFolderLeaseBreak(t *testing.T) {
	srv := startServer(t, nil)
	one, two := loginAs(t, srv.addr, 1, testUser, "vms"), loginAs(t, srv.addr, 2, testUser, "vms")
	one.existing("folder", smb2.FileDirectoryFile, 0)
	q := cached("folder", smb2.OplockLease, 7, leaseRH)
	q.DesiredAccess, q.CreateDisposition = smb2.FileReadData, smb2.FileOpen
	if m := one.mustCreate(q); leaseOf(t, &m).LeaseState != leaseRH {
		t.Fatalf("granted %+v", leaseOf(t, &m))
	}
	own := createRequest(`folder\own`)
	own.RequestedOplockLevel = smb2.OplockLease
	l := smb2.Lease{Version: 2, LeaseKey: smb2.GUID{8}, LeaseState: leaseRH, Flags: smb2.LeaseFlagParentLeaseKeySet, ParentLeaseKey: smb2.GUID{7}}
	own.Contexts = []smb2.CreateContext{l.Context()}
	one.mustCreate(own)
	one.idle()
	two.create(`folder\another`)
	if b := one.leaseBreak(); b.LeaseKey != (smb2.GUID{7}) || b.NewLeaseState&smb2.LeaseReadCaching != 0 {
		t.Errorf("break %+v", b)
	}
}

// Data and sizes show in the folder too: a writer whose lease does not name the
// folder's as its parent breaks that when it closes, or sets a size at once.
func TestFolderLeaseBreakByData(t *testing.T) {
	setSize := func(c *rawClient, id smb2.FileID) {
		if st := c.setInfo(id, fscc.FileEndOfFileInformation, &fscc.EndOfFileInfo{EndOfFile: 5}); st != smb2.StatusSuccess {
			t.Fatal(st)
		}
	}
	for _, tt := range []struct {
		what   string
		parent byte // key of the lease of the file's parent; 0: none
		change func(c *rawClient, id smb2.FileID)
		broken bool
	}{
		{"write", 0, func(c *rawClient, id smb2.FileID) { c.write(id, 0, "data"); c.closeFile(id) }, true},
		{"size", 0, setSize, true},
		{"close alone", 0, func(c *rawClient, id smb2.FileID) { c.closeFile(id) }, false},
		{"write with the parent's key", 7, func(c *rawClient, id smb2.FileID) { c.write(id, 0, "data"); c.closeFile(id) }, false},
		{"size with the parent's key", 7, setSize, false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			srv := startServer(t, nil)
			c := loginAs(t, srv.addr, 1, testUser, "vms")
			c.existing("folder", smb2.FileDirectoryFile, 0)
			q := createRequest(`folder\file`)
			if tt.parent != 0 {
				q.RequestedOplockLevel = smb2.OplockLease
				l := smb2.Lease{Version: 2, LeaseKey: smb2.GUID{8}, LeaseState: leaseRH, Flags: smb2.LeaseFlagParentLeaseKeySet, ParentLeaseKey: smb2.GUID{tt.parent}}
				q.Contexts = []smb2.CreateContext{l.Context()}
			}
			id := c.mustCreate(q).FileID
			folder := cached("folder", smb2.OplockLease, 7, leaseRH)
			folder.DesiredAccess, folder.CreateDisposition = smb2.FileReadData, smb2.FileOpen
			c.mustCreate(folder)
			tt.change(c, id)
			if !tt.broken {
				c.idle()
				return
			}
			if b := c.leaseBreak(); b.LeaseKey != (smb2.GUID{7}) || b.NewLeaseState&smb2.LeaseReadCaching != 0 {
				t.Errorf("break %+v", b)
			}
		})
	}
}
