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
