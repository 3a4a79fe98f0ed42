package smbstore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// rebaseStore has two bases of different content, of which the second is a copy
// of the first changed in places, and a child of the first.
func rebaseStore(t *testing.T, seed uint64, format Format, size int64) (*powerStore, *testChain) {
	t.Helper()
	s := newPowerStore()
	c := newChain(t, s, seed, format, "old")
	base := append([]byte(nil), c.want...)
	c.add(t, seed, "child", CreateDiskOptions{Parent: s.Location().Join("old")})
	dev, err := CreateDisk(t.Context(), s, "new", CreateDiskOptions{Format: format, Size: size, BlockSize: 1 << 20})
	mustDo(t, err)
	n := min(int64(len(base)), dev.Size())
	mustDo(t, dev.WriteAt(t.Context(), base[:n], 0, 0))
	changeDisk(t, rand.New(rand.NewPCG(seed, 77)), dev, make([]byte, dev.Size()), 6)
	mustDo(t, dev.Close())
	mustDo(t, s.SyncDir(""))
	return s, c
}

// TestRebase: the content stays whatever the new parent holds and however large
// it is.
func TestRebase(t *testing.T) {
	for _, format := range chainFormats {
		for _, size := range []int64{testDiskSize, 3 << 20, 9 << 20} {
			t.Run(fmt.Sprint(format, size), func(t *testing.T) {
				s, c := rebaseStore(t, uint64(size), format, size)
				before, err := InspectDisk(t.Context(), s, "child")
				mustDo(t, err)
				r, err := RebaseDisk(t.Context(), s, "child", RebaseOptions{Parent: s.Location().Join("new")})
				if err != nil {
					t.Fatal(err)
				}
				if r.Copied == 0 {
					t.Error("nothing was copied")
				}
				mustDo(t, s.Remove("old"))
				checkDisk(t, s, "child", c.want)
				info, err := InspectDisk(t.Context(), s, "child")
				mustDo(t, err)
				if !info.ParentLocation.Equal(s.Location().Join("new")) || info.VirtualSize != before.VirtualSize {
					t.Errorf("after the rebase: %+v", info)
				}
				// A second one finds nothing to do.
				if r, err := RebaseDisk(t.Context(), s, "child", RebaseOptions{Parent: s.Location().Join("new")}); err != nil || r.Copied != 0 {
					t.Errorf("the same again: %+v, %v", r, err)
				}
			})
		}
	}
}

// TestRebaseKeepsIdentity: the disk's own children take it as before.
func TestRebaseKeepsIdentity(t *testing.T) {
	s, c := rebaseStore(t, 4, VHDX, testDiskSize)
	c.add(t, 4, "grandchild", CreateDiskOptions{Parent: s.Location().Join("child")})
	if _, err := RebaseDisk(t.Context(), s, "child", RebaseOptions{Parent: s.Location().Join("new")}); err != nil {
		t.Fatal(err)
	}
	checkDisk(t, s, "grandchild", c.want)
}

// TestRebaseUnsafe: only the link changes, to the same disk, or with force to any.
func TestRebaseUnsafe(t *testing.T) {
	for _, format := range chainFormats {
		t.Run(string(format), func(t *testing.T) {
			s, c := rebaseStore(t, 4, format, testDiskSize)
			mustDo(t, s.Rename("old", "renamed"))
			if _, err := RebaseDisk(t.Context(), s, "child", RebaseOptions{Parent: s.Location().Join("renamed")}); !errors.Is(err, ErrNoParent) {
				t.Errorf("a safe rebase without the old parent: %v", err)
			}
			if _, err := RebaseDisk(t.Context(), s, "child", RebaseOptions{Parent: s.Location().Join("new"), Unsafe: true}); !errors.Is(err, ErrParentChanged) {
				t.Errorf("to another disk: %v", err)
			}
			if r, err := RebaseDisk(t.Context(), s, "child", RebaseOptions{Parent: s.Location().Join("renamed"), Unsafe: true}); err != nil || r.Copied != 0 {
				t.Fatalf("to the renamed one: %+v, %v", r, err)
			}
			checkDisk(t, s, "child", c.want)
			if _, err := RebaseDisk(t.Context(), s, "child", RebaseOptions{Parent: s.Location().Join("new"), Unsafe: true, Force: true}); err != nil {
				t.Fatal(err)
			}
			info, err := InspectDisk(t.Context(), s, "child")
			if err != nil || info.ParentLocation == nil || !info.ParentLocation.Equal(s.Location().Join("new")) {
				t.Errorf("after a forced one: %+v, %v", info, err)
			}
		})
	}
}

// TestRebaseRefused: loops, other formats, disks without parent.
func TestRebaseRefused(t *testing.T) {
	s, c := rebaseStore(t, 4, VHDX, testDiskSize)
	c.add(t, 4, "grandchild", CreateDiskOptions{Parent: s.Location().Join("child")})
	dev, err := CreateDisk(t.Context(), s, "x.vhd", CreateDiskOptions{Format: VHD, Size: testDiskSize})
	mustDo(t, err)
	mustDo(t, dev.Close())
	for _, o := range []struct {
		disk, parent string
		want         error
	}{
		{"child", "child", nil}, {"child", "grandchild", nil}, {"child", "x.vhd", ErrFormat}, {"old", "new", ErrNoParent}, {"child", "missing", ErrNotExist},
	} {
		for _, unsafe := range []bool{false, true} {
			_, err := RebaseDisk(t.Context(), s, o.disk, RebaseOptions{Parent: s.Location().Join(o.parent), Unsafe: unsafe, Force: unsafe})
			if err == nil || o.want != nil && !errors.Is(err, o.want) {
				t.Errorf("%s over %s, unsafe %v: %v", o.disk, o.parent, unsafe, err)
			}
		}
	}
	checkDisk(t, s, "grandchild", c.want)
}
