package shares

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"lunless/smbstore/smb2"
)

// TestInspect looks at what an administrator is shown of a session on two
// channels, of its opens and locks, and of requests that wait for a lock and for
// the disk; then it closes one of each.
func TestInspect(t *testing.T) {
	gated := &gatedFS{gate: make(chan struct{}), entered: make(chan struct{}, 1)}
	srv := startServer(t, func(cfg *Config) {
		gated.FS = cfg.Shares[0].FS
		cfg.Shares[0].FS = gated
	})
	var once sync.Once
	free := func() { once.Do(func() { close(gated.gate) }) }
	t.Cleanup(free)
	first := loginMulti(t, srv.addr, smb2.Dialect311)
	first.existing("disk", 0, 0)
	id := first.create("disk")
	second := dialMulti(t, srv.addr, smb2.Dialect311)
	if st := second.bind(first, bindOptions{}); st != smb2.StatusSuccess {
		t.Fatal(st)
	}
	lock := &smb2.LockRequest{FileID: id, Locks: []smb2.LockElement{{Offset: 1 << 20, Length: 7, Flags: smb2.LockFlagExclusiveLock | smb2.LockFlagFailImmediately}}}
	wantStatus(t, first.call(smb2.CommandLock, lock, nil), smb2.StatusSuccess)
	other := loginRaw(t, srv.addr, smb2.Dialect302, "vms")
	waiting := other.create("disk")
	wantStatus(t, other.call(smb2.CommandLock, &smb2.LockRequest{FileID: waiting, Locks: []smb2.LockElement{{Offset: 1 << 20, Length: 1, Flags: smb2.LockFlagSharedLock}}}, nil), smb2.StatusPending)
	const size = 256 << 10
	second.send(second.build(smb2.CommandWrite, &smb2.WriteRequest{FileID: id, Length: size}, []byte(strings.Repeat("x", size))))
	<-gated.entered

	var list []SessionInfo
	for len(list) != 2 || len(list[0].Waits) != 1 || len(list[1].Waits) != 1 { // until they have waited for long
		sleepBriefly()
		list = srv.Sessions()
	}
	s := list[0]
	if s.ID != first.session || s.User != testUser || s.Dialect != smb2.Dialect311 || !s.Signed || s.Encrypted ||
		s.Opens != 1 || !slices.Equal(s.Shares, []string{"vms"}) || s.Client != first.negotiation.ClientGUID {
		t.Errorf("%+v", s)
	}
	if len(s.Channels) != 2 || s.Channels[0].Client != first.nc.LocalAddr().String() || s.Channels[1].Client != second.nc.LocalAddr().String() {
		t.Errorf("channels %+v", s.Channels)
	}
	if w := s.Waits[0]; w.Command != "WRITE" || w.For != "disk" || w.Path != "disk" || w.Age < longWait {
		t.Errorf("%+v", w)
	}
	if w := list[1].Waits[0]; w.Command != "LOCK" || w.For != "lock" || w.Path != "disk" {
		t.Errorf("%+v", w)
	}
	opens, err := srv.Opens(context.Background())
	if err != nil || len(opens) != 2 {
		t.Fatalf("%+v, %v", opens, err)
	}
	i := slices.IndexFunc(opens, func(o OpenInfo) bool { return o.ID == id.Persistent })
	o := opens[i]
	if o.Session != first.session || o.Share != "vms" || o.Path != "disk" || o.Sharing != shareAll || o.Directory ||
		o.Access&smb2.FileWriteData == 0 || o.Oplock != "none" || o.Durable != "no" || !slices.Equal(o.Locks, []LockInfo{{1 << 20, 7, true}}) ||
		len(o.Waits) != 1 {
		t.Errorf("%+v", o)
	}

	free()
	wantStatus(t, second.receive()[0], smb2.StatusSuccess)
	ctx := context.Background()
	if err := srv.CloseOpen(ctx, id.Persistent); err != nil {
		t.Fatal(err)
	}
	if _, st := second.read(id, 1); st != smb2.StatusFileClosed {
		t.Errorf("read of what the administrator closed: %v", st)
	}
	wantStatus(t, other.receive()[0], smb2.StatusSuccess) // its lock, now that the other's is gone
	if err := srv.CloseSession(ctx, other.session); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, other.call(smb2.CommandCreate, createRequest("disk"), nil), smb2.StatusUserSessionDeleted)
	if err := errors.Join(srv.CloseSession(ctx, other.session), srv.CloseOpen(ctx, id.Persistent)); !errors.Is(err, ErrNoSession) || !errors.Is(err, ErrNoOpen) {
		t.Errorf("closed twice: %v", err)
	}
}
