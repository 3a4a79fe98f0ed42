package nbd

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"lunless/smbstore/block"
)

// eventually waits for a condition.
func eventually(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	tries := 20000
	if sabotage != "" {
		tries = 500
	}
	for range tries {
		if is() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	tb.Fatalf("never: %s", what)
}

// TestStandbyFromTheBeginning: an export without a device negotiates, holds, and
// goes on with the device it gets.
func TestStandbyFromTheBeginning(t *testing.T) {
	s, path := startServer(t, Options{}, ExportOptions{Name: "x", Size: 1 << 20, Geometry: block.Geometry{LogicalSectorSize: 512, PhysicalSectorSize: 4096}})
	e := s.List()[0]
	c := connect(t, path, "x", true)
	if c.size != 1<<20 {
		t.Fatalf("size %d", c.size)
	}
	w := c.request(0, cmdWrite, 0, 512, bytes.Repeat([]byte{5}, 512))
	eventually(t, "a request is held", func() bool { return e.Stats().InFlight == 1 })
	if err := e.Release(nil); !errors.Is(err, ErrBadExport) {
		t.Errorf("release without a device: %v", err)
	}
	if err := e.Release(block.NewMem(1 << 19)); !errors.Is(err, block.ErrOutOfRange) {
		t.Errorf("release to a smaller device: %v", err)
	}
	if s := e.Stats(); !s.Held || s.InFlight != 1 || s.Oldest <= 0 || s.Longest < s.Oldest || s.Write.Requests != 0 {
		t.Errorf("stats %+v", s)
	}
	must(t, e.Release(block.NewMem(1<<20)))
	if _, errno := c.answer(w, cmdWrite, 0, 512); errno != 0 {
		t.Fatal(errno)
	}
	if got := c.ok(0, cmdRead, 0, 512); got[0] != 5 {
		t.Error("the held write is lost")
	}
	if s := e.Stats(); s.Held || s.InFlight != 0 || s.Oldest != 0 || s.Longest <= 0 || s.Connections != 1 {
		t.Errorf("stats %+v", s)
	}
	e.ResetLongest()
	if l := e.Stats().Longest; l != 0 {
		t.Errorf("longest %v after a reset", l)
	}
	if err := e.Release(nil); !errors.Is(err, ErrNotHeld) {
		t.Errorf("second release: %v", err)
	}
	if err := e.Fail(errFull); !errors.Is(err, ErrNotHeld) {
		t.Errorf("fail: %v", err)
	}
}

// TestHold: Hold waits for what is at the device; all kinds of requests wait,
// more of them than a connection may have, and go on at the new device, in which
// nothing of them is missing.
func TestHold(t *testing.T) {
	stuck := make(chan struct{})
	old := block.NewIntercept(block.NewMem(1<<20), func(ctx context.Context, op block.Op) error {
		if op.Off == 512 {
			<-stuck
		}
		return nil
	})
	s, path := startServer(t, Options{Limits: Limits{InFlight: 8}}, ExportOptions{Device: old})
	e := s.List()[0]
	c := connect(t, path, "", true)
	w := c.request(0, cmdWrite, 512, 512, make([]byte, 512))
	eventually(t, "a request is at the device", func() bool { return e.gate.active.Load() == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := e.Hold(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("hold: %v", err)
	}
	next := journalled(block.NewMem(1 << 20))
	if err := e.Release(next); !errors.Is(err, ErrBusy) {
		t.Fatalf("release to another device: %v", err)
	}
	held := make(chan error, 2)
	for range 2 {
		go func() { held <- e.Hold(t.Context()) }()
	}
	select {
	case <-held:
		t.Fatal("hold returned with a request at the device")
	case <-time.After(10 * time.Millisecond):
	}
	close(stuck)
	must(t, <-held)
	must(t, <-held)
	if _, errno := c.answer(w, cmdWrite, 512, 512); errno != 0 {
		t.Fatal(errno)
	}

	const n = 40
	for i := range uint64(n) {
		go c.Write(pack(requestBytes(0, cmdWrite, 1000+i, i*4096, 4096), bytes.Repeat([]byte{byte(i + 1)}, 4096)))
		if i%4 == 3 {
			go c.Write(requestBytes(0, []command{cmdFlush, cmdTrim, cmdWriteZeroes, cmdBlockStatus}[i/4%4], 2000+i, 512<<10*min(1, i/4%4), 4096*uint32(min(1, i/4%4))))
		}
	}
	eventually(t, "the bound is reached", func() bool { return e.Stats().InFlight == 8 })
	if ops := next.taken(); ops != "" {
		t.Errorf("device did %s in standby", ops)
	}
	d := connect(t, path, "", false) // others come and go
	d.request(0, cmdDisc, 0, 0)
	d.wantEnd()
	must(t, e.Release(next))
	for range n + n/4 {
		if k := c.chunk(0); k.err != 0 {
			t.Fatalf("reply %+v", k)
		}
	}
	for i := range uint64(n) {
		if got := c.ok(0, cmdRead, i*4096, 4096); !bytes.Equal(got, bytes.Repeat([]byte{byte(i + 1)}, 4096)) {
			t.Fatalf("block %d is lost", i)
		}
	}
}

// TestFail: the end of a standby that is none.
func TestFail(t *testing.T) {
	s, path := startServer(t, Options{}, memExport(1<<20))
	e := s.List()[0]
	c := connect(t, path, "", true)
	must(t, e.Hold(t.Context()))
	must(t, e.Hold(t.Context())) // again does no harm
	r := c.request(0, cmdRead, 0, 512)
	eventually(t, "a request is held", func() bool { return e.Stats().InFlight == 1 })
	must(t, e.Fail(errors.New("gone")))
	if _, errno := c.answer(r, cmdRead, 0, 512); errno != EIO {
		t.Errorf("held request: %v", errno)
	}
	if _, errno := c.do(0, cmdFlush, 0, 0); errno != EIO {
		t.Errorf("later request: %v", errno)
	}
	must(t, e.Hold(t.Context()))
	must(t, e.Release(nil))
	c.ok(0, cmdRead, 0, 512)
}

// TestGoneClient: what a client had in flight when it went away does not reach
// the device after what it, connected anew, asks for: neither if it was held, nor
// if it hung at the device.
func TestGoneClient(t *testing.T) {
	for _, full := range []bool{false, true} { // more requests than the bound: the server does not read then
		dev := block.NewMem(1 << 20)
		s, path := startServer(t, Options{Limits: Limits{InFlight: 4}}, ExportOptions{Device: dev})
		e := s.List()[0]
		must(t, e.Hold(t.Context()))
		old := connect(t, path, "", true)
		n := 1
		if full {
			n = 10
		}
		for range n {
			old.request(0, cmdWrite, 0, 4096, bytes.Repeat([]byte{1}, 4096))
		}
		eventually(t, "requests are held", func() bool { return e.Stats().InFlight == min(n, 4) })
		old.Close()
		c := connect(t, path, "", true)
		w := c.request(0, cmdWrite, 0, 4096, bytes.Repeat([]byte{2}, 4096))
		eventually(t, "the old connection is gone", func() bool { s := e.Stats(); return s.Connections == 1 && s.InFlight == 1 })
		must(t, e.Release(nil))
		if _, errno := c.answer(w, cmdWrite, 0, 4096); errno != 0 {
			t.Fatal(errno)
		}
		if got := c.ok(0, cmdRead, 0, 4096); got[0] != 2 {
			t.Fatal("an old write landed on a newer one")
		}
	}

	// At the device, which does not heed cancellation.
	stuck, entered := make(chan struct{}), make(chan struct{}, 1)
	letGo := sync.OnceFunc(func() { close(stuck) })
	defer letGo()
	mem := block.NewMem(1 << 20)
	first := true
	dev := block.NewIntercept(mem, func(_ context.Context, op block.Op) error {
		if op.Kind == block.OpWrite && first {
			first = false
			entered <- struct{}{}
			<-stuck
		}
		return nil
	})
	_, path := startServer(t, Options{}, ExportOptions{Device: dev})
	old := connect(t, path, "", true)
	old.request(0, cmdWrite, 0, 4096, bytes.Repeat([]byte{1}, 4096))
	<-entered
	old.Close()
	c := connect(t, path, "", true)
	w := c.request(0, cmdWrite, 0, 4096, bytes.Repeat([]byte{2}, 4096))
	must(t, c.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Fatalf("%d bytes of answer with the old write at the device", n)
	}
	must(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
	letGo()
	if _, errno := c.answer(w, cmdWrite, 0, 4096); errno != 0 {
		t.Fatal(errno)
	}
	if got := c.ok(0, cmdRead, 0, 4096); got[0] != 2 {
		t.Fatal("an old write landed on a newer one")
	}
}

// TestPartedClient: what a client had asked for before it said good-bye is done,
// whoever connects next, and before what that one asks.
func TestPartedClient(t *testing.T) {
	s, path := startServer(t, Options{}, memExport(1<<20))
	e := s.List()[0]
	must(t, e.Hold(t.Context()))
	old := connect(t, path, "", true)
	old.request(0, cmdWrite, 0, 4096, bytes.Repeat([]byte{1}, 4096))
	old.request(0, cmdWrite, 4096, 4096, bytes.Repeat([]byte{1}, 4096))
	old.request(0, cmdDisc, 0, 0)
	eventually(t, "requests are held", func() bool { return e.Stats().InFlight == 2 })
	old.Close()
	c := connect(t, path, "", true)
	w := c.request(0, cmdWrite, 0, 4096, bytes.Repeat([]byte{2}, 4096))
	must(t, e.Release(nil))
	if _, errno := c.answer(w, cmdWrite, 0, 4096); errno != 0 {
		t.Fatal(errno)
	}
	if got := c.ok(0, cmdRead, 0, 8192); got[0] != 2 || got[4096] != 1 {
		t.Errorf("read %d and %d, want 2 and 1", got[0], got[4096])
	}
}

// TestShutdown: requests at the device are finished and answered, held ones are
// not answered, and nobody can connect.
func TestShutdown(t *testing.T) {
	slow, entered := make(chan struct{}), make(chan struct{}, 8)
	dev := block.NewIntercept(block.NewMem(1<<20), func(_ context.Context, op block.Op) error {
		if op.Off == 512 {
			entered <- struct{}{}
			<-slow
		}
		return nil
	})
	s, path := startServer(t, Options{}, ExportOptions{Name: "a", Device: dev}, ExportOptions{Name: "b", Device: block.NewMem(1 << 20)})
	must(t, s.List()[1].Hold(t.Context()))
	a, b, idle := connect(t, path, "a", true), connect(t, path, "b", true), dial(t, path)
	ra := a.request(0, cmdWrite, 512, 512, make([]byte, 512))
	b.request(0, cmdWrite, 512, 512, make([]byte, 512))
	<-entered
	eventually(t, "a request is held", func() bool { return s.List()[1].Stats().InFlight == 1 })
	ended := make(chan error, 1)
	go func() { ended <- s.Shutdown(t.Context()) }()
	b.wantEnd()
	idle.wantEnd()
	if nc, err := net.Dial("unix", path); err == nil {
		greetingless := make([]byte, 1)
		if n, _ := nc.Read(greetingless); n > 0 {
			t.Error("a client was greeted during shutdown")
		}
		nc.Close()
	}
	select {
	case err := <-ended:
		t.Fatalf("shutdown returned with a request at the device: %v", err)
	default:
	}
	close(slow)
	if _, errno := a.answer(ra, cmdWrite, 512, 512); errno != 0 {
		t.Fatal(errno)
	}
	a.wantEnd()
	must(t, <-ended)
	if _, err := s.Add(memExport(512)); !errors.Is(err, ErrServerClosed) {
		t.Errorf("add: %v", err)
	}
}

// TestCancel: the end of Serve's context ends everything, and so does that of
// Shutdown.
func TestCancel(t *testing.T) {
	for _, how := range []string{"serve", "shutdown", "remove"} {
		entered := make(chan struct{}, 1)
		dev := block.NewIntercept(block.NewMem(1<<20), func(ctx context.Context, op block.Op) error {
			entered <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		})
		s := NewServer(Options{})
		_, err := s.Add(ExportOptions{Device: dev})
		must(t, err)
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx, l) }()
		c := connect(t, l.Addr().String(), "", true)
		c.request(0, cmdRead, 0, 512)
		<-entered
		short, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
		switch how {
		case "shutdown":
			if err := s.Shutdown(short); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("shutdown: %v", err)
			}
		case "remove":
			if err := s.Remove(short, ""); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("remove: %v", err)
			}
			cancel()
		default:
			cancel()
		}
		must(t, <-served)
		c.wantEnd()
		stop()
		cancel()
	}
}

// TestRemove: an export's clients go, others stay.
func TestRemove(t *testing.T) {
	s, path := startServer(t, Options{}, ExportOptions{Name: "a", Device: block.NewMem(1 << 20)}, ExportOptions{Name: "b", Device: block.NewMem(1 << 20)})
	a, b := connect(t, path, "a", true), connect(t, path, "b", true)
	must(t, s.Remove(t.Context(), "a"))
	a.wantEnd()
	b.ok(0, cmdRead, 0, 512)
	if err := s.Remove(t.Context(), "a"); !errors.Is(err, ErrUnknown) {
		t.Errorf("second removal: %v", err)
	}
	if _, err := s.Add(ExportOptions{Name: "b", Device: block.NewMem(512)}); !errors.Is(err, ErrExists) {
		t.Errorf("second b: %v", err)
	}
	if _, err := s.Add(ExportOptions{Name: "\xff", Device: block.NewMem(512)}); !errors.Is(err, ErrBadExport) {
		t.Errorf("name that is not UTF-8: %v", err)
	}
	if n := len(s.List()); n != 1 {
		t.Errorf("%d exports", n)
	}
}

// TestTooMany: connections beyond the bounds are refused, and make room when they go.
func TestTooMany(t *testing.T) {
	_, path := startServer(t, Options{Limits: Limits{Connections: 3, Handshakes: 2}}, memExport(1<<20))
	refused := func() bool {
		nc, err := net.Dial("unix", path)
		must(t, err)
		defer nc.Close()
		n, _ := nc.Read(make([]byte, 1))
		return n == 0
	}
	a, b := dial(t, path), dial(t, path)
	if !refused() {
		t.Error("a third negotiation is not refused")
	}
	a.enter("", false)
	b.enter("", false)
	c := dial(t, path)
	if !refused() {
		t.Error("a fourth connection is not refused")
	}
	c.Close()
	eventually(t, "there is room again", func() bool { return !refused() })
}
