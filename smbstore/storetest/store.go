package storetest

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

// Test runs the suite in an empty folder of a store, which it leaves dirty.
func Test(t *testing.T, s smbstore.Store) {
	t.Run("names", func(t *testing.T) { testNames(t, s) })
	t.Run("open", func(t *testing.T) { testOpen(t, s) })
	t.Run("io", func(t *testing.T) { testIO(t, s) })
	t.Run("parallel", func(t *testing.T) { testParallel(t, s) })
	t.Run("rename", func(t *testing.T) { testRename(t, s) })
	t.Run("remove", func(t *testing.T) { testRemove(t, s) })
	t.Run("optional", func(t *testing.T) { testOptional(t, s) })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func create(t *testing.T, s smbstore.Store, name string, data []byte) {
	t.Helper()
	f, err := s.OpenFile(name, smbstore.ReadWrite|smbstore.Create|smbstore.Truncate)
	must(t, err)
	_, err = f.WriteAt(data, 0)
	must(t, err)
	must(t, f.Close())
}

func testNames(t *testing.T, s smbstore.Store) {
	names := []string{"plain", "with space", "Ünïcödé", "日本語.vhdx", "emoji 😀", "semi;colon", "per%cent", "a+b&c=d", "{0f8fad5b}"}
	must(t, s.MkdirAll("names/Virtual Hard Disks/ä"))
	must(t, s.MkdirAll("names/Virtual Hard Disks/ä"))
	for _, n := range names {
		create(t, s, "names/Virtual Hard Disks/"+n, []byte(n))
	}
	infos, err := s.ReadDir("names/Virtual Hard Disks")
	must(t, err)
	var got []string
	for _, i := range infos {
		if i.Dir != (i.Name == "ä") {
			t.Errorf("%s: Dir is %v", i.Name, i.Dir)
		}
		if !i.Dir {
			got = append(got, i.Name)
			if i.Size != int64(len(i.Name)) {
				t.Errorf("%s: %d bytes, want %d", i.Name, i.Size, len(i.Name))
			}
		}
	}
	slices.Sort(got)
	slices.Sort(names)
	if !slices.Equal(got, names) {
		t.Errorf("listed %q, want %q", got, names)
	}
	for _, bad := range []string{"../x", "a/../../x", "/x", `a\b`, "a//b", "a:b", "x*", "q?", "nul\x00", "."} {
		_, err := s.OpenFile(bad, smbstore.ReadWrite|smbstore.Create)
		wantErr(t, bad, err, smbstore.ErrBadName)
		_, err = s.Stat(bad)
		wantErr(t, bad, err, smbstore.ErrBadName)
	}
}

func testOpen(t *testing.T, s smbstore.Store) {
	must(t, s.MkdirAll("open/dir"))
	_, err := s.OpenFile("open/none", smbstore.Read)
	wantErr(t, "a missing file", err, smbstore.ErrNotExist)
	_, err = s.OpenFile("open/no/ne", smbstore.ReadWrite|smbstore.Create)
	wantErr(t, "a file in a missing folder", err, smbstore.ErrNotExist)
	if _, err = s.OpenFile("open/dir", smbstore.Read); err == nil {
		t.Error("a folder was opened as a file")
	}
	f, err := s.OpenFile("open/x", smbstore.ReadWrite|smbstore.Create|smbstore.Exclusive)
	must(t, err)
	_, err = s.OpenFile("open/x", smbstore.ReadWrite|smbstore.Create|smbstore.Exclusive)
	wantErr(t, "exclusive create of what exists", err, smbstore.ErrExist)
	_, err = f.WriteAt([]byte("content"), 0)
	must(t, err)
	must(t, f.Close())
	wantErr(t, "second close", f.Close(), block.ErrClosed)
	_, err = f.ReadAt(make([]byte, 1), 0)
	wantErr(t, "read after close", err, block.ErrClosed)
	f, err = s.OpenFile("open/x", smbstore.ReadWrite|smbstore.Truncate)
	must(t, err)
	if n, err := f.Size(); n != 0 || err != nil {
		t.Errorf("truncated to %d, %v", n, err)
	}
	must(t, f.Close())
	_, err = s.OpenFile("open/x", smbstore.Read|smbstore.Create)
	if err == nil {
		t.Error("create without write access")
	}
	if s.DeniesWrite() {
		f, err := s.OpenFile("open/x", smbstore.ReadWrite|smbstore.DenyWrite)
		must(t, err)
		_, err = s.OpenFile("open/x", smbstore.ReadWrite)
		wantErr(t, "write beside deny-write", err, smbstore.ErrSharing)
		r, err := s.OpenFile("open/x", smbstore.Read)
		must(t, err)
		must(t, r.Close())
		must(t, f.Close())
	}
}

func testIO(t *testing.T, s smbstore.Store) {
	f, err := s.OpenFile("io", smbstore.ReadWrite|smbstore.Create)
	must(t, err)
	defer f.Close()
	rnd := rand.New(rand.NewPCG(1, 2))
	model := make([]byte, 9<<20)
	for i := range 40 {
		off := rnd.IntN(len(model) - 1)
		n := min(1+rnd.IntN(3<<20), len(model)-off)
		if i%2 == 0 {
			n = min(1+rnd.IntN(8192), len(model)-off)
		}
		p := model[off : off+n]
		for j := range p {
			p[j] = byte(rnd.Uint32())
		}
		_, err := f.WriteAt(p, int64(off))
		must(t, err)
	}
	must(t, f.Truncate(int64(len(model))))
	must(t, f.Sync())
	got := make([]byte, len(model)+10)
	n, err := f.ReadAt(got, 0)
	if n != len(model) || err != io.EOF || !bytes.Equal(got[:n], model) {
		t.Errorf("read %d bytes of %d, %v; equal %v", n, len(model), err, bytes.Equal(got[:min(n, len(model))], model))
	}
	if n, err := f.ReadAt(got[:5], int64(len(model))); n != 0 || err != io.EOF {
		t.Errorf("read at the end: %d, %v", n, err)
	}
	if n, err := f.ReadAt(got[:5], int64(len(model))+100); n != 0 || err != io.EOF {
		t.Errorf("read past the end: %d, %v", n, err)
	}
	must(t, f.Truncate(100))
	if n, err := f.Size(); n != 100 || err != nil {
		t.Errorf("size %d, %v after truncating to 100", n, err)
	}
	must(t, f.Truncate(1<<30))
	if n, err := f.ReadAt(got[:4096], 1<<30-4096); n != 4096 || err != nil || !block.IsZero(got[:4096]) {
		t.Errorf("the end of a sparse GiB: %d, %v", n, err)
	}
	if st, err := s.Stat("io"); err != nil || st.Size != 1<<30 || st.Dir {
		t.Errorf("stat: %+v, %v", st, err)
	}
}

func testParallel(t *testing.T, s smbstore.Store) {
	f, err := s.OpenFile("parallel", smbstore.ReadWrite|smbstore.Create)
	must(t, err)
	defer f.Close()
	const workers, blocks, size = 16, 24, 64 << 10
	var wg sync.WaitGroup
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			p, q := make([]byte, size), make([]byte, size)
			for b := range blocks {
				for i := range p {
					p[i] = byte(w*31 + b*7 + i)
				}
				off := int64(b*workers+w) * size
				if _, err := f.WriteAt(p, off); err != nil {
					t.Error(err)
					return
				}
				if _, err := f.ReadAt(q, off); err != nil && err != io.EOF || !bytes.Equal(p, q) {
					t.Errorf("worker %d, block %d: read back differs, %v", w, b, err)
					return
				}
			}
		}()
	}
	wg.Wait()
	must(t, f.Sync())
}

func testRename(t *testing.T, s smbstore.Store) {
	must(t, s.MkdirAll("rename/d1/sub"))
	must(t, s.MkdirAll("rename/d2"))
	create(t, s, "rename/a", []byte("a"))
	create(t, s, "rename/b", []byte("bb"))
	must(t, s.Rename("rename/a", "rename/b"))
	if st, err := s.Stat("rename/b"); err != nil || st.Size != 1 {
		t.Errorf("replaced file: %+v, %v", st, err)
	}
	wantErr(t, "rename of a missing file", s.Rename("rename/a", "rename/c"), smbstore.ErrNotExist)
	must(t, s.Rename("rename/b", "rename/d2/b b"))
	wantErr(t, "rename over a folder", s.Rename("rename/d2", "rename/d1"), smbstore.ErrExist)
	must(t, s.Rename("rename/d2", "rename/d3"))
	if st, err := s.Stat("rename/d3/b b"); err != nil || st.Size != 1 {
		t.Errorf("in the renamed folder: %+v, %v", st, err)
	}
	must(t, s.SyncDir("rename"))
}

func testRemove(t *testing.T, s smbstore.Store) {
	must(t, s.MkdirAll("remove/a/b/c"))
	create(t, s, "remove/a/b/f", []byte("x"))
	wantErr(t, "a folder with entries", s.Remove("remove/a"), smbstore.ErrNotEmpty)
	wantErr(t, "the root", s.RemoveAll(""), smbstore.ErrIsRoot)
	wantErr(t, "a missing file", s.Remove("remove/zzz"), smbstore.ErrNotExist)
	must(t, s.RemoveAll("remove/zzz"))
	must(t, s.RemoveAll("remove/a"))
	infos, err := s.ReadDir("remove")
	if err != nil || len(infos) != 0 {
		t.Errorf("left: %v, %v", infos, err)
	}
}

// testOptional tests what a file may offer beyond block.File, if it does.
func testOptional(t *testing.T, s smbstore.Store) {
	data := make([]byte, 20<<20)
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := 0; i < len(data); i += 512 {
		data[i] = byte(1 + rnd.IntN(255))
	}
	create(t, s, "opt-src", data)
	src, err := s.OpenFile("opt-src", smbstore.ReadWrite)
	must(t, err)
	defer src.Close()
	dst, err := s.OpenFile("opt-dst", smbstore.ReadWrite|smbstore.Create)
	must(t, err)
	defer dst.Close()
	if c, ok := dst.(block.RangeCopier); ok {
		n, err := c.CopyFrom(src, 1<<20, 2<<20, 18<<20)
		if !errors.Is(err, block.ErrNotSupported) {
			if err != nil || n != 18<<20 {
				t.Fatalf("CopyFrom: %d, %v", n, err)
			}
			got := make([]byte, 18<<20)
			_, err = dst.ReadAt(got, 2<<20)
			if err != nil && err != io.EOF || !bytes.Equal(got, data[1<<20:19<<20]) {
				t.Errorf("copied range differs, %v", err)
			}
		}
	}
	if p, ok := src.(block.Puncher); ok {
		must(t, p.PunchHole(4<<20, 8<<20))
		got := make([]byte, 8<<20)
		_, err := src.ReadAt(got, 4<<20)
		if err != nil || !block.IsZero(got) {
			t.Errorf("a punched hole does not read as zeroes, %v", err)
		}
	}
	if e, ok := src.(block.Extenter); ok {
		at := int64(0)
		err := e.FileExtents(0, int64(len(data)), func(x block.Extent) error {
			if x.Offset != at || x.Length <= 0 {
				t.Errorf("extent %+v does not continue at %d", x, at)
			}
			at = x.Offset + x.Length
			return nil
		})
		if err != nil || at != int64(len(data)) {
			t.Errorf("extents end at %d, %v", at, err)
		}
	}
}
