package shares

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"lunless/shares/state"
	"lunless/smbstore/smb2"
)

// stuckWriter has a client write to a file of the share and cuts its connection while
// the write is under way: the server knows that the connection has ended, but
// cannot take down what was open before open is called.
func stuckWriter(t *testing.T, change func(*Config), share, name string, q *smb2.CreateRequest) (srv *testServer, id smb2.FileID, open func()) {
	t.Helper()
	gated := &gatedFS{gate: make(chan struct{}), entered: make(chan struct{}, 1)}
	srv = startServer(t, func(cfg *Config) {
		cfg.Limits.Break = time.Hour
		if change != nil {
			change(cfg)
		}
		for i := range cfg.Shares {
			if s := &cfg.Shares[i]; s.Name == share {
				gated.FS, s.FS = s.FS, gated
			}
		}
	})
	var once sync.Once
	open = func() { once.Do(func() { close(gated.gate) }) }
	t.Cleanup(open)
	one := loginAs(t, srv.addr, 1, testUser, share)
	one.existing(name, 0, 0)
	id = one.mustCreate(q).FileID
	s := srv.onlySession(t)
	lost := s.channelList()[0].conn
	const size = 256 << 10 // large enough for a worker
	one.send(one.build(smb2.CommandWrite, &smb2.WriteRequest{FileID: id, Length: size}, []byte(strings.Repeat("x", size))))
	<-gated.entered
	one.nc.Close()
	<-lost.ctx.Done()
	return srv, id, open
}

// MS-SMB2 3.3.4.6 and 3.3.4.7: a durable open whose holder cannot be told of a break,
// because there is no connection, is closed; who waits for it is alone with the file
// then, however late the server takes down what the connection leaves.
func TestBreakOfLostConnection(t *testing.T) {
	d := smb2.DurableRequestV2{CreateGUID: smb2.GUID{1}}
	for what, q := range map[string]*smb2.CreateRequest{
		"lease":             cached("disk", smb2.OplockLease, 7, leaseRWH, d.Context()),
		"lease, no durable": cached("disk", smb2.OplockLease, 7, leaseRWH),
		"oplock":            cached("disk", smb2.OplockBatch, 0, 0, d.Context()),
	} {
		t.Run(what, func(t *testing.T) {
			srv, _, open := stuckWriter(t, nil, "vms", "disk", q)
			two := loginAs(t, srv.addr, 2, testUser, "vms")
			two.pending(smb2.CommandCreate, cached("disk", smb2.OplockLease, 9, leaseRWH))
			two.idle() // the write may reach the file yet
			open()
			r := two.response()
			var m smb2.CreateResponse
			if err := m.Decode(r.msg); err != nil || r.hdr.Status != smb2.StatusSuccess {
				t.Fatal(r.hdr.Status, err)
			}
			if l := leaseOf(t, &m); l.LeaseState != leaseRWH {
				t.Errorf("granted %v beside an open that has gone", l.LeaseState)
			}
		})
	}
}

// MS-SMB2 3.3.4.7: of a persistent open's break that could not be sent "the server MUST take no further action", but
// to tell its client when that is back (3.3.5.9.12).
func TestBreakOfLostPersistentOpen(t *testing.T) {
	q := cached("disk", smb2.OplockLease, 7, leaseRWH, durableV2(3, smb2.DurableFlagPersistent, 0))
	srv, id, open := stuckWriter(t, caShare(t), "ca", "disk", q)
	two := loginAs(t, srv.addr, 2, testUser, "ca")
	two.pending(smb2.CommandCreate, createRequest("disk"))
	two.idle()
	open()
	if r := two.response(); r.hdr.Status != smb2.StatusFileNotAvailable {
		t.Fatalf("opened what is kept for another client: %v", r.hdr.Status)
	}
	one := loginAs(t, srv.addr, 1, testUser, "ca")
	for o := srv.table.find(state.OpenID(id.Persistent)); !o.parked.Load(); {
		sleepBriefly()
	}
	m := one.mustCreate(cached("disk", smb2.OplockLease, 7, leaseRWH, reclaimV2(id, 3, smb2.DurableFlagPersistent)))
	if l := leaseOf(t, &m); l.LeaseState != leaseRWH || l.Flags&smb2.LeaseFlagBreakInProgress == 0 {
		t.Errorf("reclaimed with %v, flags %#x", l.LeaseState, l.Flags)
	}
	if b := one.leaseBreak(); b.CurrentLeaseState != leaseRWH || b.NewLeaseState != leaseRH {
		t.Errorf("break %+v", b)
	}
	if st := one.ackLease(7, leaseRH); st != smb2.StatusSuccess {
		t.Error(st)
	}
}

// replayCreate sends a CREATE again, as MS-SMB2 3.2.4.3 has it, and returns its status.
func (c *rawClient) replayCreate(q *smb2.CreateRequest) smb2.Status {
	c.t.Helper()
	msg := c.build(smb2.CommandCreate, q, nil)
	binary.LittleEndian.PutUint32(msg[16:], uint32(smb2.FlagReplayOperation))
	c.send(msg)
	return c.response().hdr.Status
}

// A CREATE that waits for a break, and whose channel is lost, is sent again over
// another channel: it is answered as if the first still waited, as Windows does, until the break is over
// (MS-SMB2 3.3.5.9.10; 3.3.7.1, with note 443 on what the object store makes of a cancellation).
func TestReplayAfterLostChannel(t *testing.T) {
	srv := startServer(t, func(c *Config) { c.Limits.Break = time.Hour })
	holder := loginAs(t, srv.addr, 1, testUser, "vms")
	holder.mustCreate(cached("disk", smb2.OplockLease, 7, leaseRWH))
	channels := []*rawClient{loginMulti(t, srv.addr, smb2.Dialect311)}
	for len(channels) < 3 {
		c := dialMulti(t, srv.addr, smb2.Dialect311)
		if st := c.bind(channels[0], bindOptions{}); st != smb2.StatusSuccess {
			t.Fatal(st)
		}
		channels = append(channels, c)
	}
	var s *session
	for _, one := range srv.sessionsOf(channels[0].negotiation.ClientGUID) {
		s = one
	}
	q := func() *smb2.CreateRequest { return cached("disk", smb2.OplockLease, 9, leaseRH, durableV2(3, 0, 0)) }
	channels[0].pending(smb2.CommandCreate, q())
	holder.leaseBreak()
	channels[0].nc.Close()
	for len(s.channelList()) != 2 {
		sleepBriefly()
	}
	for _, c := range channels[1:] {
		if st := c.replayCreate(q()); st != smb2.StatusAccessDenied {
			t.Errorf("while the break is under way: %v", st)
		}
	}
	if n := s.outlived.Load(); n != 1 {
		t.Errorf("%d CREATEs wait on, want 1", n)
	}
	if st := holder.ackLease(7, leaseRH); st != smb2.StatusSuccess {
		t.Fatal(st)
	}
	for s.outlived.Load() != 0 {
		sleepBriefly()
	}
	if n := s.countOpens(); n != 0 {
		t.Errorf("%d opens of a CREATE that was cancelled", n)
	}
	if st := channels[1].replayCreate(q()); st != smb2.StatusSuccess {
		t.Errorf("when the break is over: %v", st)
	}
}

// With its last channel the session ends, and what waited with it: nobody is kept from
// sending the CREATE in another session (MS-SMB2 3.3.7.1).
func TestLostSessionLeavesNoCreate(t *testing.T) {
	srv := startServer(t, func(c *Config) { c.Limits.Break = time.Hour })
	holder := loginAs(t, srv.addr, 1, testUser, "vms")
	holder.mustCreate(cached("disk", smb2.OplockLease, 7, leaseRWH))
	first := loginMulti(t, srv.addr, smb2.Dialect311)
	second := dialMulti(t, srv.addr, smb2.Dialect311)
	if st := second.bind(first, bindOptions{}); st != smb2.StatusSuccess {
		t.Fatal(st)
	}
	var s *session
	for _, one := range srv.sessionsOf(first.negotiation.ClientGUID) {
		s = one
	}
	first.pending(smb2.CommandCreate, cached("disk", smb2.OplockLease, 9, leaseRH, durableV2(3, 0, 0)))
	holder.leaseBreak()
	first.nc.Close()
	for s.outlived.Load() != 1 {
		sleepBriefly()
	}
	second.nc.Close()
	for s.outlived.Load() != 0 {
		sleepBriefly()
	}
	srv.table.mu.Lock()
	n := len(srv.table.creating)
	srv.table.mu.Unlock()
	if n != 0 || srv.asyncs.Load() != 0 {
		t.Errorf("%d CREATEs, %d requests are left", n, srv.asyncs.Load())
	}
}

// A break that a request causes reaches the client of that request before the
// responses to what it has sent next (MS-SMB2 3.3.4.7): who sees those must be able to tell what
// he may cache.
func TestBreakBeforeLaterResponses(t *testing.T) {
	srv := startServer(t, nil)
	c := loginAs(t, srv.addr, 1, testUser, "vms")
	for i := range 100 {
		m := c.mustCreate(cached("disk", smb2.OplockLease, 7, leaseRH))
		id := c.mustCreate(createRequest("disk")).FileID
		b := renameTo(fmt.Sprint("renamed", i))
		buf := make([]byte, b.Size())
		b.Encode(buf)
		rename := &smb2.SetInfoRequest{InfoType: smb2.InfoFile, FileInfoClass: uint8(fsccRename), FileID: id, Buffer: buf}
		missing := createRequest("missing")
		missing.CreateDisposition = smb2.FileOpen
		c.send(c.build(smb2.CommandSetInfo, rename, nil))
		c.send(c.build(smb2.CommandCreate, missing, nil))
		var got []string
		for range 3 {
			r := c.receive()[0]
			if isNotice(r.msg) {
				got = append(got, "break")
				continue
			}
			got = append(got, r.hdr.Status.Error())
		}
		if got[2] != smb2.StatusObjectNameNotFound.Error() {
			t.Fatalf("round %d: %q", i, got)
		}
		if st := c.ackLease(7, smb2.LeaseReadCaching); st != smb2.StatusSuccess {
			t.Fatal(st)
		}
		if r := c.response(); r.hdr.Status != smb2.StatusSuccess {
			t.Fatal(r.hdr.Status)
		}
		c.closeFile(id)
		c.closeFile(m.FileID)
	}
}
