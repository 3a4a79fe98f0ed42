//go:build !race

package smbstore

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"lunless/smbstore/block"
	"lunless/smbstore/vhdx"
)

func TestInspectWindowsImages(t *testing.T) {
	for _, c := range []struct {
		name string
		want DiskInfo
	}{
		{"iotest-dynamic-1G.vhdx", DiskInfo{Format: VHDX, Type: "dynamic", VirtualSize: 1 << 30, BlockSize: 32 << 20, LogicalSectorSize: 512, PhysicalSectorSize: 4096}},
		{"hyperv2012r2-dynamic.vhd", DiskInfo{Format: VHD, Type: "dynamic", VirtualSize: 136365211648, BlockSize: 2 << 20, LogicalSectorSize: 512, PhysicalSectorSize: 512}},
	} {
		l := windowsImage(t, c.name)
		got, err := InspectDisk(t.Context(), openStore(t, l.Dir()), l.Base())
		if err != nil {
			t.Fatal(err)
		}
		if got.ID == "" || got.FileSize == 0 {
			t.Errorf("%s: no id or size: %+v", c.name, got)
		}
		got.ID, got.FileSize = "", 0
		if got != c.want {
			t.Errorf("%s:\n got %+v\nwant %+v", c.name, got, c.want)
		}
	}
}

// TestCompareContent holds what is found against a byte by byte comparison.
func TestCompareContent(t *testing.T) {
	const seed = 7
	rnd := rand.New(rand.NewPCG(seed, 0))
	for round := range 30 {
		a := make([]byte, rnd.IntN(4<<20))
		for range rnd.IntN(6) {
			fillSome(rnd, a)
		}
		b := make([]byte, len(a)+rnd.IntN(3)*rnd.IntN(2<<20))
		copy(b, a)
		for range rnd.IntN(4) {
			fillSome(rnd, b)
		}
		if rnd.IntN(2) == 0 {
			a, b = b, a
		}
		common := min(len(a), len(b))
		for _, strict := range []bool{false, true} {
			first, n := int64(-1), int64(0)
			for i := range max(len(a), len(b)) {
				var x, y byte
				if i < len(a) {
					x = a[i]
				}
				if i < len(b) {
					y = b[i]
				}
				if x != y || strict && i >= common {
					if n == 0 {
						first = int64(i)
					}
					n++
				}
			}
			for _, all := range []bool{false, true} {
				got, err := compareMem(t.Context(), memDisk(t, a), memDisk(t, b), CompareDisksOptions{Strict: strict, All: all, Parallel: 1 + rnd.IntN(8)})
				if err != nil {
					t.Fatal(err)
				}
				at := int64(-1)
				if got.FirstDifference != nil {
					at = *got.FirstDifference
				}
				if got.Identical != (n == 0) || at != first || all && got.DifferentBytes != n || !all && (got.DifferentBytes > n || (got.DifferentBytes == 0) != (n == 0)) {
					t.Fatalf("seed %d, round %d, strict %v, all %v: %+v, first at %d; want %d bytes, the first at %d", seed, round, strict, all, got, at, n, first)
				}
				if whole := int64(max(len(a), len(b))); all && !strict && got.Compared+got.Skipped != whole {
					t.Errorf("seed %d, round %d: %+v is not %d bytes in all", seed, round, got, whole)
				}
			}
		}
	}
}

// TestCompactDisk: a file is smaller, the content and what children know the disk
// by are the same.
func TestCompactDisk(t *testing.T) {
	for _, format := range chainFormats {
		t.Run(string(format), func(t *testing.T) {
			s := newPowerStore()
			const size = 32 << 20
			chain := &testChain{store: s}
			chain.add(t, 1, "base", CreateDiskOptions{Format: format, Size: size, BlockSize: 1 << 20})
			dev, _, err := OpenDisk(t.Context(), s, "base", DiskOptions{})
			mustDo(t, err)
			rnd := rand.New(rand.NewPCG(3, 3))
			for off := int64(0); off < size; off += 1 << 20 {
				p := chain.want[off : off+1<<20]
				for i := range p {
					p[i] = byte(rnd.Uint32())
				}
				mustDo(t, dev.WriteAt(t.Context(), p, off, 0))
				if off>>20%4 != 0 {
					clear(p) // zeroes that are written, not told of
					mustDo(t, dev.WriteAt(t.Context(), p, off, 0))
				}
			}
			mustDo(t, dev.Close())
			chain.add(t, 1, "leaf", CreateDiskOptions{Parent: s.Location().Join("base")})
			r, err := CompactDisk(t.Context(), s, "base", CompactOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if r.Before < size || r.After > size/2 {
				t.Errorf("result %+v of a disk of %d, three quarters zero", r, size)
			}
			checkDisk(t, s, "leaf", chain.want)
			if _, r, err := CheckDisk(t.Context(), s, "base"); err != nil || !r.Clean() {
				t.Errorf("%+v, %v", r, err)
			}
			if _, err := CompactDisk(t.Context(), s, "leaf", CompactOptions{}); err != nil {
				t.Errorf("the leaf: %v", err)
			}
			checkDisk(t, s, "leaf", chain.want)
		})
	}
}

// TestDeepChain: a chain of a hundred reads what each layer holds, within the
// memory of one disk, and merges into its base.
func TestDeepChain(t *testing.T) {
	const depth = 100
	s := newPowerStore()
	name := func(i int) string { return fmt.Sprintf("%03d.vhdx", i) }
	below := newDisk(t, s, name(0))
	want := make([]byte, 1<<20)
	for i := 1; i < depth; i++ {
		f, err := s.OpenFile(name(i), ReadWrite|Create|Exclusive)
		mustDo(t, err)
		d, err := vhdx.Create(f, vhdx.CreateOptions{Size: 1 << 20, BlockSize: 1 << 20, ParentDevice: block.NewMem(1 << 20),
			Parent: &vhdx.ParentLink{Linkage: below, Relative: `.\` + name(i-1)}})
		mustDo(t, err)
		part := want[i*8<<10:][:4096]
		for k := range part {
			part[k] = byte(i)
		}
		mustDo(t, d.WriteAt(t.Context(), part, int64(i*8<<10), 0))
		below = d.Info().DataWriteGUID
		mustDo(t, d.Close())
	}
	checkDisk(t, s, name(depth-1), want)
	if pages := depth * cachePages(depth); pages > 8192 {
		t.Errorf("%d pages of metadata for one disk", pages)
	}
	r, err := MergeDisk(t.Context(), s, name(depth-1), MergeOptions{Into: s.Location().Join(name(0))})
	if err != nil || len(r.Removed) != depth-1 {
		t.Fatalf("removed %d: %v", len(r.Removed), err)
	}
	checkDisk(t, s, name(0), want)
}

// What is logged is a copy, whatever its length and whatever its memory held before,
// and no memory is two writes' at a time.
func TestLogMemory(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 1))
	type entry struct {
		data, want []byte
		mem        *[]byte
	}
	var kept []entry
	for i := range 3000 {
		n := 1 + rnd.IntN(1<<rnd.IntN(22))
		p := bytes.Repeat([]byte{byte(i)}, n)
		data, mem := logCopy(p)
		if want := n >= 1<<(leastLogClass-1) && n <= 1<<mostLogClass; (mem != nil) != want {
			t.Fatalf("%d bytes: memory to use again: %v, want %v", n, mem != nil, want)
		}
		if mem != nil && len(*mem) >= 2*max(n, 1<<(leastLogClass-1)) {
			t.Fatalf("%d bytes lie in %d", n, len(*mem))
		}
		kept = append(kept, entry{data, bytes.Clone(p), mem})
		clear(p)
		for len(kept) > 16 {
			j := rnd.IntN(len(kept))
			if e := kept[j]; !bytes.Equal(e.data, e.want) {
				t.Fatalf("what was logged of %d bytes has changed", len(e.want))
			}
			logFree(kept[j].mem)
			kept[j] = kept[len(kept)-1]
			kept = kept[:len(kept)-1]
		}
	}
}
