package shares

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

func fileIDBytes(id smb2.FileID) (b [16]byte) {
	binary.LittleEndian.PutUint64(b[0:], id.Persistent)
	binary.LittleEndian.PutUint64(b[8:], id.Volatile)
	return b
}

// MS-HVRS C0007, MS-FSA 2.1.5.10.4, 2.1.5.10.5: where block refcounting is
// advertised, extents are duplicated, and take no room.
func TestDuplicateExtents(t *testing.T) {
	srv, real := startReflink(t)
	const size, unit = 8 << 20, 4096
	src, dst := filepath.Join(srv.root, "src"), filepath.Join(srv.root, "dst")
	data := randomFile(t, src, size)
	emptyFile(t, dst, size+100)
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	from, to := c.open("src", rightsAll, 0), c.open("dst", rightsAll, 0)
	if c.fsFlags(to)&fscc.FILE_SUPPORTS_BLOCK_REFCOUNTING == 0 {
		t.Fatal("block refcounting is not advertised")
	}
	c.flush(from)
	volume := func() int64 {
		t.Helper()
		b, st := c.queryInfo(&smb2.QueryInfoRequest{InfoType: smb2.InfoFilesystem, FileInfoClass: uint8(fscc.FileFsFullSizeInformation),
			FileID: to, OutputBufferLength: 64})
		var m fscc.FsFullSizeInfo
		if st != 0 || m.Decode(b) != nil {
			t.Fatal(st)
		}
		return m.ActualAvailableUnits * int64(m.SectorsPerUnit) * int64(m.BytesPerSector)
	}
	dup := func(code smb2.CtlCode, id smb2.FileID, d fscc.DuplicateExtents, flags uint32) smb2.Status {
		t.Helper()
		var in encoder = &d
		if code == fscc.FSCTL_DUPLICATE_EXTENTS_TO_FILE_EX {
			in = &fscc.DuplicateExtentsEx{DuplicateExtents: d, Flags: flags}
		}
		_, st := c.ioctl(id, code, in, 0)
		return st
	}
	free := volume()
	want := make([]byte, size+100)
	for _, code := range []smb2.CtlCode{fscc.FSCTL_DUPLICATE_EXTENTS_TO_FILE, fscc.FSCTL_DUPLICATE_EXTENTS_TO_FILE_EX} {
		for _, flags := range []uint32{0, fscc.DUPLICATE_EXTENTS_DATA_EX_SOURCE_ATOMIC} {
			d := fscc.DuplicateExtents{SourceFileID: fileIDBytes(from), SourceOffset: unit, TargetOffset: 2 * unit, ByteCount: size - 2*unit}
			if st := dup(code, to, d, flags); st != 0 {
				t.Fatalf("%#x: %v", uint32(code), st)
			}
			copy(want[2*unit:], data[unit:size-unit])
			wantBytes(t, dst, want)
			// The end of file stays, in the middle of a unit and behind it.
			d = fscc.DuplicateExtents{SourceFileID: fileIDBytes(from), TargetOffset: size, ByteCount: 4 * unit}
			if st := dup(code, to, d, flags); st != 0 {
				t.Fatalf("%#x at the end: %v", uint32(code), st)
			}
			copy(want[size:], data[:100])
			wantBytes(t, dst, want)
			if err := os.WriteFile(dst, make([]byte, size+100), 0o600); err != nil {
				t.Fatal(err)
			}
			clear(want)
		}
	}
	d := fscc.DuplicateExtents{SourceFileID: fileIDBytes(from), ByteCount: size}
	if st := dup(fscc.FSCTL_DUPLICATE_EXTENTS_TO_FILE, to, d, 0); st != 0 {
		t.Fatal(st)
	}
	c.flush(to)
	if used := free - volume(); real && used > size/2 {
		t.Errorf("a copy by extents took %d bytes", used)
	}
	// Each file is its own all the same.
	if st := c.write(from, 0, "changed"); st != 0 {
		t.Fatal(st)
	}
	copy(want, data)
	wantBytes(t, dst, want)
	if got, err := os.ReadFile(src); err != nil || !bytes.HasPrefix(got, []byte("changed")) {
		t.Error("the source is not what was written to it")
	}
	refusedExtents(t, srv, c, from, to, dup)
}

func refusedExtents(t *testing.T, srv *testServer, c *rawClient, from, to smb2.FileID,
	dup func(smb2.CtlCode, smb2.FileID, fscc.DuplicateExtents, uint32) smb2.Status) {
	const size, unit = 8 << 20, 4096
	other := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	c.existing("folder", smb2.FileDirectoryFile, 0)
	folder := c.open("folder", rightsAll, smb2.FileDirectoryFile)
	sparse := c.create("sparse")
	if _, st := c.ioctl(sparse, fscc.FSCTL_SET_SPARSE, nil, 0); st != 0 {
		t.Fatal(st)
	}
	if st := c.write(sparse, 0, string(make([]byte, unit))); st != 0 {
		t.Fatal(st)
	}
	if st := other.call(smb2.CommandLock, &smb2.LockRequest{FileID: other.open("dst", rightsAll, 0), Locks: []smb2.LockElement{
		{Offset: 4 << 20, Length: 1, Flags: smb2.LockFlagExclusiveLock | smb2.LockFlagFailImmediately}}}, nil).hdr.Status; st != 0 {
		t.Fatal(st)
	}
	blind, reader := c.open("src", smb2.GenericWrite, 0), c.open("dst", smb2.GenericRead, 0)
	for _, tt := range []struct {
		name           string
		to, from       smb2.FileID
		source, target int64
		count          int64
		want           smb2.Status
	}{
		{name: "offset in a unit", to: to, from: from, source: 512, count: unit, want: smb2.StatusInvalidParameter},
		{name: "target in a unit", to: to, from: from, target: 512, count: unit, want: smb2.StatusInvalidParameter},
		{name: "count of no units", to: to, from: from, count: 512, want: smb2.StatusInvalidParameter},
		{name: "nothing", to: to, from: from},
		{name: "past the source", to: to, from: from, source: size, count: unit, want: smb2.StatusNotSupported},
		{name: "another session's source", to: to, from: other.open("src", rightsAll, 0), count: unit, want: smb2.StatusInvalidHandle},
		{name: "source not for reading", to: to, from: blind, count: unit, want: smb2.StatusInvalidParameter},
		{name: "target not for writing", to: reader, from: from, count: unit, want: smb2.StatusAccessDenied},
		{name: "folder as source", to: to, from: folder, count: unit, want: smb2.StatusInvalidParameter},
		{name: "folder as target", to: folder, from: from, count: unit, want: smb2.StatusNotSupported},
		{name: "sparse to what is not", to: to, from: sparse, count: unit, want: smb2.StatusNotSupported},
		{name: "what is not to sparse", to: sparse, from: from, count: unit},
		{name: "over itself", to: from, from: from, target: unit, count: 2 * unit, want: smb2.StatusNotSupported},
		{name: "target locked", to: to, from: from, target: 4 << 20, count: unit, want: smb2.StatusFileLockConflict},
	} {
		d := fscc.DuplicateExtents{SourceFileID: fileIDBytes(tt.from), SourceOffset: tt.source, TargetOffset: tt.target, ByteCount: tt.count}
		for _, code := range []smb2.CtlCode{fscc.FSCTL_DUPLICATE_EXTENTS_TO_FILE, fscc.FSCTL_DUPLICATE_EXTENTS_TO_FILE_EX} {
			if st := dup(code, tt.to, d, 0); st != tt.want {
				t.Errorf("%s: %#x: %v, want %v", tt.name, uint32(code), st, tt.want)
			}
		}
	}
	b := encoded(new(fscc.DuplicateExtentsEx))
	if _, st := c.ioctl(to, fscc.FSCTL_DUPLICATE_EXTENTS_TO_FILE_EX, raw(b[:len(b)-1]), 0); st != smb2.StatusInvalidParameter {
		t.Errorf("cut short: %v", st)
	}
	b[0]++
	if _, st := c.ioctl(to, fscc.FSCTL_DUPLICATE_EXTENTS_TO_FILE_EX, raw(b), 0); st != smb2.StatusNotSupported {
		t.Errorf("of another size: %v", st)
	}

	// What clones asks these first (MS-FSA 2.1.5.10.10, 2.1.5.10.33, 2.1.5.10.34).
	m, st := c.ioctl(from, fscc.FSCTL_GET_INTEGRITY_INFORMATION, nil, 16)
	var integrity fscc.GetIntegrity
	if st != 0 || integrity.Decode(m.Output) != nil || integrity != (fscc.GetIntegrity{ClusterSize: unit}) {
		t.Errorf("integrity: %v, %+v", st, integrity)
	}
	for _, tt := range []struct {
		code smb2.CtlCode
		in   encoder
		want smb2.Status
	}{
		{fscc.FSCTL_SET_INTEGRITY_INFORMATION, &fscc.SetIntegrity{}, 0},
		{fscc.FSCTL_SET_INTEGRITY_INFORMATION, &fscc.SetIntegrity{Algorithm: fscc.CHECKSUM_TYPE_UNCHANGED}, 0},
		{fscc.FSCTL_SET_INTEGRITY_INFORMATION, &fscc.SetIntegrity{Algorithm: fscc.CHECKSUM_TYPE_CRC64}, smb2.StatusInvalidDeviceRequest},
		{fscc.FSCTL_SET_INTEGRITY_INFORMATION, &fscc.SetIntegrity{Algorithm: 3}, smb2.StatusInvalidParameter},
		{fscc.FSCTL_SET_INTEGRITY_INFORMATION, &fscc.SetIntegrity{Flags: 1}, smb2.StatusInvalidParameter},
		{fscc.FSCTL_SET_INTEGRITY_INFORMATION_EX, &fscc.SetIntegrityEx{}, 0},
		{fscc.FSCTL_SET_INTEGRITY_INFORMATION_EX, &fscc.SetIntegrityEx{Enable: true, Keep: true}, 0},
		{fscc.FSCTL_SET_INTEGRITY_INFORMATION_EX, &fscc.SetIntegrityEx{Enable: true}, smb2.StatusInvalidDeviceRequest},
	} {
		if _, st := c.ioctl(from, tt.code, tt.in, 0); st != tt.want {
			t.Errorf("%#x %+v: %v, want %v", uint32(tt.code), tt.in, st, tt.want)
		}
	}
}

// Without block refcounting there is none of it (MS-FSA 2.1.5.10.4, 2.1.5.10.10).
func TestNoExtentsWhereNoneAreShared(t *testing.T) {
	srv := startServer(t, nil)
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	id := c.create("file")
	if c.fsFlags(id)&fscc.FILE_SUPPORTS_BLOCK_REFCOUNTING != 0 {
		t.Log("TMPDIR is on a file system that shares blocks")
		return
	}
	for code, in := range map[smb2.CtlCode]encoder{
		fscc.FSCTL_DUPLICATE_EXTENTS_TO_FILE:    &fscc.DuplicateExtents{SourceFileID: fileIDBytes(id)},
		fscc.FSCTL_DUPLICATE_EXTENTS_TO_FILE_EX: &fscc.DuplicateExtentsEx{},
		fscc.FSCTL_GET_INTEGRITY_INFORMATION:    nil,
		fscc.FSCTL_SET_INTEGRITY_INFORMATION:    &fscc.SetIntegrity{},
	} {
		if _, st := c.ioctl(id, code, in, 64); st != smb2.StatusInvalidDeviceRequest {
			t.Errorf("%#x: %v", uint32(code), st)
		}
	}
}
