package client_test

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"time"

	"lunless/shares"
	"lunless/smbstore/client"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// A lease is granted, broken by another client's write, and acknowledged without
// anybody's doing (MS-SMB2 3.2.5.19.2); an oplock likewise.
func TestBreaks(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		ctx := t.Context()
		broken := make(chan client.LeaseBreak, 10)
		cfg := p.config()
		cfg.LeaseBreak = func(b client.LeaseBreak) { broken <- b }
		tree, other := mount(t, dial(t, cfg)), mount(t, dial(t, p.config()))
		o := readWrite()
		o.Lease = &client.LeaseRequest{State: smb2.LeaseReadCaching | smb2.LeaseHandleCaching | smb2.LeaseWriteCaching}
		f := create(t, tree, "leased", o)
		second := create(t, tree, "LEASED", o) // the same file, and the same lease: breaks nothing
		if g := f.Granted(); g.Lease != o.Lease.State || second.Granted().Lease != g.Lease {
			t.Errorf("granted %+v, then %+v", g, second.Granted())
		}
		x := create(t, other, "leased", readWrite()) // waits for the break of write caching
		if b := <-broken; b.From != o.Lease.State || b.To != smb2.LeaseReadCaching|smb2.LeaseHandleCaching {
			t.Errorf("broken %+v", b)
		}
		_, err := x.WriteAt([]byte("x"), 0)
		must(t, "write", err)
		select {
		case b := <-broken:
			if b.To&smb2.LeaseReadCaching != 0 {
				t.Errorf("broken %+v by a write", b)
			}
		case <-time.After(10 * time.Second):
			t.Error("a write broke no read caching")
		}
		for until := time.Now().Add(10 * time.Second); f.Granted().Lease&smb2.LeaseReadCaching != 0; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(until) {
				t.Fatalf("still held: %+v", f.Granted())
			}
		}
		for _, f := range []*client.File{f, second, x} {
			must(t, "close", f.Close())
		}
		must(t, "flush", create(t, tree, "leased", readWrite()).Flush(ctx))
	})
}

// What the server copies by itself, and gives back.
func TestOffload(t *testing.T) {
	p := startOurs(t, nil)
	ctx := t.Context()
	c := dial(t, p.config())
	tree := mount(t, c)
	src, dst := create(t, tree, "src", readWrite()), create(t, mount(t, dial(t, p.config())), "dst", readWrite())
	data := bytes.Repeat([]byte("offload "), 4<<20/8)
	_, err := src.WriteAt(data, 0)
	must(t, "write", err)
	must(t, "set the size", dst.Truncate(ctx, int64(len(data)))) // MS-FSA 2.1.5.10.21: nothing is written past the end
	token, err := src.OffloadRead(ctx, 0, int64(len(data)))
	must(t, "offload read", err)
	for done := int64(0); done < token.Length; {
		n, err := dst.OffloadWrite(ctx, &token, done, done, token.Length-done)
		if must(t, "offload write", err); n == 0 {
			t.Fatal("nothing was written")
		}
		done += n
	}
	got := make([]byte, token.Length)
	if _, err := dst.ReadAt(got, 0); err != nil || !bytes.Equal(got, data[:len(got)]) {
		t.Errorf("the copy differs, %v", err)
	}
	token.Token[100] ^= 1
	if _, err := dst.OffloadWrite(ctx, &token, 0, 0, 4096); err == nil {
		t.Error("a forged token was taken")
	}
	n, err := src.Trim(ctx, []fscc.ByteRange{{Offset: 0, Length: 1 << 20}})
	if err != nil || n != 1 {
		t.Errorf("trimmed %d ranges, %v", n, err)
	}
}

// The open of an application instance of a higher version takes the place of the
// older one, on another host (MS-SMB2 3.3.5.9.13).
func TestAppInstance(t *testing.T) {
	p := startOurs(t, nil)
	one, two := mount(t, dial(t, p.config())), mount(t, dial(t, p.config()))
	o := durable()
	o.Share, o.AppInstanceID = smb2.FileShareRead, smb2.GUID{1, 2, 3}
	o.AppInstanceVersion = &smb2.AppInstanceVersion{Low: 1}
	f := create(t, one, "disk", o)
	_, err := f.WriteAt([]byte("old"), 0)
	must(t, "write", err)
	o.AppInstanceVersion = &smb2.AppInstanceVersion{Low: 2}
	g := create(t, two, "disk", o)
	_, err = g.WriteAt([]byte("new"), 0)
	must(t, "write", err)
	if _, err := f.WriteAt([]byte("late"), 0); !errors.Is(err, client.ErrHandleLost) {
		t.Errorf("a write of the older instance: %v", err)
	}
	got := make([]byte, 3)
	if _, err := g.ReadAt(got, 0); err != nil || string(got) != "new" {
		t.Errorf("read %q, %v", got, err)
	}
}

// A share that demands encryption gets it, whatever the session does.
func TestEncryptedShare(t *testing.T) {
	p := startOurs(t, func(c *shares.Config) { c.Shares[0].Encrypt = true })
	tree := mount(t, dial(t, p.config()))
	if !tree.Encrypted() {
		t.Error("the share is not encrypted")
	}
	testFile(t, tree)
}

// Somebody on the way who talks a client of SMB 3 down is found out: by the session
// keys of 3.1.1, and by FSCTL_VALIDATE_NEGOTIATE_INFO before that (MS-SMB2 3.2.5.5).
func TestDowngrade(t *testing.T) {
	for how, max := range map[string]smb2.Dialect{"3.1.1": smb2.Dialect311, "3.0.2": smb2.Dialect302} {
		t.Run(how, func(t *testing.T) {
			p := startOurs(t, nil)
			p.addr = startDowngrader(t, p.addr)
			cfg := p.config()
			cfg.MaxDialect = max
			c, err := client.Dial(t.Context(), cfg)
			if err == nil {
				defer c.Close()
				_, err = c.TreeConnect(t.Context(), "vms")
			}
			if !errors.Is(err, client.ErrSecurity) {
				t.Errorf("got %v, want ErrSecurity", err)
			}
		})
	}
}

// Requests that wait hold up nobody, and a Client that is closed lets them all go.
func TestCloseReleasesWaiters(t *testing.T) {
	p := startOurs(t, nil)
	c := dial(t, p.config())
	tree := mount(t, c)
	a, b := create(t, tree, "x", readWrite()), create(t, tree, "x", readWrite())
	r := client.LockRange{Length: 10, Exclusive: true}
	must(t, "lock", a.Lock(t.Context(), false, r))
	var wg sync.WaitGroup
	for range 10 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			// Granted or not: it depends on which of the two handles ends first.
			_ = b.Lock(t.Context(), true, r)
		}()
	}
	time.Sleep(50 * time.Millisecond)
	_, err := b.WriteAt([]byte("not held up"), 100)
	must(t, "write", err)
	must(t, "close", c.Close())
	wg.Wait()
	if _, err := tree.Create(t.Context(), "x", readWrite()); !errors.Is(err, client.ErrClosed) {
		t.Errorf("create after close: %v", err)
	}
}
