package powerfs

import (
	"errors"
	"math/rand/v2"
	"testing"

	"lunless/shares/fs"
	"lunless/shares/fs/fstest"
)

func TestConformance(t *testing.T) {
	fstest.Run(t, func(t *testing.T) fs.FS {
		f := New()
		t.Cleanup(func() { f.Close() })
		return f
	})
}

// cuts makes many cuts and gives what is left of each to look.
func cuts(t *testing.T, f *FS, look func(left *FS)) {
	t.Helper()
	for seed := range uint64(300) {
		look(f.Cut(rand.New(rand.NewPCG(seed, 0)), nil))
	}
}

func (f *FS) has(t *testing.T, name string) (content string, ok bool) {
	t.Helper()
	g, err := f.Open(t.Context(), name, fs.ReadData)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPathNotExist) {
		return "", false
	}
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	b := make([]byte, 1<<20)
	n, err := g.ReadAt(b, 0)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n]), true
}

func create(t *testing.T, f *FS, name string, dir bool) fs.File {
	t.Helper()
	g, err := f.Create(t.Context(), name, fs.CreateOptions{Dir: dir, Access: fs.ReadData | fs.WriteData, SecurityDescriptor: []byte("sd")})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// What is flushed is there after every cut; what is not is sometimes there.
func TestCutKeepsWhatIsFlushed(t *testing.T) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	f := New()
	must(f.SyncParent(ctx, create(t, f, "X", true)))
	must(f.SyncParent(ctx, create(t, f, "Y", true)))
	full, noName, noData := create(t, f, "X/full", false), create(t, f, "X/noname", false), create(t, f, "Y/nodata", false)
	for _, g := range []fs.File{full, noName, noData} {
		_, err := g.WriteAt([]byte("data"), 0)
		must(err)
	}
	must(full.Sync(ctx))
	must(noName.Sync(ctx))
	must(f.SyncParent(ctx, noData))
	count := map[string]int{}
	cuts(t, f, func(left *FS) {
		for _, name := range []string{"X/full", "X/noname", "Y/nodata"} {
			if content, ok := left.has(t, name); ok {
				count[name]++
				if content == "data" {
					count[name+" full"]++
				}
			}
		}
	})
	if n := count["X/noname"]; n == 0 || n == 300 || count["X/noname full"] != n {
		t.Errorf("a flushed file without a flushed name: %v", count)
	}
	if n := count["Y/nodata full"]; count["Y/nodata"] != 300 || n == 0 || n == 300 {
		t.Errorf("a flushed name without flushed data: %v", count)
	}
	must(f.SyncParent(ctx, full))
	cuts(t, f, func(left *FS) {
		if content, _ := left.has(t, "X/full"); content != "data" {
			t.Errorf("a flushed file with a flushed name holds %q", content)
		}
	})

	// A rename happens as a whole, and for good once both folders are flushed.
	must(f.Rename(ctx, full, "Y/moved", false))
	at := map[string]int{}
	cuts(t, f, func(left *FS) {
		_, old := left.has(t, "X/full")
		_, moved := left.has(t, "Y/moved")
		if old == moved {
			t.Errorf("renamed: at the old name %v, at the new one %v", old, moved)
		}
		if moved {
			at["new"]++
		}
	})
	if at["new"] == 0 || at["new"] == 300 {
		t.Errorf("renamed in %d cuts of 300", at["new"])
	}
	must(f.SyncParent(ctx, full))
	cuts(t, f, func(left *FS) {
		if _, moved := left.has(t, "Y/moved"); !moved {
			t.Error("a flushed rename is lost")
		}
	})

	// A delete too.
	must(f.Remove(ctx, full))
	must(f.SyncParent(ctx, full))
	cuts(t, f, func(left *FS) {
		if _, there := left.has(t, "Y/moved"); there {
			t.Error("a flushed delete is lost")
		}
	})
}

// What a cut leaves is a share like another, all of it on stable storage.
func TestCutLeavesAShare(t *testing.T) {
	f := New()
	g := create(t, f, "a", false)
	if _, err := g.WriteAt([]byte("one"), 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(g.Sync(t.Context()), f.SyncParent(t.Context(), g)); err != nil {
		t.Fatal(err)
	}
	cuts(t, f, func(left *FS) {
		h, err := left.Open(t.Context(), "a", fs.WriteData)
		if err != nil {
			t.Fatal(err)
		}
		if h.ID() != g.ID() {
			t.Errorf("ID %v, was %v", h.ID(), g.ID())
		}
		if sd, err := h.SecurityDescriptor(t.Context()); string(sd) != "sd" || err != nil {
			t.Errorf("security descriptor %q, %v", sd, err)
		}
		if n := create(t, left, "b", false); n.ID() == h.ID() {
			t.Error("an ID was given twice")
		}
		again := left.Cut(rand.New(rand.NewPCG(1, 1)), nil)
		if content, _ := again.has(t, "a"); content != "one" {
			t.Errorf("after the second cut: %q", content)
		}
	})
}
