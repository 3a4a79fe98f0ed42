package shares

import (
	"testing"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

const (
	shareAll  = smb2.FileShareRead | smb2.FileShareWrite | smb2.FileShareDelete
	rightsAll = smb2.AccessMask(fscc.FILE_ALL_ACCESS)
)

// tryCreate sends a CREATE and returns what came of it.
func (c *rawClient) tryCreate(q *smb2.CreateRequest) (m smb2.CreateResponse, st smb2.Status) {
	c.t.Helper()
	q.ImpersonationLevel = smb2.ImpersonationImpersonation
	r := c.call(smb2.CommandCreate, q, nil)
	if r.hdr.Status == smb2.StatusSuccess {
		if err := m.Decode(r.msg); err != nil {
			c.t.Fatal(err)
		}
	}
	return m, r.hdr.Status
}

// mustCreate is tryCreate that has to succeed.
func (c *rawClient) mustCreate(q *smb2.CreateRequest) smb2.CreateResponse {
	c.t.Helper()
	m, st := c.tryCreate(q)
	if st != smb2.StatusSuccess {
		c.t.Fatalf("create %q: %v", q.Name, st)
	}
	return m
}

func (c *rawClient) closeFile(id smb2.FileID) smb2.CloseResponse {
	c.t.Helper()
	var m smb2.CloseResponse
	r := c.call(smb2.CommandClose, &smb2.CloseRequest{FileID: id, Flags: smb2.CloseFlagPostqueryAttrib}, nil)
	if r.hdr.Status != smb2.StatusSuccess {
		c.t.Fatalf("close: %v", r.hdr.Status)
	} else if err := m.Decode(r.msg); err != nil {
		c.t.Fatal(err)
	}
	return m
}

func (c *rawClient) setInfo(id smb2.FileID, class fscc.InfoClass, m encoder) smb2.Status {
	c.t.Helper()
	b := make([]byte, m.Size())
	m.Encode(b)
	return c.call(smb2.CommandSetInfo, &smb2.SetInfoRequest{
		InfoType: smb2.InfoFile, FileInfoClass: uint8(class), FileID: id, Buffer: b}, nil).hdr.Status
}

// queryInfo returns status and output of a query with room bytes for the answer.
func (c *rawClient) queryInfo(q *smb2.QueryInfoRequest) ([]byte, smb2.Status) {
	c.t.Helper()
	r := c.call(smb2.CommandQueryInfo, q, nil)
	var m smb2.QueryInfoResponse
	if !r.hdr.Status.IsError() {
		if err := m.Decode(r.msg); err != nil {
			c.t.Fatal(err)
		}
	}
	return m.Output, r.hdr.Status
}

func (c *rawClient) write(id smb2.FileID, off uint64, data string) smb2.Status {
	c.t.Helper()
	return c.call(smb2.CommandWrite, &smb2.WriteRequest{FileID: id, Offset: off, Length: uint32(len(data))}, []byte(data)).hdr.Status
}

func (c *rawClient) read(id smb2.FileID, n uint32) (string, smb2.Status) {
	c.t.Helper()
	r := c.call(smb2.CommandRead, readRequest(id, n), nil)
	var m smb2.ReadResponse
	if r.hdr.Status != smb2.StatusSuccess {
		return "", r.hdr.Status
	} else if err := m.Decode(r.msg); err != nil {
		c.t.Fatal(err)
	}
	return string(r.msg[len(r.msg)-int(m.DataLength):]), r.hdr.Status
}

func (c *rawClient) ioctl(id smb2.FileID, code smb2.CtlCode, in encoder, room uint32) (m smb2.IoctlResponse, st smb2.Status) {
	c.t.Helper()
	var b []byte
	if in != nil {
		b = make([]byte, in.Size())
		in.Encode(b)
	}
	r := c.call(smb2.CommandIoctl, &smb2.IoctlRequest{
		CtlCode: code, FileID: id, Input: b, MaxOutputResponse: room, Flags: smb2.IoctlIsFSCTL}, nil)
	for r.hdr.Status == smb2.StatusPending { // it takes long, and goes async
		r = c.receive()[0]
	}
	_ = m.Decode(r.msg) // an ERROR response is none
	return m, r.hdr.Status
}

// existing is a file or folder that is there before a test begins, closed.
func (c *rawClient) existing(name string, options smb2.CreateOptions, attributes uint32) {
	c.t.Helper()
	m := c.mustCreate(&smb2.CreateRequest{Name: name, DesiredAccess: rightsAll, ShareAccess: shareAll,
		CreateDisposition: smb2.FileCreate, CreateOptions: options, FileAttributes: attributes})
	c.closeFile(m.FileID)
}

// MS-FSA 2.1.5.1: what each disposition makes of what is there.
func TestCreateDispositions(t *testing.T) {
	c := loginRaw(t, startServer(t, nil).addr, smb2.Dialect311, "vms")
	tests := []struct {
		disposition  smb2.CreateDisposition
		there        smb2.CreateAction // with a file there, if status is success
		thereStatus  smb2.Status
		absent       smb2.Status // without
		size         uint64      // of the file of 4 bytes afterwards
		folderStatus smb2.Status // with a folder there, FILE_NON_DIRECTORY_FILE not set
	}{
		{smb2.FileSupersede, smb2.FileSuperseded, 0, 0, 0, smb2.StatusObjectNameCollision},
		{smb2.FileOpen, smb2.FileOpened, 0, smb2.StatusObjectNameNotFound, 4, 0},
		{smb2.FileCreate, 0, smb2.StatusObjectNameCollision, 0, 4, smb2.StatusObjectNameCollision},
		{smb2.FileOpenIf, smb2.FileOpened, 0, 0, 4, 0},
		{smb2.FileOverwrite, smb2.FileOverwritten, 0, smb2.StatusObjectNameNotFound, 0, smb2.StatusObjectNameCollision},
		{smb2.FileOverwriteIf, smb2.FileOverwritten, 0, 0, 0, smb2.StatusObjectNameCollision},
	}
	for i, tt := range tests {
		there, absent, folder := "there"+string(rune('0'+i)), "absent"+string(rune('0'+i)), "folder"+string(rune('0'+i))
		id := c.create(there)
		if st := c.write(id, 0, "data"); st != 0 {
			t.Fatal(st)
		}
		c.closeFile(id)
		c.existing(folder, smb2.FileDirectoryFile, 0)
		q := &smb2.CreateRequest{Name: there, DesiredAccess: rightsAll, ShareAccess: shareAll, CreateDisposition: tt.disposition}
		m, st := c.tryCreate(q)
		if st != tt.thereStatus || st == 0 && (m.CreateAction != tt.there || m.EndOfFile != tt.size) {
			t.Errorf("disposition %d, file there: %v, action %d, size %d", tt.disposition, st, m.CreateAction, m.EndOfFile)
		}
		q.Name = absent
		if m, st := c.tryCreate(q); st != tt.absent || st == 0 && m.CreateAction != smb2.FileCreated {
			t.Errorf("disposition %d, nothing there: %v, action %d", tt.disposition, st, m.CreateAction)
		}
		q.Name = folder
		if _, st := c.tryCreate(q); st != tt.folderStatus {
			t.Errorf("disposition %d, folder there: %v", tt.disposition, st)
		}
	}
}

// What a CREATE is refused for, in an empty share but for "file", "folder",
// "readonly" and "hidden".
func TestCreateRefused(t *testing.T) {
	c := loginRaw(t, startServer(t, nil).addr, smb2.Dialect311, "vms")
	c.existing("file", 0, 0)
	c.existing("folder", smb2.FileDirectoryFile, 0)
	c.existing("readonly", 0, fscc.FILE_ATTRIBUTE_READONLY)
	c.existing("hidden", 0, fscc.FILE_ATTRIBUTE_HIDDEN)
	type q = smb2.CreateRequest
	tests := []struct {
		name string
		q    q
		want smb2.Status
	}{
		{"no access", q{Name: "file", CreateDisposition: smb2.FileOpen}, smb2.StatusAccessDenied},
		{"SYNCHRONIZE alone (MS-SMB2 2.2.13.1.1, note 49)", q{Name: "file", DesiredAccess: smb2.Synchronize, CreateDisposition: smb2.FileOpen}, smb2.StatusSuccess},
		{"ACCESS_SYSTEM_SECURITY alone", q{Name: "file", DesiredAccess: smb2.AccessSystemSecurity, CreateDisposition: smb2.FileOpen}, smb2.StatusAccessDenied},
		{"reserved rights", q{Name: "file", DesiredAccess: 0x00200001, CreateDisposition: smb2.FileOpen}, smb2.StatusAccessDenied},
		{"disposition", q{Name: "file", DesiredAccess: 1, CreateDisposition: 6}, smb2.StatusInvalidParameter},
		{"share access", q{Name: "file", DesiredAccess: 1, ShareAccess: 8, CreateDisposition: 1}, smb2.StatusInvalidParameter},
		{"file and folder", q{Name: "x", DesiredAccess: 1, CreateDisposition: 3, CreateOptions: 0x41}, smb2.StatusInvalidParameter},
		{"folder overwritten", q{Name: "folder", DesiredAccess: 1, CreateDisposition: 5, CreateOptions: 1}, smb2.StatusInvalidParameter},
		{"by file id", q{Name: "12345678", DesiredAccess: 1, CreateDisposition: 1, CreateOptions: smb2.FileOpenByFileID}, smb2.StatusNotSupported},
		{"opfilter", q{Name: "file", DesiredAccess: 1, CreateDisposition: 1, CreateOptions: smb2.FileReserveOpfilter}, smb2.StatusNotSupported},
		{"not a folder", q{Name: "file", DesiredAccess: 1, CreateDisposition: 1, CreateOptions: 1}, smb2.StatusNotADirectory},
		{"folder made over file", q{Name: "file", DesiredAccess: 1, CreateDisposition: 2, CreateOptions: 1}, smb2.StatusObjectNameCollision},
		{"a folder", q{Name: "folder", DesiredAccess: 1, CreateDisposition: 1, CreateOptions: smb2.FileNonDirectoryFile}, smb2.StatusFileIsADirectory},
		{"data of a folder", q{Name: "folder::$DATA", DesiredAccess: 1, CreateDisposition: 1}, smb2.StatusFileIsADirectory},
		{"leading separator", q{Name: `\file`, DesiredAccess: 1, CreateDisposition: 1}, smb2.StatusInvalidParameter},
		{"wildcard", q{Name: "fi*e", DesiredAccess: 1, CreateDisposition: 1}, smb2.StatusObjectNameInvalid},
		{"slash", q{Name: "folder/file", DesiredAccess: 1, CreateDisposition: 3}, smb2.StatusObjectNameInvalid},
		{"missing stream", q{Name: "file:stream", DesiredAccess: 1, CreateDisposition: 1}, smb2.StatusObjectNameNotFound},
		{"stream as a folder", q{Name: "file:stream", DesiredAccess: 1, CreateDisposition: 2, CreateOptions: 1}, smb2.StatusNotADirectory},
		{"stream of an index", q{Name: "file:stream:$INDEX_ALLOCATION", DesiredAccess: 1, CreateDisposition: 1}, smb2.StatusInvalidParameter},
		{"stream type", q{Name: "file::$ELSE", DesiredAccess: 1, CreateDisposition: 3}, smb2.StatusObjectNameInvalid},
		{"out of the share", q{Name: `folder\..\..\etc\passwd`, DesiredAccess: 1, CreateDisposition: 1}, smb2.StatusObjectPathSyntaxBad},
		{"path missing", q{Name: `none\file`, DesiredAccess: 1, CreateDisposition: 1}, smb2.StatusObjectPathNotFound},
		{"made in a missing path", q{Name: `none\file`, DesiredAccess: 1, CreateDisposition: 2}, smb2.StatusObjectPathNotFound},
		{"path through a file", q{Name: `file\file`, DesiredAccess: 1, CreateDisposition: 1}, smb2.StatusObjectPathNotFound},
		{"name missing", q{Name: `folder\none`, DesiredAccess: 1, CreateDisposition: 1}, smb2.StatusObjectNameNotFound},
		{"file with separator behind", q{Name: `new\`, DesiredAccess: 1, CreateDisposition: 2}, smb2.StatusObjectNameInvalid},
		{"delete on close without DELETE", q{Name: "file", DesiredAccess: 1, CreateDisposition: 1, CreateOptions: smb2.FileDeleteOnClose}, smb2.StatusInvalidParameter},
		{"delete read-only", q{Name: "readonly", DesiredAccess: smb2.Delete, CreateDisposition: 1, CreateOptions: smb2.FileDeleteOnClose}, smb2.StatusCannotDelete},
		{"made read-only to be deleted", q{Name: "new", DesiredAccess: smb2.Delete, CreateDisposition: 2, CreateOptions: smb2.FileDeleteOnClose,
			FileAttributes: fscc.FILE_ATTRIBUTE_READONLY}, smb2.StatusCannotDelete},
		{"write read-only", q{Name: "readonly", DesiredAccess: smb2.FileWriteData, CreateDisposition: 1}, smb2.StatusAccessDenied},
		{"overwrite read-only", q{Name: "readonly", DesiredAccess: smb2.FileReadData, CreateDisposition: 5}, smb2.StatusAccessDenied},
		{"overwrite hidden as visible", q{Name: "hidden", DesiredAccess: smb2.FileReadData, CreateDisposition: 5}, smb2.StatusAccessDenied},
		{"temporary folder", q{Name: "new", DesiredAccess: 1, CreateDisposition: 2, CreateOptions: 1, FileAttributes: fscc.FILE_ATTRIBUTE_TEMPORARY}, smb2.StatusInvalidParameter},
		{"the root overwritten", q{Name: "", DesiredAccess: 1, CreateDisposition: 5}, smb2.StatusAccessDenied},
		{"system security", q{Name: "file", DesiredAccess: smb2.AccessSystemSecurity | smb2.ReadControl, CreateDisposition: 1}, smb2.StatusPrivilegeNotHeld},
		{"earlier version", q{Name: "file", DesiredAccess: 1, CreateDisposition: 1, Contexts: []smb2.CreateContext{(&smb2.Timewarp{Timestamp: 1 << 60}).Context()}}, smb2.StatusObjectNameNotFound},
		{"durable reconnect", q{Name: "file", DesiredAccess: 1, CreateDisposition: 1, Contexts: []smb2.CreateContext{{Name: smb2.CreateContextDurableReconnect, Data: make([]byte, 16)}}}, smb2.StatusObjectNameNotFound},
		{"extended attributes", q{Name: "new", DesiredAccess: 1, CreateDisposition: 2, Contexts: []smb2.CreateContext{smb2.EABufferContext([]byte{1})}}, smb2.StatusEAListInconsistent},
		{"short context name", q{Name: "file", DesiredAccess: 1, CreateDisposition: 1, Contexts: []smb2.CreateContext{{Name: "abc"}}}, smb2.StatusInvalidParameter},
	}
	for _, tt := range tests {
		tt.q.ShareAccess |= shareAll
		if m, st := c.tryCreate(&tt.q); st != tt.want {
			t.Errorf("%s: %v (%+v), want %v", tt.name, st, m.FileID, tt.want)
		}
	}
	for _, name := range []string{"FILE", "file::$DATA", `folder\`, `FOLDER`, "folder::$INDEX_ALLOCATION", ""} {
		m := c.mustCreate(&q{Name: name, DesiredAccess: 1, ShareAccess: shareAll, CreateDisposition: smb2.FileOpen})
		c.closeFile(m.FileID)
	}
}

func TestCreateContexts(t *testing.T) {
	c := loginRaw(t, startServer(t, nil).addr, smb2.Dialect311, "vms")
	m := c.mustCreate(&smb2.CreateRequest{Name: "file", DesiredAccess: rightsAll, ShareAccess: shareAll, CreateDisposition: smb2.FileCreate,
		Contexts: []smb2.CreateContext{(&smb2.MaximalAccessRequest{}).Context(), smb2.OnDiskIDRequest(), (&smb2.AllocationSize{AllocationSize: 1 << 20}).Context()}})
	var max smb2.MaximalAccessResponse
	var id smb2.OnDiskID
	if b, ok := smb2.FindCreateContext(m.Contexts, smb2.CreateContextMaximalAccess); !ok || max.Decode(b) != nil || max.QueryStatus != 0 || max.MaximalAccess != rightsAll {
		t.Errorf("maximal access %+v, want %#x", max, rightsAll)
	}
	if b, ok := smb2.FindCreateContext(m.Contexts, smb2.CreateContextOnDiskID); !ok || id.Decode(b) != nil || id.DiskFileID == 0 {
		t.Errorf("on-disk id %+v", id)
	}
	if m.AllocationSize < 1<<20 || m.EndOfFile != 0 {
		t.Errorf("%d bytes allocated, %d in the file", m.AllocationSize, m.EndOfFile)
	}
	b, st := c.queryInfo(&smb2.QueryInfoRequest{InfoType: smb2.InfoFile, FileInfoClass: uint8(fscc.FileInternalInformation), FileID: m.FileID, OutputBufferLength: 8})
	var internal fscc.InternalInfo
	if st != 0 || internal.Decode(b) != nil || internal.IndexNumber != id.DiskFileID {
		t.Errorf("internal information %+v, %v; on-disk id %+v", internal, st, id)
	}
}
