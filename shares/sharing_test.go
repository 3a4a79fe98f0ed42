package shares

import (
	"os"
	"path/filepath"
	"testing"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// open opens what exists, sharing everything.
func (c *rawClient) open(name string, access smb2.AccessMask, options smb2.CreateOptions) smb2.FileID {
	c.t.Helper()
	return c.mustCreate(&smb2.CreateRequest{Name: name, DesiredAccess: access, ShareAccess: shareAll,
		CreateDisposition: smb2.FileOpen, CreateOptions: options}).FileID
}

func (c *rawClient) wantOpen(name string, access smb2.AccessMask, share smb2.ShareAccess, want smb2.Status) {
	c.t.Helper()
	m, st := c.tryCreate(&smb2.CreateRequest{Name: name, DesiredAccess: access, ShareAccess: share, CreateDisposition: smb2.FileOpen})
	if st != want {
		c.t.Errorf("open %q for %#x sharing %d: %v, want %v", name, uint32(access), share, st, want)
	}
	if st == smb2.StatusSuccess {
		c.closeFile(m.FileID)
	}
}

// A disk that one host has open for writing is not opened for writing by another,
// and a refused overwrite leaves every byte.
func TestSharingViolation(t *testing.T) {
	srv := startServer(t, nil)
	one, two := loginRaw(t, srv.addr, smb2.Dialect311, "vms"), loginRaw(t, srv.addr, smb2.Dialect300, "vms")
	m := one.mustCreate(&smb2.CreateRequest{Name: "disk", DesiredAccess: smb2.GenericRead | smb2.GenericWrite,
		ShareAccess: smb2.FileShareRead, CreateDisposition: smb2.FileCreate})
	if st := one.write(m.FileID, 0, "data"); st != 0 {
		t.Fatal(st)
	}
	two.wantOpen("DISK", smb2.GenericWrite, shareAll, smb2.StatusSharingViolation)
	two.wantOpen("disk", smb2.GenericRead, smb2.FileShareRead, smb2.StatusSharingViolation)
	two.wantOpen("disk", smb2.GenericRead, shareAll, smb2.StatusSuccess)
	two.wantOpen("disk", smb2.Delete, shareAll, smb2.StatusSharingViolation)
	two.wantOpen("disk", smb2.FileReadAttributes, 0, smb2.StatusSuccess)
	for _, d := range []smb2.CreateDisposition{smb2.FileOverwrite, smb2.FileOverwriteIf, smb2.FileSupersede} {
		if _, st := two.tryCreate(&smb2.CreateRequest{Name: "disk", DesiredAccess: smb2.FileReadAttributes, ShareAccess: shareAll,
			CreateDisposition: d}); st != smb2.StatusSharingViolation {
			t.Errorf("disposition %d: %v", d, st)
		}
	}
	if b, err := os.ReadFile(filepath.Join(srv.root, "disk")); err != nil || string(b) != "data" {
		t.Errorf("after refused overwriting: %q, %v", b, err)
	}
	one.nc.Close() // the host is gone: its opens go with the connection
	for range 100 {
		if _, st := two.tryCreate(&smb2.CreateRequest{Name: "disk", DesiredAccess: smb2.GenericWrite, ShareAccess: shareAll,
			CreateDisposition: smb2.FileOpen}); st == smb2.StatusSuccess {
			return
		}
		sleepBriefly()
	}
	t.Error("the opens of a connection that ended still exclude others")
}

func TestDeletePendingOnTheWire(t *testing.T) {
	srv := startServer(t, nil)
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	exists := func(name string) bool {
		_, err := os.Lstat(filepath.Join(srv.root, name))
		return err == nil
	}
	c.existing("file", 0, 0)
	first, second := c.open("file", rightsAll, 0), c.open("FILE", rightsAll, 0)
	if st := c.setInfo(first, fscc.FileDispositionInformation, &fscc.DispositionInfo{DeletePending: true}); st != 0 {
		t.Fatal(st)
	}
	c.wantOpen("file", smb2.FileReadAttributes, shareAll, smb2.StatusDeletePending)
	if _, st := c.tryCreate(&smb2.CreateRequest{Name: "file", DesiredAccess: 1, CreateDisposition: smb2.FileCreate}); st != smb2.StatusDeletePending {
		t.Errorf("create over it: %v", st)
	}
	c.closeFile(first)
	if !exists("file") {
		t.Error("gone while it is open")
	}
	if st := c.write(second, 0, "still there"); st != 0 {
		t.Errorf("write: %v", st)
	}
	c.closeFile(second)
	if exists("file") {
		t.Error("still there after the last close")
	}

	c.existing("folder", smb2.FileDirectoryFile, 0)
	c.existing(`folder\file`, 0, 0)
	id := c.open("folder", rightsAll, smb2.FileDirectoryFile)
	if st := c.setInfo(id, fscc.FileDispositionInformation, &fscc.DispositionInfo{DeletePending: true}); st != smb2.StatusDirectoryNotEmpty {
		t.Errorf("delete of a full folder: %v", st)
	}
	c.closeFile(id)
	c.closeFile(c.open("folder", rightsAll, smb2.FileDirectoryFile|smb2.FileDeleteOnClose))
	if !exists("folder/file") {
		t.Error("a full folder was deleted on close")
	}
	c.closeFile(c.open(`folder\file`, rightsAll, smb2.FileDeleteOnClose))
	id = c.open("folder", rightsAll, smb2.FileDirectoryFile)
	if st := c.setInfo(id, fscc.FileDispositionInformation, &fscc.DispositionInfo{DeletePending: true}); st != 0 {
		t.Errorf("delete of an empty folder: %v", st)
	}
	if _, st := c.tryCreate(&smb2.CreateRequest{Name: `folder\new`, DesiredAccess: 1, CreateDisposition: smb2.FileCreate}); st != smb2.StatusDeletePending {
		t.Errorf("create in a folder that is going: %v", st)
	}
	c.closeFile(id)
	if exists("folder") {
		t.Error("the folder is still there")
	}

	c.existing("readonly", 0, fscc.FILE_ATTRIBUTE_READONLY)
	id = c.open("readonly", smb2.Delete|smb2.FileWriteAttributes, 0)
	if st := c.setInfo(id, fscc.FileDispositionInformation, &fscc.DispositionInfo{DeletePending: true}); st != smb2.StatusCannotDelete {
		t.Errorf("delete of a read-only file: %v", st)
	}
	if st := c.setInfo(id, fscc.FileDispositionInformationEx, &fscc.DispositionInfoEx{
		Flags: fscc.FILE_DISPOSITION_DELETE | fscc.FILE_DISPOSITION_IGNORE_READONLY_ATTRIBUTE}); st != 0 {
		t.Errorf("delete of a read-only file all the same: %v", st)
	}
	c.closeFile(id)
	id = c.open("", rightsAll, smb2.FileDirectoryFile)
	if st := c.setInfo(id, fscc.FileDispositionInformation, &fscc.DispositionInfo{DeletePending: true}); st != smb2.StatusAccessDenied {
		t.Errorf("delete of the root: %v", st)
	}
	if _, st := c.tryCreate(&smb2.CreateRequest{Name: "", DesiredAccess: rightsAll, ShareAccess: shareAll, CreateDisposition: smb2.FileOpen,
		CreateOptions: smb2.FileDirectoryFile | smb2.FileDeleteOnClose}); st != smb2.StatusAccessDenied {
		t.Errorf("delete of the root on close: %v", st)
	}
}

func TestRenameRules(t *testing.T) {
	c := loginRaw(t, startServer(t, nil).addr, smb2.Dialect311, "vms")
	for _, n := range []string{"a", "b", "open"} {
		c.existing(n, 0, 0)
	}
	c.existing("readonly", 0, fscc.FILE_ATTRIBUTE_READONLY)
	c.existing("folder", smb2.FileDirectoryFile, 0)
	c.existing("other", smb2.FileDirectoryFile, 0)
	c.existing(`folder\file`, 0, 0)
	c.open("open", smb2.FileReadAttributes, 0)
	inner := c.open(`folder\file`, rightsAll, 0)
	rename := func(what, to string, replace bool, access smb2.AccessMask, want smb2.Status) {
		t.Helper()
		id := c.open(what, access, 0)
		if st := c.setInfo(id, fscc.FileRenameInformation, &fscc.RenameInfo{Name: to, ReplaceIfExists: replace}); st != want {
			t.Errorf("rename %q to %q, replace %v: %v, want %v", what, to, replace, st, want)
		}
		c.closeFile(id)
	}
	rename("a", "c", false, smb2.GenericWrite, smb2.StatusAccessDenied) // without DELETE
	rename("a", "b", false, rightsAll, smb2.StatusObjectNameCollision)
	rename("a", "folder", true, rightsAll, smb2.StatusAccessDenied)
	rename("a", "readonly", true, rightsAll, smb2.StatusAccessDenied)
	rename("a", "open", true, rightsAll, smb2.StatusAccessDenied)
	rename("a", `none\a`, false, rightsAll, smb2.StatusObjectPathNotFound)
	rename("a", `\a2`, false, rightsAll, smb2.StatusInvalidParameter)
	rename("a", `a:stream`, false, rightsAll, smb2.StatusObjectNameInvalid)
	rename("a", `..\a`, false, rightsAll, smb2.StatusObjectPathSyntaxBad)
	rename("folder", "moved", false, rightsAll, smb2.StatusAccessDenied) // a file in it is open
	rename("a", "A", false, rightsAll, smb2.StatusSuccess)
	rename("a", `other\x`, false, rightsAll, smb2.StatusSuccess)
	rename(`other\x`, "b", true, rightsAll, smb2.StatusSuccess)
	c.closeFile(inner)
	rename("folder", "moved", false, rightsAll, smb2.StatusSuccess)
	c.wantOpen(`moved\file`, 1, shareAll, smb2.StatusSuccess)

	// A file that is renamed while it is to be deleted goes by its new name.
	id := c.mustCreate(&smb2.CreateRequest{Name: "going", DesiredAccess: rightsAll, ShareAccess: shareAll,
		CreateDisposition: smb2.FileCreate, CreateOptions: smb2.FileDeleteOnClose}).FileID
	if st := c.setInfo(id, fscc.FileRenameInformation, &fscc.RenameInfo{Name: "gone"}); st != 0 {
		t.Error(st)
	}
	c.closeFile(id)
	c.wantOpen("gone", 1, shareAll, smb2.StatusObjectNameNotFound)

	id = c.open("b", rightsAll, 0)
	if st := c.setInfo(id, fscc.FileLinkInformation, &fscc.LinkInfo{Name: `other\link`}); st != 0 {
		t.Errorf("link: %v", st)
	}
	c.wantOpen(`other\link`, 1, shareAll, smb2.StatusSuccess)
	if st := c.setInfo(id, fscc.FileDispositionInformation, &fscc.DispositionInfo{DeletePending: true}); st != 0 {
		t.Error(st)
	}
	c.wantOpen(`other\link`, 1, shareAll, smb2.StatusSuccess) // the other name stays
	c.closeFile(id)
	c.wantOpen("b", 1, shareAll, smb2.StatusObjectNameNotFound)
	c.wantOpen(`other\link`, 1, shareAll, smb2.StatusSuccess)
}

func lockRequest(id smb2.FileID, list ...smb2.LockElement) *smb2.LockRequest {
	return &smb2.LockRequest{FileID: id, Locks: list}
}

func TestLocksOnTheWire(t *testing.T) {
	srv := startServer(t, nil)
	one, two := loginRaw(t, srv.addr, smb2.Dialect311, "vms"), loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	const exclusive, shared = smb2.LockFlagExclusiveLock | smb2.LockFlagFailImmediately, smb2.LockFlagSharedLock | smb2.LockFlagFailImmediately
	one.existing("file", 0, 0)
	a, b := one.open("file", rightsAll, 0), two.open("file", rightsAll, 0)
	if st := one.write(a, 0, "0123456789"); st != 0 {
		t.Fatal(st)
	}
	lock := func(c *rawClient, id smb2.FileID, want smb2.Status, list ...smb2.LockElement) {
		t.Helper()
		wantStatus(t, c.call(smb2.CommandLock, lockRequest(id, list...), nil), want)
	}
	lock(one, a, smb2.StatusInvalidParameter)
	lock(one, a, smb2.StatusInvalidParameter, smb2.LockElement{Length: 1, Flags: exclusive | shared})
	lock(one, a, smb2.StatusInvalidParameter, smb2.LockElement{Length: 1, Flags: smb2.LockFlagExclusiveLock}, smb2.LockElement{Offset: 5, Length: 1, Flags: exclusive})
	lock(one, a, smb2.StatusInvalidLockRange, smb2.LockElement{Offset: 1<<64 - 1, Length: 2, Flags: exclusive})
	lock(one, a, smb2.StatusSuccess, smb2.LockElement{Offset: 0, Length: 4, Flags: exclusive}, smb2.LockElement{Offset: 6, Length: 4, Flags: shared})
	lock(two, b, smb2.StatusLockNotGranted, smb2.LockElement{Offset: 4, Length: 2, Flags: exclusive}, smb2.LockElement{Offset: 3, Length: 1, Flags: exclusive})
	lock(one, a, smb2.StatusSuccess, smb2.LockElement{Offset: 4, Length: 2, Flags: exclusive}) // nothing of the refused request was kept
	if _, st := two.read(b, 1); st != smb2.StatusFileLockConflict {
		t.Errorf("read of a locked byte: %v", st)
	}
	if st := two.write(b, 6, "x"); st != smb2.StatusFileLockConflict {
		t.Errorf("write to a shared lock: %v", st)
	}
	if st := two.setInfo(b, fscc.FileEndOfFileInformation, &fscc.EndOfFileInfo{EndOfFile: 2}); st != smb2.StatusFileLockConflict {
		t.Errorf("cut into locked bytes: %v", st)
	}
	if st := two.setInfo(b, fscc.FileAllocationInformation, &fscc.AllocationInfo{AllocationSize: 2}); st != smb2.StatusFileLockConflict {
		t.Errorf("cut into locked bytes by allocation: %v", st)
	}
	if _, st := two.ioctl(b, fscc.FSCTL_SET_ZERO_DATA, &fscc.ZeroData{Offset: 0, Beyond: 1}, 0); st != smb2.StatusFileLockConflict {
		t.Errorf("zero locked bytes: %v", st)
	}
	lock(two, b, smb2.StatusRangeNotLocked, smb2.LockElement{Offset: 0, Length: 4, Flags: smb2.LockFlagUnlock})

	wait := two.build(smb2.CommandLock, lockRequest(b, smb2.LockElement{Length: 1, Flags: smb2.LockFlagExclusiveLock}), nil)
	two.send(wait)
	interim := two.receive()[0]
	if interim.hdr.Status != smb2.StatusPending {
		t.Fatalf("a lock that has to wait: %v", interim.hdr.Status)
	}
	lock(one, a, smb2.StatusSuccess, smb2.LockElement{Offset: 0, Length: 4, Flags: smb2.LockFlagUnlock})
	if final := two.receive()[0]; final.hdr.Status != smb2.StatusSuccess || final.hdr.AsyncID != interim.hdr.AsyncID {
		t.Fatalf("after the unlock: %v", final.hdr.Status)
	}
	one.send(one.build(smb2.CommandLock, lockRequest(a, smb2.LockElement{Length: 1, Flags: smb2.LockFlagSharedLock}), nil))
	if r := one.receive()[0]; r.hdr.Status != smb2.StatusPending {
		t.Fatal(r.hdr.Status)
	}
	two.closeFile(b) // closing unlocks
	if r := one.receive()[0]; r.hdr.Status != smb2.StatusSuccess {
		t.Fatalf("after the close: %v", r.hdr.Status)
	}
	lock(one, a, smb2.StatusSuccess, smb2.LockElement{Length: 1, Flags: smb2.LockFlagUnlock})
}
