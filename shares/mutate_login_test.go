package shares

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"lunless/smbstore/smb2"
)

// halfOpen are clients that stop before they have authenticated.
var halfOpen = []struct {
	name string
	stop func(c *pduClient) error
}{
	{"silent", func(*pduClient) error { return nil }},
	{"half a frame", func(c *pduClient) error { return c.raw([]byte{0, 0, 1, 0, 0xfe, 'S', 'M', 'B'}) }},
	{"the largest frame announced", func(c *pduClient) error {
		return c.raw(append(binary.BigEndian.AppendUint32(nil, maxUnauth), make([]byte, 2000)...))
	}},
	{"negotiated", func(c *pduClient) error { return c.negotiate(pick(c.m, dialects...)) }},
	{"half logged on", func(c *pduClient) error {
		if err := c.negotiate(smb2.Dialect311); err != nil {
			return err
		}
		first, _, err := c.newLogon(testUser).next()
		if err != nil {
			return err
		}
		_, err = c.call(first)
		return err
	}},
}

func testPDUClient(t *testing.T, addr string, seed uint64) *pduClient {
	t.Helper()
	c, err := dialPDU(addr, mutator{rand.New(rand.NewPCG(seed, 0))}, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

// TestHalfOpenConnections: thousands of them hold little memory, and do not keep
// a client from its work.
func TestHalfOpenConnections(t *testing.T) {
	const (
		clients = 2000
		most    = 96 << 10 // bytes a connection, both ends of it and their goroutines
	)
	srv := startServer(t, func(c *Config) { c.Limits.Login = time.Hour })
	used := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc + m.StackInuse)
	}
	before := used()
	for i := range clients {
		c, kind := testPDUClient(t, srv.addr, uint64(i)), halfOpen[i%len(halfOpen)]
		if err := kind.stop(c); err != nil {
			t.Fatalf("%s: %v", kind.name, err)
		}
	}
	start := time.Now()
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	id := c.create("f")
	wantStatus(t, c.call(smb2.CommandFlush, &smb2.FlushRequest{FileID: id}, nil), smb2.StatusSuccess)
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("a good client took %v", d)
	}
	srv.mu.Lock()
	n := len(srv.conns)
	srv.mu.Unlock()
	if n != clients+1 {
		t.Errorf("%d connections, want %d", n, clients+1)
	}
	each := (used() - before) / clients
	t.Logf("%d bytes a connection", each)
	if each > most && !raceEnabled {
		t.Errorf("%d bytes a connection, want at most %d", each, most)
	}
}

// TestLoginDeadline: who has not authenticated in time is cut off, whatever it
// does meanwhile.
func TestLoginDeadline(t *testing.T) {
	const login = 400 * time.Millisecond
	srv := startServer(t, func(c *Config) { c.Limits.Login = login })
	cut := func(t *testing.T, c *pduClient, start time.Time) {
		t.Helper()
		c.nc.SetReadDeadline(start.Add(login + 10*time.Second))
		if _, err := io.Copy(io.Discard, c.in); err != nil && c.ended(err) == errSilent {
			t.Fatalf("still connected after %v", time.Since(start))
		}
		if d := time.Since(start); d < login/2 {
			t.Errorf("cut off after %v already", d)
		}
	}
	for i, kind := range halfOpen {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			start, c := time.Now(), testPDUClient(t, srv.addr, uint64(i))
			if err := kind.stop(c); err != nil {
				t.Fatal(err)
			}
			cut(t, c, start)
		})
	}
	t.Run("a byte at a time", func(t *testing.T) {
		t.Parallel()
		start, c := time.Now(), testPDUClient(t, srv.addr, 1)
		msg := c.pdu(smb2.CommandNegotiate, 0, c.negotiateRequest(), nil, 0)
		go func() {
			c.nc.Write(binary.BigEndian.AppendUint32(nil, uint32(len(msg))))
			for i := range msg {
				if _, err := c.nc.Write(msg[i : i+1]); err != nil {
					return
				}
				time.Sleep(login / 4)
			}
		}()
		cut(t, c, start)
	})
	t.Run("wrong passwords", func(t *testing.T) {
		t.Parallel()
		start, c := time.Now(), testPDUClient(t, srv.addr, 2)
		if err := c.negotiate(smb2.Dialect302); err != nil {
			t.Fatal(err)
		}
		for time.Since(start) < login+10*time.Second {
			c.session = 0
			if err := c.login("nobody"); err == errLost {
				return
			}
			time.Sleep(login / 20)
		}
		t.Fatal("still connected")
	})
}
