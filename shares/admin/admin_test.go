package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseShare(t *testing.T) {
	for in, want := range map[string]Share{
		"vms=/srv/vms":            {Name: "vms", Path: "/srv/vms"},
		"v m=/srv/a=b,encrypt,ro": {Name: "v m", Path: "/srv/a=b", Encrypt: true, ReadOnly: true},
		"x$=/x":                   {Name: "x$", Path: "/x"},
		"vms=/x,ca":               {Name: "vms", Path: "/x", ContinuouslyAvailable: true},
		"vms=/x,abe":              {Name: "vms", Path: "/x", AccessBased: true},
	} {
		got, err := ParseShare(in)
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("%s: %v %s", in, err, d)
		}
	}
	for _, in := range []string{"", "vms", "=/x", "vms=", "a/b=/x", "ipc$=/x", "vms=/x,encrpt", strings.Repeat("n", 81) + "=/x", "a\tb=/x"} {
		if _, err := ParseShare(in); !errors.Is(err, ErrBadShare) {
			t.Errorf("%q: %v, want ErrBadShare", in, err)
		}
	}
}

func TestConfig(t *testing.T) {
	c, err := ParseConfig("f", []byte(`
listen = ["127.0.0.1:1445"]
signing = "required"
[log]
level = "debug"
[[share]]
name = "vms"
path = "/srv/vms"
encrypt = true
access_based_enumeration = true
grant = ["hv:full", "BUILTIN\\Users:read"]
`))
	if err != nil || len(c.Shares) != 1 || !c.Shares[0].Encrypt || !c.Shares[0].AccessBased || len(c.Shares[0].Grants) != 2 ||
		c.Shares[0].Grants[1] != (Grant{`BUILTIN\Users`, AccessRead}) || c.Log.Level != "debug" {
		t.Fatalf("%+v %v", c, err)
	}
	for bad, want := range map[string]string{
		"[[share]]\nname=\"a\"\npath=\"/a\"\nencrpyt=true": "line 4: unknown key share.encrpyt",
		"listen = 5":             "line 1",
		"listen = [\"nowhere\"]": "no host:port",
		"[[share]]\nname=\"a\"\npath=\"/a\"\n[[share]]\nname=\"A\"\npath=\"/b\"": "serves both",
		"[limits]\nconnections=-1":                                 "negative",
		"listen = [\"127.0.0.1:99999\"]":                           "from 0 to 65535",
		"metrics = \"9445\"":                                       "no host:port",
		"min_dialect = \"1.0\"":                                    "2.0.2, 2.1, 3.0",
		"signing = \"off\"":                                        "required and enabled",
		"server_name = \"more-than-15-bytes\"":                     "NetBIOS",
		"[log]\nlevel=\"loud\"":                                    "no log level",
		"[log]\nformat=\"xml\"":                                    "no log format",
		"[[share]]\nname=\"a\"\npath=\"/a\"\ngrant=[\"hv:write\"]": "read, change and full",
		"[[share]]\nname=\"a\"\npath=\"/a\"\ngrant=[\"hv\"]":       "WHO:read",
	} {
		if _, err := ParseConfig("f", []byte(bad)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q in it", bad, err, want)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("listen=[\"a:1\"]\n[[share]]\nname=\"x\"\npath=\"y\""))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = ParseConfig("fuzz", b) })
}

func TestCatalogue(t *testing.T) {
	dir := t.TempDir()
	c, err := OpenCatalogue(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Create(Share{Name: "vms", Path: dir}); err != nil {
		t.Fatal(err)
	}
	if err := c.Create(Share{Name: "VMS", Path: dir}); !errors.Is(err, ErrShareTaken) {
		t.Errorf("second of that name: %v", err)
	}
	if err := c.Create(Share{Name: "x", Path: filepath.Join(dir, "missing")}); err == nil {
		t.Error("a share without a folder was taken")
	}
	if err := c.Set("Vms", func(s *Share) error { s.Encrypt = true; return nil }); err != nil {
		t.Error(err)
	}
	if s, err := c.Get("vms"); err != nil || !s.Encrypt {
		t.Errorf("%+v %v", s, err)
	}
	if err := c.Remove("vms"); err != nil {
		t.Error(err)
	}
	if _, err := c.Get("vms"); !errors.Is(err, ErrNoShare) {
		t.Errorf("after removal: %v", err)
	}
	if err := os.WriteFile(c.file(), []byte(`{"version":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Create(Share{Name: "y", Path: dir}); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("a newer file must not be overwritten: %v", err)
	}
}

func TestCatalogueKeepsConcurrentChanges(t *testing.T) {
	dir, path := t.TempDir(), t.TempDir()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			c, err := OpenCatalogue(dir)
			if err == nil {
				err = c.Create(Share{Name: fmt.Sprint("s", i), Path: path})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	c, _ := OpenCatalogue(dir)
	if shares, err := c.List(); err != nil || len(shares) != 16 {
		t.Errorf("%d shares, %v", len(shares), err)
	}
}

func TestWatch(t *testing.T) {
	dir := t.TempDir()
	c, _ := OpenCatalogue(t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := make(chan []Share, 1)
	watching := make(chan struct{})
	go func() { close(watching); c.Watch(ctx, func(s []Share) { seen <- s }, func(err error) { t.Error(err) }) }()
	<-watching
	// Created again until noticed: the watcher may take its first look after the first create.
	for i := 0; ; i++ {
		if err := c.Create(Share{Name: fmt.Sprint("s", i), Path: dir}); err != nil {
			t.Fatal(err)
		}
		select {
		case s := <-seen:
			if len(s) == 0 {
				t.Error("an empty list")
			}
			return
		case <-t.Context().Done():
			t.Fatal("never noticed")
		case <-time.After(time.Second):
		}
	}
}

// A share must not hold the data folder, by whatever name: its users would have
// the passwords of all.
func TestSharesApartFromData(t *testing.T) {
	root := t.TempDir()
	data := filepath.Join(root, "etc", "lunless")
	link := filepath.Join(t.TempDir(), "link")
	beside, below := filepath.Join(root, "vms"), filepath.Join(data, "vms")
	for _, dir := range []string{beside, below} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(root, link); err != nil {
		t.Fatal(err)
	}
	c, err := OpenCatalogue(data)
	if err != nil {
		t.Fatal(err)
	}
	for path, refused := range map[string]bool{root: true, data: true, filepath.Join(root, "etc"): true, link: true,
		"/": true, beside: false, below: false} {
		s := Share{Name: "s" + strings.ReplaceAll(path, "/", "-"), Path: path}
		err := c.Create(s)
		if errors.Is(err, ErrBadShare) != refused || !refused && err != nil {
			t.Errorf("create a share of %s: %v", path, err)
		}
		n, err := NewNode(Config{Data: data, Shares: []Share{{Name: "x", Path: path}}}, slog.New(slog.DiscardHandler))
		if errors.Is(err, ErrBadShare) != refused || !refused && err != nil {
			t.Errorf("serve %s: %v", path, err)
		}
		if err == nil {
			if err := n.server.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
}
