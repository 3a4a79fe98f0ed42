package shares

import (
	"encoding/binary"
	"testing"

	"lunless/smbstore/smb2"
)

// What belongs to another session, or another tree connect, is not reached by its
// ids, whatever they are put into.
func TestBorrowedIDs(t *testing.T) {
	srv := startServer(t, func(c *Config) {
		dir := t.TempDir()
		c.Shares = append(c.Shares, Share{Name: "other", Path: dir, FS: openFS(t, dir)})
		sealed := t.TempDir()
		c.Shares = append(c.Shares, Share{Name: "sealed", Path: sealed, FS: openFS(t, sealed), Encrypt: true})
	})
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	id := c.create("disk")
	c.write(id, 0, "data")
	session, tree := c.session, c.tree

	if st := c.treeConnect("other"); st != 0 {
		t.Fatal(st)
	}
	wantStatus(t, c.call(smb2.CommandRead, readRequest(id, 4), nil), smb2.StatusFileClosed)
	wantStatus(t, c.call(smb2.CommandClose, &smb2.CloseRequest{FileID: id}, nil), smb2.StatusFileClosed)

	// A second session on the connection.
	c.session, c.signer, c.sign = 0, nil, false
	c.login(testUser, testPassword)
	c.tree = tree
	wantStatus(t, c.call(smb2.CommandRead, readRequest(id, 4), nil), smb2.StatusNetworkNameDeleted)
	if st := c.treeConnect("vms"); st != 0 {
		t.Fatal(st)
	}
	wantStatus(t, c.call(smb2.CommandRead, readRequest(id, 4), nil), smb2.StatusFileClosed)
	dst := c.create("copy")
	m := smb2.CopychunkCopy{Chunks: []smb2.CopychunkChunk{{Length: 4}}}
	binary.LittleEndian.PutUint64(m.SourceKey[0:], id.Persistent)
	binary.LittleEndian.PutUint64(m.SourceKey[8:], id.Volatile)
	if _, st := c.ioctl(dst, smb2.FsctlSrvCopychunk, &m, 12); st != smb2.StatusObjectNameNotFound {
		t.Errorf("copy from another session's open: %v", st)
	}

	// Each command of a compound is signed by the session it is for.
	second := c.session
	for _, tt := range []struct {
		name string
		ids  [2]uint64
		want [2]smb2.Status
	}{
		{"own key", [2]uint64{second, second}, [2]smb2.Status{0, 0}},
		{"first with another's", [2]uint64{session, second}, [2]smb2.Status{smb2.StatusAccessDenied, 0}},
		{"second with another's", [2]uint64{second, session}, [2]smb2.Status{0, smb2.StatusAccessDenied}},
	} {
		frame := c.compound([]step{{smb2.CommandEcho, echo(), false, 0}, {smb2.CommandEcho, echo(), false, 0}})
		binary.LittleEndian.PutUint64(frame[40:], tt.ids[0])
		next := binary.LittleEndian.Uint32(frame[20:])
		binary.LittleEndian.PutUint64(frame[next+40:], tt.ids[1])
		c.send(frame)
		keys := c.signer
		c.signer = nil // answers are signed by whose they are
		list := c.receive()
		c.signer = keys
		for i, r := range list {
			if r.hdr.Status != tt.want[i] {
				t.Errorf("%s: command %d: %v, want %v", tt.name, i, r.hdr.Status, tt.want[i])
			}
		}
	}

	// An unsigned command is not carried by a signed one before it.
	frame := c.compound([]step{{smb2.CommandCreate, createRequest("disk"), false, 0},
		{smb2.CommandRead, readRequest(smb2.RelatedFileID, 4), true, 0}})
	next := binary.LittleEndian.Uint32(frame[20:])
	c.signer.Sign(frame[:next])
	c.sendFrame(frame)
	list := c.receive()
	wantStatus(t, list[0], smb2.StatusSuccess)
	wantStatus(t, list[1], smb2.StatusAccessDenied)

	// Nor a plain one to an encrypted share by a command that needs no encryption.
	if st := c.treeConnect("sealed"); st != 0 {
		t.Fatal(st)
	}
	c.send(c.compound([]step{{smb2.CommandEcho, echo(), false, 0}, {smb2.CommandCreate, createRequest("f"), true, 0}}))
	for _, r := range c.receive() {
		if r.hdr.Command == smb2.CommandCreate && r.hdr.Status == smb2.StatusSuccess {
			t.Error("created on an encrypted share in the clear")
		}
	}
	c.send(c.compound([]step{{smb2.CommandTreeConnect, &smb2.TreeConnectRequest{Path: `\\s\sealed`}, false, 0},
		{smb2.CommandCreate, createRequest("f"), true, 0}}))
	list = c.receive()
	wantStatus(t, list[0], smb2.StatusSuccess)
	wantStatus(t, list[1], smb2.StatusAccessDenied)
}
