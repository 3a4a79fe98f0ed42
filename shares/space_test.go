package shares

import (
	"math"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// onDisk is what a file takes on the server's disk, bytes.
func onDisk(t *testing.T, name string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(name, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func (c *rawClient) flush(id smb2.FileID) {
	c.t.Helper()
	if st := c.call(smb2.CommandFlush, &smb2.FlushRequest{FileID: id}, nil).hdr.Status; st != 0 {
		c.t.Fatalf("flush: %v", st)
	}
}

func (c *rawClient) fsFlags(id smb2.FileID) uint32 {
	c.t.Helper()
	b, st := c.queryInfo(&smb2.QueryInfoRequest{InfoType: smb2.InfoFilesystem, FileInfoClass: uint8(fscc.FileFsAttributeInformation),
		FileID: id, OutputBufferLength: 1024})
	var m fscc.FsAttributeInfo
	if st != 0 || m.Decode(b) != nil {
		c.t.Fatalf("file system attributes: %v", st)
	}
	return m.Attributes
}

func (c *rawClient) attributes(id smb2.FileID) uint32 {
	c.t.Helper()
	b, st := c.queryInfo(&smb2.QueryInfoRequest{InfoType: smb2.InfoFile, FileInfoClass: uint8(fscc.FileBasicInformation),
		FileID: id, OutputBufferLength: 1024})
	var m fscc.BasicInfo
	if st != 0 || m.Decode(b) != nil {
		c.t.Fatalf("attributes: %v", st)
	}
	return m.Attributes
}

// MS-HVRS C0006, MS-FSA 2.1.5.10.6, MS-SMB2 3.3.5.15.14: a trimmed range of a
// fixed disk is given back to the file system, though the file is not sparse.
func TestTrimGivesBlocksBack(t *testing.T) {
	srv := startServer(t, nil)
	const size, page = 8 << 20, 4096
	name := filepath.Join(srv.root, "disk")
	want := randomFile(t, name, size)
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	disk, reader := c.open("disk", rightsAll, 0), c.open("disk", smb2.GenericRead, 0)
	c.flush(disk)
	before := onDisk(t, name)
	trim := func(id smb2.FileID, key uint32, ranges ...fscc.ByteRange) (uint32, smb2.Status) {
		t.Helper()
		m, st := c.ioctl(id, fscc.FSCTL_FILE_LEVEL_TRIM, &fscc.Trim{Key: key, Ranges: ranges}, 4)
		var out fscc.TrimReply
		if st == 0 && out.Decode(m.Output) != nil {
			t.Fatalf("reply %x", m.Output)
		}
		return out.RangesProcessed, st
	}
	// The second has no whole page, the third is mostly behind the end, the last all of it.
	n, st := trim(disk, 0, fscc.ByteRange{Offset: 1<<20 + 1, Length: 4 << 20}, fscc.ByteRange{Offset: 1, Length: page},
		fscc.ByteRange{Offset: size - page, Length: 1 << 40}, fscc.ByteRange{Offset: 1 << 50, Length: page})
	if st != 0 || n != 3 {
		t.Fatalf("%v, %d ranges", st, n)
	}
	clear(want[1<<20+page : 5<<20])
	clear(want[size-page:])
	wantBytes(t, name, want)
	if freed := before - onDisk(t, name); freed < 4<<20-page {
		t.Errorf("%d bytes given back of %d", freed, 4<<20-page)
	}
	if a := c.attributes(disk); a&fscc.FILE_ATTRIBUTE_SPARSE_FILE != 0 {
		t.Errorf("attributes %#x: sparse", a)
	}
	b, st := c.queryInfo(&smb2.QueryInfoRequest{InfoType: smb2.InfoFilesystem, FileInfoClass: uint8(fscc.FileFsSectorSizeInformation),
		FileID: disk, OutputBufferLength: 64})
	var sectors fscc.FsSectorSizeInfo
	if st != 0 || sectors.Decode(b) != nil || sectors.Flags&fscc.SSINFO_FLAGS_TRIM_ENABLED == 0 {
		t.Errorf("trim is not announced: %v, flags %#x", st, sectors.Flags)
	}

	locker := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	if st := locker.call(smb2.CommandLock, &smb2.LockRequest{FileID: locker.open("disk", rightsAll, 0), Locks: []smb2.LockElement{
		{Offset: 6 << 20, Length: 1, Flags: smb2.LockFlagExclusiveLock | smb2.LockFlagFailImmediately}}}, nil).hdr.Status; st != 0 {
		t.Fatal(st)
	}
	r := fscc.ByteRange{Offset: 6 << 20, Length: 1 << 20}
	for what, tt := range map[string]struct {
		id     smb2.FileID
		key    uint32
		ranges []fscc.ByteRange
		want   smb2.Status
	}{
		"a key":     {disk, 1, []fscc.ByteRange{{Length: page}}, smb2.StatusInvalidParameter},
		"no ranges": {disk, 0, nil, smb2.StatusInvalidParameter},
		"a reader":  {reader, 0, []fscc.ByteRange{{Length: page}}, smb2.StatusAccessDenied},
		"a lock":    {disk, 0, []fscc.ByteRange{r}, smb2.StatusFileLockConflict},
	} {
		if _, st := trim(tt.id, tt.key, tt.ranges...); st != tt.want {
			t.Errorf("%s: %v, want %v", what, st, tt.want)
		}
	}
	wantBytes(t, name, want)
}

// MS-HVRS C0008, MS-FSCC 2.6: COMPRESSED and ENCRYPTED never; SPARSE_FILE where a
// client has set it, never because the backing file has holes.
func TestVirtualDiskAttributes(t *testing.T) {
	const unwanted = fscc.FILE_ATTRIBUTE_COMPRESSED | fscc.FILE_ATTRIBUTE_ENCRYPTED | fscc.FILE_ATTRIBUTE_SPARSE_FILE
	srv := startServer(t, nil)
	emptyFile(t, filepath.Join(srv.root, "holes"), 64<<20) // one hole to the file system
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	made := c.mustCreate(&smb2.CreateRequest{Name: "asked", DesiredAccess: rightsAll, ShareAccess: shareAll,
		CreateDisposition: smb2.FileCreate, FileAttributes: unwanted | fscc.FILE_ATTRIBUTE_ARCHIVE})
	if made.FileAttributes&unwanted != 0 {
		t.Errorf("made with attributes %#x", made.FileAttributes)
	}
	if st := c.setInfo(made.FileID, fscc.FileBasicInformation, &fscc.BasicInfo{Attributes: unwanted | fscc.FILE_ATTRIBUTE_HIDDEN}); st != 0 && st != smb2.StatusInvalidParameter {
		t.Errorf("set: %v", st)
	}
	holes := c.open("holes", rightsAll, 0)
	for what, id := range map[string]smb2.FileID{"asked for": made.FileID, "with holes": holes} {
		for _, format := range []uint16{fscc.COMPRESSION_FORMAT_DEFAULT, fscc.COMPRESSION_FORMAT_LZNT1} {
			if _, st := c.ioctl(id, fscc.FSCTL_SET_COMPRESSION, &fscc.CompressionState{Format: format}, 0); st != smb2.StatusNotSupported {
				t.Errorf("%s: compress: %v", what, st)
			}
		}
		if _, st := c.ioctl(id, fscc.FSCTL_SET_ENCRYPTION, raw(strings.Repeat("\x01\x00\x00\x00", 2)), 0); st != smb2.StatusNotSupported && st != smb2.StatusInvalidDeviceRequest && st != smb2.StatusAccessDenied {
			t.Errorf("%s: encrypt: %v", what, st)
		}
		if a := c.attributes(id); a&unwanted != 0 {
			t.Errorf("%s: attributes %#x", what, a)
		}
		m, st := c.ioctl(id, fscc.FSCTL_GET_COMPRESSION, nil, 2)
		var state fscc.CompressionState
		if st != 0 || state.Decode(m.Output) != nil || state.Format != fscc.COMPRESSION_FORMAT_NONE {
			t.Errorf("%s: compression %v, %v", what, state, st)
		}
	}
	for _, sparse := range []bool{true, false} {
		if _, st := c.ioctl(holes, fscc.FSCTL_SET_SPARSE, &fscc.SetSparse{Sparse: sparse}, 0); st != 0 {
			t.Fatalf("sparse %v: %v", sparse, st)
		}
		if a := c.attributes(holes); a&fscc.FILE_ATTRIBUTE_SPARSE_FILE != 0 != sparse {
			t.Errorf("sparse %v: attributes %#x", sparse, a)
		}
		c.closeFile(holes)
		holes = c.open("holes", rightsAll, 0)
	}
	// Not sparse any more: it has room for all of it (MS-FSA 2.1.5.10.38).
	if n := onDisk(t, filepath.Join(srv.root, "holes")); n < 64<<20 {
		t.Errorf("%d bytes taken by a file that is not sparse", n)
	}
}

// MS-HVRS C0009, MS-FSCC 2.5.1: FILE_SUPPORTS_SPARSE_VDL says that what is valid is
// known by the cluster, in any order, and that no valid data length is kept.
func TestSparseValidData(t *testing.T) {
	srv := startServer(t, nil)
	const mib = 1 << 20
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	id := c.create("disk")
	if c.fsFlags(id)&(fscc.FILE_SUPPORTS_SPARSE_VDL|fscc.FILE_SUPPORTS_SPARSE_FILES) != fscc.FILE_SUPPORTS_SPARSE_VDL|fscc.FILE_SUPPORTS_SPARSE_FILES {
		t.Fatalf("flags %#x (tests need a TMPDIR on ext4, XFS or btrfs)", c.fsFlags(id))
	}
	regions := func(in *fscc.FileRegion, room uint32) (out fscc.FileRegions, st smb2.Status) {
		t.Helper()
		var e encoder
		if in != nil {
			e = in
		}
		m, st := c.ioctl(id, fscc.FSCTL_QUERY_FILE_REGIONS, e, room)
		if len(m.Output) > 0 {
			if err := out.Decode(m.Output); err != nil {
				t.Fatal(err)
			}
		}
		return out, st
	}
	const valid = fscc.FILE_REGION_USAGE_VALID_CACHED_DATA
	want := func(what string, list ...fscc.FileRegion) {
		t.Helper()
		out, st := regions(nil, 1024)
		if st != 0 || int(out.Total) != len(list) || len(out.Regions) != len(list) {
			t.Fatalf("%s: %v, %+v, want %+v", what, st, out, list)
		}
		for i := range list {
			if out.Regions[i] != list[i] {
				t.Errorf("%s: region %d is %+v, want %+v", what, i, out.Regions[i], list[i])
			}
		}
	}
	want("empty", fscc.FileRegion{})

	// A fixed disk: room for all of it at once, none of it written.
	if st := c.setInfo(id, fscc.FileEndOfFileInformation, &fscc.EndOfFileInfo{EndOfFile: 8 * mib}); st != 0 {
		t.Fatal(st)
	}
	if st := c.setInfo(id, fscc.FileAllocationInformation, &fscc.AllocationInfo{AllocationSize: 8 * mib}); st != 0 {
		t.Fatal(st)
	}
	if n := onDisk(t, filepath.Join(srv.root, "disk")); n < 8*mib {
		t.Errorf("%d bytes reserved of %d", n, 8*mib)
	}
	want("reserved", fscc.FileRegion{Length: 8 * mib})

	// The end first, then the start: what lies between stays invalid, and is zero.
	block := strings.Repeat("x", 64<<10)
	for _, off := range []uint64{6 * mib, mib} {
		if st := c.write(id, off, block); st != 0 {
			t.Fatal(st)
		}
	}
	list := []fscc.FileRegion{{Length: mib}, {Offset: mib, Length: 64 << 10, Usage: valid},
		{Offset: mib + 64<<10, Length: 5*mib - 64<<10}, {Offset: 6 * mib, Length: 64 << 10, Usage: valid},
		{Offset: 6*mib + 64<<10, Length: 2*mib - 64<<10}}
	want("written", list...)
	if st := c.setInfo(id, fscc.FileValidDataLengthInformation, &fscc.ValidDataLengthInfo{ValidDataLength: 8 * mib}); st == 0 {
		want("told of a valid data length", list...)
	}

	// Buffers and ranges (MS-FSA 2.1.5.10.24).
	if out, st := regions(nil, 16+2*24); st != smb2.StatusBufferOverflow || out.Total != 5 || len(out.Regions) != 2 {
		t.Errorf("room for two: %v, %+v", st, out)
	}
	part := fscc.FileRegion{Offset: mib + 4096, Length: 8192, Usage: valid}
	if out, st := regions(&part, 1024); st != 0 || len(out.Regions) != 1 || out.Regions[0] != part {
		t.Errorf("part: %v, %+v", st, out)
	}
	for _, tt := range []struct {
		in   fscc.FileRegion
		room uint32
		want smb2.Status
	}{
		{fscc.FileRegion{Length: 1, Usage: valid}, 39, smb2.StatusBufferTooSmall},
		{fscc.FileRegion{Length: 0, Usage: valid}, 1024, smb2.StatusInvalidParameter},
		{fscc.FileRegion{Length: 1, Usage: 4}, 1024, smb2.StatusInvalidParameter},
		{fscc.FileRegion{Offset: 1, Length: math.MaxInt64, Usage: valid}, 1024, smb2.StatusInvalidParameter},
		{fscc.FileRegion{Offset: 8 * mib, Length: 1, Usage: valid}, 1024, 0},
	} {
		if out, st := regions(&tt.in, tt.room); st != tt.want || len(out.Regions) != 0 {
			t.Errorf("%+v in %d bytes: %v, want %v", tt.in, tt.room, st, tt.want)
		}
	}
	if s, st := c.read(id, 16); st != 0 || s != strings.Repeat("\x00", 16) {
		t.Errorf("reserved bytes read %q, %v", s, st)
	}
	if _, st := c.ioctl(id, fscc.FSCTL_QUERY_FILE_REGIONS, raw("short"), 1024); st != smb2.StatusBufferTooSmall {
		t.Errorf("cut short: %v", st)
	}
}

// A file system that cannot do a thing is not said to.
func TestFileSystemFlags(t *testing.T) {
	for _, tt := range []struct {
		v    fs.Volume
		want uint32
	}{
		{fs.Volume{}, 0},
		{fs.Volume{Sparse: true}, fscc.FILE_SUPPORTS_SPARSE_FILES},
		{fs.Volume{Unwritten: true}, 0},
		{fs.Volume{Sparse: true, Unwritten: true}, fscc.FILE_SUPPORTS_SPARSE_FILES | fscc.FILE_SUPPORTS_SPARSE_VDL},
		{fs.Volume{Reflink: true}, fscc.FILE_SUPPORTS_BLOCK_REFCOUNTING},
	} {
		const these = fscc.FILE_SUPPORTS_SPARSE_FILES | fscc.FILE_SUPPORTS_SPARSE_VDL | fscc.FILE_SUPPORTS_BLOCK_REFCOUNTING
		r := &request{tree: &tree{share: new(share)}}
		if got := r.fsAttributes(&tt.v).Attributes & these; got != tt.want {
			t.Errorf("%+v: %#x, want %#x", tt.v, got, tt.want)
		}
	}
	if f := sectorSizes(&fs.Volume{BytesPerSec: 512}).Flags; f&fscc.SSINFO_FLAGS_TRIM_ENABLED != 0 {
		t.Errorf("trim is announced where there is none: %#x", f)
	}
}
