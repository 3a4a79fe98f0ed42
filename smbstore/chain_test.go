package smbstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lunless/smbstore/block"
	"lunless/smbstore/vhdx"
)

// testChain is a chain of small disks with random content.
type testChain struct {
	store  Store
	format Format
	names  []string // the base first
	want   []byte   // what the leaf reads
}

const testDiskSize = 6<<20 + 512*3

// newChain makes a chain in a store: names[0] is the base.
func newChain(t *testing.T, s Store, seed uint64, format Format, names ...string) *testChain {
	t.Helper()
	c := &testChain{store: s, format: format}
	for _, name := range names {
		o := CreateDiskOptions{Format: format, Size: testDiskSize, BlockSize: 1 << 20}
		if len(c.names) > 0 {
			o = CreateDiskOptions{Parent: s.Location().Join(c.leaf())}
		}
		c.add(t, seed, name, o)
	}
	return c
}

func (c *testChain) leaf() string { return c.names[len(c.names)-1] }

// add makes a disk and writes to it.
func (c *testChain) add(t *testing.T, seed uint64, name string, o CreateDiskOptions) {
	t.Helper()
	dev, err := CreateDisk(t.Context(), c.store, name, o)
	if err != nil {
		t.Fatal(err)
	}
	c.names = append(c.names, name)
	if grow := dev.Size() - int64(len(c.want)); grow > 0 {
		c.want = append(c.want, make([]byte, grow)...)
	}
	changeDisk(t, rand.New(rand.NewPCG(seed, uint64(len(c.names)))), dev, c.want, 12)
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
}

// changeDisk makes random changes, and the same in want.
func changeDisk(t *testing.T, rnd *rand.Rand, dev block.Device, want []byte, times int) {
	t.Helper()
	for range times {
		n := 1 + rnd.Int64N(1<<(1+rnd.IntN(20)))
		off := rnd.Int64N(int64(len(want)))
		n = min(n, int64(len(want))-off)
		part := want[off : off+n]
		var err error
		switch rnd.IntN(5) {
		case 0:
			clear(part)
			err = dev.WriteZeroes(t.Context(), off, n, 0)
		default:
			for i := range part {
				part[i] = byte(rnd.Uint32())
			}
			err = dev.WriteAt(t.Context(), part, off, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// checkDisk wants a disk that opens with its chain and reads as want.
func checkDisk(t *testing.T, s Store, name string, want []byte) {
	t.Helper()
	if err := diskReads(t.Context(), s, name, want); err != nil {
		t.Fatal(err)
	}
}

func diskReads(ctx context.Context, s Store, name string, want []byte) error {
	dev, _, err := OpenDisk(ctx, s, name, DiskOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer dev.Close()
	return deviceReads(ctx, dev, want)
}

func deviceReads(ctx context.Context, dev block.Device, want []byte) error {
	if dev.Size() != int64(len(want)) {
		return fmt.Errorf("size is %d, want %d", dev.Size(), len(want))
	}
	got := make([]byte, len(want))
	if err := dev.ReadAt(ctx, got, 0); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		for i := range got {
			if got[i] != want[i] {
				return fmt.Errorf("content differs first at %d", i)
			}
		}
	}
	return nil
}

func localStoreAt(t *testing.T, dir string) Store {
	t.Helper()
	s, err := Open(t.Context(), Location{Path: dir}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var chainFormats = []Format{VHDX, VHD}

func suffixed(format Format, names ...string) []string {
	var all []string
	for _, n := range names {
		all = append(all, n+"."+string(format))
	}
	return all
}

// TestOpenChain opens chains by their leaf, in one folder and several, before and
// after they moved as a whole, and file by file.
func TestOpenChain(t *testing.T) {
	for _, format := range chainFormats {
		t.Run(string(format), func(t *testing.T) {
			dir := t.TempDir()
			s := localStoreAt(t, dir)
			for _, d := range []string{"gold", "web/Snapshots", "web/Virtual Hard Disks"} {
				if err := s.MkdirAll(d); err != nil {
					t.Fatal(err)
				}
			}
			c := newChain(t, s, 1, format, suffixed(format, "gold/base", "web/Virtual Hard Disks/disk0", "web/Snapshots/a", "web/Snapshots/b")...)
			checkDisk(t, s, c.leaf(), c.want)
			// From a store that the parents lie outside of.
			checkDisk(t, localStoreAt(t, filepath.Join(dir, "web", "Snapshots")), filepath.Base(c.leaf()), c.want)

			moved := filepath.Join(t.TempDir(), "elsewhere")
			if err := os.Rename(dir, moved); err != nil {
				t.Fatal(err)
			}
			checkDisk(t, localStoreAt(t, moved), c.leaf(), c.want)

			flat := t.TempDir()
			for _, n := range c.names {
				if err := os.Rename(filepath.Join(moved, n), filepath.Join(flat, strings.ToUpper(filepath.Base(n)))); err != nil {
					t.Fatal(err)
				}
			}
			checkDisk(t, localStoreAt(t, flat), strings.ToUpper(filepath.Base(c.leaf())), c.want)
		})
	}
}

// TestChainExtents: a flattened chain keeps its holes.
func TestChainExtents(t *testing.T) {
	s := localStoreAt(t, t.TempDir())
	base, err := CreateDisk(t.Context(), s, "base.vhdx", CreateDiskOptions{Format: VHDX, Size: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(base.WriteAt(t.Context(), []byte("base"), 1<<39, 0), base.Close()); err != nil {
		t.Fatal(err)
	}
	leaf, err := CreateDisk(t.Context(), s, "leaf.avhdx", CreateDiskOptions{Parent: s.Location().Join("base.vhdx")})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(leaf.WriteAt(t.Context(), []byte("leaf"), 1<<30, 0), leaf.Close()); err != nil {
		t.Fatal(err)
	}
	err = ConvertDisk(t.Context(), ConvertDiskOptions{Source: s.Location().Join("leaf.avhdx"), Destination: s.Location().Join("flat.vhdx")})
	if err != nil {
		t.Fatal(err)
	}
	info, err := InspectDisk(t.Context(), s, "flat.vhdx")
	if err != nil || info.Type != "dynamic" || info.Parent != nil || info.VirtualSize != 1<<40 {
		t.Errorf("flattened: %+v, %v", info, err)
	}
	if info.FileSize > 100<<20 {
		t.Errorf("a flattened chain of two writes has %d bytes", info.FileSize)
	}
	for name, o := range map[string]DiskOptions{"leaf.avhdx": {ReadOnly: true}, "flat.vhdx": {ReadOnly: true}} {
		dev, _, err := OpenDisk(t.Context(), s, name, o)
		if err != nil {
			t.Fatal(err)
		}
		for at, want := range map[int64]string{1 << 39: "base", 1 << 30: "leaf", 1 << 35: "\x00\x00\x00\x00"} {
			p := make([]byte, 4)
			if err := dev.ReadAt(t.Context(), p, at); err != nil || string(p) != want {
				t.Errorf("%s at %d: %q, %v, want %q", name, at, p, err, want)
			}
		}
		dev.Close()
	}
}

// TestChainErrors: what is wrong with a chain, what was tried, and what to do.
func TestChainErrors(t *testing.T) {
	for _, format := range chainFormats {
		base, mid, leaf := "base."+string(format), "mid."+string(format), "leaf."+string(format)
		for _, c := range []struct {
			name   string
			break_ func(t *testing.T, s Store)
			want   error
			text   []string
		}{
			{"missing", func(t *testing.T, s Store) { mustDo(t, s.Rename(base, "other")) }, ErrNoParent,
				[]string{mid, `(relative path .\` + base + `): no such file`, "lunless disk rebase --unsafe --parent PARENT"}},
			{"of another format", func(t *testing.T, s Store) {
				mustDo(t, s.Remove(base))
				mustDo(t, WriteFile(s, base, make([]byte, 1<<20)))
			}, ErrFormat, []string{base, "it is raw"}},
			{"another disk", func(t *testing.T, s Store) {
				mustDo(t, s.Remove(base))
				newChain(t, s, 7, format, base)
			}, ErrParentChanged, []string{base, "its identity is", "the child names"}},
			{"a folder", func(t *testing.T, s Store) {
				mustDo(t, s.Remove(base))
				mustDo(t, s.Mkdir(base))
			}, nil, []string{mid, base}},
		} {
			t.Run(string(format)+" "+c.name, func(t *testing.T) {
				s := localStoreAt(t, t.TempDir())
				newChain(t, s, 1, format, base, mid, leaf)
				c.break_(t, s)
				_, _, err := OpenDisk(t.Context(), s, leaf, DiskOptions{})
				var pe *ParentError
				if err == nil || !errors.As(err, &pe) || c.want != nil && !errors.Is(err, c.want) {
					t.Fatalf("got %v, want %v", err, c.want)
				}
				for _, text := range c.text {
					if !strings.Contains(err.Error(), text) {
						t.Errorf("the error does not say %q: %v", text, err)
					}
				}
				for _, n := range []string{mid, leaf} { // nothing is left open
					f, err := s.OpenFile(n, ReadWrite|DenyWrite)
					if err != nil {
						t.Fatal(err)
					}
					f.Close()
				}
				if info, err := InspectDisk(t.Context(), s, mid); err != nil || info.Parent == nil || info.ParentError == "" || info.ParentLocation != nil {
					t.Errorf("info of the child of a missing parent: %+v, %v", info, err)
				}
				if _, r, err := CheckDisk(t.Context(), s, leaf); err != nil || r.Clean() || len(r.Parents) != 1 || !strings.Contains(r.ChainError, mid) {
					t.Errorf("check of a broken chain: %+v, %v", r, err)
				}
			})
		}
	}
}

// A parent that is in use is where it should be: nobody is sent to look for it.
func TestParentInUse(t *testing.T) {
	s := localStoreAt(t, t.TempDir())
	newChain(t, s, 1, VHDX, "base.vhdx", "leaf.vhdx")
	f, err := s.OpenFile("base.vhdx", ReadWrite|DenyWrite)
	mustDo(t, err)
	defer f.Close()
	_, _, err = OpenDisk(t.Context(), s, "leaf.vhdx", DiskOptions{DenyWrite: true})
	if !errors.Is(err, ErrSharing) {
		t.Fatalf("got %v, want ErrSharing", err)
	}
	for _, text := range []string{"names no place", "rebase"} {
		if strings.Contains(err.Error(), text) {
			t.Errorf("the error says %q: %v", text, err)
		}
	}
}

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// craft makes a VHDX whose parent it says is at a place, whatever is there.
func craft(t *testing.T, s Store, name string, link vhdx.ParentLink) vhdx.GUID {
	t.Helper()
	f, err := s.OpenFile(name, ReadWrite|Create|Truncate)
	if err != nil {
		t.Fatal(err)
	}
	d, err := vhdx.Create(f, vhdx.CreateOptions{Size: 1 << 20, BlockSize: 1 << 20, Parent: &link, ParentDevice: block.NewMem(1 << 20)})
	if err != nil {
		t.Fatal(err)
	}
	id := d.Info().DataWriteGUID
	mustDo(t, d.Close())
	return id
}

// TestChainLoops: a disk that is its own parent, at once or through another, and
// chains beyond the bound, are refused.
func TestChainLoops(t *testing.T) {
	s := localStoreAt(t, t.TempDir())
	some := vhdx.GUID{1}
	craft(t, s, "self.vhdx", vhdx.ParentLink{Linkage: some, Relative: `.\self.vhdx`})
	mustDo(t, os.Link(filepath.Join(s.Location().Path, "self.vhdx"), filepath.Join(s.Location().Path, "again.vhdx")))
	craft(t, s, "hard.vhdx", vhdx.ParentLink{Linkage: some, Relative: `.\self.vhdx`})
	a := craft(t, s, "a.vhdx", vhdx.ParentLink{Linkage: some, Relative: `.\b.vhdx`})
	b := craft(t, s, "b.vhdx", vhdx.ParentLink{Linkage: a, Relative: `.\a.vhdx`})
	f, err := s.OpenFile("a.vhdx", ReadWrite)
	mustDo(t, err)
	d, err := vhdx.Open(f, vhdx.OpenOptions{Parent: block.NewMem(1 << 20)})
	mustDo(t, err)
	mustDo(t, d.Relink(t.Context(), vhdx.ParentLink{Linkage: b, Relative: `.\b.vhdx`}))
	mustDo(t, d.Close())
	for _, name := range []string{"self.vhdx", "again.vhdx", "a.vhdx", "b.vhdx"} {
		if _, _, err := OpenDisk(t.Context(), s, name, DiskOptions{ReadOnly: true}); !errors.Is(err, ErrChainLoop) {
			t.Errorf("%s: %v", name, err)
		}
	}
	deep := newPowerStore()
	below := func(i int) string { return fmt.Sprintf("%03d.vhdx", i) }
	base := newDisk(t, deep, below(0))
	for i := 1; i <= maxDepth; i++ {
		base = craft(t, deep, below(i), vhdx.ParentLink{Linkage: base, Relative: `.\` + below(i-1)})
	}
	if dev, _, err := OpenDisk(t.Context(), deep, below(maxDepth-1), DiskOptions{}); err != nil {
		t.Errorf("a chain of %d: %v", maxDepth, err)
	} else {
		mustDo(t, dev.Close())
	}
	if _, _, err := OpenDisk(t.Context(), deep, below(maxDepth), DiskOptions{ReadOnly: true}); !errors.Is(err, ErrChainDepth) {
		t.Errorf("a chain of %d: %v", maxDepth+1, err)
	}
	if _, err := CreateDisk(t.Context(), deep, "one-more.vhdx", CreateDiskOptions{Parent: deep.Location().Join(below(maxDepth - 1))}); !errors.Is(err, ErrChainDepth) {
		t.Errorf("a child for a chain of %d: %v", maxDepth, err)
	}
}

// newDisk makes a VHDX of 1 MiB and returns its identity.
func newDisk(t *testing.T, s Store, name string) vhdx.GUID {
	t.Helper()
	dev, err := CreateDisk(t.Context(), s, name, CreateDiskOptions{Format: VHDX, Size: 1 << 20, BlockSize: 1 << 20})
	mustDo(t, err)
	id := dev.(*vhdx.Disk).Info().DataWriteGUID
	mustDo(t, dev.Close())
	return id
}

// TestCreateChild: what a parent may be, and what its child is.
func TestCreateChild(t *testing.T) {
	s := localStoreAt(t, t.TempDir())
	newDisk(t, s, "base.vhdx")
	mustDo(t, WriteFile(s, "raw.img", make([]byte, 1<<20)))
	at := s.Location().Join
	for name, c := range map[string]struct {
		o    CreateDiskOptions
		want error
	}{
		"raw parent":     {CreateDiskOptions{Parent: at("raw.img")}, ErrFormat},
		"other format":   {CreateDiskOptions{Format: VHD, Parent: at("base.vhdx")}, ErrFormat},
		"fixed":          {CreateDiskOptions{Parent: at("base.vhdx"), Fixed: true}, vhdx.ErrBadOptions},
		"smaller":        {CreateDiskOptions{Parent: at("base.vhdx"), Size: 1<<20 - 512}, vhdx.ErrBadOptions},
		"missing parent": {CreateDiskOptions{Parent: at("missing.vhdx")}, ErrNotExist},
	} {
		if _, err := CreateDisk(t.Context(), s, "child.vhdx", c.o); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if _, err := s.Stat("child.vhdx"); !errors.Is(err, ErrNotExist) {
			t.Fatalf("%s: something is left: %v", name, err)
		}
	}
	dev, err := CreateDisk(t.Context(), s, "child.vhdx", CreateDiskOptions{Parent: at("base.vhdx"), Size: 3 << 20})
	mustDo(t, err)
	mustDo(t, dev.Close())
	chain, err := InspectChain(t.Context(), s, "child.vhdx")
	mustDo(t, err)
	if len(chain) != 2 || chain[0].Type != "differencing" || chain[0].VirtualSize != 3<<20 || *chain[0].Parent != `.\base.vhdx` ||
		!chain[0].ParentLocation.Equal(at("base.vhdx")) || chain[0].BlockSize != 1<<20 || chain[1].Parent != nil {
		t.Errorf("chain: %+v", chain)
	}
	// A parent that was written to no longer fits, and the child says so.
	base, _, err := OpenDisk(t.Context(), s, "base.vhdx", DiskOptions{})
	mustDo(t, err)
	mustDo(t, errors.Join(base.WriteAt(t.Context(), []byte("x"), 0, 0), base.Close()))
	if _, _, err := OpenDisk(t.Context(), s, "child.vhdx", DiskOptions{ReadOnly: true}); !errors.Is(err, ErrParentChanged) {
		t.Errorf("over a parent that was written to: %v", err)
	}
}

// TestFreshenLink: a VHDX whose parent was found by its name alone learns its
// place when it is opened for writing, and only then.
func TestFreshenLink(t *testing.T) {
	s := localStoreAt(t, t.TempDir())
	mustDo(t, s.Mkdir("a"))
	c := newChain(t, s, 3, VHDX, "a/base.vhdx", "leaf.vhdx")
	mustDo(t, s.Rename("a/base.vhdx", "base.vhdx"))
	stored := func() string {
		t.Helper()
		i, err := InspectDisk(t.Context(), s, "leaf.vhdx")
		mustDo(t, err)
		return *i.Parent
	}
	checkDisk(t, s, "leaf.vhdx", c.want)
	if got := stored(); got != `.\a\base.vhdx` {
		t.Errorf("after an open for reading the path is %s", got)
	}
	dev, _, err := OpenDisk(t.Context(), s, "leaf.vhdx", DiskOptions{})
	mustDo(t, err)
	mustDo(t, dev.Close())
	if got := stored(); got != `.\base.vhdx` {
		t.Errorf("after an open for writing the path is %s", got)
	}
	checkDisk(t, s, "leaf.vhdx", c.want)
}

// TestOtherServers: a server that only a disk names is asked if the user wants it.
func TestOtherServers(t *testing.T) {
	dir := t.TempDir()
	s := localStoreAt(t, dir)
	craft(t, s, "leaf.vhdx", vhdx.ParentLink{Linkage: vhdx.GUID{1}, Absolute: `\\?\UNC\127.0.0.1\vms\base.vhdx`})
	_, _, err := OpenDisk(t.Context(), s, "leaf.vhdx", DiskOptions{ReadOnly: true})
	if !errors.Is(err, ErrNoParent) || !strings.Contains(err.Error(), "--other-servers") {
		t.Errorf("without leave: %v", err)
	}
	willing, err := Open(t.Context(), Location{Path: dir}, Options{OtherServers: true, Credentials: &Credentials{User: "u", Password: "p"}})
	mustDo(t, err)
	if _, _, err = OpenDisk(t.Context(), willing, "leaf.vhdx", DiskOptions{ReadOnly: true}); strings.Contains(err.Error(), "--other-servers") {
		t.Errorf("with leave: %v", err)
	}
}

// TestImportChain: a home made from a differencing disk has the whole content.
func TestImportChain(t *testing.T) {
	s := localStoreAt(t, t.TempDir())
	c := newChain(t, s, 2, VHDX, "base.vhdx", "leaf.avhdx")
	storage := localStoreAt(t, t.TempDir())
	h, err := ImportHome(t.Context(), storage, "web1", ImportOptions{Image: s.Location().Join("leaf.avhdx")})
	mustDo(t, err)
	disk := DisksDir + "/disk0.vhdx"
	info, err := InspectDisk(t.Context(), h.Store(), disk)
	if err != nil || info.Type != "dynamic" || info.Parent != nil {
		t.Errorf("%+v, %v", info, err)
	}
	checkDisk(t, h.Store(), disk, c.want)
}

// TestParentTime: a VHD's parent whose file has another time is worth a note, and
// no more.
func TestParentTime(t *testing.T) {
	s := localStoreAt(t, t.TempDir())
	c := newChain(t, s, 2, VHD, "base.vhd", "leaf.vhd")
	notes := func() int {
		t.Helper()
		_, r, err := CheckDisk(t.Context(), s, "leaf.vhd")
		if err != nil || !r.Clean() {
			t.Fatalf("%+v, %v", r, err)
		}
		return len(r.Findings)
	}
	if n := notes(); n != 0 {
		t.Errorf("%d notes on a new chain", n)
	}
	old := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	mustDo(t, os.Chtimes(filepath.Join(s.Location().Path, "base.vhd"), old, old))
	if n := notes(); n != 1 {
		t.Errorf("%d notes on a parent of another time", n)
	}
	checkDisk(t, s, "leaf.vhd", c.want)
}
