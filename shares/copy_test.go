package shares

import (
	"strings"
	"sync/atomic"
	"testing"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

func TestCopyChunks(t *testing.T) {
	c := loginRaw(t, startServer(t, nil).addr, smb2.Dialect311, "vms")
	src, dst := c.create("src"), c.create("dst")
	if st := c.write(src, 0, "0123456789"); st != 0 {
		t.Fatal(st)
	}
	readOnly, writeOnly := c.open("dst", smb2.GenericRead, 0), c.open("dst", smb2.GenericWrite, 0)
	m, st := c.ioctl(src, smb2.FsctlSrvRequestResumeKey, nil, 32)
	var key smb2.ResumeKeyResponse
	if st != 0 || len(m.Output) != 32 || key.Decode(m.Output) != nil {
		t.Fatalf("resume key: %v, %x", st, m.Output)
	}
	if _, st := c.ioctl(src, smb2.FsctlSrvRequestResumeKey, nil, 31); st != smb2.StatusInvalidParameter {
		t.Errorf("resume key in too little room: %v", st)
	}
	chunks := func(n int, length uint32) (list []smb2.CopychunkChunk) {
		for i := range n {
			list = append(list, smb2.CopychunkChunk{SourceOffset: 0, TargetOffset: uint64(i), Length: length})
		}
		return list
	}
	limits := smb2.CopychunkResponse{ChunksWritten: 256, ChunkBytesWritten: 1 << 20, TotalBytesWritten: 16 << 20}
	tests := []struct {
		name string
		to   smb2.FileID
		code smb2.CtlCode
		key  smb2.ResumeKey
		list []smb2.CopychunkChunk
		want smb2.Status
		out  smb2.CopychunkResponse
	}{
		{"two ranges", dst, smb2.FsctlSrvCopychunk, key.ResumeKey, []smb2.CopychunkChunk{{SourceOffset: 0, TargetOffset: 5, Length: 5}, {SourceOffset: 5, TargetOffset: 0, Length: 5}},
			0, smb2.CopychunkResponse{ChunksWritten: 2, TotalBytesWritten: 10}},
		{"nothing", dst, smb2.FsctlSrvCopychunk, key.ResumeKey, nil, 0, smb2.CopychunkResponse{}},
		{"unknown key", dst, smb2.FsctlSrvCopychunk, smb2.ResumeKey{9}, chunks(1, 1), smb2.StatusObjectNameNotFound, smb2.CopychunkResponse{}},
		{"too many", dst, smb2.FsctlSrvCopychunk, key.ResumeKey, chunks(257, 1), smb2.StatusInvalidParameter, limits},
		{"too long", dst, smb2.FsctlSrvCopychunk, key.ResumeKey, chunks(1, 1<<20+1), smb2.StatusInvalidParameter, limits},
		{"empty", dst, smb2.FsctlSrvCopychunk, key.ResumeKey, chunks(1, 0), smb2.StatusInvalidParameter, limits},
		{"too much", dst, smb2.FsctlSrvCopychunk, key.ResumeKey, chunks(17, 1<<20), smb2.StatusInvalidParameter, limits},
		{"past the source's end", dst, smb2.FsctlSrvCopychunk, key.ResumeKey, []smb2.CopychunkChunk{{Length: 4}, {SourceOffset: 8, TargetOffset: 8, Length: 4}},
			statusInvalidViewSize, smb2.CopychunkResponse{ChunksWritten: 1, TotalBytesWritten: 4}},
		{"target cannot be written", readOnly, smb2.FsctlSrvCopychunkWrite, key.ResumeKey, chunks(1, 1), smb2.StatusAccessDenied, smb2.CopychunkResponse{}},
		{"target cannot be read", writeOnly, smb2.FsctlSrvCopychunk, key.ResumeKey, chunks(1, 1), smb2.StatusAccessDenied, smb2.CopychunkResponse{}},
		{"target need not be read", writeOnly, smb2.FsctlSrvCopychunkWrite, key.ResumeKey, chunks(1, 1), 0, smb2.CopychunkResponse{ChunksWritten: 1, TotalBytesWritten: 1}},
		{"overlapping itself", src, smb2.FsctlSrvCopychunk, key.ResumeKey, []smb2.CopychunkChunk{{SourceOffset: 0, TargetOffset: 2, Length: 8}},
			0, smb2.CopychunkResponse{ChunksWritten: 1, TotalBytesWritten: 8}},
	}
	for _, tt := range tests {
		m, st := c.ioctl(tt.to, tt.code, &smb2.CopychunkCopy{SourceKey: tt.key, Chunks: tt.list}, 12)
		var out smb2.CopychunkResponse
		if len(m.Output) > 0 {
			if err := out.Decode(m.Output); err != nil {
				t.Error(err)
			}
		}
		if st != tt.want || out != tt.out {
			t.Errorf("%s: %v %+v, want %v %+v", tt.name, st, out, tt.want, tt.out)
		}
		if tt.name == "two ranges" {
			if s, st := c.read(dst, 20); s != "5678901234" {
				t.Errorf("copied %q, %v", s, st)
			}
		}
	}
	if s, st := c.read(src, 20); s != "0101234567" {
		t.Errorf("copied over itself: %q, %v", s, st)
	}
	if _, st := c.ioctl(dst, smb2.FsctlSrvCopychunk, &smb2.CopychunkCopy{SourceKey: key.ResumeKey}, 11); st != smb2.StatusInvalidParameter {
		t.Errorf("in too little room: %v", st)
	}
}

func TestControlCodes(t *testing.T) {
	c := loginRaw(t, startServer(t, nil).addr, smb2.Dialect311, "vms")
	none := smb2.RelatedFileID
	file, folder := c.create("file"), smb2.FileID{}
	c.existing("folder", smb2.FileDirectoryFile, 0)
	folder = c.open("folder", rightsAll, smb2.FileDirectoryFile)
	reader := c.open("file", smb2.GenericRead, 0)
	if st := c.write(file, 0, strings.Repeat("x", 1<<20)); st != 0 {
		t.Fatal(st)
	}
	tests := []struct {
		name string
		id   smb2.FileID
		code smb2.CtlCode
		in   encoder
		room uint32
		want smb2.Status
	}{
		{"DFS referral", none, smb2.FsctlDFSGetReferrals, nil, 1024, smb2.StatusFSDriverRequired},
		{"DFS referral of a file", file, smb2.FsctlDFSGetReferrals, nil, 1024, smb2.StatusInvalidParameter},
		{"interfaces", none, smb2.FsctlQueryNetworkInterfaceInfo, nil, 1024, smb2.StatusNotSupported},
		{"no open", none, fscc.FSCTL_GET_COMPRESSION, nil, 2, smb2.StatusFileClosed},
		{"resiliency of another time", file, smb2.FsctlLMRRequestResiliency, &smb2.NetworkResiliencyRequest{Timeout: 1 << 31}, 0, smb2.StatusInvalidParameter},
		{"oplock", file, 0x00090000, nil, 0, smb2.StatusNotSupported},
		{"unknown", file, 0x00097FFC, nil, 0, smb2.StatusNotSupported},
		{"reparse point", file, fscc.FSCTL_GET_REPARSE_POINT, nil, 1024, smb2.StatusInvalidDeviceRequest},
		{"pipe transceive on a file", file, smb2.FsctlPipeTransceive, nil, 1024, smb2.StatusInvalidDeviceRequest},
		{"compression", file, fscc.FSCTL_GET_COMPRESSION, nil, 2, 0},
		{"compression in no room", file, fscc.FSCTL_GET_COMPRESSION, nil, 1, smb2.StatusInvalidParameter},
		{"compress", file, fscc.FSCTL_SET_COMPRESSION, &fscc.CompressionState{Format: fscc.COMPRESSION_FORMAT_LZNT1}, 0, smb2.StatusNotSupported},
		{"sparse folder", folder, fscc.FSCTL_SET_SPARSE, nil, 0, smb2.StatusInvalidParameter},
		{"sparse by a reader", reader, fscc.FSCTL_SET_SPARSE, nil, 0, smb2.StatusAccessDenied},
		{"zero by a reader", reader, fscc.FSCTL_SET_ZERO_DATA, &fscc.ZeroData{Beyond: 1}, 0, smb2.StatusAccessDenied},
		{"zero backwards", file, fscc.FSCTL_SET_ZERO_DATA, &fscc.ZeroData{Offset: 2, Beyond: 1}, 0, smb2.StatusInvalidParameter},
		{"zero cut short", file, fscc.FSCTL_SET_ZERO_DATA, raw("short"), 0, smb2.StatusInvalidParameter},
		{"ranges of a folder", folder, fscc.FSCTL_QUERY_ALLOCATED_RANGES, &fscc.ByteRange{Length: 1}, 16, smb2.StatusInvalidParameter},
		{"ranges in no room", file, fscc.FSCTL_QUERY_ALLOCATED_RANGES, &fscc.ByteRange{Length: 1}, 15, smb2.StatusBufferTooSmall},
		{"ranges", file, fscc.FSCTL_QUERY_ALLOCATED_RANGES, &fscc.ByteRange{Length: 1}, 16, 0},
	}
	for _, tt := range tests {
		if _, st := c.ioctl(tt.id, tt.code, tt.in, tt.room); st != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, st, tt.want)
		}
	}

	if _, st := c.ioctl(file, fscc.FSCTL_SET_SPARSE, nil, 0); st != 0 {
		t.Fatalf("set sparse: %v", st)
	}
	if _, st := c.ioctl(file, fscc.FSCTL_SET_ZERO_DATA, &fscc.ZeroData{Offset: 256 << 10, Beyond: 512 << 10}, 0); st != 0 {
		t.Fatalf("zero: %v", st)
	}
	m, st := c.ioctl(file, fscc.FSCTL_QUERY_ALLOCATED_RANGES, &fscc.ByteRange{Length: 1 << 40}, 1024)
	ranges, err := fscc.DecodeRanges(m.Output)
	if st != 0 || err != nil || len(ranges) != 2 || ranges[0] != (fscc.ByteRange{Length: 256 << 10}) ||
		ranges[1] != (fscc.ByteRange{Offset: 512 << 10, Length: 512 << 10}) {
		t.Errorf("ranges %v, %v, %v", ranges, st, err)
	}
	if m, st := c.ioctl(file, fscc.FSCTL_QUERY_ALLOCATED_RANGES, &fscc.ByteRange{Length: 1 << 40}, 16); st != smb2.StatusBufferOverflow || len(m.Output) != 16 {
		t.Errorf("one range of two: %v, %d bytes", st, len(m.Output))
	}
	if _, st := c.ioctl(file, fscc.FSCTL_FILE_LEVEL_TRIM, &fscc.Trim{Ranges: []fscc.ByteRange{{Offset: 0, Length: 64 << 10}}}, 0); st != 0 {
		t.Errorf("trim: %v", st)
	}
	if s, st := c.read(file, 4); st != 0 || s != "\x00\x00\x00\x00" {
		t.Errorf("trimmed bytes %q, %v", s, st)
	}
}

// What a write-through open changes without a WRITE is on stable storage too
// before it is answered.
func TestWriteThroughControls(t *testing.T) {
	srv, fault := startFaulty(t)
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	c.existing("disk", 0, 0)
	var syncs atomic.Int32
	fault.Set(func(op fs.Op, _ string) error {
		if op == fs.OpSync {
			syncs.Add(1)
		}
		return nil
	})
	for _, tt := range []struct {
		options smb2.CreateOptions
		want    int32
	}{{0, 0}, {smb2.FileWriteThrough, 1}} {
		id := c.open("disk", rightsAll, tt.options)
		for what, do := range map[string]func() smb2.Status{
			"end of file": func() smb2.Status {
				return c.setInfo(id, fscc.FileEndOfFileInformation, &fscc.EndOfFileInfo{EndOfFile: 1 << 20})
			},
			"allocation": func() smb2.Status {
				return c.setInfo(id, fscc.FileAllocationInformation, &fscc.AllocationInfo{AllocationSize: 1 << 21})
			},
			"zero": func() smb2.Status {
				_, st := c.ioctl(id, fscc.FSCTL_SET_ZERO_DATA, &fscc.ZeroData{Offset: 0, Beyond: 4096}, 0)
				return st
			},
			"trim": func() smb2.Status {
				_, st := c.ioctl(id, fscc.FSCTL_FILE_LEVEL_TRIM, &fscc.Trim{Ranges: []fscc.ByteRange{{Length: 4096}}}, 0)
				return st
			},
		} {
			syncs.Store(0)
			if st := do(); st != smb2.StatusSuccess || syncs.Load() != tt.want {
				t.Errorf("options %#x: %s: %v, %d flushes, want %d", tt.options, what, st, syncs.Load(), tt.want)
			}
		}
		c.closeFile(id)
	}
}
