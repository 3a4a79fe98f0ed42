package smbstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"lunless/smbstore/block"
	"lunless/smbstore/vhdx"
)

// TestMergeDisk merges leaves, layers in the middle, and several at once.
func TestMergeDisk(t *testing.T) {
	for _, format := range chainFormats {
		n := suffixed(format, "base", "a", "b", "leaf")
		for _, c := range []struct {
			name  string
			merge string
			o     func(at func(...string) Location) MergeOptions
			reads string // the disk that has the content then
			left  []string
			depth int
		}{
			{"leaf", n[3], func(func(...string) Location) MergeOptions { return MergeOptions{} }, n[2], n[:3], 3},
			{"kept leaf", n[3], func(func(...string) Location) MergeOptions { return MergeOptions{Keep: true} }, n[3], n, 4},
			{"middle", n[2], func(at func(...string) Location) MergeOptions {
				return MergeOptions{Children: []Location{at(n[3])}}
			}, n[3], []string{n[0], n[1], n[3]}, 3},
			{"into the base", n[3], func(at func(...string) Location) MergeOptions { return MergeOptions{Into: at(n[0])} }, n[0], n[:1], 1},
			{"two of the middle", n[2], func(at func(...string) Location) MergeOptions {
				return MergeOptions{Into: at(n[0]), Children: []Location{at(n[3])}}
			}, n[3], []string{n[0], n[3]}, 2},
		} {
			t.Run(string(format)+" "+c.name, func(t *testing.T) {
				s := newPowerStore()
				chain := newChain(t, s, 5, format, n...)
				mustDo(t, s.SyncDir(""))
				r, err := MergeDisk(t.Context(), s, c.merge, c.o(s.Location().Join))
				if err != nil {
					t.Fatal(err)
				}
				checkDisk(t, s, c.reads, chain.want)
				images, err := InspectChain(t.Context(), s, c.reads)
				if err != nil || len(images) != c.depth {
					t.Errorf("%d images in the chain, want %d (%v)", len(images), c.depth, err)
				}
				for _, name := range c.left {
					if s.at(name) == nil {
						t.Errorf("%s is gone", name)
						continue
					}
					if _, r, err := CheckDisk(t.Context(), s, name); err != nil || !r.Clean() {
						t.Errorf("%s: %+v, %v", name, r, err)
					}
				}
				if len(s.files) != len(c.left) {
					t.Errorf("left are %s, want %v", s, c.left)
				}
				if r.Copied == 0 || len(r.Removed) != len(n)-len(c.left) {
					t.Errorf("result %+v", r)
				}
			})
		}
	}
}

// TestMergeCommit: whoever names a merged disk is told before its file goes; while
// that fails the file stays, and the merge can be done again.
func TestMergeCommit(t *testing.T) {
	for _, format := range chainFormats {
		s := newPowerStore()
		n := suffixed(format, "base", "mid", "leaf")
		chain := newChain(t, s, 5, format, n...)
		told, fail := "", errors.New("no configuration")
		o := MergeOptions{Children: []Location{s.Location().Join(n[2])}, Commit: func(_ context.Context, merged, into Location) error {
			told = merged.Base() + ">" + into.Base()
			checkDisk(t, s, n[2], chain.want)
			return fail
		}}
		if _, err := MergeDisk(t.Context(), s, n[1], o); !errors.Is(err, fail) || s.at(n[1]) == nil {
			t.Errorf("%s: with a commit that fails: %v", format, err)
		}
		if fail = nil; told != n[1]+">"+n[0] {
			t.Errorf("%s: told of %q", format, told)
		}
		if _, err := MergeDisk(t.Context(), s, n[1], o); err != nil || s.at(n[1]) != nil {
			t.Errorf("%s: again: %v", format, err)
		}
		checkDisk(t, s, n[2], chain.want)
	}
}

// TestMergeSizes: the parent gets the child's size, whichever is the larger, and
// what neither shows stays hidden.
func TestMergeSizes(t *testing.T) {
	for _, format := range chainFormats {
		t.Run(string(format)+" larger child", func(t *testing.T) {
			s := newPowerStore()
			c := newChain(t, s, 6, format, "base")
			c.add(t, 6, "leaf", CreateDiskOptions{Parent: s.Location().Join("base"), Size: testDiskSize + 5<<20})
			if _, err := MergeDisk(t.Context(), s, "leaf", MergeOptions{}); err != nil {
				t.Fatal(err)
			}
			checkDisk(t, s, "base", c.want)
		})
	}
	t.Run("smaller child", func(t *testing.T) {
		s := newPowerStore()
		c := newChain(t, s, 6, VHDX, "base")
		f, err := s.OpenFile("base", Read)
		mustDo(t, err)
		info, err := vhdx.Inspect(f)
		mustDo(t, errors.Join(err, f.Close()))
		base, _, err := OpenDisk(t.Context(), s, "base", DiskOptions{ReadOnly: true})
		mustDo(t, err)
		f, err = s.OpenFile("leaf", ReadWrite|Create)
		mustDo(t, err)
		leaf, err := vhdx.Create(f, vhdx.CreateOptions{Size: 3<<20 + 512, BlockSize: 1 << 20, ParentDevice: base,
			Parent: &vhdx.ParentLink{Linkage: info.DataWriteGUID, Relative: `.\base`}})
		mustDo(t, err)
		c.want = c.want[:3<<20+512]
		changeDisk(t, rand.New(rand.NewPCG(6, 6)), leaf, c.want, 5)
		mustDo(t, leaf.Close())
		c.names = append(c.names, "leaf")
		grandchild := make([]byte, 5<<20)
		copy(grandchild, c.want)
		dev, err := CreateDisk(t.Context(), s, "grandchild", CreateDiskOptions{Parent: s.Location().Join("leaf"), Size: int64(len(grandchild))})
		mustDo(t, err)
		mustDo(t, dev.Close())
		checkDisk(t, s, "grandchild", grandchild)
		if _, err := MergeDisk(t.Context(), s, "leaf", MergeOptions{Children: []Location{s.Location().Join("grandchild")}}); err != nil {
			t.Fatal(err)
		}
		checkDisk(t, s, "base", c.want)
		checkDisk(t, s, "grandchild", grandchild)
	})
	// A differencing disk does not shrink: the parent stays the larger one, and zero
	// past what the child had.
	t.Run("child smaller than a differencing parent", func(t *testing.T) {
		s, want := smallerLeaf(t)
		if _, err := MergeDisk(t.Context(), s, "leaf", MergeOptions{}); err != nil {
			t.Fatal(err)
		}
		checkDisk(t, s, "mid", append(want, make([]byte, testDiskSize-len(want))...))
	})
	t.Run("live", func(t *testing.T) {
		s, want := smallerLeaf(t)
		c, err := OpenChain(t.Context(), s, "leaf", DiskOptions{DenyWrite: true})
		mustDo(t, err)
		for _, word := range []string{"one", "two"} {
			mustDo(t, c.Merge(t.Context(), 0, MergeLiveOptions{Force: true})) // "small" is around
			mustDo(t, c.Disk().WriteAt(t.Context(), []byte(word), 1<<20, 0))
			copy(want[1<<20:], word)
			if err := deviceReads(t.Context(), c.Disk(), want); err != nil {
				t.Error(err)
			}
		}
		mustDo(t, c.Close())
		checkDisk(t, s, "base", want)
	})
}

// smallerLeaf is a chain "base", "mid", "leaf", of which the leaf is smaller than
// its parent, for it was made over another disk.
func smallerLeaf(t *testing.T) (s *powerStore, want []byte) {
	t.Helper()
	s = newPowerStore()
	newChain(t, s, 6, VHDX, "base", "mid")
	small := &testChain{store: s, format: VHDX}
	small.add(t, 7, "small", CreateDiskOptions{Format: VHDX, Size: 3 << 20, BlockSize: 1 << 20})
	small.add(t, 7, "leaf", CreateDiskOptions{Parent: s.Location().Join("small")})
	_, err := RebaseDisk(t.Context(), s, "leaf", RebaseOptions{Parent: s.Location().Join("mid")})
	mustDo(t, err)
	checkDisk(t, s, "leaf", small.want)
	return s, small.want
}

// TestMergeRefused: what a merge would break is named, and nothing is changed.
func TestMergeRefused(t *testing.T) {
	for _, format := range chainFormats {
		t.Run(string(format), func(t *testing.T) {
			s := newPowerStore()
			n := suffixed(format, "base", "mid", "leaf", "sibling")
			chain := newChain(t, s, 8, format, n[:3]...)
			other := newChain(t, s, 8, format)
			other.names, other.want = []string{n[0]}, make([]byte, testDiskSize)
			base, _, err := OpenDisk(t.Context(), s, n[0], DiskOptions{ReadOnly: true})
			mustDo(t, err)
			mustDo(t, base.ReadAt(t.Context(), other.want, 0))
			mustDo(t, base.Close())
			other.add(t, 9, n[3], CreateDiskOptions{Parent: s.Location().Join(n[0])})
			for _, c := range []struct {
				disk  string
				o     MergeOptions
				names string
			}{
				{n[2], MergeOptions{Into: s.Location().Join(n[0])}, n[3]},
				{n[1], MergeOptions{}, n[2]},
				{n[1], MergeOptions{Children: []Location{s.Location().Join(n[3])}}, n[2]},
				{n[3], MergeOptions{}, n[1]},
			} {
				_, err := MergeDisk(t.Context(), s, c.disk, c.o)
				var ce *ChildrenError
				if !errors.As(err, &ce) || !strings.Contains(err.Error(), c.names) {
					t.Errorf("merge %s %+v: %v, want %s to be named", c.disk, c.o, err, c.names)
				}
			}
			for _, o := range []MergeOptions{{Into: s.Location().Join("elsewhere")}, {Into: s.Location().Join(n[0]), Keep: true}} {
				if _, err := MergeDisk(t.Context(), s, n[2], o); err == nil {
					t.Errorf("merge with %+v went well", o)
				}
			}
			if _, err := MergeDisk(t.Context(), s, n[0], MergeOptions{}); !errors.Is(err, ErrNoChain) {
				t.Errorf("merge a disk without parent: %v", err)
			}
			checkDisk(t, s, n[2], chain.want)
			checkDisk(t, s, n[3], other.want)
			// Forced, the disk that stays has its content, and the other is known to be broken.
			if _, err := MergeDisk(t.Context(), s, n[1], MergeOptions{Force: true, Children: []Location{s.Location().Join(n[2])}}); err != nil {
				t.Fatal(err)
			}
			checkDisk(t, s, n[2], chain.want)
			if err := diskReads(t.Context(), s, n[3], other.want); format == VHDX && !errors.Is(err, ErrParentChanged) {
				t.Errorf("over a parent that was merged into: %v", err)
			}
		})
	}
}

// TestMergeInUse: a chain that somebody has open is not merged.
func TestMergeInUse(t *testing.T) {
	s := newPowerStore()
	c := newChain(t, s, 8, VHDX, "base", "leaf")
	dev, _, err := OpenDisk(t.Context(), s, "leaf", DiskOptions{})
	mustDo(t, err)
	if _, err := MergeDisk(t.Context(), s, "leaf", MergeOptions{}); !errors.Is(err, ErrSharing) {
		t.Errorf("merge of a disk in use: %v", err)
	}
	mustDo(t, dev.Close())
	checkDisk(t, s, "leaf", c.want)
}

var _ block.File = (*powerFile)(nil)

// lateStore has somebody come when a file is opened for writing the second time.
type lateStore struct {
	*powerStore
	opens int
	late  func() error
}

func (s *lateStore) OpenFile(name string, flags Flags) (File, error) {
	if name == "leaf" && flags&Write != 0 {
		if s.opens++; s.opens == 2 {
			if err := s.late(); err != nil {
				return nil, err
			}
		}
	}
	return s.powerStore.OpenFile(name, flags)
}

// TestMergeKeepsLateWrites: a disk that was used after its content was copied is
// not removed.
func TestMergeKeepsLateWrites(t *testing.T) {
	s := &lateStore{powerStore: newPowerStore()}
	c := newChain(t, s.powerStore, 6, VHDX, "base", "leaf")
	s.late = func() error {
		dev, _, err := OpenDisk(t.Context(), s.powerStore, "leaf", DiskOptions{})
		if err != nil {
			return err
		}
		copy(c.want, "late")
		return errors.Join(dev.WriteAt(t.Context(), []byte("late"), 0, 0), dev.Close())
	}
	var me *MergeError
	if _, err := MergeDisk(t.Context(), s, "leaf", MergeOptions{}); !errors.As(err, &me) || !strings.Contains(err.Error(), "run it again") {
		t.Fatalf("merge of a disk that was written to: %v", err)
	}
	checkDisk(t, s, "leaf", c.want)
	if _, err := MergeDisk(t.Context(), s, "leaf", MergeOptions{}); err != nil {
		t.Fatal(err)
	}
	checkDisk(t, s, "base", c.want)
}
