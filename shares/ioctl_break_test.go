package shares

import (
	"path/filepath"
	"testing"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// MS-FSA 2.1.4.12: what another client has in its cache it gives up before a
// control code changes the file, as it would before a WRITE.
func TestControlsBreakCaches(t *testing.T) {
	srv, _ := startReflink(t)
	const size = 1 << 20
	randomFile(t, filepath.Join(srv.root, "src"), size)
	emptyFile(t, filepath.Join(srv.root, "dst"), size)
	c, other := loginRaw(t, srv.addr, smb2.Dialect311, "vms"), loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	src, dst := c.open("src", rightsAll, 0), c.open("dst", rightsAll, 0)
	m, st := c.ioctl(src, smb2.FsctlSrvRequestResumeKey, nil, 32)
	var key smb2.ResumeKeyResponse
	if st != 0 || key.Decode(m.Output) != nil {
		t.Fatal(st)
	}
	out, st := c.offloadRead(src, fscc.OffloadReadInput{CopyLength: size})
	if st != 0 {
		t.Fatal(st)
	}
	extents := fscc.DuplicateExtents{SourceFileID: fileIDBytes(src), ByteCount: 4096}
	for _, tt := range []struct {
		code smb2.CtlCode
		in   encoder
		room uint32
	}{
		{fscc.FSCTL_SET_ZERO_DATA, &fscc.ZeroData{Beyond: 4096}, 0},
		{fscc.FSCTL_FILE_LEVEL_TRIM, &fscc.Trim{Ranges: []fscc.ByteRange{{Length: 4096}}}, 0},
		{fscc.FSCTL_OFFLOAD_WRITE, &fscc.OffloadWriteInput{CopyLength: 4096, Token: out.Token}, 16},
		{fscc.FSCTL_OFFLOAD_WRITE, &fscc.OffloadWriteInput{CopyLength: 4096, Token: zeroToken()}, 16},
		{fscc.FSCTL_DUPLICATE_EXTENTS_TO_FILE, &extents, 0},
		{fscc.FSCTL_DUPLICATE_EXTENTS_TO_FILE_EX, &fscc.DuplicateExtentsEx{DuplicateExtents: extents}, 0},
		{smb2.FsctlSrvCopychunk, &smb2.CopychunkCopy{SourceKey: key.ResumeKey, Chunks: []smb2.CopychunkChunk{{Length: 1}}}, 12},
		{smb2.FsctlSrvCopychunkWrite, &smb2.CopychunkCopy{SourceKey: key.ResumeKey, Chunks: []smb2.CopychunkChunk{{Length: 1}}}, 12},
	} {
		cached := other.mustCreate(&smb2.CreateRequest{Name: "dst", DesiredAccess: smb2.GenericRead, ShareAccess: shareAll,
			CreateDisposition: smb2.FileOpen, RequestedOplockLevel: smb2.OplockII})
		if cached.OplockLevel != smb2.OplockII {
			t.Fatalf("oplock granted: %v", cached.OplockLevel)
		}
		r := c.call(smb2.CommandIoctl, &smb2.IoctlRequest{CtlCode: tt.code, FileID: dst, Input: encoded(tt.in),
			MaxOutputResponse: tt.room, Flags: smb2.IoctlIsFSCTL}, nil)
		notice := other.receive()[0]
		var b smb2.OplockBreak
		if notice.hdr.Command != smb2.CommandOplockBreak || b.Decode(notice.msg) != nil || b.FileID != cached.FileID ||
			b.OplockLevel != smb2.OplockNone {
			t.Fatalf("%#x: %v instead of a break: %+v", uint32(tt.code), notice.hdr.Command, b)
		}
		for r.hdr.Status == smb2.StatusPending {
			r = c.receive()[0]
		}
		if r.hdr.Status != 0 {
			t.Errorf("%#x: %v", uint32(tt.code), r.hdr.Status)
		}
		other.closeFile(cached.FileID)
	}
}
