package shares

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"lunless/smbstore/smb2"
)

// step is one command of a compound.
type step struct {
	cmd     smb2.Command
	body    body
	related bool
	want    smb2.Status
}

// compound puts commands into one frame.
func (c *rawClient) compound(steps []step) []byte {
	var frame []byte
	prev := -1
	for _, s := range steps {
		for len(frame)%8 != 0 {
			frame = append(frame, 0)
		}
		if prev >= 0 {
			binary.LittleEndian.PutUint32(frame[prev+20:], uint32(len(frame)-prev))
		}
		prev = len(frame)
		msg := c.build(s.cmd, s.body, nil)
		if s.related {
			msg[16] |= byte(smb2.FlagRelatedOperations)
		}
		if s.related && len(frame) > 0 {
			binary.LittleEndian.PutUint64(msg[40:], ^uint64(0))
			binary.LittleEndian.PutUint32(msg[36:], ^uint32(0))
		}
		frame = append(frame, msg...)
	}
	return frame
}

// TestCompounds: MS-SMB2 3.3.5.2.7, 3.3.4.1.3.
func TestCompounds(t *testing.T) {
	srv := startServer(t, nil)
	create := createRequest("f")
	missing := createRequest("missing")
	missing.CreateDisposition = smb2.FileOpen
	all := smb2.RelatedFileID
	read, closing := readRequest(all, 1), &smb2.CloseRequest{FileID: all}
	tests := []struct {
		name  string
		steps []step
	}{
		{"related", []step{
			{smb2.CommandCreate, create, false, smb2.StatusSuccess},
			{smb2.CommandRead, read, true, smb2.StatusEndOfFile},
			{smb2.CommandFlush, &smb2.FlushRequest{FileID: all}, true, smb2.StatusSuccess},
			{smb2.CommandClose, closing, true, smb2.StatusSuccess},
			{smb2.CommandClose, closing, true, smb2.StatusFileClosed}}},
		{"related after a failed create", []step{
			{smb2.CommandCreate, missing, false, smb2.StatusObjectNameNotFound},
			{smb2.CommandRead, read, true, smb2.StatusObjectNameNotFound},
			{smb2.CommandClose, closing, true, smb2.StatusObjectNameNotFound}}},
		{"first is related", []step{
			{smb2.CommandCreate, create, true, smb2.StatusInvalidParameter},
			{smb2.CommandClose, closing, true, smb2.StatusInvalidParameter}}},
		{"unrelated", []step{
			{smb2.CommandEcho, echo(), false, smb2.StatusSuccess},
			{smb2.CommandCreate, missing, false, smb2.StatusObjectNameNotFound},
			{smb2.CommandEcho, echo(), false, smb2.StatusSuccess}}},
		{"two chains", []step{
			{smb2.CommandCreate, create, false, smb2.StatusSuccess},
			{smb2.CommandClose, closing, true, smb2.StatusSuccess},
			{smb2.CommandCreate, create, false, smb2.StatusSuccess},
			{smb2.CommandClose, closing, true, smb2.StatusSuccess}}},
		{"nothing to relate to", []step{
			{smb2.CommandEcho, echo(), false, smb2.StatusSuccess},
			{smb2.CommandClose, closing, true, smb2.StatusFileClosed}}},
	}
	for _, d := range []smb2.Dialect{smb2.Dialect210, smb2.Dialect311} {
		for _, seal := range []bool{false, true} {
			if seal && d == smb2.Dialect210 {
				continue
			}
			c := loginRaw(t, srv.addr, d, "vms")
			c.seal = seal
			for range 4 {
				c.call(smb2.CommandEcho, echo(), nil)
			}
			for _, tt := range tests {
				t.Run(d.String()+"/"+tt.name, func(t *testing.T) {
					c.send(c.compound(tt.steps))
					list := c.receive()
					if len(list) != len(tt.steps) {
						t.Fatalf("%d responses in the frame, want %d", len(list), len(tt.steps))
					}
					for i, r := range list {
						wantStatus(t, r, tt.steps[i].want)
						if related := r.hdr.IsRelated(); related != tt.steps[i].related {
							t.Errorf("response %d related: %v", i, related)
						}
						if !seal && r.hdr.Flags&smb2.FlagSigned == 0 {
							t.Errorf("response %d is not signed", i)
						}
						if len(r.msg)%8 != 0 {
							t.Errorf("response %d is padded to %d bytes", i, len(r.msg))
						}
					}
				})
			}
		}
	}
}

// TestMalformedCompounds end the connection.
func TestMalformedCompounds(t *testing.T) {
	srv := startServer(t, nil)
	for _, next := range []uint32{4, 8, 63, 66, 72, 1 << 20, ^uint32(0)} {
		c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
		frame := c.compound([]step{{smb2.CommandEcho, echo(), false, 0}, {smb2.CommandEcho, echo(), false, 0}})
		if next == 72 {
			frame = frame[:100]
		} else {
			binary.LittleEndian.PutUint32(frame[20:], next)
		}
		c.sign = false
		c.send(frame)
		for list := c.receive(); list != nil; list = c.receive() {
			for _, r := range list {
				wantStatus(t, r, smb2.StatusAccessDenied)
			}
		}
	}
}

// TestAsyncAndCancel: a lock that has to wait goes async, and is cancelled by
// AsyncId, by MessageId, and by the end of what it belongs to (MS-SMB2 3.3.4.2,
// 3.3.5.16).
func TestAsyncAndCancel(t *testing.T) {
	srv := startServer(t, nil)
	holder := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	exclusive := func(id smb2.FileID, flags smb2.LockFlags) *smb2.LockRequest {
		return &smb2.LockRequest{FileID: id, Locks: []smb2.LockElement{{Offset: 0, Length: 10, Flags: flags}}}
	}
	held := holder.create("f")
	r := holder.call(smb2.CommandLock, exclusive(held, smb2.LockFlagExclusiveLock|smb2.LockFlagFailImmediately), nil)
	wantStatus(t, r, smb2.StatusSuccess)

	wait := func(t *testing.T, d smb2.Dialect) (*rawClient, smb2.FileID, response) {
		c := loginRaw(t, srv.addr, d, "vms")
		id := c.create("f")
		r := c.call(smb2.CommandLock, exclusive(id, smb2.LockFlagExclusiveLock), nil)
		wantStatus(t, r, smb2.StatusPending)
		if !r.hdr.IsAsync() || r.hdr.AsyncID == 0 || r.hdr.Credits == 0 || r.hdr.Flags&smb2.FlagSigned != 0 {
			t.Errorf("interim response: %+v", r.hdr)
		}
		return c, id, r
	}
	final := func(t *testing.T, c *rawClient, interim response, want smb2.Status) {
		t.Helper()
		list := c.receive()
		if list == nil {
			t.Fatal("no final response")
		}
		r := list[0]
		wantStatus(t, r, want)
		if r.hdr.AsyncID != interim.hdr.AsyncID || r.hdr.MessageID != interim.hdr.MessageID || r.hdr.Credits != 0 ||
			r.hdr.Flags&smb2.FlagSigned == 0 {
			t.Errorf("final response: %+v", r.hdr)
		}
	}
	cancel := func(c *rawClient, interim response, byAsync bool) {
		h := smb2.Header{Command: smb2.CommandCancel, SessionID: c.session, MessageID: interim.hdr.MessageID}
		if byAsync {
			h.Flags, h.AsyncID, h.MessageID = smb2.FlagAsyncCommand, interim.hdr.AsyncID, 0
		}
		msg := make([]byte, (&smb2.CancelRequest{}).Size())
		h.Encode(msg)
		(&smb2.CancelRequest{}).Encode(msg)
		c.send(msg)
	}
	for _, byAsync := range []bool{true, false} {
		c, _, interim := wait(t, smb2.Dialect311)
		cancel(c, interim, byAsync)
		final(t, c, interim, smb2.StatusCancelled)
		wantStatus(t, c.call(smb2.CommandEcho, echo(), nil), smb2.StatusSuccess)
	}
	t.Run("last of a compound", func(t *testing.T) {
		c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
		c.send(c.compound([]step{{smb2.CommandCreate, createRequest("f"), false, 0},
			{smb2.CommandLock, exclusive(smb2.RelatedFileID, smb2.LockFlagExclusiveLock), true, 0}}))
		list := c.receive()
		if len(list) != 2 {
			t.Fatalf("%d responses", len(list))
		}
		wantStatus(t, list[0], smb2.StatusSuccess)
		wantStatus(t, list[1], smb2.StatusPending)
		cancel(c, list[1], true)
		final(t, c, list[1], smb2.StatusCancelled)
	})
	t.Run("tree disconnect", func(t *testing.T) {
		c, _, interim := wait(t, smb2.Dialect311)
		c.send(c.build(smb2.CommandTreeDisconnect, &smb2.TreeDisconnectRequest{}, nil))
		seen := map[smb2.Command]smb2.Status{}
		for range 2 {
			r := c.receive()[0]
			seen[r.hdr.Command] = r.hdr.Status
		}
		if seen[smb2.CommandTreeDisconnect] != smb2.StatusSuccess || !seen[smb2.CommandLock].IsError() || seen[smb2.CommandLock] == 0 {
			t.Errorf("%v, interim %v", seen, interim.hdr.Status)
		}
	})
	t.Run("granted", func(t *testing.T) {
		c, _, interim := wait(t, smb2.Dialect210)
		wantStatus(t, holder.call(smb2.CommandLock, exclusive(held, smb2.LockFlagUnlock), nil), smb2.StatusSuccess)
		final(t, c, interim, smb2.StatusSuccess)
	})
}

// TestTable: every command has a handler, a FileId where it needs one, and a
// payload that lies within the fixed part that CheckRequest demands.
func TestTable(t *testing.T) {
	for code := range smb2.Command(smb2.NumCommands) {
		cmd, info := commands[code], smb2.Commands[code]
		if cmd.handle == nil {
			t.Errorf("%v: no handler", code)
		}
		if needs := cmd.needs&(needOpen|mayOpen) != 0; needs != (cmd.fileIDAt > 0) ||
			cmd.fileIDAt+16 > smb2.HeaderSize+info.FixedSize {
			t.Errorf("%v: FileId at %d of %d", code, cmd.fileIDAt, smb2.HeaderSize+info.FixedSize)
		}
		if cmd.needs&needTree != 0 && cmd.needs&needSession == 0 || cmd.needs&needOpen != 0 && cmd.needs&needTree == 0 {
			t.Errorf("%v: needs %b", code, cmd.needs)
		}
		if cmd.payload != nil {
			cmd.payload(make([]byte, info.FixedSize)) // panics if it looks further
		}
	}
}

// TestTableFindsFileIDs encodes each request that has a FileId and finds it where
// the table says, and its payload size too.
func TestTableFindsFileIDs(t *testing.T) {
	id := smb2.FileID{Persistent: 0x1122334455667788, Volatile: 0x99aabbccddeeff00}
	const n = 12345
	in := make([]byte, n)
	for _, tt := range []struct {
		code smb2.Command
		m    body
		size uint64
	}{
		{smb2.CommandClose, &smb2.CloseRequest{FileID: id}, 0},
		{smb2.CommandFlush, &smb2.FlushRequest{FileID: id}, 0},
		{smb2.CommandRead, &smb2.ReadRequest{FileID: id, Length: n}, n},
		{smb2.CommandWrite, &smb2.WriteRequest{FileID: id, Length: n}, n},
		{smb2.CommandLock, &smb2.LockRequest{FileID: id, Locks: make([]smb2.LockElement, 1)}, 0},
		{smb2.CommandIoctl, &smb2.IoctlRequest{FileID: id, MaxOutputResponse: n}, n},
		{smb2.CommandIoctl, &smb2.IoctlRequest{FileID: id, Input: in}, n},
		{smb2.CommandQueryDirectory, &smb2.QueryDirectoryRequest{FileID: id, OutputBufferLength: n}, n},
		{smb2.CommandChangeNotify, &smb2.ChangeNotifyRequest{FileID: id, OutputBufferLength: n}, n},
		{smb2.CommandQueryInfo, &smb2.QueryInfoRequest{FileID: id, OutputBufferLength: n}, n},
		{smb2.CommandSetInfo, &smb2.SetInfoRequest{FileID: id, Buffer: in}, n},
	} {
		msg := make([]byte, tt.m.Size())
		tt.m.Encode(msg)
		if err := smb2.CheckRequest(tt.code, msg); err != nil {
			t.Errorf("%v: %v", tt.code, err)
			continue
		}
		cmd := commandOf(tt.code)
		at := msg[cmd.fileIDAt:]
		if binary.LittleEndian.Uint64(at) != id.Persistent || binary.LittleEndian.Uint64(at[8:]) != id.Volatile {
			t.Errorf("%v: no FileId at %d", tt.code, cmd.fileIDAt)
		}
		if cmd.payload != nil && cmd.payload(msg[smb2.HeaderSize:]) != tt.size {
			t.Errorf("%v: payload of %d, want %d", tt.code, cmd.payload(msg[smb2.HeaderSize:]), tt.size)
		}
	}
}

// TestCompoundTooLarge: responses that do not fit one frame of Direct TCP are not
// made (MS-SMB2 2.1): the one that would be too many fails.
func TestCompoundTooLarge(t *testing.T) {
	srv := startServer(t, nil)
	if err := os.WriteFile(filepath.Join(srv.root, "disk"), make([]byte, maxTransfer), 0o600); err != nil {
		t.Fatal(err)
	}
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	id := c.open("disk", smb2.GenericRead, 0)
	for c.granted < 600 {
		c.call(smb2.CommandEcho, echo(), nil)
	}
	read := readRequest(id, maxTransfer)
	var frame []byte
	for i := range 3 {
		msg := c.build(smb2.CommandRead, read, nil)
		for len(msg)%8 != 0 {
			msg = append(msg, 0)
		}
		binary.LittleEndian.PutUint16(msg[6:], maxTransfer/creditUnit)
		c.message += maxTransfer/creditUnit - 1
		if i < 2 {
			binary.LittleEndian.PutUint32(msg[20:], uint32(len(msg)))
		}
		frame = append(frame, msg...)
	}
	c.send(frame)
	list := c.receive()
	if len(list) != 3 {
		t.Fatalf("%d responses", len(list))
	}
	for i, want := range []smb2.Status{smb2.StatusSuccess, smb2.StatusInsufficientResources, smb2.StatusInsufficientResources} {
		wantStatus(t, list[i], want)
	}
}

// TestCompoundedNegotiate ends the connection.
func TestCompoundedNegotiate(t *testing.T) {
	c := dialRaw(t, startServer(t, nil).addr)
	m := &smb2.NegotiateRequest{SecurityMode: smb2.SigningEnabled, Dialects: []smb2.Dialect{smb2.Dialect302}}
	c.send(c.compound([]step{{smb2.CommandNegotiate, m, false, 0},
		{smb2.CommandSessionSetup, &smb2.SessionSetupRequest{SecurityBuffer: []byte{1}}, false, 0}}))
	c.gone()
}
