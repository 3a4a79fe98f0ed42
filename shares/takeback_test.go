package shares

import (
	"sync"
	"sync/atomic"
	"testing"

	"lunless/shares/fs"
	"lunless/smbstore/smb2"
)

// MS-SMB2 3.3.5.9.13: a newer instance of an application takes over from an older one
// even if the older one's CREATE has not been answered yet: neither stays with a
// handle that the other is waiting for.
func TestTakeOverOfOpenBeingMade(t *testing.T) {
	srv, fault := startFaulty(t)
	app := func(version uint64) *smb2.CreateRequest {
		q := cached("disk", smb2.OplockNone, 0, 0, (&smb2.AppInstanceID{ID: smb2.GUID{5}}).Context(),
			(&smb2.AppInstanceVersion{High: 1, Low: version}).Context(), durableV2(byte(version), 0, 0))
		q.ShareAccess = smb2.FileShareRead
		return q
	}
	old, fresh := loginAs(t, srv.addr, 1, testUser, "vms"), loginAs(t, srv.addr, 2, testUser, "vms")
	reached, gate := make(chan struct{}), make(chan struct{})
	goOn := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(goOn)
	var stats atomic.Int32
	fault.Set(func(op fs.Op, name string) error {
		if op == fs.OpStat && name == "disk" && stats.Add(1) == 1 { // for its response: it is in the record by then
			close(reached)
			<-gate
		}
		return nil
	})
	old.send(old.build(smb2.CommandCreate, app(1), nil))
	<-reached
	fresh.pending(smb2.CommandCreate, app(2))
	for len(srv.table.list(func(o *open) bool { return o.doomed.Load() })) == 0 { // the end of it is asked for without being waited for
		sleepBriefly()
	}
	goOn()
	if r := old.response(); r.hdr.Status != smb2.StatusFileForcedClosed {
		t.Errorf("the older instance: %v", r.hdr.Status)
	}
	if r := fresh.response(); r.hdr.Status != smb2.StatusSuccess {
		t.Errorf("the newer instance: %v", r.hdr.Status)
	}
}

// MS-FSA 2.1.5.4: who gets read caching while a WRITE of another client is on its
// way to the file, and reads what was there before, hears that it has changed.
func TestWriteBreaksCachingGrantedMeanwhile(t *testing.T) {
	srv, fault := startFaulty(t)
	one, two := loginAs(t, srv.addr, 1, testUser, "vms"), loginAs(t, srv.addr, 2, testUser, "vms")
	id := one.create("disk")
	if st := one.write(id, 0, "before"); st != smb2.StatusSuccess {
		t.Fatal(st)
	}
	reached, goOn := stopAt(t, fault, fs.OpWrite, "disk")
	one.send(one.build(smb2.CommandWrite, &smb2.WriteRequest{Length: 5, FileID: id}, []byte("after")))
	<-reached
	m := two.mustCreate(cached("disk", smb2.OplockLease, 9, smb2.LeaseReadCaching))
	if l := leaseOf(t, &m); l.LeaseState != smb2.LeaseReadCaching {
		t.Fatalf("granted %v", l.LeaseState)
	}
	if s, _ := two.read(m.FileID, 10); s != "before" {
		t.Fatalf("read %q", s)
	}
	goOn()
	if r := one.response(); r.hdr.Status != smb2.StatusSuccess {
		t.Fatal(r.hdr.Status)
	}
	if !two.hears() {
		t.Fatal("what the client caches is older than the file, and it is not told")
	}
	if b := two.leaseBreak(); b.NewLeaseState != 0 {
		t.Errorf("left with %v", b.NewLeaseState)
	}
}

// MS-SMB2 3.3.5.9.8: a CREATE that fails for a lease key of another file leaves
// nothing behind in the record of the stream's file.
func TestStreamWithForeignLeaseKey(t *testing.T) {
	srv := startServer(t, nil)
	one := loginAs(t, srv.addr, 1, testUser, "vms")
	one.mustCreate(cached("other", smb2.OplockLease, 7, leaseRWH))
	id := one.create("disk")
	for range 2 {
		if _, st := one.tryCreate(cached("disk:stream", smb2.OplockLease, 7, leaseRWH)); st != smb2.StatusInvalidParameter {
			t.Fatalf("another file's lease key: %v", st)
		}
	}
	if list := one.streams(id); len(list) != 1 {
		t.Errorf("streams: %q", list)
	}
	one.delete(id)
	one.closeFile(id)
	q := createRequest("disk")
	q.CreateDisposition = smb2.FileCreate
	if _, st := one.tryCreate(q); st != smb2.StatusSuccess {
		t.Errorf("the name after the delete: %v", st)
	}
}
