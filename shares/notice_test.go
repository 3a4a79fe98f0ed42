package shares

import (
	"errors"
	"testing"
	"time"

	"lunless/smbstore/smb2"
)

// onlySession is the server's one session.
func (s *testServer) onlySession(t *testing.T) *session {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sessions) != 1 {
		t.Fatalf("%d sessions, want 1", len(s.sessions))
	}
	for _, one := range s.sessions {
		return one
	}
	return nil
}

// TestNotices sends breaks that no request asked for: MS-SMB2 3.3.4.6 (of an
// oplock, with the session's id) and 3.3.4.7 (of a lease, with none).
func TestNotices(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		srv := startServer(t, nil)
		c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
		s := srv.onlySession(t)
		id := smb2.FileID{Persistent: 1, Volatile: 2}
		done := make(chan error, 1)

		s.sendNotice(&smb2.OplockBreak{OplockLevel: smb2.OplockII, FileID: id}, sealed, func(err error) { done <- err })
		r := c.receive()[0]
		var m smb2.OplockBreak
		if err := m.Decode(r.msg); err != nil || m.FileID != id || m.OplockLevel != smb2.OplockII {
			t.Errorf("%+v, %v", m, err)
		}
		if r.hdr.MessageID != ^uint64(0) || r.hdr.SessionID != c.session || r.hdr.TreeID != 0 || r.hdr.Flags != smb2.FlagServerToRedir {
			t.Errorf("header of an oplock break: %+v", r.hdr)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}

		srv.sendNotice(c.negotiation.ClientGUID, &smb2.LeaseBreakNotification{LeaseKey: smb2.GUID{9}}, sealed, func(err error) { done <- err })
		r = c.receive()[0]
		var l smb2.LeaseBreakNotification
		if err := l.Decode(r.msg); err != nil || l.LeaseKey != (smb2.GUID{9}) {
			t.Errorf("%+v, %v", l, err)
		}
		if r.hdr.MessageID != ^uint64(0) || r.hdr.SessionID != 0 || r.hdr.Flags != smb2.FlagServerToRedir {
			t.Errorf("header of a lease break: %+v", r.hdr)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}

		srv.sendNotice(smb2.GUID{77}, &smb2.LeaseBreakNotification{}, sealed, func(err error) { done <- err })
		if err := <-done; !errors.Is(err, errNoChannel) {
			t.Errorf("to a client that is not there: %v", err)
		}
		c.call(smb2.CommandLogoff, &smb2.LogoffRequest{}, nil)
		s.sendNotice(&m, sealed, func(err error) { done <- err })
		if err := <-done; !errors.Is(err, errNoChannel) {
			t.Errorf("to a session that has ended: %v", err)
		}
	}
}

// TestNoticesWaitForResponses holds a notification back behind a response that
// is not sent yet.
func TestNoticesWaitForResponses(t *testing.T) {
	srv := startServer(t, nil)
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	s := srv.onlySession(t)
	r := &request{conn: s.channelList()[0].conn, reply: &reply{}}
	r.holdNotices()
	done := make(chan error, 1)
	s.sendNotice(&smb2.OplockBreak{}, false, func(err error) { done <- err })
	if r := c.call(smb2.CommandEcho, &smb2.EchoRequest{}, nil); r.hdr.Command != smb2.CommandEcho {
		t.Fatalf("%v overtook the response", r.hdr.Command)
	}
	r.conn.releaseNotices(r.reply)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if r := c.receive()[0]; r.hdr.Command != smb2.CommandOplockBreak {
		t.Fatalf("got %v", r.hdr.Command)
	}
}

// TestNoticeAvoidsStuckChannel has a notification go over the second channel when
// the first takes nothing, while whoever sends it does not wait (MS-SMB2 3.3.4.6:
// "the server MUST retry the send using an alternate connection").
func TestNoticeAvoidsStuckChannel(t *testing.T) {
	usual := noticeTimeout
	noticeTimeout = 20 * time.Millisecond
	srv := startServer(t, nil)
	t.Cleanup(func() { noticeTimeout = usual })
	first := loginMulti(t, srv.addr, smb2.Dialect311)
	second := dialMulti(t, srv.addr, smb2.Dialect311)
	if st := second.bind(first, bindOptions{}); st != smb2.StatusSuccess {
		t.Fatal(st)
	}
	s := srv.onlySession(t)
	stuck := s.channelList()[0].conn
	stuck.writeMu.Lock() // as a write has it that does not return
	released := false
	release := func() {
		if !released {
			released = true
			stuck.writeMu.Unlock()
		}
	}
	t.Cleanup(release)
	done := make(chan error, 1)
	s.sendNotice(&smb2.OplockBreak{OplockLevel: smb2.OplockII}, false, func(err error) { done <- err })
	if r := second.receive()[0]; r.hdr.Command != smb2.CommandOplockBreak {
		t.Fatalf("got %v", r.hdr.Command)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	release()
	s.sendNotice(&smb2.OplockBreak{}, false, func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Error(err)
	}
}
