package shares

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// list queries a folder until it ends and returns the names, in order.
func (c *rawClient) list(id smb2.FileID, q smb2.QueryDirectoryRequest) (names []string, last smb2.Status) {
	c.t.Helper()
	q.FileID = id
	for {
		r := c.call(smb2.CommandQueryDirectory, &q, nil)
		if r.hdr.Status != smb2.StatusSuccess {
			return names, r.hdr.Status
		}
		var m smb2.QueryDirectoryResponse
		if err := m.Decode(r.msg); err != nil {
			c.t.Fatal(err)
		}
		if len(m.Output) > int(q.OutputBufferLength) {
			c.t.Fatalf("%d bytes for room of %d", len(m.Output), q.OutputBufferLength)
		}
		if err := fscc.ReadDirEntries(fscc.InfoClass(q.FileInformationClass), m.Output, func(e *fscc.DirEntry) error {
			names = append(names, e.Name)
			return nil
		}); err != nil {
			c.t.Fatal(err)
		}
		q.Flags &^= smb2.QueryDirectoryRestartScans | smb2.QueryDirectoryReopen
	}
}

func TestQueryDirectory(t *testing.T) {
	srv := startServer(t, nil)
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	want := []string{".", ".."}
	for i := range 1000 {
		name := fmt.Sprintf("File %04d.vhdx", i)
		if err := os.WriteFile(filepath.Join(srv.root, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		want = append(want, name)
	}
	open := func() smb2.FileID { return c.open("", smb2.FileListDirectory, smb2.FileDirectoryFile) }
	classes := []fscc.InfoClass{fscc.FileDirectoryInformation, fscc.FileFullDirectoryInformation, fscc.FileBothDirectoryInformation,
		fscc.FileIdBothDirectoryInformation, fscc.FileIdFullDirectoryInformation, fscc.FileIdExtdDirectoryInformation, fscc.FileNamesInformation}
	for _, class := range classes {
		for _, room := range []uint32{200, 4096, 64 << 10} {
			names, st := c.list(open(), smb2.QueryDirectoryRequest{FileInformationClass: uint8(class), FileName: "*", OutputBufferLength: room})
			slices.Sort(names)
			if st != smb2.StatusNoMoreFiles || !slices.Equal(names, want) {
				t.Errorf("class %d in %d bytes: %d names, %v", class, room, len(names), st)
			}
		}
	}
	tests := []struct {
		pattern string
		n       int
	}{{"", 1002}, {"*.*", 1002}, {"file 00*", 100}, {"FILE ???7.VHDX", 100}, {"file 0042.vhdx", 1}, {"file <00\"vhdx", 10}, {".", 1},
		{fs.ShortName("File 0042.vhdx"), 1}, {"*.vhd", 0}} // spelled out, short names match too (MS-FSA 2.1.5.6.3)
	for _, tt := range tests {
		names, st := c.list(open(), smb2.QueryDirectoryRequest{FileInformationClass: 12, FileName: tt.pattern, OutputBufferLength: 64 << 10})
		if len(names) != tt.n || tt.n > 0 && st != smb2.StatusNoMoreFiles {
			t.Errorf("pattern %q: %d names, %v; want %d", tt.pattern, len(names), st, tt.n)
		}
	}

	refused := []struct {
		name string
		q    smb2.QueryDirectoryRequest
		want smb2.Status
	}{
		{"nothing matches", smb2.QueryDirectoryRequest{FileInformationClass: 12, FileName: "none*", OutputBufferLength: 1000}, smb2.StatusNoSuchFile},
		{"no directory class", smb2.QueryDirectoryRequest{FileInformationClass: 4, FileName: "*", OutputBufferLength: 1000}, smb2.StatusInvalidInfoClass},
		{"a class not there", smb2.QueryDirectoryRequest{FileInformationClass: 78, FileName: "*", OutputBufferLength: 1000}, smb2.StatusNotSupported},
		{"no room", smb2.QueryDirectoryRequest{FileInformationClass: 12, FileName: "file*", OutputBufferLength: 20}, smb2.StatusInfoLengthMismatch},
		{"bad pattern", smb2.QueryDirectoryRequest{FileInformationClass: 12, FileName: `a\b`, OutputBufferLength: 1000}, smb2.StatusObjectNameInvalid},
	}
	for _, tt := range refused {
		if _, st := c.list(open(), tt.q); st != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, st, tt.want)
		}
	}
	file := c.open("File 0001.vhdx", rightsAll, 0)
	if _, st := c.list(file, refused[0].q); st != smb2.StatusInvalidParameter {
		t.Errorf("listing a file: %v", st)
	}
	blind := c.open("", smb2.FileReadAttributes, smb2.FileDirectoryFile)
	if _, st := c.list(blind, refused[0].q); st != smb2.StatusAccessDenied {
		t.Errorf("listing without the right to: %v", st)
	}

	// The pattern stays until a restart brings another; one entry at a time comes in order.
	id := open()
	q := smb2.QueryDirectoryRequest{FileInformationClass: 12, FileName: "file 000*", OutputBufferLength: 1000, Flags: smb2.QueryDirectoryReturnSingleEntry}
	if names, _ := c.list(id, q); len(names) != 10 {
		t.Errorf("single entries: %q", names)
	}
	q.Flags = smb2.QueryDirectoryRestartScans
	q.FileName = "file 001*"
	if names, _ := c.list(id, q); len(names) != 10 || names[0] < "File 0010" {
		t.Errorf("after a restart with another pattern: %q", names)
	}
	q.Flags, q.FileName = smb2.QueryDirectoryReopen, ""
	if names, _ := c.list(id, q); len(names) != 10 {
		t.Errorf("after a restart without a pattern: %q", names)
	}
}

// The sizes of answers and buffers: MS-SMB2 3.3.5.20.1, 3.3.5.20.2, MS-FSA 2.1.5.12.
func TestQueryInfoBuffers(t *testing.T) {
	c := loginRaw(t, startServer(t, nil).addr, smb2.Dialect311, "vms")
	id := c.create("file name.bin")
	tests := []struct {
		typ   smb2.InfoType
		class uint8
		least uint32 // fewer bytes: STATUS_INFO_LENGTH_MISMATCH
		whole uint32 // fewer bytes than that: STATUS_BUFFER_OVERFLOW
	}{
		{smb2.InfoFile, uint8(fscc.FileBasicInformation), 40, 40},
		{smb2.InfoFile, uint8(fscc.FileStandardInformation), 24, 24},
		{smb2.InfoFile, uint8(fscc.FileInternalInformation), 8, 8},
		{smb2.InfoFile, uint8(fscc.FileEaInformation), 4, 4},
		{smb2.InfoFile, uint8(fscc.FileAccessInformation), 4, 4},
		{smb2.InfoFile, uint8(fscc.FilePositionInformation), 8, 8},
		{smb2.InfoFile, uint8(fscc.FileModeInformation), 4, 4},
		{smb2.InfoFile, uint8(fscc.FileAlignmentInformation), 4, 4},
		{smb2.InfoFile, uint8(fscc.FileAllInformation), 104, 128},
		{smb2.InfoFile, uint8(fscc.FileStreamInformation), 32, 38},
		{smb2.InfoFile, uint8(fscc.FileNetworkOpenInformation), 56, 56},
		{smb2.InfoFile, uint8(fscc.FileAttributeTagInformation), 8, 8},
		{smb2.InfoFile, uint8(fscc.FileCompressionInformation), 16, 16},
		{smb2.InfoFile, uint8(fscc.FileNormalizedNameInformation), 8, 30},
		{smb2.InfoFile, uint8(fscc.FileIdInformation), 24, 24},
		{smb2.InfoFilesystem, uint8(fscc.FileFsVolumeInformation), 24, 0},
		{smb2.InfoFilesystem, uint8(fscc.FileFsSizeInformation), 24, 24},
		{smb2.InfoFilesystem, uint8(fscc.FileFsDeviceInformation), 8, 8},
		{smb2.InfoFilesystem, uint8(fscc.FileFsAttributeInformation), 16, 20},
		{smb2.InfoFilesystem, uint8(fscc.FileFsFullSizeInformation), 32, 32},
		{smb2.InfoFilesystem, uint8(fscc.FileFsSectorSizeInformation), 28, 28},
		{smb2.InfoFilesystem, uint8(fscc.FileFsObjectIdInformation), 64, 64},
	}
	for _, tt := range tests {
		ask := func(room uint32) (int, smb2.Status) {
			b, st := c.queryInfo(&smb2.QueryInfoRequest{InfoType: tt.typ, FileInfoClass: tt.class, FileID: id, OutputBufferLength: room})
			return len(b), st
		}
		if _, st := ask(tt.least - 1); st != smb2.StatusInfoLengthMismatch {
			t.Errorf("type %d class %d in %d bytes: %v", tt.typ, tt.class, tt.least-1, st)
		}
		if n, st := ask(1 << 16); st != 0 || tt.whole != 0 && n != int(tt.whole) {
			t.Errorf("type %d class %d: %d bytes, %v; want %d", tt.typ, tt.class, n, st, tt.whole)
		}
		if tt.whole > tt.least {
			if n, st := ask(tt.least); st != smb2.StatusBufferOverflow || n != int(tt.least) {
				t.Errorf("type %d class %d in %d bytes: %d bytes, %v", tt.typ, tt.class, tt.least, n, st)
			}
		}
	}
	refused := []struct {
		typ   smb2.InfoType
		class uint8
		want  smb2.Status
	}{
		{smb2.InfoFile, uint8(fscc.FileBothDirectoryInformation), smb2.StatusInvalidInfoClass},
		{smb2.InfoFile, uint8(fscc.FileRenameInformation), smb2.StatusInvalidInfoClass},
		{smb2.InfoFile, uint8(fscc.FileQuotaInformation), smb2.StatusNotSupported},
		{smb2.InfoFile, 200, smb2.StatusInvalidInfoClass},
		{smb2.InfoFile, uint8(fscc.FileFullEaInformation), smb2.StatusNoEAsOnFile},
		{smb2.InfoFilesystem, 100, smb2.StatusInvalidInfoClass},
		{smb2.InfoQuota, 0, smb2.StatusNotSupported},
		{9, 0, smb2.StatusInvalidParameter},
	}
	for _, tt := range refused {
		if _, st := c.queryInfo(&smb2.QueryInfoRequest{InfoType: tt.typ, FileInfoClass: tt.class, FileID: id, OutputBufferLength: 1 << 16}); st != tt.want {
			t.Errorf("type %d class %d: %v, want %v", tt.typ, tt.class, st, tt.want)
		}
	}
}

// Times that are set or frozen stay as they are under later writes of the open
// (MS-FSA 2.1.5.15.2); attributes come back as they were set.
func TestSetBasic(t *testing.T) {
	c := loginRaw(t, startServer(t, nil).addr, smb2.Dialect311, "vms")
	id := c.create("file")
	basic := func(id smb2.FileID) (b fscc.BasicInfo) {
		t.Helper()
		out, st := c.queryInfo(&smb2.QueryInfoRequest{InfoType: smb2.InfoFile, FileInfoClass: uint8(fscc.FileBasicInformation), FileID: id, OutputBufferLength: 40})
		if st != 0 || b.Decode(out) != nil {
			t.Fatal(st)
		}
		return b
	}
	day := fscc.FiletimeOf(time.Date(2001, 2, 3, 4, 5, 6, 700, time.UTC))
	set := &fscc.BasicInfo{CreationTime: day, LastAccessTime: day + 1e7, LastWriteTime: day + 2e7,
		Attributes: fscc.FILE_ATTRIBUTE_HIDDEN | fscc.FILE_ATTRIBUTE_NORMAL}
	if st := c.setInfo(id, fscc.FileBasicInformation, set); st != 0 {
		t.Fatal(st)
	}
	if st := c.write(id, 0, "data"); st != 0 {
		t.Fatal(st)
	}
	if got := basic(id); got.CreationTime != day || got.LastWriteTime != day+2e7 || got.Attributes != fscc.FILE_ATTRIBUTE_HIDDEN {
		t.Errorf("after a write: %+v, want %+v", got, set)
	}
	if st := c.setInfo(id, fscc.FileBasicInformation, &fscc.BasicInfo{LastWriteTime: fscc.FiletimeThaw}); st != 0 {
		t.Fatal(st)
	}
	if st := c.write(id, 0, "data"); st != 0 {
		t.Fatal(st)
	}
	if got := basic(id); got.LastWriteTime <= day+2e7 {
		t.Errorf("write time %v does not move after -2", got.LastWriteTime.Time())
	}
	before := basic(id).LastWriteTime
	if st := c.setInfo(id, fscc.FileBasicInformation, &fscc.BasicInfo{LastWriteTime: fscc.FiletimeFreeze}); st != 0 {
		t.Fatal(st)
	}
	time.Sleep(20 * time.Millisecond) // more than the clock of file times takes to move
	if st := c.write(id, 0, "data"); st != 0 {
		t.Fatal(st)
	}
	if m := c.closeFile(id); fscc.Filetime(m.LastWriteTime) != before {
		t.Errorf("frozen write time moved from %v to %v", before.Time(), fscc.Filetime(m.LastWriteTime).Time())
	}
	id = c.open("file", rightsAll, 0)
	if got := basic(id); got.LastWriteTime != before {
		t.Errorf("frozen write time moved after the close")
	}
	// A change time is kept with the file, and stays under what else its open changes.
	if st := c.setInfo(id, fscc.FileBasicInformation, &fscc.BasicInfo{ChangeTime: day, Attributes: fscc.FILE_ATTRIBUTE_HIDDEN}); st != 0 {
		t.Fatal(st)
	}
	time.Sleep(20 * time.Millisecond)
	if st := c.setInfo(id, fscc.FileBasicInformation, &fscc.BasicInfo{Attributes: fscc.FILE_ATTRIBUTE_ARCHIVE}); st != 0 {
		t.Fatal(st)
	}
	c.closeFile(id)
	if id = c.open("file", rightsAll, 0); basic(id).ChangeTime != day {
		t.Errorf("change time %v after its open has been closed, want %v", basic(id).ChangeTime.Time(), day.Time())
	}
	for _, bad := range []struct {
		set  fscc.BasicInfo
		want smb2.Status
	}{
		{fscc.BasicInfo{CreationTime: -3}, smb2.StatusInvalidParameter},
		{fscc.BasicInfo{Attributes: fscc.FILE_ATTRIBUTE_DIRECTORY}, smb2.StatusInvalidParameter},
	} {
		if st := c.setInfo(id, fscc.FileBasicInformation, &bad.set); st != bad.want {
			t.Errorf("set %+v: %v, want %v", bad.set, st, bad.want)
		}
	}
	reader := c.open("file", smb2.GenericRead, 0)
	for class, m := range map[fscc.InfoClass]encoder{
		fscc.FileBasicInformation: set, fscc.FileEndOfFileInformation: &fscc.EndOfFileInfo{}, fscc.FileAllocationInformation: &fscc.AllocationInfo{},
		fscc.FileDispositionInformation: &fscc.DispositionInfo{}, fscc.FileRenameInformation: &fscc.RenameInfo{Name: "x"},
		fscc.FileFullEaInformation: raw("eas"), fscc.FileValidDataLengthInformation: &fscc.ValidDataLengthInfo{},
	} {
		if st := c.setInfo(reader, class, m); st != smb2.StatusAccessDenied {
			t.Errorf("class %d set by a reader: %v", class, st)
		}
	}
	if st := c.setInfo(id, fscc.FileEndOfFileInformation, raw("short")); st != smb2.StatusInfoLengthMismatch {
		t.Errorf("end of file cut short: %v", st)
	}
	if st := c.setInfo(id, fscc.FileEndOfFileInformation, raw(nil)); st != smb2.StatusInvalidParameter {
		t.Errorf("end of file from nothing: %v", st)
	}
	if st := c.setInfo(id, fscc.FileStandardInformation, raw(make([]byte, 24))); st != smb2.StatusInvalidInfoClass {
		t.Errorf("standard information set: %v", st)
	}
}
