package host

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lunless/shares"
	"lunless/shares/accounts"
	"lunless/shares/fs"
	"lunless/smbstore"
	"lunless/smbstore/storetest"
	guest "lunless/testdata/guest/vm"
)

// fullServer is a server in this process whose share vms is full when told so: then
// nothing is written to a disk's file any more, not even in place, as on file systems
// that write everything elsewhere first.
type fullServer struct {
	storetest.Server
	full    atomic.Bool
	refused atomic.Int64                  // writes
	stands  atomic.Pointer[chan struct{}] // nothing is done to disks until it is closed
}

// stand has the server answer no request for a disk until goOn is called.
func (s *fullServer) stand() (goOn func()) {
	c := make(chan struct{})
	s.stands.Store(&c)
	return sync.OnceFunc(func() { s.stands.Store(nil); close(c) })
}

func startFullServer(t *testing.T) *fullServer {
	t.Helper()
	s := &fullServer{}
	users, err := accounts.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s.User, s.Dir = "hv", t.TempDir()
	if err := users.AddUser(s.User, storetest.Password); err != nil {
		t.Fatal(err)
	}
	posix, err := fs.NewPOSIX(s.Dir, fs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { posix.Close() })
	store := fs.NewFault(posix)
	store.Set(func(op fs.Op, name string) error {
		if !smbstore.IsDiskName(name) {
			return nil
		}
		if c := s.stands.Load(); c != nil {
			select {
			case <-*c:
			case <-t.Context().Done():
			}
		}
		if !s.full.Load() {
			return nil
		}
		switch op {
		case fs.OpWrite, fs.OpCreate, fs.OpSetAllocation, fs.OpReserve:
			s.refused.Add(1)
			return fs.ErrNoSpace
		}
		return nil
	})
	srv, err := shares.New(shares.Config{Accounts: users, Shares: []shares.Share{{Name: "vms", Path: s.Dir, FS: store}}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Port = l.Addr().(*net.TCPAddr).Port
	served := make(chan error, 1)
	go func() { served <- srv.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		srv.Shutdown(ctx) //nolint:errcheck // what hangs is cut off
		<-served
	})
	return s
}

// A share that is full pauses the guest, says so, and lets it go on when there is
// room; nothing it was told is written is lost, and it hears of no error. A full
// destination ends a move: the guest runs on where it is, and nothing is left there. A
// share that does not answer does to the guest what its policy says.
func TestStorageTrouble(t *testing.T) {
	t.Parallel()
	one, two := startFullServer(t), startFullServer(t)
	h := newRig(t, "hv1", &one.Server)
	at := h.makeGuest("web1", one.Location(""))
	h.startAgent()
	seconds, report := 1, smbstore.TroubleReport
	_, err := h.Set(h.ctx, at.String(), SetRequest{StoragePatience: &seconds})
	h.must(err)
	_, err = h.Start(h.ctx, "web1", StartRequest{})
	h.must(err)
	if _, err := h.Set(h.ctx, "web1", SetRequest{StorageTrouble: &report}); !errors.Is(err, ErrRunning) {
		t.Errorf("a running VM is changed: %v", err)
	}
	c := h.console("web1")
	defer c.Close()
	h.flushes(c, 2)
	h.full(c, one, at)
	h.noRoomToMove(c, two)
	if found, err := c.Verify(h.ctx); err != nil || found.Blocks == 0 {
		t.Errorf("verified: %+v, %v\n%s", found, err, c.Tail(20))
	}

	// It is paused when its storage is silent, and can be ended then.
	goOn := one.stand()
	if v := h.await("web1", Paused); !strings.Contains(v.Reason, "has not answered for 1s") {
		t.Errorf("the share is silent: it says %q", v.Reason)
	}
	h.startRefused("web1", "has not answered for 1s")
	v, err := h.Stop(h.ctx, "web1", StopRequest{Force: true})
	h.must(err)
	if v.State != Stopped || !strings.Contains(v.Reason, "had not flushed is lost") {
		t.Errorf("ended while its storage was silent: %+v", v)
	}
	goOn()
	if err := c.Err(); err != nil {
		t.Errorf("%v\n%s", err, c.Tail(20))
	}
	checkDisks(t, h, c, at)

	// With the other policy it is told.
	_, err = h.Set(h.ctx, "web1", SetRequest{StorageTrouble: &report})
	h.must(err)
	_, err = h.Start(h.ctx, "web1", StartRequest{})
	h.must(err)
	h.reattach(c, "web1")
	if ready, err := c.Await(h.ctx); err != nil || ready.Boots != 2 {
		t.Fatalf("started again: %+v, %v\n%s", ready, err, c.Tail(20))
	}
	h.flushes(c, 2)
	goOn = one.stand()
	defer goOn()
	_, err = c.Wait(h.ctx, c.Mark(), "IOERR")
	h.must(err)
	if v := h.awaitReason("web1", "told of errors"); v.State != Running {
		t.Errorf("a guest that is told is %s: %s", v.State, v.Reason)
	}
	goOn()
	if v := h.awaitReason("web1", ""); v.State != Running {
		t.Errorf("the share answers again: %s: %s", v.State, v.Reason)
	}
	_, err = h.Stop(h.ctx, "web1", StopRequest{Force: true})
	h.must(err)
	checkDisks(t, h, c, at)
}

// awaitReason waits until the VM gives a reason for its state, or none for "".
func (h *rig) awaitReason(name, want string) VM {
	h.t.Helper()
	for {
		v, err := h.Show(h.ctx, name)
		if err == nil && strings.Contains(v.Reason, want) && (want != "" || v.Reason == "") {
			return v
		}
		select {
		case <-h.ctx.Done():
			h.t.Fatalf("%s is %s (%s), %v: want %q", name, v.State, v.Reason, err, want)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// full has the guest's share be full for a while.
func (h *rig) full(c *guest.Console, on *fullServer, at smbstore.Location) {
	h.t.Helper()
	on.full.Store(true)
	v := h.await("web1", Paused)
	for _, want := range []string{smbstore.ErrNoSpace.Error(), at.String(), "make room there", "goes on by itself"} {
		if !strings.Contains(v.Reason, want) {
			h.t.Errorf("the share is full: it says %q, which lacks %q", v.Reason, want)
		}
	}
	for n := on.refused.Load(); on.refused.Load() < n+2; time.Sleep(20 * time.Millisecond) { // it is tried again
		if h.ctx.Err() != nil {
			h.t.Fatal("nothing is tried again")
		}
	}
	if v := h.await("web1", Paused); !strings.Contains(v.Reason, smbstore.ErrNoSpace.Error()) {
		h.t.Errorf("the share is full still: it says %q", v.Reason)
	}
	h.startRefused("web1", "make room there")
	on.full.Store(false)
	room := time.Now()
	h.await("web1", Running)
	h.flushes(c, 2)
	h.t.Logf("it goes on %v after there is room", time.Since(room).Round(time.Millisecond))
}

// noRoomToMove moves the VM to a share that becomes full meanwhile.
func (h *rig) noRoomToMove(c *guest.Console, to *fullServer) {
	h.t.Helper()
	before, err := h.Show(h.ctx, "web1")
	h.must(err)
	_, err = h.Migrate(h.ctx, "web1", MigrateRequest{To: to.Location(""), RateLimit: 16 << 20}, func(m Migration) {
		if m.Copied > 0 {
			to.full.Store(true)
		}
	})
	if !errors.Is(err, smbstore.ErrNoSpace) || !strings.Contains(err.Error(), to.Location("web1").String()) || !strings.Contains(err.Error(), "the VM goes on at "+before.Location.String()) {
		h.t.Errorf("to a share that is full: %v", err)
	}
	if v := h.await("web1", Running); !v.Location.Equal(before.Location) || v.PID != before.PID {
		h.t.Errorf("after a move without room: %+v", v)
	}
	if left, err := filepath.Glob(filepath.Join(to.Dir, "*")); err != nil || len(left) != 0 {
		h.t.Errorf("left over at the destination: %v, %v", left, err)
	}
	h.flushes(c, 2)
}
