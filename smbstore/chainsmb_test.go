package smbstore_test

import (
	"bytes"
	"errors"
	"testing"

	"lunless/smbstore"
	"lunless/smbstore/storetest"
)

// TestChainOverSMB opens chains whose parents lie above the store's folder and on
// another share, and merges and rebases them there.
func TestChainOverSMB(t *testing.T) {
	eachServer(t, func(t *testing.T, server *storetest.Server) {
		open := func(share, path string) smbstore.Store {
			t.Helper()
			l := server.Location(path)
			l.Share = share
			s, err := smbstore.Open(t.Context(), l, server.Options())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return s
		}
		root, other := open("vms", ""), open("other", "")
		for _, d := range []string{"gold", "web"} {
			if err := root.MkdirAll(d); err != nil {
				t.Fatal(err)
			}
		}
		web := open("vms", "web")
		put := func(s smbstore.Store, name string, parent smbstore.Location, text string, off int64) {
			t.Helper()
			o := smbstore.CreateDiskOptions{Format: smbstore.VHDX, Size: 8 << 20, BlockSize: 1 << 20, Parent: parent}
			dev, err := smbstore.CreateDisk(t.Context(), s, name, o)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(dev.WriteAt(t.Context(), []byte(text), off, 0), dev.Close()); err != nil {
				t.Fatal(err)
			}
		}
		reads := func(s smbstore.Store, name string, want map[int64]string) {
			t.Helper()
			dev, _, err := smbstore.OpenDisk(t.Context(), s, name, smbstore.DiskOptions{ReadOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			for off, text := range want {
				p := make([]byte, len(text))
				if err := dev.ReadAt(t.Context(), p, off); err != nil || !bytes.Equal(p, []byte(text)) {
					t.Errorf("%s at %d: %q, %v, want %q", name, off, p, err, text)
				}
			}
		}
		none := smbstore.Location{}
		put(other, "far.vhdx", none, "far", 0)
		put(root, "gold/base.vhdx", other.Location().Join("far.vhdx"), "base", 1<<20)
		put(web, "mid.avhdx", root.Location().Join("gold/base.vhdx"), "middle", 2<<20)
		put(web, "leaf.avhdx", web.Location().Join("mid.avhdx"), "leaf", 3<<20)
		want := map[int64]string{0: "far", 1 << 20: "base", 2 << 20: "middle", 3 << 20: "leaf", 5 << 20: "\x00\x00"}
		reads(web, "leaf.avhdx", want)
		reads(smbstore.Sub(root, "web"), "leaf.avhdx", want)

		// In use, with the layers merged one after the other.
		chain, err := smbstore.OpenChain(t.Context(), web, "leaf.avhdx", smbstore.DiskOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := chain.Merge(t.Context(), 1, smbstore.MergeLiveOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := chain.Disk().WriteAt(t.Context(), []byte("live"), 4<<20, 0); err != nil {
			t.Fatal(err)
		}
		want[4<<20] = "live"
		if err := chain.Close(); err != nil {
			t.Fatal(err)
		}
		reads(web, "leaf.avhdx", want)
		if _, err := web.Stat("mid.avhdx"); !errors.Is(err, smbstore.ErrNotExist) {
			t.Errorf("the merged file: %v", err)
		}

		far := smbstore.MergeOptions{Children: []smbstore.Location{web.Location().Join("leaf.avhdx")}}
		if _, err := smbstore.MergeDisk(t.Context(), root, "gold/base.vhdx", far); !errors.Is(err, smbstore.ErrFarParent) {
			t.Errorf("merge into a parent on another share that was not named: %v", err)
		}
		if _, err := smbstore.MergeDisk(t.Context(), root, "gold/base.vhdx", smbstore.MergeOptions{Into: other.Location().Join("far.vhdx"),
			Children: []smbstore.Location{web.Location().Join("leaf.avhdx")}}); err != nil {
			t.Fatal(err)
		}
		reads(web, "leaf.avhdx", want)
		put(root, "gold/new.vhdx", none, "news", 0)
		if _, err := smbstore.RebaseDisk(t.Context(), web, "leaf.avhdx", smbstore.RebaseOptions{Parent: root.Location().Join("gold/new.vhdx")}); err != nil {
			t.Fatal(err)
		}
		if err := other.Remove("far.vhdx"); err != nil {
			t.Fatal(err)
		}
		reads(web, "leaf.avhdx", want)
	})
}
