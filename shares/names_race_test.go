package shares

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// stopAt holds up the next operation op on name: reached is closed when it has
// come that far, and it goes on when the function is called.
func stopAt(t *testing.T, f *fs.Fault, op fs.Op, name string) (reached <-chan struct{}, goOn func()) {
	var first sync.Once
	at, gate := make(chan struct{}), make(chan struct{})
	f.Set(func(o fs.Op, n string) error {
		if o == op && n == name {
			first.Do(func() { close(at); <-gate })
		}
		return nil
	})
	goOn = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(goOn)
	return at, goOn
}

func startFaulty(t *testing.T) (*testServer, *fs.Fault) {
	var f *fs.Fault
	srv := startServer(t, func(cfg *Config) {
		f = fs.NewFault(cfg.Shares[0].FS)
		cfg.Shares[0].FS = f
	})
	return srv, f
}

// What is removed while somebody is opening it is not opened: what would be
// written to it would be lost.
func TestOpenLosesAgainstDelete(t *testing.T) {
	for _, tt := range []struct {
		disposition smb2.CreateDisposition
		want        smb2.Status
	}{
		{smb2.FileOpen, smb2.StatusObjectNameNotFound},
		{smb2.FileOpenIf, smb2.StatusSuccess},
	} {
		srv, fault := startFaulty(t)
		one, two := loginRaw(t, srv.addr, smb2.Dialect311, "vms"), loginRaw(t, srv.addr, smb2.Dialect311, "vms")
		one.existing("disk", 0, 0)
		last := one.open("disk", rightsAll, smb2.FileDeleteOnClose)
		reached, goOn := stopAt(t, fault, fs.OpSecurityDescriptor, "disk")
		two.send(two.build(smb2.CommandCreate, &smb2.CreateRequest{Name: "disk", DesiredAccess: smb2.GenericRead | smb2.GenericWrite,
			ShareAccess: shareAll, CreateDisposition: tt.disposition, ImpersonationLevel: smb2.ImpersonationImpersonation}, nil))
		<-reached
		one.closeFile(last)
		goOn()
		r := two.receive()[0]
		if r.hdr.Status != tt.want {
			t.Errorf("disposition %d: %v, want %v", tt.disposition, r.hdr.Status, tt.want)
		}
		if _, err := os.Lstat(filepath.Join(srv.root, "disk")); (err == nil) != (tt.want == smb2.StatusSuccess) {
			t.Errorf("disposition %d: on disk: %v", tt.disposition, err)
		}
	}
}

// Who opens a name that a rename is about to give to another file gets the
// other file, not one that has no name any more.
func TestOpenWaitsForReplacingRename(t *testing.T) {
	srv, fault := startFaulty(t)
	one, two := loginRaw(t, srv.addr, smb2.Dialect311, "vms"), loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	for _, name := range []string{"new", "old"} {
		if err := os.WriteFile(filepath.Join(srv.root, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	id := one.open("new", rightsAll, 0)
	reached, goOn := stopAt(t, fault, fs.OpRename, "old")
	renamed := make(chan smb2.Status, 1)
	go func() {
		renamed <- one.setInfo(id, fscc.FileRenameInformation, &fscc.RenameInfo{Name: "old", ReplaceIfExists: true})
	}()
	<-reached
	two.send(two.build(smb2.CommandCreate, createRequest("old"), nil))
	time.Sleep(20 * time.Millisecond) // for the CREATE to get where it waits, or does not
	goOn()
	if st := <-renamed; st != smb2.StatusSuccess {
		t.Fatalf("rename: %v", st)
	}
	var m smb2.CreateResponse
	if err := m.Decode(two.receive()[0].msg); err != nil {
		t.Fatal(err)
	}
	if s, st := two.read(m.FileID, 10); s != "new" {
		t.Errorf("what was opened holds %q, %v", s, st)
	}
}

// A file that is renamed while somebody is opening it is one file to both: it
// does not go while either has it open.
func TestOpenDuringRenameSharesDelete(t *testing.T) {
	srv, fault := startFaulty(t)
	one, two := loginRaw(t, srv.addr, smb2.Dialect311, "vms"), loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	one.existing("a", 0, 0)
	id := one.open("a", rightsAll, 0)
	reached, goOn := stopAt(t, fault, fs.OpSecurityDescriptor, "a")
	two.send(two.build(smb2.CommandCreate, createRequest("a"), nil))
	<-reached
	renamed := make(chan smb2.Status, 1)
	go func() { renamed <- one.setInfo(id, fscc.FileRenameInformation, &fscc.RenameInfo{Name: "b"}) }()
	select {
	case st := <-renamed:
		renamed <- st
	case <-time.After(20 * time.Millisecond):
	}
	goOn()
	if r := two.receive()[0]; r.hdr.Status != smb2.StatusSuccess {
		t.Fatalf("open: %v", r.hdr.Status)
	}
	if st := <-renamed; st != smb2.StatusSuccess {
		t.Fatalf("rename: %v", st)
	}
	if st := one.setInfo(id, fscc.FileDispositionInformation, &fscc.DispositionInfo{DeletePending: true}); st != 0 {
		t.Fatal(st)
	}
	one.closeFile(id)
	if _, err := os.Lstat(filepath.Join(srv.root, "b")); err != nil {
		t.Errorf("deleted while it is open: %v", err)
	}
}

// A fault of the server's own on one connection does not keep others from names.
func TestPanicLeavesNamesFree(t *testing.T) {
	srv, fault := startFaulty(t)
	one, two := loginRaw(t, srv.addr, smb2.Dialect311, "vms"), loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	fault.Set(func(op fs.Op, name string) error {
		if op == fs.OpOpen && name == "bad" {
			panic("for the test")
		}
		return nil
	})
	one.send(one.build(smb2.CommandCreate, createRequest("bad"), nil))
	one.gone()
	two.existing("folder", smb2.FileDirectoryFile, 0)
	id := two.open("folder", rightsAll, 0)
	if st := two.setInfo(id, fscc.FileRenameInformation, &fscc.RenameInfo{Name: "other"}); st != smb2.StatusSuccess {
		t.Errorf("rename: %v", st)
	}
}
