package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"lunless/shares"
	"lunless/smbstore/client"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// securities are the ways a connection may be protected.
var securities = map[string]func(*client.Config){
	"2.0.2":      func(c *client.Config) { c.MaxDialect = smb2.Dialect202; c.RequireSigning = true },
	"2.1":        func(c *client.Config) { c.MaxDialect = smb2.Dialect210; c.RequireSigning = true },
	"3.0":        func(c *client.Config) { c.MaxDialect = smb2.Dialect300; c.RequireSigning = true },
	"3.0.2 CCM":  func(c *client.Config) { c.MaxDialect = smb2.Dialect302; c.Encrypt = true },
	"3.1.1 GMAC": func(c *client.Config) { c.RequireSigning = true },
	"3.1.1 CMAC": func(c *client.Config) {
		c.RequireSigning = true
		c.Signing = []smb2.SigningAlgorithm{smb2.SigningAESCMAC}
	},
	"3.1.1 GCM":   func(c *client.Config) { c.Encrypt = true },
	"3.1.1 256":   func(c *client.Config) { c.Encrypt = true; c.Ciphers = []smb2.Cipher{smb2.CipherAES256GCM} },
	"3.1.1 plain": func(c *client.Config) {},
}

func TestFile(t *testing.T) {
	for name, start := range map[string]func(testing.TB) *peer{
		"lunless": func(t testing.TB) *peer {
			return startOurs(t, func(c *shares.Config) { c.Signing = shares.SigningEnabled })
		},
		"samba": func(t testing.TB) *peer {
			return startSamba(t, "server signing = auto", "server min protocol = SMB2_02")
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t)
			for how, change := range securities {
				t.Run(how, func(t *testing.T) {
					cfg := p.config()
					change(&cfg)
					c := dial(t, cfg)
					if g := c.Granted(); cfg.MaxDialect != 0 && g.Dialect != cfg.MaxDialect || g.Encrypted != cfg.Encrypt ||
						g.Signed != (cfg.Encrypt || cfg.RequireSigning) {
						t.Errorf("granted %+v", g)
					}
					testFile(t, mount(t, c))
				})
			}
		})
	}
}

func testFile(t *testing.T, tree *client.Tree) {
	ctx := t.Context()
	f := create(t, tree, "file", readWrite())
	rnd := rand.New(rand.NewPCG(1, 2))
	model := make([]byte, 5<<20)
	for i := range 24 {
		n := 1 + rnd.IntN(3<<20)
		if i%2 == 0 {
			n = 1 + rnd.IntN(9000)
		}
		off := rnd.IntN(len(model) - n)
		for j := off; j < off+n; j++ {
			model[j] = byte(rnd.Uint32())
		}
		if m, err := f.WriteAt(model[off:off+n], int64(off)); m != n || err != nil {
			t.Fatalf("wrote %d of %d: %v", m, n, err)
		}
	}
	must(t, "set the size", f.Truncate(ctx, int64(len(model))))
	must(t, "flush", f.Flush(ctx))
	got := make([]byte, len(model)+100)
	if n, err := f.ReadAt(got, 0); n != len(model) || err != io.EOF || !bytes.Equal(got[:n], model) {
		t.Errorf("read %d of %d bytes, %v, equal: %v", n, len(model), err, bytes.Equal(got[:n], model))
	}
	if n, err := f.ReadAt(got[:4096], 12345); n != 4096 || err != nil || !bytes.Equal(got[:n], model[12345:][:n]) {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if n, err := f.ReadAt(got[:10], int64(len(model))); n != 0 || err != io.EOF {
		t.Errorf("read at the end: %d, %v", n, err)
	}
	if n, err := f.Size(ctx); n != int64(len(model)) || err != nil {
		t.Errorf("size %d, %v", n, err)
	}
	must(t, "close", f.Close())
	if err := f.Close(); err != client.ErrClosed {
		t.Errorf("second close: %v", err)
	}
	if _, err := f.ReadAt(got[:1], 0); err != client.ErrClosed {
		t.Errorf("read after close: %v", err)
	}
	f = create(t, tree, "file", readWrite())
	if i := f.Info(); i.Size != int64(len(model)) || i.Action != smb2.FileOpened {
		t.Errorf("opened again: %+v", i)
	}
	must(t, "delete", f.Delete(ctx, true))
	must(t, "close", f.Close())
	o := readWrite()
	o.Disposition = smb2.FileOpen
	if _, err := tree.Create(ctx, "file", o); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open of a deleted file: %v", err)
	}
}

func TestNames(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		ctx := t.Context()
		tree := mount(t, dial(t, p.config()))
		o := readWrite()
		o.Options, o.Disposition, o.Access = smb2.FileDirectoryFile, smb2.FileCreate, smb2.FileListDirectory|smb2.Synchronize
		dir := create(t, tree, "dir", o)
		if _, err := tree.Create(ctx, "dir", o); !errors.Is(err, fs.ErrExist) {
			t.Errorf("create of what exists: %v", err)
		}
		var want []string
		for _, n := range []string{"a", "Ünïcödé", "emoji 😀", "with space"} {
			must(t, "close", create(t, tree, "dir/"+n, readWrite()).Close())
			want = append(want, n)
		}
		f := create(t, tree, `dir\a`, readWrite())
		must(t, "rename", f.Rename(ctx, "dir/b", false))
		wantStatus(t, "rename to what exists", f.Rename(ctx, "dir/with space", false), smb2.StatusObjectNameCollision)
		must(t, "close", f.Close())
		want[0] = "b"
		var got []string
		must(t, "list", dir.QueryDirectory(ctx, "*", func(e *fscc.DirEntry) error {
			if e.Name != "." && e.Name != ".." {
				got = append(got, e.Name)
			}
			return nil
		}))
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("listed %q, want %q", got, want)
		}
		must(t, "list none", dir.QueryDirectory(ctx, "x*", func(e *fscc.DirEntry) error { t.Errorf("listed %s", e.Name); return nil }))
	})
}

// Share modes (MS-SMB2 2.2.13 ShareAccess).
func TestShareModes(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		tree := mount(t, dial(t, p.config()))
		o := readWrite()
		o.Share = smb2.FileShareRead
		f := create(t, tree, "disk", o)
		_, err := tree.Create(t.Context(), "disk", readWrite())
		wantStatus(t, "write beside deny-write", err, smb2.StatusSharingViolation)
		r := readWrite()
		r.Access = smb2.FileReadData
		must(t, "close", create(t, tree, "disk", r).Close())
		must(t, "close", f.Close())
		must(t, "close", create(t, tree, "disk", readWrite()).Close())
	})
}

// A lock that waits is given up with its context (CANCEL, MS-SMB2 3.2.4.24), and
// granted when the holder unlocks.
func TestLocks(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		ctx := t.Context()
		tree, other := mount(t, dial(t, p.config())), mount(t, dial(t, p.config()))
		a, b := create(t, tree, "x", readWrite()), create(t, other, "x", readWrite())
		r := client.LockRange{Offset: 10, Length: 20, Exclusive: true}
		must(t, "lock", a.Lock(ctx, false, r))
		wantStatus(t, "lock of what is locked", b.Lock(ctx, false, r), smb2.StatusLockNotGranted)
		brief, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		if err := b.Lock(brief, true, r); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a lock that was given up: %v", err)
		}
		granted := make(chan error, 1)
		go func() { granted <- b.Lock(ctx, true, r) }()
		select {
		case err := <-granted:
			t.Fatalf("locked beside another: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
		must(t, "unlock", a.Unlock(ctx, r))
		must(t, "waiting lock", <-granted)
		must(t, "unlock", b.Unlock(ctx, r))
		wantStatus(t, "second unlock", b.Unlock(ctx, r), smb2.StatusRangeNotLocked)
	})
}

func TestControlCodes(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		ctx := t.Context()
		tree := mount(t, dial(t, p.config()))
		f, g := create(t, tree, "src", readWrite()), create(t, tree, "dst", readWrite())
		must(t, "set sparse", f.SetSparse(ctx, true))
		data := bytes.Repeat([]byte("0123456789abcdef"), 3<<20/16)
		_, err := f.WriteAt(data, 0)
		must(t, "write", err)
		must(t, "set the size", f.Truncate(ctx, 64<<20))
		must(t, "zero", f.Zero(ctx, 1<<20, 1<<20))
		list, upTo, err := f.AllocatedRanges(ctx, 0, 64<<20)
		want := []fscc.ByteRange{{Offset: 0, Length: 1 << 20}, {Offset: 2 << 20, Length: 1 << 20}}
		if err != nil || upTo != 64<<20 || !slices.Equal(list, want) {
			t.Errorf("allocated %v up to %d, %v; want %v", list, upTo, err, want)
		}
		n, err := g.CopyChunk(ctx, f, 100, 5, 3<<20-100)
		if n != 3<<20-100 || err != nil {
			t.Fatalf("copied %d, %v", n, err)
		}
		clear(data[1<<20 : 2<<20])
		got := make([]byte, n)
		if _, err := g.ReadAt(got, 5); err != nil || !bytes.Equal(got, data[100:]) {
			t.Errorf("the copy differs, %v", err)
		}
	})
}

func TestChangeNotify(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		ctx := t.Context()
		tree := mount(t, dial(t, p.config()))
		o := client.CreateOptions{Access: smb2.FileListDirectory, Share: 7, Disposition: smb2.FileOpen, Options: smb2.FileDirectoryFile}
		root := create(t, tree, "", o)
		brief, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		if _, err := root.ChangeNotify(brief, smb2.NotifyChangeFileName, false); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("given up: %v", err)
		}
		go func() {
			time.Sleep(50 * time.Millisecond)
			if f, err := tree.Create(ctx, "new", readWrite()); err == nil {
				f.Close()
			}
		}()
		list, err := root.ChangeNotify(ctx, smb2.NotifyChangeFileName, false)
		if err != nil || len(list) != 1 || list[0].Name != "new" || list[0].Action != fscc.FILE_ACTION_ADDED {
			t.Errorf("%+v, %v", list, err)
		}
	})
}

// Many at once share the credit window.
func TestParallel(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		for _, credits := range []int{1, 20, 512} {
			cfg := p.config()
			cfg.MaxCredits = credits
			tree := mount(t, dial(t, cfg))
			f := create(t, tree, "parallel", readWrite())
			const workers, rounds = 16, 6
			var wg sync.WaitGroup
			for w := range workers {
				wg.Add(1)
				go func() {
					defer wg.Done()
					size := 4096
					if w%4 == 0 {
						size = 1<<20 + 777
					}
					a, b := make([]byte, size), make([]byte, size)
					for r := range rounds {
						for i := range a {
							a[i] = byte(w*31 + r*7 + i)
						}
						off := int64(r*workers+w) << 21
						if _, err := f.WriteAt(a, off); err != nil {
							t.Error(err)
							return
						}
						if _, err := f.ReadAt(b, off); err != nil || !bytes.Equal(a, b) {
							t.Errorf("%d credits, worker %d: read back differs, %v", credits, w, err)
							return
						}
					}
				}()
			}
			wg.Wait()
			must(t, "close", f.Close())
		}
	})
}

func TestRefusals(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		cfg := p.config()
		cfg.Credentials.Password = "wrong"
		if _, err := client.Dial(t.Context(), cfg); !errors.Is(err, client.ErrLogon) {
			t.Errorf("a wrong password: %v", err)
		}
		_, err := dial(t, p.config()).TreeConnect(t.Context(), "nosuch")
		wantStatus(t, "no such share", err, smb2.StatusBadNetworkName)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := client.Dial(ctx, p.config()); err == nil {
			t.Error("connected without a context")
		}
	})
}
