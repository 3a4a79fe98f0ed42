package smbstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/block"
	"lunless/smbstore/storetest"
)

// relay is a network between a store and its server that can fail in its own ways.
type relay struct {
	port    int
	carried atomic.Int64 // bytes, both ways
	mu      sync.Mutex
	links   []*relayLink
}

// relayLink is one connection through a relay. While up or down is set, what
// goes that way stays in the network, the connection's end included.
type relayLink struct {
	ends     [2]*net.TCPConn // client, server
	up, down atomic.Bool
}

func startRelay(t *testing.T, server *storetest.Server) (*relay, smbstore.Location) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{port: ln.Addr().(*net.TCPAddr).Port}
	t.Cleanup(func() {
		ln.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, l := range r.links {
			l.cut()
		}
	})
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", server.Port))
			if err != nil {
				c.Close()
				continue
			}
			l := &relayLink{ends: [2]*net.TCPConn{c.(*net.TCPConn), s.(*net.TCPConn)}}
			r.mu.Lock()
			r.links = append(r.links, l)
			r.mu.Unlock()
			go r.pass(l.ends[1], l.ends[0], &l.up)
			go r.pass(l.ends[0], l.ends[1], &l.down)
		}
	}()
	at := server.Location("")
	at.Port = r.port
	return r, at
}

func (r *relay) pass(to, from *net.TCPConn, held *atomic.Bool) {
	buf := make([]byte, 1<<20)
	for {
		n, err := from.Read(buf)
		for held.Load() {
			time.Sleep(5 * time.Millisecond)
		}
		r.carried.Add(int64(n))
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				_ = to.CloseWrite()
			} else {
				_ = to.Close()
			}
			return
		}
	}
}

func (l *relayLink) cut() {
	l.up.Store(false)
	l.down.Store(false)
	l.ends[0].Close()
	l.ends[1].Close()
}

// now lists the connections so far, in the order they were made.
func (r *relay) now() []*relayLink {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.links)
}

// within fails the test if fn has not returned in time.
func within(t *testing.T, limit time.Duration, what string, fn func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	case <-time.After(limit):
		t.Fatalf("%s: not done within %v", what, limit)
	}
}

func writeFill(f smbstore.File, fill byte) error {
	_, err := f.WriteAt(bytes.Repeat([]byte{fill}, 4096), 0)
	return err
}

// What a network held back of a connection that was given up must not reach the
// file after what was written since.
func TestSMBLateRequests(t *testing.T) {
	for name, c := range map[string]struct {
		late func(f smbstore.File) error
	}{
		"write": {func(f smbstore.File) error { return writeFill(f, 2) }},
		"hole": {func(f smbstore.File) error {
			if err := f.(block.Puncher).PunchHole(0, 4096); !errors.Is(err, block.ErrNotSupported) {
				return err
			}
			return nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			eachServer(t, func(t *testing.T, server *storetest.Server) {
				r, at := startRelay(t, server)
				o := server.Options()
				o.Connections, o.RequestTimeout = 1, 600*time.Millisecond
				s, err := smbstore.Open(t.Context(), at, o)
				before := 0
				for try := 0; err != nil && try < 10; try++ { // a busy machine is slower than that
					before = len(r.now())
					s, err = smbstore.Open(t.Context(), at, o)
				}
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				f, err := s.OpenFile("x", smbstore.ReadWrite|smbstore.Create)
				if err != nil {
					t.Fatal(err)
				}
				within(t, 20*time.Second, "first write", func() error { return writeFill(f, 1) })
				if err := f.(block.Puncher).PunchHole(8192, 4096); err != nil {
					t.Fatal(err)
				}
				l := r.now()[before]
				l.up.Store(true)
				passed := make(chan struct{})
				time.AfterFunc(2400*time.Millisecond, func() { l.up.Store(false); close(passed) })
				within(t, 20*time.Second, "the held request", func() error { return c.late(f) })
				within(t, 20*time.Second, "the write after it", func() error { return writeFill(f, 3) })
				<-passed
				time.Sleep(300 * time.Millisecond)
				got := make([]byte, 4096)
				if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{3}, 4096)) {
					t.Errorf("the file holds %d, want 3 (%v): a request came after its repetition", got[0], err)
				}
			})
		})
	}
}

// A connection falls silent, and another, if there is one, is lost: neither may be
// waited for longer than a silent server is.
func TestSMBSilentConnection(t *testing.T) {
	eachServer(t, func(t *testing.T, server *storetest.Server) {
		r, at := startRelay(t, server)
		o := server.Options()
		o.Connections, o.RequestTimeout = 2, 500*time.Millisecond
		s, err := smbstore.Open(t.Context(), at, o)
		if err != nil {
			t.Fatal(err)
		}
		f, err := s.OpenFile("x", smbstore.ReadWrite|smbstore.Create)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 { // the next one goes over the second connection
			within(t, 20*time.Second, "write", func() error { return writeFill(f, 1) })
		}
		links := r.now()
		links[0].up.Store(true)
		if len(links) > 1 { // a server that binds no channels has one
			links[1].cut()
		}
		within(t, 5*time.Second, "write", func() error { return writeFill(f, 2) })
		got := make([]byte, 1)
		within(t, 20*time.Second, "read", func() error { _, err := f.ReadAt(got, 0); return err })
		if got[0] != 2 {
			t.Errorf("read %d", got[0])
		}
		for _, l := range r.now() {
			l.up.Store(true)
		}
		start := time.Now()
		within(t, 20*time.Second, "close", func() error { _ = s.Close(); return nil })
		if d := time.Since(start); d > 8*time.Second {
			t.Errorf("closing took %v", d)
		}
	})
}

// A server that takes connections and never says a word.
func TestSMBMuteServer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	at := smbstore.Location{Host: "127.0.0.1", Port: ln.Addr().(*net.TCPAddr).Port, User: "u", Share: "vms"}
	within(t, 10*time.Second, "open", func() error {
		_, err := smbstore.Open(t.Context(), at, smbstore.Options{
			Credentials: &smbstore.Credentials{User: "u", Password: "p"}, RequestTimeout: 300 * time.Millisecond})
		if !errors.Is(err, smbstore.ErrUnreachable) {
			return fmt.Errorf("got %w, want ErrUnreachable", err)
		}
		return nil
	})
}

// A raw disk is converted to another on the same server without its data coming
// here (MS-HVRS C0004).
func TestConvertAtTheServer(t *testing.T) {
	server := storetest.StartLunless(t)
	r, at := startRelay(t, server)
	s, err := smbstore.Open(t.Context(), server.Location(""), server.Options())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const size = 24 << 20
	data := bytes.Repeat([]byte("some data of a disk, "), size/21+1)[:size]
	f, err := s.OpenFile("a.raw", smbstore.ReadWrite|smbstore.Create)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	o := server.Options()
	err = smbstore.ConvertDisk(t.Context(), smbstore.ConvertDiskOptions{
		Source: at.Join("a.raw"), Destination: at.Join("b.raw"), SourceFormat: smbstore.Raw,
		SourceOptions: o, DestinationOptions: o,
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := r.carried.Load(); n > 1<<20 {
		t.Errorf("%d bytes came over the wire for a disk of %d", n, size)
	}
	got := make([]byte, size)
	if f, err = s.OpenFile("b.raw", smbstore.Read); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the copy differs, %v", err)
	}
}
