package shares

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// streams lists the streams of what is open, as name=size.
func (c *rawClient) streams(id smb2.FileID) (list []string) {
	c.t.Helper()
	b, st := c.queryInfo(&smb2.QueryInfoRequest{InfoType: smb2.InfoFile, FileInfoClass: uint8(fscc.FileStreamInformation),
		FileID: id, OutputBufferLength: 1 << 16})
	if st != 0 {
		c.t.Fatalf("FileStreamInformation: %v", st)
	}
	entries, err := fscc.DecodeStreams(b)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, strings.TrimSuffix(e.Name, ":$DATA")+"="+string(rune('0'+e.Size)))
	}
	return list
}

func (c *rawClient) rename(id smb2.FileID, to string, replace bool) smb2.Status {
	return c.setInfo(id, fscc.FileRenameInformation, &fscc.RenameInfo{Name: to, ReplaceIfExists: replace})
}

func (c *rawClient) delete(id smb2.FileID) smb2.Status {
	return c.setInfo(id, fscc.FileDispositionInformation, &fscc.DispositionInfo{DeletePending: true})
}

// MS-FSA 2.1.5.1, 2.1.5.5, 2.1.5.12.29, 2.1.5.15.12.1.
func TestStreams(t *testing.T) {
	srv := startServer(t, nil)
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	type q = smb2.CreateRequest
	has := func(id smb2.FileID, want ...string) {
		t.Helper()
		if got := c.streams(id); !slices.Equal(got, want) {
			t.Errorf("streams %q, want %q", got, want)
		}
	}
	// A stream brings its file along.
	made := c.mustCreate(&q{Name: "file:One", DesiredAccess: rightsAll, ShareAccess: shareAll, CreateDisposition: smb2.FileCreate})
	if made.CreateAction != smb2.FileCreated {
		t.Errorf("action %v", made.CreateAction)
	}
	one := made.FileID
	if st := c.write(one, 0, "data1"); st != 0 {
		t.Fatal(st)
	}
	file := c.open("FILE", rightsAll, 0)
	has(file, ":=0", ":One=5")
	has(one, ":=0", ":One=5")
	if got, st := c.read(c.open("file:oNE:$data", 1, 0), 9); got != "data1" || st != 0 {
		t.Errorf("read %q, %v", got, st)
	}
	_, again := c.tryCreate(&q{Name: "file:ONE", DesiredAccess: 1, ShareAccess: shareAll, CreateDisposition: smb2.FileCreate})
	if again != smb2.StatusObjectNameCollision {
		t.Errorf("created again: %v", again)
	}
	over := c.mustCreate(&q{Name: "file:one", DesiredAccess: rightsAll, ShareAccess: shareAll, CreateDisposition: smb2.FileOverwriteIf})
	if over.CreateAction != smb2.FileOverwritten || over.EndOfFile != 0 {
		t.Errorf("overwritten: %+v", over)
	}
	c.closeFile(over.FileID)

	// Locks are a stream's own.
	exclusive := smb2.LockElement{Length: 10, Flags: smb2.LockFlagExclusiveLock | smb2.LockFlagFailImmediately}
	for _, id := range []smb2.FileID{file, one} {
		if st := c.call(smb2.CommandLock, lockRequest(id, exclusive), nil).hdr.Status; st != 0 {
			t.Errorf("lock: %v", st)
		}
	}

	// Renames.
	two := c.mustCreate(&q{Name: "file:two", DesiredAccess: rightsAll, ShareAccess: shareAll, CreateDisposition: smb2.FileOpenIf}).FileID
	c.write(two, 0, "22")
	for _, tt := range []struct {
		to      string
		replace bool
		want    smb2.Status
	}{
		{":one", false, smb2.StatusObjectNameCollision}, {":one", true, smb2.StatusInvalidParameter}, // it is open
		{":", false, smb2.StatusInvalidParameter}, {":a:", false, smb2.StatusInvalidParameter}, {"::", false, smb2.StatusInvalidParameter},
		{":a:b:c", false, smb2.StatusInvalidParameter}, {":a:$INDEX_ALLOCATION", false, statusObjectTypeMismatch},
		{":TWO:$DATA", false, 0}, {":deux", false, 0},
	} {
		if st := c.rename(two, tt.to, tt.replace); st != tt.want {
			t.Errorf("rename to %q, replace %v: %v, want %v", tt.to, tt.replace, st, tt.want)
		}
	}
	has(file, ":=0", ":deux=2", ":One=0")

	// Nothing of it is seen in the folder, and nothing goes when the file is renamed.
	names, _ := c.list(c.open("", 1, smb2.FileDirectoryFile), smb2.QueryDirectoryRequest{
		FileInformationClass: uint8(fscc.FileNamesInformation), FileName: "*", OutputBufferLength: 1 << 16})
	if !slices.Equal(names, []string{".", "..", "file"}) {
		t.Errorf("folder holds %q", names)
	}
	if st := c.rename(file, "moved", false); st != 0 {
		t.Error(st)
	}
	c.wantOpen("moved:deux", 1, shareAll, 0)

	// Delete of a stream, then of the file under a stream that is open.
	if st := c.delete(two); st != 0 {
		t.Error(st)
	}
	c.wantOpen("moved:deux", 1, shareAll, smb2.StatusDeletePending)
	c.closeFile(two)
	c.wantOpen("moved:deux", 1, shareAll, smb2.StatusObjectNameNotFound)
	has(file, ":=0", ":One=0")
	if st := c.delete(file); st != 0 {
		t.Error(st)
	}
	c.closeFile(file)
	c.wantOpen("moved", 1, shareAll, smb2.StatusDeletePending)
	c.wantOpen("moved:one", 1, shareAll, smb2.StatusDeletePending)
	for _, o := range srv.opensOf(t) {
		c.closeFile(o)
	}
	c.wantOpen("moved", 1, shareAll, smb2.StatusObjectNameNotFound)
	left, err := filepath.Glob(filepath.Join(srv.root, ".lunless*", "*-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left in the depot: %q, %v", left, err)
	}
}

// opensOf lists what is open in all sessions.
func (s *testServer) opensOf(t *testing.T) (list []smb2.FileID) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, session := range s.sessions {
		for _, o := range session.openList(nil) {
			list = append(list, o.id)
		}
	}
	return list
}

// MS-FSA 2.1.5.1.2.1: who deletes a file deletes its streams.
func TestStreamSharing(t *testing.T) {
	c := loginRaw(t, startServer(t, nil).addr, smb2.Dialect311, "vms")
	const none = smb2.ShareAccess(0)
	c.existing("file", 0, 0)
	c.closeFile(c.mustCreate(&smb2.CreateRequest{Name: "file:s", DesiredAccess: 2, CreateDisposition: smb2.FileCreate}).FileID)
	s := c.mustCreate(&smb2.CreateRequest{Name: "file:s", DesiredAccess: 3, CreateDisposition: smb2.FileOpen}).FileID
	c.wantOpen("file:s", 1, shareAll, smb2.StatusSharingViolation)
	c.wantOpen("file", 3, none, 0)
	c.wantOpen("file", smb2.Delete, shareAll, smb2.StatusSharingViolation)
	c.closeFile(s)
	f := c.mustCreate(&smb2.CreateRequest{Name: "file", DesiredAccess: smb2.Delete, ShareAccess: shareAll, CreateDisposition: smb2.FileOpen}).FileID
	c.wantOpen("file:s", 1, smb2.FileShareRead, smb2.StatusSharingViolation)
	c.wantOpen("file:s", 1, smb2.FileShareRead|smb2.FileShareDelete, 0)
	c.closeFile(f)
	c.wantOpen("file:s", 1, smb2.FileShareRead, 0)
}

// A stream may become the data of its file (MS-FSA 2.1.5.15.12.1).
func TestStreamToFile(t *testing.T) {
	srv := startServer(t, nil)
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	s := c.mustCreate(&smb2.CreateRequest{Name: "file:s", DesiredAccess: rightsAll, ShareAccess: shareAll, CreateDisposition: smb2.FileCreate}).FileID
	c.write(s, 0, "of the stream")
	other := c.open("file", 1, 0)
	if st := c.rename(s, "::$DATA", true); st != smb2.StatusSharingViolation {
		t.Errorf("with the file open: %v", st)
	}
	c.closeFile(other)
	if st := c.rename(s, "::$DATA", false); st != 0 {
		t.Errorf("rename: %v", st)
	}
	if st := c.write(s, 0, "lost"); st == 0 {
		t.Error("written to a stream that is gone")
	}
	c.closeFile(s)
	if b, err := os.ReadFile(filepath.Join(srv.root, "file")); err != nil || string(b) != "of the stream" {
		t.Errorf("file holds %q, %v", b, err)
	}
	if got := c.streams(c.open("file", 1, 0)); len(got) != 1 {
		t.Errorf("streams %q", got)
	}
}

// smbclient puts and gets streams, and lists them.
func TestStreamsOfSmbclient(t *testing.T) {
	srv := startServer(t, nil)
	local := filepath.Join(t.TempDir(), "local")
	if err := os.WriteFile(local, []byte("via smbclient"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := srv.smbclient(t, "vms", `put `+local+` file; put `+local+` file:zone; allinfo file; get file:zone back; rm file; ls`)
	if err != nil || !strings.Contains(out, ":zone:$DATA], 13 bytes") || strings.Contains(out, "NT_STATUS") {
		t.Errorf("%v\n%s", err, out)
	}
}
