package client_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lunless/smbstore/client"
	"lunless/smbstore/smb2"
)

// durablePeers grant durable handles.
func durablePeers(t *testing.T, test func(t *testing.T, p *peer)) {
	t.Run("lunless", func(t *testing.T) { t.Parallel(); test(t, startOurs(t, nil)) })
	t.Run("samba", func(t *testing.T) { t.Parallel(); test(t, startSamba(t, durableSamba...)) })
}

func durable() client.CreateOptions {
	o := readWrite()
	o.Durable, o.Timeout = client.Durable, time.Minute
	return o
}

// A durable handle outlives its connection with its locks and its share mode
// (MS-SMB2 3.3.5.9.12).
func TestDurableReconnect(t *testing.T) {
	durablePeers(t, func(t *testing.T, p *peer) {
		for how, dialect := range map[string]smb2.Dialect{"v1": smb2.Dialect210, "v2": smb2.Dialect311} {
			t.Run(how, func(t *testing.T) {
				ctx := t.Context()
				r := startRelay(t, p.addr)
				cfg := p.config()
				cfg.Addr, cfg.MaxDialect = r.addr, dialect
				tree := mount(t, dial(t, cfg))
				o := durable()
				o.Share = smb2.FileShareRead
				f := create(t, tree, "disk-"+how, o)
				if g := f.Granted(); g.Durability != client.Durable || g.Lease&smb2.LeaseHandleCaching == 0 {
					t.Fatalf("granted %+v", g)
				}
				lock := client.LockRange{Offset: 100, Length: 10, Exclusive: true}
				must(t, "lock", f.Lock(ctx, false, lock))
				data := bytes.Repeat([]byte("durable "), 512)
				_, err := f.WriteAt(data, 0)
				must(t, "write", err)
				for range 3 {
					if r.cutAll() == 0 {
						t.Fatal("no connection to cut")
					}
					got := make([]byte, len(data))
					_, err = f.ReadAt(got, 0)
					if err != nil || !bytes.Equal(got, data) {
						t.Fatalf("read after the cut: %v", err)
					}
				}
				other := mount(t, dial(t, p.config()))
				_, err = other.Create(ctx, "disk-"+how, readWrite())
				wantStatus(t, "write beside deny-write after the cuts", err, smb2.StatusSharingViolation)
				must(t, "unlock what was locked before", f.Unlock(ctx, lock))
				must(t, "close", f.Close())
				must(t, "close", create(t, other, "disk-"+how, readWrite()).Close())
			})
		}
	})
}

// A handle that is not durable ends with its session, and says so; opens go on.
func TestHandleLost(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		r := startRelay(t, p.addr)
		cfg := p.config()
		cfg.Addr = r.addr
		tree := mount(t, dial(t, cfg))
		f := create(t, tree, "x", readWrite())
		r.cutAll()
		_, err := f.WriteAt([]byte("x"), 0)
		var lost *client.HandleLostError
		if !errors.As(err, &lost) || !errors.Is(err, client.ErrHandleLost) || lost.Name != "x" {
			t.Errorf("got %v, want a lost handle", err)
		}
		if err := f.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		must(t, "close", create(t, tree, "x", readWrite()).Close())
	})
}

// A server that does not come back: waiting ends, and later operations do not wait.
func TestUnreachable(t *testing.T) {
	durablePeers(t, func(t *testing.T, p *peer) {
		r := startRelay(t, p.addr)
		cfg := p.config()
		cfg.Addr, cfg.ReconnectTimeout = r.addr, 700*time.Millisecond
		tree := mount(t, dial(t, cfg))
		f := create(t, tree, "x", durable())
		r.setRefuse(true)
		r.cutAll()
		for range 3 {
			if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, client.ErrUnreachable) {
				t.Fatalf("got %v, want ErrUnreachable", err)
			}
		}
		r.setRefuse(false)
		for until := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			if _, err := f.WriteAt([]byte("x"), 0); err == nil {
				break
			} else if !errors.Is(err, client.ErrUnreachable) || time.Now().After(until) {
				t.Fatal(err)
			}
		}
	})
}

// Connections are cut at random while writers count up in blocks of their own, open
// and close files, lock and list: nothing fails, and every block holds the last
// number that was acknowledged.
func TestCutsUnderLoad(t *testing.T) {
	durablePeers(t, func(t *testing.T, p *peer) { cutsUnderLoad(t, p, 1, 3*time.Second) })
}

func cutsUnderLoad(t *testing.T, p *peer, channels int, length time.Duration) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := startRelay(t, p.addr)
	cfg := p.config()
	cfg.Addr, cfg.Channels, cfg.RequireSigning = r.addr, channels, true
	tree := mount(t, dial(t, cfg))
	o := durable()
	f := create(t, tree, "disk", o)
	if f.Granted().Durability == client.NotDurable {
		t.Fatal("the handle is not durable")
	}
	const workers, size = 6, 16 << 10
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var ops atomic.Int64
	var last [workers]uint64
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			a, b := make([]byte, size), make([]byte, size)
			for n := uint64(1); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				for i := 0; i < size; i += 8 {
					binary.LittleEndian.PutUint64(a[i:], n)
				}
				off := int64(w) * size
				if _, err := f.WriteAt(a, off); err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
				last[w] = n
				if _, err := f.ReadAt(b, off); err != nil || !bytes.Equal(a, b) {
					t.Errorf("writer %d wrote %d and reads %d, %v", w, n, binary.LittleEndian.Uint64(b), err)
					return
				}
				if n%16 == 0 {
					lock := client.LockRange{Offset: uint64(off) + 1<<40, Length: size, Exclusive: true}
					if err := f.Lock(t.Context(), false, lock); err != nil {
						t.Errorf("lock: %v", err)
						return
					}
					if err := f.Unlock(t.Context(), lock); err != nil {
						t.Errorf("unlock: %v", err)
						return
					}
					if err := f.Flush(t.Context()); err != nil {
						t.Errorf("flush: %v", err)
						return
					}
				}
				ops.Add(1)
			}
		}()
	}
	rnd := rand.New(rand.NewPCG(seed, 1))
	cuts := 0
	for until := time.Now().Add(length); time.Now().Before(until); {
		time.Sleep(time.Duration(10+rnd.IntN(150)) * time.Millisecond)
		if list := r.links(); len(list) > 0 {
			if rnd.IntN(3) == 0 {
				cuts += r.cutAll()
			} else {
				r.cut(list[rnd.IntN(len(list))])
				cuts++
			}
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d operations, %d connections cut", ops.Load(), cuts)
	got := make([]byte, 8)
	for w := range workers {
		if _, err := f.ReadAt(got, int64(w)*size); err != nil || binary.LittleEndian.Uint64(got) != last[w] {
			t.Errorf("block %d holds %d, acknowledged was %d, %v", w, binary.LittleEndian.Uint64(got), last[w], err)
		}
	}
	must(t, "close", f.Close())
}
