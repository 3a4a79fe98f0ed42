package smbstore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/block"
	"lunless/smbstore/storetest"
)

func TestLocalStore(t *testing.T) {
	s, err := smbstore.OpenPath(t.Context(), t.TempDir(), smbstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	storetest.Test(t, s)
	if err := s.MkdirAll("below"); err != nil {
		t.Fatal(err)
	}
	storetest.Test(t, smbstore.Sub(s, "below"))
}

// eachServer runs a test against Samba and against our own server.
func eachServer(t *testing.T, test func(t *testing.T, server *storetest.Server)) {
	for name, start := range storetest.Servers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, start(t))
		})
	}
}

func TestSMBStore(t *testing.T) {
	eachServer(t, func(t *testing.T, server *storetest.Server) {
		s, err := smbstore.Open(t.Context(), server.Location("Some Folder/ünder"), server.Options())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.MkdirAll(""); err != nil {
			t.Fatal(err)
		}
		storetest.Test(t, s)
	})
}

// A server that is stopped keeps its connections: the watch over silent ones
// notices, and everything goes on when it runs again.
func TestSMBSilentServer(t *testing.T) {
	eachServer(t, func(t *testing.T, server *storetest.Server) {
		o := server.Options()
		o.RequestTimeout = 500 * time.Millisecond
		s, err := smbstore.Open(t.Context(), server.Location(""), o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		f, err := s.OpenFile("x", smbstore.ReadWrite|smbstore.Create)
		if err != nil {
			t.Fatal(err)
		}
		server.Pause()
		time.Sleep(100 * time.Millisecond) // until all its threads stand still
		continued := make(chan struct{})
		time.AfterFunc(2*time.Second, func() { server.Continue(); close(continued) })
		if _, err := f.WriteAt([]byte("after"), 0); err != nil {
			t.Error(err)
		}
		select {
		case <-continued:
		default:
			t.Error("a stopped server answered")
		}
		<-continued
		if err := f.Sync(); err != nil {
			t.Error(err)
		}
	})
}

func TestSMBStoreRefusals(t *testing.T) {
	eachServer(t, testSMBStoreRefusals)
}

func testSMBStoreRefusals(t *testing.T, server *storetest.Server) {
	o := server.Options()
	o.Credentials = &smbstore.Credentials{User: server.User, Password: "wrong"}
	if _, err := smbstore.Open(t.Context(), server.Location(""), o); !errors.Is(err, smbstore.ErrLogon) {
		t.Errorf("a wrong password: %v", err)
	}
	l := server.Location("")
	l.Share = "nosuch"
	if _, err := smbstore.Open(t.Context(), l, server.Options()); !errors.Is(err, smbstore.ErrNoShare) {
		t.Errorf("a share that is not there: %v", err)
	}
}

// A writer and a reader go on while the server is killed and started again.
func TestSMBReconnect(t *testing.T) {
	eachServer(t, testSMBReconnect)
}

func testSMBReconnect(t *testing.T, server *storetest.Server) {
	s, err := smbstore.Open(t.Context(), server.Location(""), server.Options())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f, err := s.OpenFile("disk", smbstore.ReadWrite|smbstore.Create)
	if err != nil {
		t.Fatal(err)
	}
	const workers, size = 4, 32 << 10
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	var ops atomic.Int64
	for w := range int64(workers) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			p, q := make([]byte, size), make([]byte, size)
			for seq := uint64(1); ctx.Err() == nil; seq++ {
				off := (w + workers*int64(seq%16)) * size
				for i := 0; i < size; i += 8 {
					binary.LittleEndian.PutUint64(p[i:], seq)
				}
				if _, err := f.WriteAt(p, off); err != nil {
					t.Error(err)
					return
				}
				if seq%8 == 0 {
					if err := f.Sync(); err != nil {
						t.Error(err)
						return
					}
				}
				if _, err := f.ReadAt(q, off); err != nil && err != io.EOF || !bytes.Equal(p, q) {
					t.Errorf("worker %d, %d: an acknowledged write is gone (%v)", w, seq, err)
					return
				}
				ops.Add(1)
			}
		}()
	}
	for range 4 {
		time.Sleep(600 * time.Millisecond)
		server.Kill()
		time.Sleep(200 * time.Millisecond)
		server.Start(t)
	}
	wg.Wait()
	if ops.Load() == 0 {
		t.Error("no operation was done")
	}
	server.Kill()
	server.Start(t)
	for name, err := range map[string]error{
		"mkdir": s.Mkdir("d"), "rename": s.Rename("disk", "d/disk"),
	} {
		if err != nil {
			t.Errorf("%s after a restart: %v", name, err)
		}
	}
}

func TestSMBUnreachable(t *testing.T) {
	eachServer(t, testSMBUnreachable)
}

func testSMBUnreachable(t *testing.T, server *storetest.Server) {
	o := server.Options()
	o.ReconnectTimeout = time.Second
	s, err := smbstore.Open(t.Context(), server.Location(""), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f, err := s.OpenFile("x", smbstore.ReadWrite|smbstore.Create)
	if err != nil {
		t.Fatal(err)
	}
	server.Kill()
	start := time.Now()
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, smbstore.ErrUnreachable) {
		t.Errorf("write to a dead server: %v", err)
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("gave up after %v", took)
	}
}

// The file is another after the restart: the handle must not write into it.
func TestSMBReplaced(t *testing.T) {
	eachServer(t, testSMBReplaced)
}

func testSMBReplaced(t *testing.T, server *storetest.Server) {
	s, err := smbstore.Open(t.Context(), server.Location(""), server.Options())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f, err := s.OpenFile("x", smbstore.ReadWrite|smbstore.Create)
	if err != nil {
		t.Fatal(err)
	}
	server.Kill()
	server.Start(t)
	local, err := smbstore.OpenPath(t.Context(), server.Dir+"/vms", smbstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := smbstore.WriteFile(local, "x", []byte("another")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, smbstore.ErrReplaced) {
		t.Errorf("got %v, want ErrReplaced", err)
	}
	if err := local.Remove("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, smbstore.ErrNotExist) {
		t.Errorf("got %v, want ErrNotExist", err)
	}
}

// A server that goes down with its machine loses what was acknowledged and not
// synced. It is sent again, and a Sync that succeeds covers it.
func TestSMBReplay(t *testing.T) {
	eachServer(t, testSMBReplay)
}

func testSMBReplay(t *testing.T, server *storetest.Server) {
	o := server.Options()
	o.ReplayBuffer = 1 << 20
	s, err := smbstore.Open(t.Context(), server.Location(""), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f, err := s.OpenFile("disk", smbstore.ReadWrite|smbstore.Create)
	if err != nil {
		t.Fatal(err)
	}
	write := func(fill byte, off int64, n int) {
		t.Helper()
		if _, err := f.WriteAt(bytes.Repeat([]byte{fill}, n), off); err != nil {
			t.Fatal(err)
		}
	}
	write(1, 0, 64<<10)
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	write(2, 0, 4096)
	write(3, 4096, 4096)
	write(4, 4096, 4096) // over it: the order must be kept
	if err := f.Truncate(32 << 10); err != nil {
		t.Fatal(err)
	}
	write(5, 100<<10, 10)
	write(7, 16<<10, 4096)
	if err := f.(block.Puncher).PunchHole(17<<10, 200<<10); err != nil {
		t.Fatal(err)
	}
	write(5, 100<<10, 10)
	server.Kill()
	// What the machine would have forgotten.
	disk := server.Dir + "/vms/disk"
	if err := os.Truncate(disk, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 64<<10); err != nil {
		t.Fatal(err)
	}
	server.Start(t)
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 100<<10+10 {
		t.Fatalf("%d bytes", len(got))
	}
	for off, want := range map[int]byte{0: 2, 4095: 2, 4096: 4, 8191: 4, 8192: 0, 100 << 10: 5, 16 << 10: 7, 17 << 10: 0} {
		if got[off] != want {
			t.Errorf("byte %d is %d, want %d", off, got[off], want)
		}
	}
	// Synced: not sent again. And at the buffer's bound it is synced by itself.
	for i := range 10 {
		write(6, int64(i)<<18, 1<<18)
	}
	server.Kill()
	if err := os.WriteFile(disk, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	server.Start(t)
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(disk); err != nil || st.Size() != 10<<18 {
		t.Fatalf("%v %v", st, err)
	}
	first := make([]byte, 1)
	if _, err := f.ReadAt(first, 0); err != nil || first[0] != 0 {
		t.Errorf("a write was sent again that a sync had covered: %v %v", first, err)
	}
}

// Several hosts change one ownership record on a share; none of their changes
// is lost.
func TestSMBRecord(t *testing.T) {
	eachServer(t, func(t *testing.T, server *storetest.Server) {
		first, err := smbstore.Open(t.Context(), server.Location(""), server.Options())
		if err != nil {
			t.Fatal(err)
		}
		defer first.Close()
		if _, err := smbstore.CreateHome(t.Context(), first, "vm", smbstore.Config{}); err != nil {
			t.Fatal(err)
		}
		const hosts, rounds = 4, 6
		errs := make(chan error, hosts)
		for i := range hosts {
			go func() { errs <- changeRecord(server, string(rune('a'+i)), rounds) }()
		}
		for range hosts {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		h, err := smbstore.HomeIn(smbstore.Sub(first, "vm"))
		if err != nil {
			t.Fatal(err)
		}
		if r, err := h.Record(); err != nil || r.Epoch != 1+hosts*rounds {
			t.Errorf("%v, %v: changes were lost", r, err)
		}
	})
}

func changeRecord(server *storetest.Server, host string, rounds int) error {
	h, err := smbstore.OpenHome(context.Background(), server.Location("vm"), server.Options())
	if err != nil {
		return err
	}
	defer h.Close()
	for done := 0; done < rounds; {
		_, err := h.Change(context.Background(), "", func(r smbstore.Record) (smbstore.Record, error) { return r.Resolve(host) })
		var locked *smbstore.LockedError
		switch {
		case err == nil:
			done++
		case !errors.As(err, &locked):
			return err
		}
	}
	return nil
}

// A store that could not be opened is no store at all: who keeps it beside the error
// must be able to tell.
func TestSMBNotOpened(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := smbstore.Location{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, User: "hv", Share: "vms"}
	l.Close()
	s, err := smbstore.Open(t.Context(), at, smbstore.Options{Credentials: &smbstore.Credentials{User: "hv", Password: "x"}})
	if s != nil || !errors.Is(err, smbstore.ErrUnreachable) {
		t.Errorf("got %T, %v", s, err)
	}
}
