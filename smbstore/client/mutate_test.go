package client_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"lunless/shares"
	"lunless/smbstore/client"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// startMutator is a network that changes what the server says: a frame in rate, by
// some bytes, its length, or a piece left out.
func startMutator(t testing.TB, server string, seed uint64, rate int, after *atomic.Bool) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for n := seed; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", server)
			if err != nil {
				c.Close()
				continue
			}
			go func() { _, _ = io.Copy(s, c); s.Close(); c.Close() }()
			go func() { mutateFrames(c, s, rand.New(rand.NewPCG(n, seed)), rate, after); s.Close(); c.Close() }()
		}
	}()
	return ln.Addr().String()
}

func mutateFrames(to, from net.Conn, rnd *rand.Rand, rate int, after *atomic.Bool) {
	var h [4]byte
	for {
		if _, err := io.ReadFull(from, h[:]); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint32(h[:]))
		if _, err := io.ReadFull(from, b); err != nil {
			return
		}
		if rnd.IntN(rate) == 0 && (after == nil || after.Load()) && len(b) > 0 {
			switch rnd.IntN(5) {
			case 0:
				b = b[:rnd.IntN(len(b))]
			case 1:
				at := 64 + rnd.IntN(64)
				if at+4 <= len(b) {
					binary.LittleEndian.PutUint32(b[at&^3:], []uint32{0, 1, 0xFFFFFFFF, 0x7FFFFFFF, uint32(len(b)), uint32(rnd.Uint32())}[rnd.IntN(6)])
				}
			default:
				for range 1 + rnd.IntN(4) {
					at := rnd.IntN(len(b))
					if rnd.IntN(2) == 0 {
						at = rnd.IntN(min(len(b), 200))
					}
					b[at] ^= byte(1 + rnd.IntN(255))
				}
			}
		}
		binary.BigEndian.PutUint32(h[:], uint32(len(b)))
		if _, err := to.Write(append(h[:], b...)); err != nil {
			return
		}
	}
}

// everything uses a session whatever it says.
func everything(ctx context.Context, c *client.Client) {
	tree, err := c.TreeConnect(ctx, "vms")
	if err != nil {
		return
	}
	o := readWrite()
	o.Durable, o.MaximalAccess = client.Durable, true
	f, err := tree.Create(ctx, "x", o)
	if err != nil {
		return
	}
	b := make([]byte, 100<<10)
	_, _ = f.WriteAtContext(ctx, b, 0)
	_, _ = f.ReadAtContext(ctx, b, 10)
	_, _ = f.Stat(ctx)
	_, _ = f.Basic(ctx)
	_ = f.Lock(ctx, false, client.LockRange{Offset: 1, Length: 1, Exclusive: true})
	_ = f.SetSparse(ctx, true)
	_ = f.Zero(ctx, 4096, 4096)
	_, _, _ = f.AllocatedRanges(ctx, 0, 1<<20)
	_, _ = f.CopyChunk(ctx, f, 0, 200<<10, 100<<10)
	_, _ = f.OffloadRead(ctx, 0, 4096)
	_ = f.Flush(ctx)
	if d, err := tree.Create(ctx, "", client.CreateOptions{Access: smb2.FileListDirectory, Share: 7, Disposition: smb2.FileOpen}); err == nil {
		_ = d.QueryDirectory(ctx, "*", func(*fscc.DirEntry) error { return nil })
		brief, cancel := context.WithTimeout(ctx, time.Millisecond)
		_, _ = d.ChangeNotify(brief, smb2.NotifyChangeFileName, true)
		cancel()
		_ = d.CloseContext(ctx)
	}
	_ = f.CloseContext(ctx)
}

// A server that says anything: no crash, no hang, nothing left behind.
func TestMutations(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	p := startOurs(t, func(c *shares.Config) { c.Signing = shares.SigningEnabled })
	p.addr = startMutator(t, p.addr, seed, 12, nil)
	before := runtime.NumGoroutine()
	started := 0
	for until := time.Now().Add(2500 * time.Millisecond); time.Now().Before(until); {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		cfg := p.config()
		cfg.RequestTimeout, cfg.ReconnectTimeout = 200*time.Millisecond, 100*time.Millisecond
		if c, err := client.Dial(ctx, cfg); err == nil {
			started++
			everything(ctx, c)
			c.Close()
		}
		cancel()
	}
	if started == 0 {
		t.Error("no session came about")
	}
	for until := time.Now().Add(20 * time.Second); runtime.NumGoroutine() > before+20; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(until) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
}

// What is signed or encrypted cannot be changed on the way: a read gives the truth
// or an error.
func TestTampering(t *testing.T) {
	for how, change := range map[string]func(*client.Config){
		"GMAC": func(c *client.Config) { c.RequireSigning = true },
		"CMAC": func(c *client.Config) {
			c.RequireSigning, c.Signing = true, []smb2.SigningAlgorithm{smb2.SigningAESCMAC}
		},
		"GCM": func(c *client.Config) { c.Encrypt = true },
		"2.1": func(c *client.Config) { c.RequireSigning, c.MaxDialect = true, smb2.Dialect210 },
	} {
		t.Run(how, func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			p := startOurs(t, nil)
			var on atomic.Bool
			p.addr = startMutator(t, p.addr, seed, 3, &on)
			cfg := p.config()
			change(&cfg)
			cfg.RequestTimeout, cfg.ReconnectTimeout = time.Second, time.Second
			want := bytes.Repeat([]byte("truth"), 20000)
			failed := 0
			for range 40 {
				on.Store(false)
				c := dial(t, cfg)
				f := create(t, mount(t, c), "x", readWrite())
				if _, err := f.WriteAt(want, 0); err != nil {
					t.Fatal(err)
				}
				on.Store(true)
				got := make([]byte, len(want))
				n, err := f.ReadAt(got, 0)
				if err != nil {
					failed++
				} else if n != len(want) || !bytes.Equal(got, want) {
					t.Fatal("changed data was taken for the truth")
				}
				on.Store(false)
				c.Close()
			}
			if failed == 0 {
				t.Error("nothing was changed")
			}
		})
	}
}

// startDowngrader is a network that takes the newest dialect out of what a client
// offers.
func startDowngrader(t testing.TB, server string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", server)
			if err != nil {
				c.Close()
				continue
			}
			go func() { _, _ = io.Copy(c, s); s.Close(); c.Close() }()
			go func() {
				defer s.Close()
				var h [4]byte
				if _, err := io.ReadFull(c, h[:]); err != nil {
					return
				}
				b := make([]byte, binary.BigEndian.Uint32(h[:]))
				if _, err := io.ReadFull(c, b); err != nil {
					return
				}
				var q smb2.NegotiateRequest
				if q.Decode(b) == nil {
					last := len(q.Dialects) - 1
					for i := range q.Dialects[:last] { // no message may change its length
						binary.LittleEndian.PutUint16(b[smb2.HeaderSize+36+2*i:], uint16(q.Dialects[i]))
					}
					binary.LittleEndian.PutUint16(b[smb2.HeaderSize+36+2*last:], 0x0300)
				}
				_, _ = s.Write(append(h[:], b...))
				_, _ = io.Copy(s, c)
			}()
		}
	}()
	return ln.Addr().String()
}
