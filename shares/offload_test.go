package shares

import (
	"bytes"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// countedConn counts the bytes that pass.
type countedConn struct {
	net.Conn
	n atomic.Int64
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.n.Add(int64(n))
	return n, err
}

func (c *rawClient) offloadRead(id smb2.FileID, in fscc.OffloadReadInput) (out fscc.OffloadReadOutput, st smb2.Status) {
	c.t.Helper()
	m, st := c.ioctl(id, fscc.FSCTL_OFFLOAD_READ, &in, uint32(out.Size()))
	if st == 0 {
		if err := out.Decode(m.Output); err != nil {
			c.t.Fatal(err)
		}
	}
	return out, st
}

func (c *rawClient) offloadWrite(id smb2.FileID, in fscc.OffloadWriteInput) (uint64, smb2.Status) {
	c.t.Helper()
	var out fscc.OffloadWriteOutput
	m, st := c.ioctl(id, fscc.FSCTL_OFFLOAD_WRITE, &in, uint32(out.Size()))
	if st == 0 {
		if err := out.Decode(m.Output); err != nil {
			c.t.Fatal(err)
		}
	}
	return out.LengthWritten, st
}

// randomFile makes a file of random bytes where a share keeps its files.
func randomFile(t *testing.T, name string, size int) []byte {
	t.Helper()
	var seed [32]byte
	copy(seed[:], name)
	b := make([]byte, size)
	rand.NewChaCha8(seed).Read(b)
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return b
}

func emptyFile(t *testing.T, name string, size int64) {
	t.Helper()
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
}

func wantBytes(t *testing.T, name string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes, not the %d wanted", filepath.Base(name), len(got), len(want))
	}
}

// MS-HVRS C0004, MS-FSA 2.1.5.10.20 and 2.1.5.10.21: data moves from one share to
// another without crossing the wire.
func TestOffloadMovesNothingOverTheWire(t *testing.T) {
	const size = 48 << 20
	other := t.TempDir()
	srv := startServer(t, func(cfg *Config) {
		cfg.Shares = append(cfg.Shares, Share{Name: "other", Path: other, FS: openFS(t, other)})
	})
	want := randomFile(t, filepath.Join(srv.root, "src"), size)
	emptyFile(t, filepath.Join(other, "dst"), size)
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	src := c.open("src", smb2.GenericRead, 0)
	if st := c.treeConnect("other"); st != 0 {
		t.Fatal(st)
	}
	first := c.tree - 1
	dst := c.open("dst", smb2.GenericWrite, 0)
	counted := &countedConn{Conn: c.nc}
	c.nc = counted
	second := c.tree
	for off := uint64(0); off < size; {
		c.tree = first
		out, st := c.offloadRead(src, fscc.OffloadReadInput{FileOffset: off, CopyLength: size - off})
		if st != 0 || out.TransferLength == 0 {
			t.Fatalf("read at %d: %v, %d bytes", off, st, out.TransferLength)
		}
		c.tree = second
		n, st := c.offloadWrite(dst, fscc.OffloadWriteInput{FileOffset: off, CopyLength: out.TransferLength, Token: out.Token})
		if st != 0 || n == 0 || n > out.TransferLength {
			t.Fatalf("write at %d: %v, %d bytes", off, st, n)
		}
		off += n
	}
	if n := counted.n.Load(); n > 16<<10 {
		t.Errorf("%d bytes passed over the wire for a copy of %d", n, size)
	}
	wantBytes(t, filepath.Join(other, "dst"), want)
}

// MS-FSCC 2.1.11, 2.3.42, 2.3.43: what a token stands for, and to whom. Where
// blocks can be shared it stands for what the range held when it was made, else
// for nothing once that has changed.
func TestOffloadTokens(t *testing.T) {
	t.Run("kept aside", func(t *testing.T) {
		srv, _ := startReflink(t)
		testOffloadTokens(t, srv, true)
	})
	t.Run("live", func(t *testing.T) { testOffloadTokens(t, startServer(t, nil), false) })
}

func testOffloadTokens(t *testing.T, srv *testServer, kept bool) {
	const size = 1 << 20
	if err := srv.cfg.Accounts.AddUser("other", testPassword); err != nil {
		t.Fatal(err)
	}
	want := randomFile(t, filepath.Join(srv.root, "src"), size)
	emptyFile(t, filepath.Join(srv.root, "dst"), size)
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	again := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	stranger := dialRaw(t, srv.addr)
	stranger.negotiate(smb2.Dialect311)
	stranger.login("other", testPassword)
	stranger.treeConnect("vms")
	src, dst := c.open("src", rightsAll, 0), c.open("dst", rightsAll, 0)
	half := fscc.OffloadReadInput{FileOffset: 4096, CopyLength: size / 2}
	token := func(in fscc.OffloadReadInput) fscc.OffloadToken {
		t.Helper()
		out, st := c.offloadRead(src, in)
		if st != 0 || out.TransferLength != in.CopyLength || out.Flags != 0 {
			t.Fatalf("offload read: %v, %+v", st, out.TransferLength)
		}
		return out.Token
	}
	tok := token(half)
	use := func(c *rawClient, id smb2.FileID, tok fscc.OffloadToken) smb2.Status {
		t.Helper()
		_, st := c.offloadWrite(id, fscc.OffloadWriteInput{CopyLength: 4096, Token: tok})
		return st
	}

	// From the middle of the token, more than it has left.
	n, st := c.offloadWrite(dst, fscc.OffloadWriteInput{FileOffset: 8192, CopyLength: size / 2, TransferOffset: 4096, Token: tok})
	if st != 0 || n != size/2-4096 {
		t.Errorf("partial: %d bytes, %v", n, st)
	}
	copied := make([]byte, size)
	copy(copied[8192:], want[8192:4096+size/2])
	wantBytes(t, filepath.Join(srv.root, "dst"), copied)

	if st := use(again, again.open("dst", rightsAll, 0), tok); st != 0 {
		t.Errorf("another session of the user: %v", st)
	}
	if st := use(stranger, stranger.open("dst", rightsAll, 0), tok); st != smb2.StatusInvalidToken {
		t.Errorf("another user: %v", st)
	}
	for at := range 64 {
		forged := tok
		forged[at] ^= 1
		if forged.Type() == tok.Type() && use(c, dst, forged) != smb2.StatusInvalidToken {
			t.Errorf("a token with byte %d changed is good", at)
		}
	}
	if _, st := c.offloadWrite(dst, fscc.OffloadWriteInput{CopyLength: 4096, TransferOffset: size / 2, Token: tok}); st != smb2.StatusInvalidParameter {
		t.Errorf("past the token's end: %v", st)
	}

	// A token may be asked to live a millisecond.
	short := half
	short.TokenTimeToLive = 1
	for brief := token(short); use(c, dst, brief) != smb2.StatusInvalidToken; {
		sleepBriefly()
	}

	// Changes beside the range leave it alone, changes in it do not.
	changed := smb2.StatusInvalidToken
	if kept {
		changed = 0
	}
	if st := c.write(src, 0, "beside"); st != 0 {
		t.Fatal(st)
	}
	if st := use(c, dst, tok); st != 0 {
		t.Errorf("after a write beside the range: %v", st)
	}
	for what, change := range map[string]func() smb2.Status{
		"write": func() smb2.Status { return c.write(src, 5000, "within") },
		"zero": func() smb2.Status {
			_, st := c.ioctl(src, fscc.FSCTL_SET_ZERO_DATA, &fscc.ZeroData{Offset: 4096, Beyond: 8192}, 0)
			return st
		},
		"trim": func() smb2.Status {
			_, st := c.ioctl(src, fscc.FSCTL_FILE_LEVEL_TRIM, &fscc.Trim{Ranges: []fscc.ByteRange{{Offset: 4096, Length: 4096}}}, 0)
			return st
		},
		"cut": func() smb2.Status {
			st := c.setInfo(src, fscc.FileEndOfFileInformation, &fscc.EndOfFileInfo{EndOfFile: size / 4})
			if st == 0 {
				st = c.setInfo(src, fscc.FileEndOfFileInformation, &fscc.EndOfFileInfo{EndOfFile: size})
			}
			return st
		},
	} {
		if err := os.WriteFile(filepath.Join(srv.root, "src"), want, 0o600); err != nil {
			t.Fatal(err)
		}
		tok = token(half)
		if st := change(); st != 0 {
			t.Fatalf("%s: %v", what, st)
		}
		n, st := c.offloadWrite(dst, fscc.OffloadWriteInput{FileOffset: 4096, CopyLength: size / 2, Token: tok})
		if st != changed || st == 0 && n != size/2 {
			t.Errorf("after a %s in the range: %v, %d bytes", what, st, n)
		}
		if got, err := os.ReadFile(filepath.Join(srv.root, "dst")); kept && (err != nil || !bytes.Equal(got[4096:4096+size/2], want[4096:4096+size/2])) {
			t.Errorf("after a %s the token stands for something else, %v", what, err)
		}
	}
	if err := os.WriteFile(filepath.Join(srv.root, "src"), want, 0o600); err != nil {
		t.Fatal(err)
	}
	tok = token(half)
	c.closeFile(src)
	if st := use(c, dst, tok); st != changed {
		t.Errorf("after the source was closed: %v", st)
	}
	srv.offloads.dropOf(nil)
	if st := use(c, dst, tok); st != smb2.StatusInvalidToken {
		t.Errorf("dropped: %v", st)
	}
}

// MS-FSA 2.1.5.10.20, 2.1.5.10.21: ranges at the end of file and in holes.
func TestOffloadEdges(t *testing.T) {
	srv := startServer(t, nil)
	const size = 3<<20 + 100 // no whole sectors
	want := randomFile(t, filepath.Join(srv.root, "src"), size)
	emptyFile(t, filepath.Join(srv.root, "dst"), size)
	emptyFile(t, filepath.Join(srv.root, "hole"), 8<<20)
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	src, dst, hole := c.open("src", rightsAll, 0), c.open("dst", rightsAll, 0), c.open("hole", rightsAll, 0)
	const rounded = 3<<20 + 512
	out, st := c.offloadRead(src, fscc.OffloadReadInput{CopyLength: 4 << 20})
	if st != 0 || out.TransferLength != rounded || out.Flags != fscc.OFFLOAD_READ_FLAG_ALL_ZERO_BEYOND_CURRENT_RANGE {
		t.Errorf("past the end: %v, %d bytes, flags %#x", st, out.TransferLength, out.Flags)
	}
	if n, st := c.offloadWrite(dst, fscc.OffloadWriteInput{CopyLength: 4 << 20, Token: out.Token}); st != 0 || n != rounded {
		t.Errorf("past the end: %v, %d bytes", st, n)
	}
	wantBytes(t, filepath.Join(srv.root, "dst"), want)

	// A hole, then data: the well-known token of zeroes for the one, one of its own for the other.
	if st := c.write(hole, 4<<20, string(want[:1<<20])); st != 0 {
		t.Fatal(st)
	}
	out, st = c.offloadRead(hole, fscc.OffloadReadInput{CopyLength: 8 << 20})
	if st != 0 || out.TransferLength != 4<<20 || out.Token != zeroToken() || out.Flags != 0 {
		t.Errorf("hole: %v, %d bytes, token %x, flags %#x", st, out.TransferLength, out.Token[:8], out.Flags)
	}
	out, st = c.offloadRead(hole, fscc.OffloadReadInput{FileOffset: 6 << 20, CopyLength: 1 << 20})
	if st != 0 || out.TransferLength != 1<<20 || out.Token != zeroToken() ||
		out.Flags != fscc.OFFLOAD_READ_FLAG_ALL_ZERO_BEYOND_CURRENT_RANGE {
		t.Errorf("the last hole: %v, %d bytes, flags %#x", st, out.TransferLength, out.Flags)
	}
	// Data, then a hole: a token for the one, and word of the other.
	out, st = c.offloadRead(hole, fscc.OffloadReadInput{FileOffset: 4 << 20, CopyLength: 4 << 20})
	if st != 0 || out.TransferLength != 1<<20 || out.Token == zeroToken() ||
		out.Flags != fscc.OFFLOAD_READ_FLAG_ALL_ZERO_BEYOND_CURRENT_RANGE {
		t.Errorf("data before a hole: %v, %d bytes, flags %#x", st, out.TransferLength, out.Flags)
	}
	out, st = c.offloadRead(hole, fscc.OffloadReadInput{FileOffset: 2 << 20, CopyLength: 1 << 20})
	if st != 0 || out.TransferLength != 1<<20 || out.Token != zeroToken() || out.Flags != 0 {
		t.Errorf("in a hole: %v, %d bytes, flags %#x", st, out.TransferLength, out.Flags)
	}
	if n, st := c.offloadWrite(dst, fscc.OffloadWriteInput{FileOffset: 512, CopyLength: 1 << 20, TransferOffset: 1 << 40, Token: zeroToken()}); st != 0 || n != 1<<20 {
		t.Errorf("zeroes: %v, %d bytes", st, n)
	}
	clear(want[512 : 512+1<<20])
	wantBytes(t, filepath.Join(srv.root, "dst"), want)
}

// MS-FSA 2.1.5.10.20, 2.1.5.10.21: what is refused.
func TestOffloadRefused(t *testing.T) {
	srv := startServer(t, nil)
	randomFile(t, filepath.Join(srv.root, "file"), 1<<20)
	randomFile(t, filepath.Join(srv.root, "tiny"), 100)
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	file, tiny, sparse := c.open("file", rightsAll, 0), c.open("tiny", rightsAll, 0), c.create("sparse")
	c.existing("folder", smb2.FileDirectoryFile, 0)
	folder := c.open("folder", rightsAll, smb2.FileDirectoryFile)
	if _, st := c.ioctl(sparse, fscc.FSCTL_SET_SPARSE, nil, 0); st != 0 {
		t.Fatal(st)
	}
	if st := c.write(sparse, 0, string(make([]byte, 4096))); st != 0 {
		t.Fatal(st)
	}
	locked := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	lock := &smb2.LockRequest{FileID: locked.open("file", rightsAll, 0), Locks: []smb2.LockElement{
		{Offset: 65536, Length: 1, Flags: smb2.LockFlagExclusiveLock | smb2.LockFlagFailImmediately}}}
	if st := locked.call(smb2.CommandLock, lock, nil).hdr.Status; st != 0 {
		t.Fatal(st)
	}
	readOnly, writeOnly := c.open("file", smb2.GenericRead, 0), c.open("file", smb2.GenericWrite, 0)
	out, st := c.offloadRead(file, fscc.OffloadReadInput{CopyLength: 4096})
	if st != 0 {
		t.Fatal(st)
	}
	const huge = 1 << 63
	for _, tt := range []struct {
		name        string
		id          smb2.FileID
		off, length uint64
		read, write smb2.Status
	}{
		{name: "offset in a sector", id: file, off: 1, length: 512, read: smb2.StatusInvalidParameter, write: smb2.StatusInvalidParameter},
		{name: "length in a sector", id: file, length: 100, read: smb2.StatusInvalidParameter, write: smb2.StatusInvalidParameter},
		{name: "overflow", id: file, off: huge, length: huge, read: smb2.StatusInvalidParameter, write: smb2.StatusInvalidParameter},
		{name: "no bytes", id: file},
		{name: "at the end", id: file, off: 1 << 20, length: 512, read: smb2.StatusEndOfFile, write: smb2.StatusEndOfFile},
		{name: "less than a sector", id: tiny, length: 512, read: smb2.StatusInvalidParameter, write: smb2.StatusInvalidParameter},
		{name: "folder", id: folder, length: 512, read: smb2.StatusOffloadReadFileNotSupported, write: smb2.StatusOffloadWriteFileNotSupported},
		{name: "sparse", id: sparse, length: 512, read: smb2.StatusOffloadReadFileNotSupported, write: smb2.StatusOffloadWriteFileNotSupported},
		{name: "locked", id: file, off: 65536, length: 512, read: smb2.StatusFileLockConflict, write: smb2.StatusFileLockConflict},
		{name: "reader", id: readOnly, length: 512, write: smb2.StatusAccessDenied},
		{name: "writer", id: writeOnly, length: 512, read: smb2.StatusAccessDenied},
	} {
		if _, st := c.offloadRead(tt.id, fscc.OffloadReadInput{FileOffset: tt.off, CopyLength: tt.length}); st != tt.read {
			t.Errorf("read: %s: %v, want %v", tt.name, st, tt.read)
		}
		_, st := c.offloadWrite(tt.id, fscc.OffloadWriteInput{FileOffset: tt.off, CopyLength: tt.length, Token: out.Token})
		if tt.name == "writer" || tt.name == "no bytes" { // the same file: the token's range is not to be changed
			continue
		}
		if st != tt.write {
			t.Errorf("write: %s: %v, want %v", tt.name, st, tt.write)
		}
	}
	for code, in := range map[smb2.CtlCode]encoder{
		fscc.FSCTL_OFFLOAD_READ: new(fscc.OffloadReadInput), fscc.FSCTL_OFFLOAD_WRITE: new(fscc.OffloadWriteInput),
	} {
		b := encoded(in)
		if _, st := c.ioctl(file, code, raw(b[:len(b)-1]), 1024); st != smb2.StatusBufferTooSmall {
			t.Errorf("%#x cut short: %v", uint32(code), st)
		}
		if _, st := c.ioctl(file, code, in, 15); st != smb2.StatusBufferTooSmall {
			t.Errorf("%#x in no room: %v", uint32(code), st)
		}
		b[0]++
		if _, st := c.ioctl(file, code, raw(b), 1024); st != smb2.StatusInvalidParameter {
			t.Errorf("%#x of a wrong size: %v", uint32(code), st)
		}
	}
}

// MS-SMB2 3.3.4.2, 3.3.5.16: a copy that takes long is answered later, holds
// nobody up and can be cancelled.
func TestLongCopyGoesAsync(t *testing.T) {
	srv, fault := startFaulty(t)
	randomFile(t, filepath.Join(srv.root, "src"), 1<<20)
	emptyFile(t, filepath.Join(srv.root, "dst"), 1<<20)
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	src, dst := c.open("src", rightsAll, 0), c.open("dst", rightsAll, 0)
	out, st := c.offloadRead(src, fscc.OffloadReadInput{CopyLength: 1 << 20})
	if st != 0 {
		t.Fatal(st)
	}
	for _, cancel := range []bool{true, false} {
		hold := make(chan struct{})
		fault.Set(func(op fs.Op, _ string) error {
			if op == fs.OpCopyRange {
				<-hold
			}
			return nil
		})
		interim := c.call(smb2.CommandIoctl, &smb2.IoctlRequest{CtlCode: fscc.FSCTL_OFFLOAD_WRITE, FileID: dst,
			Input:             encoded(&fscc.OffloadWriteInput{CopyLength: 1 << 20, Token: out.Token}),
			MaxOutputResponse: 16, Flags: smb2.IoctlIsFSCTL}, nil)
		if interim.hdr.Status != smb2.StatusPending || interim.hdr.Flags&smb2.FlagAsyncCommand == 0 {
			t.Fatalf("%v, flags %#x, want an interim response", interim.hdr.Status, uint32(interim.hdr.Flags))
		}
		if cancel {
			h := smb2.Header{Command: smb2.CommandCancel, Flags: smb2.FlagAsyncCommand, AsyncID: interim.hdr.AsyncID,
				SessionID: c.session, MessageID: interim.hdr.MessageID}
			msg := make([]byte, (&smb2.CancelRequest{}).Size())
			h.Encode(msg)
			(&smb2.CancelRequest{}).Encode(msg)
			c.send(msg)
		}
		c.closeFile(c.create("meanwhile")) // after the CANCEL, which has no response
		close(hold)
		want := smb2.StatusSuccess
		if cancel {
			want = smb2.StatusCancelled
		}
		final := c.receive()[0]
		if final.hdr.Status != want || final.hdr.AsyncID != interim.hdr.AsyncID {
			t.Errorf("cancel %v: %v, want %v", cancel, final.hdr.Status, want)
		}
	}
}
