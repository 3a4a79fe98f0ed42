package shares

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"lunless/shares/accounts"
	"lunless/shares/state"
	"lunless/smbstore/smb2"
)

// node is what servers that follow each other have in common.
type node struct {
	t        *testing.T
	accounts *accounts.Store
	root     string
	state    string
	now      *testServer
}

func newNode(t *testing.T) *node {
	t.Helper()
	store, err := accounts.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{testUser, "other"} {
		if err := store.AddUser(user, testPassword); err != nil {
			t.Fatal(err)
		}
	}
	n := &node{t: t, accounts: store, root: t.TempDir(), state: t.TempDir()}
	n.start()
	return n
}

func (n *node) start() {
	n.now = startServer(n.t, func(c *Config) {
		c.Accounts, c.StateDir = n.accounts, n.state
		c.Shares = []Share{{Name: "ca", Path: n.root, FS: openFS(n.t, n.root), ContinuouslyAvailable: true}}
	})
}

// stop ends the server in order, and starts another.
func (n *node) stop() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := n.now.Shutdown(ctx); err != nil {
		n.t.Fatal(err)
	}
	n.start()
}

// kill starts another server with what is on disk at this moment. The old one does
// no more than hold its descriptors, as a process that has been killed does not.
func (n *node) kill() {
	n.t.Helper()
	b, err := os.ReadFile(filepath.Join(n.state, state.FileName))
	if err != nil {
		n.t.Fatal(err)
	}
	n.state = n.t.TempDir()
	if err := os.WriteFile(filepath.Join(n.state, state.FileName), b, 0o600); err != nil {
		n.t.Fatal(err)
	}
	n.start()
}

func (n *node) login(guid byte, user string) *rawClient {
	n.t.Helper()
	return loginAs(n.t, n.now.addr, guid, user, "ca")
}

const persistent = smb2.DurableFlagPersistent

// claimDisk reclaims what the persistent open of disk was made with.
func claimDisk(id smb2.FileID) *smb2.CreateRequest {
	return cached("disk", smb2.OplockLease, 7, leaseRWH, reclaimV2(id, 3, persistent))
}

// numbered is a LOCK request with a lock sequence.
func numbered(id smb2.FileID, off uint64, index, number uint32) *smb2.LockRequest {
	q := lockRequest(id, smb2.LockElement{Offset: off, Length: 4, Flags: smb2.LockFlagExclusiveLock | smb2.LockFlagFailImmediately})
	q.LockSequence = index<<4 | number
	return q
}

// MS-SMB2 3.3.5.9.12 and MS-HVRS C0002: a persistent handle outlives the server, with
// its lease, its locks and what is known of their sequence; nobody gets between.
func TestPersistentHandleOutlivesTheServer(t *testing.T) {
	for name, restart := range map[string]func(n *node){"stopped": (*node).stop, "killed": (*node).kill} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			c := n.login(1, testUser)
			m := c.mustCreate(cached("disk", smb2.OplockLease, 7, leaseRWH, durableV2(3, persistent, 0)))
			var d smb2.DurableResponseV2
			if data, ok := smb2.FindCreateContext(m.Contexts, smb2.CreateContextDurableRequestV2); !ok || d.Decode(data) != nil ||
				d.Flags != persistent || d.Timeout != 60_000 {
				t.Fatalf("granted %+v", d)
			}
			if st := c.write(m.FileID, 0, "data"); st != smb2.StatusSuccess {
				t.Fatal(st)
			}
			wantStatus(t, c.call(smb2.CommandLock, numbered(m.FileID, 100, 5, 9), nil), smb2.StatusSuccess)
			restart(n)

			between := n.login(2, testUser)
			if _, st := between.tryCreate(createRequest("disk")); st != smb2.StatusFileNotAvailable {
				t.Errorf("another open while the client is away: %v", st)
			}
			if _, st := between.tryCreate(claimDisk(m.FileID)); st != smb2.StatusObjectNameNotFound {
				t.Errorf("reclaimed by another client: %v", st)
			}
			other := n.login(1, "other")
			if _, st := other.tryCreate(claimDisk(m.FileID)); st != smb2.StatusAccessDenied {
				t.Errorf("reclaimed by another user: %v", st)
			}
			other.call(smb2.CommandLogoff, &smb2.LogoffRequest{}, nil) // or breaks go to it: it is the same client's
			again := n.login(1, testUser)
			back := again.mustCreate(claimDisk(m.FileID))
			if back.FileID.Persistent != m.FileID.Persistent || leaseOf(t, &back).LeaseState != leaseRWH {
				t.Errorf("came back as %v with %+v", back.FileID, leaseOf(t, &back))
			}
			if got, st := again.read(back.FileID, 4); got != "data" || st != smb2.StatusSuccess {
				t.Errorf("read %q, %v", got, st)
			}
			// The lock is there, and its request is known: done again it would fail.
			wantStatus(t, again.call(smb2.CommandLock, numbered(back.FileID, 100, 5, 9), nil), smb2.StatusSuccess)
			wantStatus(t, again.call(smb2.CommandLock, numbered(back.FileID, 100, 5, 10), nil), smb2.StatusLockNotGranted)

			between.pending(smb2.CommandCreate, createRequest("disk"))
			if b := again.leaseBreak(); b.NewLeaseState != leaseRH {
				t.Errorf("break %+v", b)
			}
			if st := again.ackLease(7, leaseRH); st != smb2.StatusSuccess {
				t.Fatal(st)
			}
			wantStatus(t, between.response(), smb2.StatusSuccess)
		})
	}
}

// A CREATE whose response got lost with the server is answered by the next one (MS-SMB2 3.3.5.9).
func TestCreateReplayAfterRestart(t *testing.T) {
	n := newNode(t)
	q := func() *smb2.CreateRequest {
		return cached("disk", smb2.OplockLease, 7, leaseRWH, durableV2(3, persistent, 0))
	}
	c := n.login(1, testUser)
	m := c.mustCreate(q())
	n.kill()
	again := n.login(1, testUser)
	send := func(q *smb2.CreateRequest) response {
		msg := again.build(smb2.CommandCreate, q, nil)
		msg[19] |= byte(smb2.FlagReplayOperation >> 24)
		again.send(msg)
		return again.response()
	}
	other := q()
	other.DesiredAccess = smb2.GenericRead
	wantStatus(t, send(other), statusContextMismatch)
	r := send(q())
	var back smb2.CreateResponse
	if err := back.Decode(r.msg); err != nil || r.hdr.Status != smb2.StatusSuccess || back.FileID.Persistent != m.FileID.Persistent {
		t.Fatalf("%v, %v: %+v", r.hdr.Status, err, back.FileID)
	}
	if st := again.write(back.FileID, 0, "data"); st != smb2.StatusSuccess {
		t.Error(st)
	}
}

// What a file's last persistent open was to delete is deleted when that ends, on
// whichever server.
func TestDeleteOnCloseAfterRestart(t *testing.T) {
	n := newNode(t)
	c := n.login(1, testUser)
	q := cached("disk", smb2.OplockLease, 7, leaseRWH, durableV2(3, persistent, 0))
	q.CreateOptions = smb2.FileDeleteOnClose
	m := c.mustCreate(q)
	n.kill()
	again := n.login(1, testUser)
	back := again.mustCreate(claimDisk(m.FileID))
	if _, err := os.Stat(filepath.Join(n.root, "disk")); err != nil {
		t.Fatal(err)
	}
	again.closeFile(back.FileID)
	if _, err := os.Stat(filepath.Join(n.root, "disk")); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
}

// A name that leads to another file while no server ran gives no handle to it.
func TestPersistentHandleOfAnotherFile(t *testing.T) {
	n := newNode(t)
	c := n.login(1, testUser)
	m := c.mustCreate(cached("disk", smb2.OplockLease, 7, leaseRWH, durableV2(3, persistent, 0)))
	path := filepath.Join(n.root, "disk")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.kill()
	again := n.login(1, testUser)
	if _, st := again.tryCreate(claimDisk(m.FileID)); st != smb2.StatusObjectNameNotFound {
		t.Errorf("reclaimed: %v", st)
	}
	again.mustCreate(createRequest("disk"))
}

// A persistent handle follows its file through a rename, and keeps no name from others.
func TestPersistentHandleFollowsRenames(t *testing.T) {
	n := newNode(t)
	c := n.login(1, testUser)
	m := c.mustCreate(cached("disk", smb2.OplockLease, 7, leaseRWH, durableV2(3, persistent, 0)))
	if st := c.setInfo(m.FileID, fsccRename, renameTo("moved")); st != smb2.StatusSuccess {
		t.Fatal(st)
	}
	n.kill()
	again := n.login(1, testUser)
	if _, st := again.tryCreate(claimDisk(m.FileID)); st != smb2.StatusInvalidParameter {
		t.Errorf("reclaimed by the old name: %v", st)
	}
	q := claimDisk(m.FileID)
	q.Name = "moved"
	back := again.mustCreate(q)
	if st := again.write(back.FileID, 0, "data"); st != smb2.StatusSuccess {
		t.Error(st)
	}
	again.create("disk")
}

// A share whose disk is not mounted when the server starts costs no handle: they
// are there again once it is.
func TestPersistentHandlesOfAnUnmountedDisk(t *testing.T) {
	n := newNode(t)
	c := n.login(1, testUser)
	m := c.mustCreate(cached("disk", smb2.OplockLease, 7, leaseRWH, durableV2(3, persistent, 0)))
	mounted := n.root
	empty, err := os.MkdirTemp("/dev/shm", "lunless-*") // of another file system, as what is below a mount point
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(empty) })
	n.root = empty
	n.stop()
	n.root = mounted
	n.stop()
	if back := n.login(1, testUser).mustCreate(claimDisk(m.FileID)); back.FileID.Persistent != m.FileID.Persistent {
		t.Errorf("came back as %v, was %v", back.FileID, m.FileID)
	}
}
