//go:build !race

package smbstore_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

// interopChain is a chain of ours in one folder, with what it must hold.
type interopChain struct {
	t     testing.TB
	s     smbstore.Store
	form  smbstore.Format
	raw   string
	m     block.Device
	names []string // the leaf first
}

// newChain makes the root.
func newChain(t testing.TB, s shape) *interopChain {
	t.Helper()
	dir := t.TempDir()
	store, err := smbstore.OpenPath(t.Context(), dir, smbstore.Options{})
	must(t, err)
	c := &interopChain{t: t, s: store, form: s.format, raw: filepath.Join(dir, "model.raw"), names: []string{"root." + string(s.format)}}
	d := s.create(t, c.path(0))
	c.m = model(t, c.raw, s.size)
	scatter(t, 1, d, c.m)
	must(t, d.Close())
	return c
}

func (c *interopChain) path(i int) string { return filepath.Join(c.s.Location().Path, c.names[i]) }

func (c *interopChain) chain() (paths []string) {
	for i := range c.names {
		paths = append(paths, c.path(i))
	}
	return paths
}

// add makes a child of the leaf and writes to it: data, zeroes over the parent's
// data, data over zeroes.
func (c *interopChain) add(name string, blockSize int64) {
	c.t.Helper()
	d, err := smbstore.CreateDisk(c.t.Context(), c.s, name, smbstore.CreateDiskOptions{
		Parent: c.s.Location().Join(c.names[0]), BlockSize: blockSize})
	must(c.t, err)
	c.names = append([]string{name}, c.names...)
	c.work(d)
}

// work changes the leaf and closes it. What is written to a VHD's child begins
// and ends at whole bytes of its sector bitmap: where one sector of a byte is the
// child's, libvhdi takes those after it for the child's too.
func (c *interopChain) work(d block.Device) {
	c.t.Helper()
	unit := int64(1)
	if c.form == smbstore.VHD {
		unit = 4096
	}
	scatterBy(c.t, unit, uint64(len(c.names))+100, d, c.m)
	at := d.Size() / 2 / 4096 * 4096
	for _, dev := range []block.Device{d, c.m} {
		must(c.t, dev.WriteZeroes(c.t.Context(), at, min(at/2, 3*mib+512)/unit*unit, 0))
		must(c.t, dev.WriteAt(c.t.Context(), []byte("over zeroes"), at+700, 0))
	}
	must(c.t, c.m.Flush(c.t.Context()))
	must(c.t, d.Close())
}

// judge has us and libvhdi read the chain, and libvhdi find the leaf's parent by
// name and identifier.
func (c *interopChain) judge() {
	c.t.Helper()
	for i := range c.names {
		mustBeSound(c.t, c.path(i), c.form, false)
	}
	if len(c.names) == 1 {
		sameContent(c.t, c.raw, c.form, c.m.Size(), false, true, c.path(0))
		return
	}
	in, parent := askVHDI(c.t, c.path(0)), askVHDI(c.t, c.path(1))
	if in.Type != "differencing" || in.Size != c.m.Size() || in.ParentID != parent.ID || !strings.HasSuffix(in.ParentName, c.names[1]) {
		c.t.Errorf("libvhdi says %+v, of the parent %+v", in, parent)
	}
	// libvhdi cannot read a disk past the end of its parent.
	sameContent(c.t, c.raw, c.form, c.m.Size(), false, parent.Size >= in.Size, c.chain()...)
}

func chainShapes() []shape {
	const x, v = smbstore.VHDX, smbstore.VHD
	return []shape{
		{x, 9*mib + 512, mib, 512, false}, {x, 24 * mib, 32 * mib, 512, true}, {x, 9*mib + 4096, mib, 4096, false},
		{x, 100 * gib, 2 * mib, 512, false}, {x, 5*gib + 512, 256 * mib, 512, false},
		{v, 9*mib + 1536, 512 << 10, 512, false}, {v, 20 * mib, 0, 512, true},
	}
}

// TestInteropChains: libvhdi reads chains of ours, as they are made, moved,
// relinked, grown and merged.
func TestInteropChains(t *testing.T) {
	for _, s := range chainShapes() {
		t.Run(s.String(), func(t *testing.T) { // not in parallel: a program being started holds the locks of files closed meanwhile
			c := newChain(t, s)
			ext := ".a" + string(s.format)
			c.add("one"+ext, 0)
			c.add("two"+ext, map[smbstore.Format]int64{smbstore.VHDX: mib, smbstore.VHD: 2 * mib}[s.format])
			c.judge()
			c.add("three"+ext, 0)
			c.judge()

			// The middle one gets another name, and the leaf is told.
			must(t, os.Rename(c.path(1), c.path(1)+".moved"+ext))
			c.names[1] += ".moved" + ext
			_, err := smbstore.RebaseDisk(t.Context(), c.s, c.names[0], smbstore.RebaseOptions{
				Parent: c.s.Location().Join(c.names[1]), Unsafe: true})
			must(t, err)
			c.judge()

			if s.format == smbstore.VHDX { // grows beyond its parents
				size := c.m.Size() + 20*mib
				_, err = smbstore.ResizeDisk(t.Context(), c.s, c.names[0], smbstore.ResizeOptions{Size: size})
				must(t, err)
				must(t, c.m.Close())
				c.m = model(t, c.raw, size)
				c.work(open(t, c.path(0)))
				c.judge()
			}

			// The middle ones go into their parents, then the leaf does.
			for len(c.names) > 1 {
				i := len(c.names) - 2
				o := smbstore.MergeOptions{}
				if i > 0 {
					o.Children = []smbstore.Location{c.s.Location().Join(c.names[i-1])}
				}
				_, err := smbstore.MergeDisk(t.Context(), c.s, c.names[i], o)
				must(t, err)
				c.names = append(c.names[:i], c.names[i+1:]...)
				c.judge()
			}
			if s.sector == 512 {
				mustBeSound(t, c.path(0), s.format, true)
				sameContent(t, c.raw, s.format, c.m.Size(), true, true, c.path(0))
			}
			must(t, c.m.Close())
		})
	}
}

// TestInteropRebase: a child of one disk becomes that of another, with its content.
func TestInteropRebase(t *testing.T) {
	for _, s := range []shape{{smbstore.VHDX, 9*mib + 512, mib, 512, false}, {smbstore.VHD, 9*mib + 512, 512 << 10, 512, false}} {
		t.Run(s.String(), func(t *testing.T) {
			c := newChain(t, s)
			other := filepath.Join(c.s.Location().Path, "other."+string(s.format))
			d := s.create(t, other)
			scatter(t, 7, d)
			must(t, d.Close())
			c.add("leaf."+string(s.format), 0)
			_, err := smbstore.RebaseDisk(t.Context(), c.s, c.names[0], smbstore.RebaseOptions{Parent: c.s.Location().Join(filepath.Base(other))})
			must(t, err)
			c.names[1] = filepath.Base(other)
			c.judge()
			must(t, c.m.Close())
		})
	}
}

// TestInteropLimits pins what the README says that the peers make of what they do
// not know: it is to be said otherwise once a version of theirs does better.
func TestInteropLimits(t *testing.T) {
	for _, format := range []smbstore.Format{smbstore.VHDX, smbstore.VHD} {
		c := newChain(t, shape{format, 9*mib + 512, 2 * mib, 512, false})
		c.add("leaf."+string(format), 0)
		parts := windows(c.m.Size())
		want, err := deviceHash(t, c.m, parts)
		must(t, err)
		got, err := byQEMU(t, qemuName(format), c.path(0), parts)
		if refused := format == smbstore.VHDX; (err != nil) != refused || got == want {
			t.Errorf("qemu-img reads a differencing %s: right %v, %v; we say that it refuses a VHDX and reads a VHD as if it had no parent", format, got == want, err)
		}
		if _, err = byVHDI(t, parts, c.path(0)); err == nil {
			t.Errorf("libvhdi reads a differencing %s without its parent", format)
		}
		other := filepath.Join(c.s.Location().Path, "other."+string(format))
		must(t, shape{format, c.m.Size(), 2 * mib, 512, false}.create(t, other).Close())
		if _, err = byVHDI(t, parts, c.path(0), other); err == nil {
			t.Errorf("libvhdi takes another %s for the parent: then our identifiers are not what it goes by", format)
		}
	}
	partlyRead(t)
	img := filepath.Join(t.TempDir(), "a.vhdx")
	must(t, shape{smbstore.VHDX, 9 * mib, mib, 4096, false}.create(t, img).Close())
	if _, err := byQEMU(t, "vhdx", img, windows(9*mib)); err == nil {
		t.Error("qemu-img reads a VHDX with 4096-byte sectors")
	}
	dirty := sample(t, "qemu-dirty-log.vhdx")
	want, err := ours(t, dirty, windows(20*mib))
	must(t, err)
	if got, err := byVHDI(t, windows(20*mib), dirty); err != nil || got == want {
		t.Errorf("libvhdi, a log to be replayed: right %v, %v; we say that it never replays one", got == want, err)
	}
}

// partlyRead tells what libvhdi gets wrong in differencing disks: sectors that
// the parent must tell.
func partlyRead(t *testing.T) {
	t.Helper()
	for _, c := range []struct {
		what     string
		s        shape
		at, n    int64 // what the child has; of a whole block, zeroes
		from, to int64 // what is compared
		right    bool  // libvhdi reads it as it is
	}{
		{"the sectors behind one that is the child's, in a byte of the bitmap", shape{smbstore.VHD, 4 * mib, 2 * mib, 512, false}, 0, 512, 512, 4096, false},
		{"a byte of the bitmap that is the child's whole", shape{smbstore.VHD, 4 * mib, 2 * mib, 512, false}, 0, 4096, 4096, 8192, true},
		{"a chunk of which the child has nothing", shape{smbstore.VHDX, 5 * gib, 2 * mib, 512, false}, 0, 512, 4 * gib, 4*gib + 8192, false},
		{"a block of zeroes that had a sector", shape{smbstore.VHDX, 4 * mib, mib, 512, false}, mib, mib, mib, 2 * mib, false},
		{"a chunk of which the child has something", shape{smbstore.VHDX, 5 * gib, 2 * mib, 512, false}, 4*gib + mib, 512, 4 * gib, 4*gib + 8192, true},
	} {
		c2 := newChain(t, c.s)
		root := open(t, c2.path(0))
		for _, dev := range []block.Device{root, c2.m} {
			must(t, dev.WriteAt(t.Context(), bytes.Repeat([]byte{7}, int(c.to-c.from)), c.from, 0))
		}
		must(t, root.Close())
		d, err := smbstore.CreateDisk(t.Context(), c2.s, "leaf", smbstore.CreateDiskOptions{Parent: c2.s.Location().Join(c2.names[0])})
		must(t, err)
		must(t, d.WriteAt(t.Context(), bytes.Repeat([]byte{8}, int(min(c.n, 4096))), c.at, 0))
		if c.n == c.s.block {
			for _, dev := range []block.Device{d, c2.m} {
				must(t, dev.WriteZeroes(t.Context(), c.at, c.n, 0))
			}
		}
		must(t, d.Close())
		c2.names = append([]string{"leaf"}, c2.names...)
		parts := []window{{c.from, c.to - c.from}}
		want, err := deviceHash(t, c2.m, parts)
		must(t, err)
		if got, err := ours(t, c2.path(0), parts); err != nil || got != want {
			t.Errorf("%s %s: we read sha256 %s, want %s; %v", c.s.format, c.what, got, want, err)
		}
		got, err := byVHDI(t, parts, c2.chain()...)
		must(t, err)
		if (got == want) != c.right {
			t.Errorf("libvhdi, %s, %s: right %v, we say %v", c.s.format, c.what, got == want, c.right)
		}
		must(t, c2.m.Close())
	}
}
