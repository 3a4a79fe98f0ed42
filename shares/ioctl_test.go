package shares

import (
	"path/filepath"
	"strings"
	"testing"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/rpc"
	"lunless/smbstore/smb2"
)

// What a control code has changed on a continuously available share is on stable
// storage before it is answered with success, or it is not answered so.
func TestControlsAreStable(t *testing.T) {
	for _, tt := range []struct {
		name string
		code smb2.CtlCode
		in   encoder
		room uint32
	}{
		{"zero", fscc.FSCTL_SET_ZERO_DATA, &fscc.ZeroData{Beyond: 4096}, 0},
		{"trim", fscc.FSCTL_FILE_LEVEL_TRIM, &fscc.Trim{Ranges: []fscc.ByteRange{{Length: 4096}}}, 4},
		{"sparse", fscc.FSCTL_SET_SPARSE, nil, 0},
		{"offload", fscc.FSCTL_OFFLOAD_WRITE, &fscc.OffloadWriteInput{CopyLength: 4096, Token: zeroToken()}, 16},
		{"copy", smb2.FsctlSrvCopychunk, &smb2.CopychunkCopy{Chunks: []smb2.CopychunkChunk{{Length: 10, TargetOffset: 4096}}}, 12},
	} {
		for _, share := range []string{"vms", "ca"} {
			srv, faulty := faultyShares(t)
			c := loginRaw(t, srv.addr, smb2.Dialect311, share)
			id := c.create("there")
			if st := c.write(id, 0, strings.Repeat("x", 16<<10)); st != 0 {
				t.Fatal(st)
			}
			if q, ok := tt.in.(*smb2.CopychunkCopy); ok {
				m, st := c.ioctl(id, smb2.FsctlSrvRequestResumeKey, nil, 32)
				var key smb2.ResumeKeyResponse
				if st != 0 || key.Decode(m.Output) != nil {
					t.Fatal(st)
				}
				q.SourceKey = key.ResumeKey
			}
			faulty.Set(func(op fs.Op, _ string) error {
				if op == fs.OpSync {
					return errBroken
				}
				return nil
			})
			if _, st := c.ioctl(id, tt.code, tt.in, tt.room); st == 0 != (share == "vms") {
				t.Errorf("%s on %s with a broken disk: %v", tt.name, share, st)
			}
		}
	}
}

// MS-SMB2 3.3.5.15.6: chunks that go to the end of file, and those that fail half way.
func TestCopyChunksToTheEnd(t *testing.T) {
	srv, fault := startFaulty(t)
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	src, dst := c.create("src"), c.create("dst")
	c.write(src, 0, "0123456789")
	c.write(dst, 0, "ab")
	m, _ := c.ioctl(src, smb2.FsctlSrvRequestResumeKey, nil, 32)
	var key smb2.ResumeKeyResponse
	if err := key.Decode(m.Output); err != nil {
		t.Fatal(err)
	}
	run := func(chunks ...smb2.CopychunkChunk) (out smb2.CopychunkResponse, st smb2.Status) {
		t.Helper()
		m, st := c.ioctl(dst, smb2.FsctlSrvCopychunkWrite, &smb2.CopychunkCopy{SourceKey: key.ResumeKey, Chunks: chunks}, 12)
		if err := out.Decode(m.Output); err != nil {
			t.Fatalf("%v: %v", st, err)
		}
		return out, st
	}
	end := smb2.CopychunkChunk{TargetOffset: toEnd, Length: 5}
	if out, st := run(end, end); st != 0 || out != (smb2.CopychunkResponse{ChunksWritten: 2, TotalBytesWritten: 10}) {
		t.Errorf("%v, %+v", st, out)
	}
	if s, _ := c.read(dst, 100); s != "ab0123401234" {
		t.Errorf("%q", s)
	}
	calls := 0
	fault.Set(func(op fs.Op, _ string) error {
		if op == fs.OpCopyRange {
			if calls++; calls == 2 {
				return fs.ErrNoSpace
			}
		}
		return nil
	})
	if out, st := run(end, end); st != smb2.StatusDiskFull || out != (smb2.CopychunkResponse{ChunksWritten: 1, TotalBytesWritten: 5}) {
		t.Errorf("full: %v, %+v", st, out)
	}
	if out, st := run(smb2.CopychunkChunk{TargetOffset: toEnd - 1, Length: 5}); st != smb2.StatusInvalidParameter || out.ChunksWritten != copyMaxChunks {
		t.Errorf("target below zero: %v, %+v", st, out)
	}
}

// MS-SMB2 3.3.5.15.4, MS-FSCC 2.3.46: what waits in a pipe is told and left there.
func TestPeekAtPipe(t *testing.T) {
	c := loginRaw(t, startServer(t, nil).addr, smb2.Dialect311, "IPC$")
	id := c.create("srvsvc")
	peek := func(room uint32) (p fscc.PipePeek, st smb2.Status) {
		t.Helper()
		m, st := c.ioctl(id, smb2.FsctlPipePeek, nil, room)
		if len(m.Output) > 0 {
			if err := p.Decode(m.Output); err != nil {
				t.Fatal(err)
			}
		}
		return p, st
	}
	if p, st := peek(1024); st != 0 || p.State != fscc.FILE_PIPE_CONNECTED_STATE || p.ReadDataAvailable != 0 || p.Messages != 0 {
		t.Errorf("empty: %v, %+v", st, p)
	}
	bind, err := (&rpc.Bind{CallID: 1, Contexts: []rpc.Context{{Abstract: rpc.SyntaxSrvsvc, Transfer: []rpc.Syntax{rpc.SyntaxNDR}}}}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if st := c.write(id, 0, string(bind)); st != 0 {
		t.Fatal(st)
	}
	p, st := peek(16 + 8)
	if st != smb2.StatusBufferOverflow || p.Messages != 1 || p.MessageLength < 24 || p.ReadDataAvailable != p.MessageLength || len(p.Data) != 8 {
		t.Errorf("in little room: %v, %+v", st, p)
	}
	all, st := peek(4096)
	if st != 0 || len(all.Data) != int(all.MessageLength) || all.MessageLength != p.MessageLength {
		t.Errorf("in room enough: %v, %+v", st, all)
	}
	if _, st := peek(0); st != 0 {
		t.Errorf("in no room: %v", st)
	}
	if _, st := peek(15); st != smb2.StatusInfoLengthMismatch {
		t.Errorf("in less than the header: %v", st)
	}
	if s, st := c.read(id, 4096); st != 0 || s != string(all.Data) {
		t.Errorf("read after it: %v, %d bytes", st, len(s))
	}
}

// What a server that lacks a thing answers: MS-SMB2 3.3.5.15 and 3.3.5.15.7,
// MS-RSVD 3.2.5.6, MS-SQOS 3.2.5.1, MS-FSA 2.1.5.10.
func TestControlsOfWhatIsNotThere(t *testing.T) {
	c := loginRaw(t, startServer(t, nil).addr, smb2.Dialect311, "vms")
	file := c.create("file")
	for code, want := range map[smb2.CtlCode]smb2.Status{
		smb2.FsctlSVHDXSyncTunnel:               smb2.StatusInvalidDeviceRequest,
		smb2.FsctlSVHDXAsyncTunnel:              smb2.StatusInvalidDeviceRequest,
		smb2.FsctlQuerySharedVirtualDiskSupport: smb2.StatusInvalidDeviceRequest,
		smb2.FsctlStorageQoSControl:             smb2.StatusInvalidDeviceRequest,
		smb2.FsctlSrvReadHash:                   smb2.StatusNotSupported,
		fscc.FSCTL_SET_OBJECT_ID:                smb2.StatusInvalidDeviceRequest,
		fscc.FSCTL_DELETE_OBJECT_ID:             smb2.StatusInvalidDeviceRequest,
		fscc.FSCTL_GET_REPARSE_POINT:            smb2.StatusInvalidDeviceRequest,
		fscc.FSCTL_READ_FILE_USN_DATA:           smb2.StatusInvalidDeviceRequest,
		0x00090240:                              smb2.StatusNotSupported, // FSCTL_REQUEST_OPLOCK
		0x00090390:                              smb2.StatusNotSupported, // FSCTL_QUERY_VOLUME_CONTAINER_STATE
		0x00094408:                              smb2.StatusNotSupported,
	} {
		if _, st := c.ioctl(file, code, raw(make([]byte, 64)), 1024); st != want {
			t.Errorf("%v: %v, want %v", code, st, want)
		}
	}
	for _, code := range []smb2.CtlCode{smb2.FsctlDFSGetReferrals, smb2.FsctlQueryNetworkInterfaceInfo, smb2.FsctlPipeWait} {
		for _, id := range []smb2.FileID{file, {Persistent: 1}, {}} {
			if _, st := c.ioctl(id, code, nil, 1024); st != smb2.StatusInvalidParameter {
				t.Errorf("%v with FileId %v: %v", code, id, st)
			}
		}
	}
	if _, st := c.ioctl(file, smb2.FsctlSrvEnumerateSnapshots, nil, 15); st != smb2.StatusInvalidParameter {
		t.Errorf("snapshots in 15 bytes: %v", st)
	}
	m, st := c.ioctl(file, smb2.FsctlSrvEnumerateSnapshots, nil, 16)
	var snapshots smb2.SnapshotArray
	if st != 0 || snapshots.Decode(m.Output) != nil || snapshots.NumberOfSnapshots != 0 {
		t.Errorf("snapshots: %v, %+v", st, snapshots)
	}
	m, st = c.ioctl(file, fscc.FSCTL_GET_NTFS_VOLUME_DATA, nil, 96)
	var v fscc.NTFSVolumeData
	if st != 0 || v.Decode(m.Output) != nil || v.BytesPerCluster == 0 || v.FreeClusters == 0 || v.FreeClusters > v.TotalClusters ||
		v.Sectors*uint64(v.BytesPerSector)/uint64(v.BytesPerCluster) != v.TotalClusters {
		t.Errorf("volume data: %v, %+v", st, v)
	}
	if _, st := c.ioctl(file, fscc.FSCTL_GET_NTFS_VOLUME_DATA, nil, 95); st != smb2.StatusBufferTooSmall {
		t.Errorf("volume data in 95 bytes: %v", st)
	}
}

// A token that stays good when its bytes change is noticed.
func TestStaleTokensAreNoticed(t *testing.T) {
	stale := func() smb2.Status {
		srv := startServer(t, nil)
		randomFile(t, filepath.Join(srv.root, "src"), 8192)
		emptyFile(t, filepath.Join(srv.root, "dst"), 8192)
		c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
		src, dst := c.open("src", rightsAll, 0), c.open("dst", rightsAll, 0)
		out, st := c.offloadRead(src, fscc.OffloadReadInput{CopyLength: 8192})
		if st != 0 {
			t.Fatal(st)
		}
		if st := c.write(src, 0, "changed"); st != 0 {
			t.Fatal(st)
		}
		_, st = c.offloadWrite(dst, fscc.OffloadWriteInput{CopyLength: 8192, Token: out.Token})
		return st
	}
	if st := stale(); st != smb2.StatusInvalidToken {
		t.Errorf("a token of bytes that have changed: %v", st)
	}
	name := "stale-token-taken"
	fault.Store(&name)
	defer fault.Store(nil)
	if st := stale(); st == smb2.StatusInvalidToken {
		t.Error("the sabotage goes unnoticed")
	}
}
