package shares

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

func marshal(t *testing.T, sd *fscc.SecurityDescriptor) []byte {
	t.Helper()
	b, err := sd.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// descriptorOf lets everyone do mask, and nothing else to anyone.
func descriptorOf(mask fscc.AccessMask, flags uint8) *fscc.SecurityDescriptor {
	return &fscc.SecurityDescriptor{Control: fscc.SE_DACL_PRESENT,
		DACL: &fscc.ACL{ACEs: []fscc.ACE{fscc.Allow(fscc.SIDEveryone, mask, flags)}}}
}

func (c *rawClient) setSecurity(id smb2.FileID, info fscc.SecurityInformation, sd []byte) smb2.Status {
	c.t.Helper()
	return c.call(smb2.CommandSetInfo, &smb2.SetInfoRequest{
		InfoType: smb2.InfoSecurity, AdditionalInformation: smb2.SecurityInformation(info), FileID: id, Buffer: sd}, nil).hdr.Status
}

func (c *rawClient) security(id smb2.FileID, info fscc.SecurityInformation) (sd fscc.SecurityDescriptor) {
	c.t.Helper()
	b, st := c.queryInfo(&smb2.QueryInfoRequest{InfoType: smb2.InfoSecurity,
		AdditionalInformation: smb2.SecurityInformation(info), FileID: id, OutputBufferLength: 1 << 16})
	if st != smb2.StatusSuccess {
		c.t.Fatalf("query security: %v", st)
	} else if err := sd.Decode(b); err != nil {
		c.t.Fatal(err)
	}
	return sd
}

const ownerAndList = fscc.OWNER_SECURITY_INFORMATION | fscc.DACL_SECURITY_INFORMATION

func TestSecurityDescriptors(t *testing.T) {
	srv := startServer(t, nil)
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	user, err := srv.cfg.Accounts.Token(testUser)
	if err != nil {
		t.Fatal(err)
	}
	// What was there before the share was is everybody's; what is made inherits that, and is its maker's.
	if err := os.WriteFile(filepath.Join(srv.root, "old"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if sd := c.security(c.open("old", rightsAll, 0), ownerAndList); sd.Owner != fscc.SIDAdministrators || len(sd.DACL.ACEs) != 3 {
		t.Errorf("of a file without a descriptor: %+v", sd)
	}
	c.existing("folder", smb2.FileDirectoryFile, 0)
	if sd := c.security(c.open("folder", rightsAll, 0), ownerAndList); sd.Owner != user.User || len(sd.DACL.ACEs) != 3 {
		t.Errorf("of a new folder: %+v", sd)
	}

	// A descriptor that comes with the CREATE counts from the next open on; the open itself has what it asked for.
	read := descriptorOf(fscc.FILE_GENERIC_READ, 0)
	m := c.mustCreate(&smb2.CreateRequest{Name: `folder\mine`, DesiredAccess: rightsAll, ShareAccess: shareAll, CreateDisposition: smb2.FileCreate,
		Contexts: []smb2.CreateContext{smb2.SDBufferContext(marshal(t, read))}})
	if st := c.write(m.FileID, 0, "data"); st != 0 {
		t.Errorf("write by the open that made the file: %v", st)
	}
	c.closeFile(m.FileID)
	c.wantOpen(`folder\mine`, smb2.GenericRead, shareAll, smb2.StatusSuccess)
	c.wantOpen(`folder\mine`, smb2.GenericWrite, shareAll, smb2.StatusAccessDenied)
	c.wantOpen(`folder\mine`, smb2.WriteDAC, shareAll, smb2.StatusSuccess) // the owner may
	c.wantOpen(`folder\mine`, smb2.WriteOwner, shareAll, smb2.StatusAccessDenied)
	c.wantOpen(`folder\mine`, smb2.Delete, shareAll, smb2.StatusSuccess) // FILE_DELETE_CHILD of the folder
	max := c.mustCreate(&smb2.CreateRequest{Name: `folder\mine`, DesiredAccess: smb2.MaximumAllowed, ShareAccess: shareAll, CreateDisposition: smb2.FileOpen})
	want := fscc.FILE_GENERIC_READ | fscc.WRITE_DAC | fscc.DELETE
	b, st := c.queryInfo(&smb2.QueryInfoRequest{InfoType: smb2.InfoFile, FileInfoClass: uint8(fscc.FileAccessInformation), FileID: max.FileID, OutputBufferLength: 4})
	if st != 0 || fscc.AccessMask(binary.LittleEndian.Uint32(b)) != want {
		t.Errorf("the maximum is %x, %v; want %x", b, st, want)
	}
	if _, st := c.tryCreate(&smb2.CreateRequest{Name: `folder\mine`, DesiredAccess: smb2.GenericRead, ShareAccess: shareAll,
		CreateDisposition: smb2.FileOverwriteIf}); st != smb2.StatusAccessDenied {
		t.Errorf("overwriting what may only be read: %v", st)
	}

	// Without FILE_ADD_FILE nothing is made in a folder, or moved into it; its list is inherited.
	id := c.open("folder", rightsAll, 0)
	noAdd := descriptorOf(fscc.FILE_ALL_ACCESS&^(fscc.FILE_ADD_FILE|fscc.FILE_DELETE_CHILD), fscc.OBJECT_INHERIT_ACE|fscc.CONTAINER_INHERIT_ACE)
	if st := c.setSecurity(id, fscc.DACL_SECURITY_INFORMATION, marshal(t, noAdd)); st != 0 {
		t.Fatal(st)
	}
	if _, st := c.tryCreate(&smb2.CreateRequest{Name: `folder\new`, DesiredAccess: 1, CreateDisposition: smb2.FileCreate}); st != smb2.StatusAccessDenied {
		t.Errorf("create without FILE_ADD_FILE: %v", st)
	}
	old := c.open("old", rightsAll, 0)
	if st := c.setInfo(old, fscc.FileRenameInformation, &fscc.RenameInfo{Name: `folder\old`}); st != smb2.StatusAccessDenied {
		t.Errorf("rename into it: %v", st)
	}
	c.wantOpen(`folder\mine`, smb2.Delete, shareAll, smb2.StatusAccessDenied)
	c.existing(`folder\sub`, smb2.FileDirectoryFile, 0)
	if sd := c.security(c.open(`folder\sub`, smb2.ReadControl, 0), fscc.DACL_SECURITY_INFORMATION); len(sd.DACL.ACEs) != 1 ||
		sd.DACL.ACEs[0].Mask != noAdd.DACL.ACEs[0].Mask {
		t.Errorf("inherited: %+v", sd.DACL)
	}

	// Rights and owners when it is set.
	reader := c.open("old", smb2.GenericRead, 0)
	if st := c.setSecurity(reader, fscc.DACL_SECURITY_INFORMATION, marshal(t, read)); st != smb2.StatusAccessDenied {
		t.Errorf("set by an open without WRITE_DAC: %v", st)
	}
	if st := c.setSecurity(old, fscc.OWNER_SECURITY_INFORMATION, marshal(t, &fscc.SecurityDescriptor{Owner: fscc.SIDGuests})); st != smb2.StatusInvalidOwner {
		t.Errorf("somebody else made owner: %v", st)
	}
	if st := c.setSecurity(old, fscc.OWNER_SECURITY_INFORMATION, marshal(t, &fscc.SecurityDescriptor{Owner: user.User})); st != 0 {
		t.Errorf("oneself made owner: %v", st)
	}
	if st := c.setSecurity(old, fscc.DACL_SECURITY_INFORMATION, []byte{1, 2, 3}); st != smb2.StatusInvalidSecurityDescr {
		t.Errorf("three bytes set: %v", st)
	}
}

// MS-SMB2 3.3.5.20.3: a descriptor is never cut; the error says how large it is.
func TestSecurityBufferTooSmall(t *testing.T) {
	srv := startServer(t, nil)
	for _, d := range []smb2.Dialect{smb2.Dialect311, smb2.Dialect300} {
		c := loginRaw(t, srv.addr, d, "vms")
		id := c.create("file")
		q := &smb2.QueryInfoRequest{InfoType: smb2.InfoSecurity, AdditionalInformation: smb2.SecurityInformation(ownerAndList), FileID: id}
		r := c.call(smb2.CommandQueryInfo, q, nil)
		wantStatus(t, r, smb2.StatusBufferTooSmall)
		var m smb2.ErrorResponse
		if err := m.Decode(r.msg); err != nil {
			t.Fatal(err)
		}
		size := m.Data
		if d == smb2.Dialect311 {
			if len(m.Contexts) != 1 {
				t.Fatalf("%d error contexts", len(m.Contexts))
			}
			size = m.Contexts[0].Data
		}
		q.OutputBufferLength = binary.LittleEndian.Uint32(size)
		if b, st := c.queryInfo(q); st != 0 || len(b) != int(q.OutputBufferLength) {
			t.Errorf("%v: in %d bytes: %v, %d bytes", d, q.OutputBufferLength, st, len(b))
		}
	}
}

func TestReadOnlyShare(t *testing.T) {
	srv := startServer(t, func(cfg *Config) {
		cfg.Shares[0].ReadOnly = true
		if err := cfg.Accounts.AddMember("Administrators", testUser); err != nil {
			t.Fatal(err)
		}
	})
	if err := os.WriteFile(filepath.Join(srv.root, "file"), []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	for _, access := range []smb2.AccessMask{smb2.FileWriteData, smb2.FileAppendData, smb2.GenericWrite, smb2.GenericAll, smb2.Delete,
		smb2.WriteDAC, smb2.WriteOwner, smb2.FileWriteAttributes} {
		c.wantOpen("file", access, shareAll, smb2.StatusAccessDenied)
	}
	for _, d := range []smb2.CreateDisposition{smb2.FileSupersede, smb2.FileOverwrite, smb2.FileOverwriteIf} {
		if _, st := c.tryCreate(&smb2.CreateRequest{Name: "file", DesiredAccess: smb2.GenericRead, ShareAccess: shareAll, CreateDisposition: d}); st != smb2.StatusAccessDenied {
			t.Errorf("disposition %d: %v", d, st)
		}
	}
	for _, o := range []smb2.CreateOptions{0, smb2.FileDirectoryFile} {
		if _, st := c.tryCreate(&smb2.CreateRequest{Name: "new", DesiredAccess: smb2.GenericRead, CreateDisposition: smb2.FileCreate, CreateOptions: o}); st != smb2.StatusAccessDenied {
			t.Errorf("create, options %d: %v", o, st)
		}
	}
	id := c.open("file", smb2.MaximumAllowed, 0)
	if s, st := c.read(id, 4); s != "data" {
		t.Errorf("read %q, %v", s, st)
	}
	if st := c.write(id, 0, "x"); st != smb2.StatusAccessDenied {
		t.Errorf("write: %v", st)
	}
	id = c.open("file", smb2.AccessSystemSecurity|smb2.ReadControl, 0)
	if st := c.setSecurity(id, fscc.SACL_SECURITY_INFORMATION, marshal(t, &fscc.SecurityDescriptor{
		Control: fscc.SE_SACL_PRESENT, SACL: &fscc.ACL{}})); st != smb2.StatusAccessDenied {
		t.Errorf("set the list of what is audited: %v", st)
	}
	if b, err := os.ReadFile(filepath.Join(srv.root, "file")); string(b) != "data" {
		t.Errorf("the file is %q now, %v", b, err)
	}
}

func TestPipes(t *testing.T) {
	srv := startServer(t, nil)
	c := loginRaw(t, srv.addr, smb2.Dialect311, "IPC$")
	if _, st := c.tryCreate(&smb2.CreateRequest{Name: "nosuchpipe", DesiredAccess: smb2.GenericRead | smb2.GenericWrite, CreateDisposition: smb2.FileOpen}); st != smb2.StatusObjectNameNotFound {
		t.Errorf("unknown pipe: %v", st)
	}
	m := c.mustCreate(&smb2.CreateRequest{Name: "srvsvc", DesiredAccess: smb2.GenericRead | smb2.GenericWrite, CreateDisposition: smb2.FileOpen})
	id := m.FileID
	if _, st := c.read(id, 100); st != statusPipeEmpty {
		t.Errorf("read of an empty pipe: %v", st)
	}
	b, st := c.queryInfo(&smb2.QueryInfoRequest{InfoType: smb2.InfoFile, FileInfoClass: uint8(fscc.FileStandardInformation), FileID: id, OutputBufferLength: 24})
	var s fscc.StandardInfo
	if st != 0 || s.Decode(b) != nil || s.Links != 1 || !s.DeletePending || s.Directory {
		t.Errorf("standard information: %v, %+v", st, s)
	}
	for what, r := range map[string]response{
		"lock":            c.call(smb2.CommandLock, lockRequest(id, smb2.LockElement{Length: 1, Flags: smb2.LockFlagExclusiveLock}), nil),
		"query directory": c.call(smb2.CommandQueryDirectory, &smb2.QueryDirectoryRequest{FileInformationClass: 12, FileID: id, FileName: "*", OutputBufferLength: 100}, nil),
		"change notify":   c.call(smb2.CommandChangeNotify, &smb2.ChangeNotifyRequest{FileID: id, OutputBufferLength: 100}, nil),
	} {
		if r.hdr.Status != smb2.StatusInvalidParameter {
			t.Errorf("%s on a pipe: %v", what, r.hdr.Status)
		}
	}
	if st := c.setInfo(id, fscc.FileBasicInformation, &fscc.BasicInfo{}); st != smb2.StatusNotSupported {
		t.Errorf("set times of a pipe: %v", st)
	}
	if st := c.setInfo(id, fscc.FilePipeInformation, &fscc.PipeInfo{ReadMode: fscc.FILE_PIPE_MESSAGE_MODE}); st != 0 {
		t.Errorf("set message mode: %v", st)
	}
	if _, st := c.ioctl(smb2.RelatedFileID, smb2.FsctlPipeWait, &fscc.PipeWait{Name: "srvsvc"}, 0); st != 0 {
		t.Errorf("wait for a pipe: %v", st)
	}
	if _, st := c.ioctl(smb2.RelatedFileID, smb2.FsctlPipeWait, &fscc.PipeWait{Name: "nosuchpipe"}, 0); st != smb2.StatusObjectNameNotFound {
		t.Errorf("wait for an unknown pipe: %v", st)
	}
	if _, st := c.ioctl(id, smb2.FsctlPipeTransceive, raw("no PDU at all, but long enough for one"), 1024); st != smb2.StatusPipeDisconnected {
		t.Errorf("transceive of nonsense: %v", st)
	}
	c.closeFile(id)
}
