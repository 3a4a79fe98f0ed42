package client_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"lunless/shares"
	"lunless/smbstore/client"
	"lunless/smbstore/smb2"
)

// A small file is read with one compound, signed and sealed, and by many at once.
func TestReadWhole(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) { readWhole(t, p) })
	t.Run("sealed", func(t *testing.T) {
		t.Parallel()
		readWhole(t, startOurs(t, func(c *shares.Config) { c.Shares[0].Encrypt = true }))
	})
}

func readWhole(t *testing.T, p *peer) {
	cfg := p.config()
	cfg.MaxCredits = 16 // compounds wait for each other's credits
	tree := mount(t, dial(t, cfg))
	const large = 64<<10 - 1
	for name, size := range map[string]int{"empty": 0, "small": 300, "large": large, "larger": large + 1} {
		if err := os.WriteFile(filepath.Join(p.dir, name), bytes.Repeat([]byte(name[:1]), size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(p.dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	read := func(name string, limit, want int) {
		b, err := tree.ReadWhole(t.Context(), name, limit)
		if err != nil || !bytes.Equal(b, bytes.Repeat([]byte(name[:1]), want)) {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(b), err, want)
		}
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			read("empty", 10, 0)
			read("small", 300, 300)
			read("large", 1<<20, large)
		})
	}
	wg.Wait()
	for name, limit := range map[string]int{"small": 299, "larger": 1 << 20} {
		if _, err := tree.ReadWhole(t.Context(), name, limit); !errors.Is(err, client.ErrTooLarge) {
			t.Errorf("%s, at most %d: %v", name, limit, err)
		}
	}
	for name, want := range map[string]smb2.Status{"absent": smb2.StatusObjectNameNotFound, "folder": smb2.StatusFileIsADirectory} {
		if _, err := tree.ReadWhole(t.Context(), name, 10); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}

// A file is renamed with one compound, which leaves nothing open whatever comes of it.
func TestRenameWhole(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) { renameWhole(t, p) })
	t.Run("sealed", func(t *testing.T) {
		t.Parallel()
		renameWhole(t, startOurs(t, func(c *shares.Config) { c.Shares[0].Encrypt = true }))
	})
}

func renameWhole(t *testing.T, p *peer) {
	tree := mount(t, dial(t, p.config()))
	for _, name := range []string{"one", "two"} {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		from, to string
		replace  bool
		want     error
	}{
		{"one", "two", false, smb2.StatusObjectNameCollision},
		{"one", "two", true, nil},
		{"one", "two", true, smb2.StatusObjectNameNotFound},
		{"two", "absent/three", true, smb2.StatusObjectPathNotFound},
		{"two", "", true, smb2.StatusObjectNameInvalid},
		{"two", "folder/three", true, nil},
	} {
		if c.to == "folder/three" {
			if err := os.Mkdir(filepath.Join(p.dir, "folder"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := tree.RenameWhole(t.Context(), c.from, c.to, c.replace); !errors.Is(err, c.want) {
			t.Errorf("%s to %q: %v, want %v", c.from, c.to, err, c.want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(p.dir, "folder", "three")); err != nil || string(b) != "one" {
		t.Errorf("renamed: %q, %v", b, err)
	}
	for name, want := range map[string]error{"folder/three": nil, "two": smb2.StatusObjectNameNotFound} { // alone: nothing is open
		f, err := tree.Create(t.Context(), name, client.CreateOptions{Access: smb2.FileReadData, Disposition: smb2.FileOpen})
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if err == nil {
			f.Close() //nolint:errcheck // nothing was written
		}
	}
}
