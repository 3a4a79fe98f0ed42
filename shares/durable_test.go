package shares

import (
	"context"
	"errors"
	"net"
	"testing"

	"lunless/shares/accounts"
	"lunless/shares/fs"
	"lunless/shares/fs/powerfs"
	"lunless/smbstore/smb2"
)

// caShare adds the share "ca" to a server's configuration, and a folder for its state.
func caShare(t testing.TB) func(*Config) {
	root, dir := t.TempDir(), t.TempDir()
	return func(c *Config) {
		c.StateDir = dir
		c.Shares = append(c.Shares, Share{Name: "ca", Path: root, FS: openFS(t, root), ContinuouslyAvailable: true})
	}
}

// MS-SMB2 3.3.5.7: a share that is continuously available says so, to SMB 3 clients.
func TestContinuousAvailability(t *testing.T) {
	srv := startServer(t, caShare(t))
	for d, want := range map[smb2.Dialect]bool{smb2.Dialect210: false, smb2.Dialect300: true, smb2.Dialect311: true} {
		for _, share := range []string{"ca", "vms"} {
			c := loginRaw(t, srv.addr, d, "vms")
			r := c.call(smb2.CommandTreeConnect, &smb2.TreeConnectRequest{Path: `\\server\` + share}, nil)
			var m smb2.TreeConnectResponse
			if err := m.Decode(r.msg); err != nil {
				t.Fatal(err)
			}
			if got := m.Capabilities&smb2.ShareCapContinuousAvailability != 0; got != (want && share == "ca") {
				t.Errorf("%v, share %s: %v", d, share, got)
			}
		}
	}
}

// Without a folder for its state a server cannot keep what the share promises.
func TestContinuousAvailabilityNeedsState(t *testing.T) {
	srv := startServer(t, nil)
	s := Share{Name: "ca", FS: fs.NewFault(nil), ContinuouslyAvailable: true}
	if err := srv.AddShare(s); !errors.Is(err, ErrNoState) {
		t.Errorf("AddShare: %v", err)
	}
	if err := srv.SetShares(t.Context(), []Share{s}); !errors.Is(err, ErrNoState) {
		t.Errorf("SetShares: %v", err)
	}
}

// A server that keeps its state keeps the GUID clients know it by, and gives its
// folder free when it stops.
func TestServerGUIDStays(t *testing.T) {
	store, err := accounts.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Accounts: store}
	caShare(t)(&cfg)
	var guids [2]smb2.GUID
	for i := range guids {
		srv, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		guids[i] = srv.cfg.GUID
		if err := srv.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if guids[0] != guids[1] || guids[0].IsZero() {
		t.Errorf("GUIDs %x", guids)
	}
}

// A server that is stopped in order keeps the persistent handles of its clients for
// the next one, as one that dies does.
func TestOrderlyStopKeepsPersistentHandles(t *testing.T) {
	users, err := accounts.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := users.AddUser(testUser, testPassword); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	store := powerfs.New()
	cfg := func() Config {
		return Config{Accounts: users, StateDir: dir, Logger: testLogger(t), Shares: []Share{{Name: "ca", FS: store, ContinuouslyAvailable: true}}}
	}
	guid := smb2.GUID{7}
	var fid smb2.FileID
	run := func(do func(c *rawClient)) {
		srv, err := New(cfg())
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go srv.Serve(context.Background(), l)
		c := loginRaw(t, l.Addr().String(), smb2.Dialect311, "ca")
		do(c)
		if err := srv.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	run(func(c *rawClient) {
		q := createRequest("f")
		d := smb2.DurableRequestV2{Flags: smb2.DurableFlagPersistent, CreateGUID: guid}
		q.Contexts = []smb2.CreateContext{d.Context()}
		var m smb2.CreateResponse
		if r := c.call(smb2.CommandCreate, q, nil); r.hdr.Status != smb2.StatusSuccess {
			t.Fatal(r.hdr.Status)
		} else if err := m.Decode(r.msg); err != nil {
			t.Fatal(err)
		}
		fid = m.FileID
	})
	run(func(c *rawClient) {
		q := createRequest("f")
		d := smb2.DurableReconnectV2{FileID: fid, CreateGUID: guid, Flags: smb2.DurableFlagPersistent}
		q.Contexts = []smb2.CreateContext{d.Context()}
		if st := c.call(smb2.CommandCreate, q, nil).hdr.Status; st != smb2.StatusSuccess {
			t.Errorf("reclaim: %v", st)
		}
	})
}
