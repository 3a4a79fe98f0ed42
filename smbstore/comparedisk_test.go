package smbstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"lunless/smbstore/block"
	"lunless/smbstore/vhdx"
)

func memDisk(t *testing.T, content []byte) block.Device {
	t.Helper()
	dev := block.NewMem(int64(len(content)))
	for off := 0; off < len(content); off += 4096 {
		p := content[off:min(off+4096, len(content))]
		if block.IsZero(p) && off%8192 == 0 { // every other zero page is written
			continue
		}
		if err := dev.WriteAt(t.Context(), p, int64(off), 0); err != nil {
			t.Fatal(err)
		}
	}
	return dev
}

func compareMem(ctx context.Context, a, b block.Device, o CompareDisksOptions) (DiskComparison, error) {
	return compareDevices(ctx, [2]compared{{Device: a, name: "a"}, {Device: b, name: "b"}}, o)
}

// fillSome changes a short or a long part of p.
func fillSome(rnd *rand.Rand, p []byte) {
	if len(p) == 0 {
		return
	}
	off := rnd.IntN(len(p))
	for i := range p[off:min(len(p), off+1+rnd.IntN(1<<(1+rnd.IntN(20))))] {
		p[off+i] = byte(rnd.Uint32())
	}
}

var mismatch = regexp.MustCompile(`Content mismatch at offset (\d+)!`)

// qemuCompares tells what qemu-img says: -1 for identical, else the offset of the
// sector or larger unit that differs first.
func qemuCompares(t *testing.T, formatA, a, formatB, b string) int64 {
	t.Helper()
	out, err := exec.Command("qemu-img", "compare", "-f", formatA, "-F", formatB, a, b).CombinedOutput()
	if err == nil {
		return -1
	}
	m := mismatch.FindSubmatch(out)
	if m == nil {
		t.Fatalf("qemu-img compare: %v\n%s", err, out)
	}
	at, _ := strconv.ParseInt(string(m[1]), 10, 64)
	return at
}

func TestCompareDisksAsQEMUDoes(t *testing.T) {
	const size, at = 20 << 20, 9<<20 + 12345
	dir := t.TempDir()
	type image struct{ format, path string }
	var images []image
	add := func(raw, name string) {
		for file, args := range map[string][]string{
			name + ".img": {"-O", "raw"}, name + ".vhdx": {"-O", "vhdx"}, name + "-fixed.vhdx": {"-O", "vhdx", "-o", "subformat=fixed"},
			name + ".vhd": {"-O", "vpc", "-o", "force_size"}, name + "-fixed.vhd": {"-O", "vpc", "-o", "subformat=fixed,force_size"},
		} {
			qemu(t, append(append([]string{"convert", "-f", "raw"}, args...), raw, filepath.Join(dir, file))...)
			images = append(images, image{args[1], filepath.Join(dir, file)})
		}
		own := filepath.Join(dir, name+"-own.vhdx")
		if err := ConvertDisk(t.Context(), ConvertDiskOptions{Source: Location{Path: raw}, Destination: Location{Path: own}, BlockSize: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		images = append(images, image{"vhdx", own})
	}
	raw := imageFile(t, size)
	add(raw, "same")
	f, err := os.OpenFile(raw, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var was [1]byte
	_, err = f.ReadAt(was[:], at)
	if _, wErr := f.WriteAt([]byte{was[0] + 1}, at); err != nil || wErr != nil {
		t.Fatal(err, wErr)
	}
	add(raw, "other")
	for i, a := range images {
		for _, step := range []int{1, 5, 6} { // 6 images of either content
			b := images[(i+step)%len(images)]
			got, err := CompareDisks(t.Context(), CompareDisksOptions{A: Location{Path: a.path}, B: Location{Path: b.path}, All: true})
			if err != nil {
				t.Fatal(err)
			}
			want := qemuCompares(t, a.format, a.path, b.format, b.path)
			switch {
			case got.Identical != (want < 0):
				t.Errorf("%s and %s: %+v, qemu-img says %d", a.path, b.path, got, want)
			case !got.Identical && (*got.FirstDifference != at || want > at || got.DifferentBytes != 1):
				t.Errorf("%s and %s: %+v at %d, want one byte at %d; qemu-img says %d", a.path, b.path, got, *got.FirstDifference, at, want)
			}
		}
	}
}

// TestCompareErrors: what cannot be read before the first difference counts,
// what lies behind it only where all are wanted.
func TestCompareErrors(t *testing.T) {
	const chunk = compareChunk
	content := bytes.Repeat([]byte{1}, 8*chunk)
	changed := bytes.Clone(content)
	changed[5*chunk+3] = 2
	broken := errors.New("broken")
	for _, c := range []struct {
		name  string
		badAt int64
		kind  block.OpKind
		all   bool
		fails bool
	}{
		{"before", 2 * chunk, block.OpRead, false, true},
		{"behind", 7 * chunk, block.OpRead, false, false},
		{"behind, all", 7 * chunk, block.OpRead, true, true},
		{"map", 0, block.OpExtents, false, true},
	} {
		for parallel := range 4 {
			bad := block.NewIntercept(memDisk(t, content), block.FailIf(func(op block.Op) bool { return op.Kind == c.kind && op.Off == c.badAt }, broken))
			got, err := compareMem(t.Context(), memDisk(t, changed), bad, CompareDisksOptions{All: c.all, Parallel: 1 + parallel})
			if c.fails && !errors.Is(err, broken) {
				t.Errorf("%s: %+v, %v", c.name, got, err)
			}
			if !c.fails && (err != nil || got.Identical || *got.FirstDifference != 5*chunk+3 || got.DifferentBytes != 1) {
				t.Errorf("%s: %+v, %v", c.name, got, err)
			}
		}
	}
}

func TestCompareCancelled(t *testing.T) {
	content := bytes.Repeat([]byte{1}, 16<<20)
	slow := block.NewIntercept(memDisk(t, content), block.DelayBy(func(block.Op) time.Duration { return time.Minute }))
	quick := memDisk(t, content)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := compareMem(ctx, quick, slow, CompareDisksOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it reads: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	got, err := compareMem(ctx, quick, quick, CompareDisksOptions{Progress: func(p CompareProgress) {
		if p.Total != int64(len(content)) || p.Done > p.Total {
			t.Errorf("progress %+v", p)
		}
		stop()
	}})
	if !errors.Is(err, context.Canceled) || got.Identical {
		t.Errorf("from its progress: %+v, %v", got, err)
	}
}

// TestCompareAllocates nothing for a chunk: a disk of eight times as many takes
// no more.
func TestCompareAllocates(t *testing.T) {
	dev := func(chunks int64) block.Device { return allData{block.NewMem(chunks * compareChunk)} }
	run := func(chunks int64) float64 {
		a, b := dev(chunks), dev(chunks)
		return testing.AllocsPerRun(3, func() {
			if got, err := compareMem(context.Background(), a, b, CompareDisksOptions{Parallel: 2}); err != nil || !got.Identical {
				t.Error(got, err)
			}
		})
	}
	if few, many := run(16), run(128); many > few+8 {
		t.Errorf("%v allocations for 16 chunks, %v for 128", few, many)
	}
}

// allData has everything read.
type allData struct{ block.Device }

func (d allData) Extents(_ context.Context, off, n int64, visit func(block.Extent) error) error {
	return visit(block.Extent{Offset: off, Length: n})
}

// TestCompareDamaged: damage is an error that names file and place, for a map too.
func TestCompareDamaged(t *testing.T) {
	raw := Location{Path: imageFile(t, 16<<20)}
	hurt := Location{Path: filepath.Join(t.TempDir(), "hurt.vhdx")}
	if err := ConvertDisk(t.Context(), ConvertDiskOptions{Source: raw, Destination: hurt, BlockSize: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	damageBAT(t, hurt.Path, 5)
	for _, pair := range [][2]Location{{raw, hurt}, {hurt, raw}} {
		_, err := CompareDisks(t.Context(), CompareDisksOptions{A: pair[0], B: pair[1]})
		if !errors.Is(err, vhdx.ErrCorrupt) || !bytes.Contains([]byte(err.Error()), []byte(hurt.Path)) {
			t.Errorf("compare: %v", err)
		}
	}
	seen := int64(0)
	err := MapDisk(t.Context(), openStore(t, hurt.Dir()), hurt.Base(), MapDiskOptions{}, func(e block.Extent) error {
		seen = e.Offset + e.Length
		return nil
	})
	if !errors.Is(err, vhdx.ErrCorrupt) || !bytes.Contains([]byte(err.Error()), []byte(hurt.Path)) || seen > 5<<20 {
		t.Errorf("map: %v after %d bytes", err, seen)
	}
	_, err = CompareDisks(t.Context(), CompareDisksOptions{A: raw, B: raw.Dir().Join("none")})
	if !errors.Is(err, ErrNotExist) {
		t.Errorf("a missing image: %v", err)
	}
}

// damageBAT has a block's entry point far outside the file. The region table at
// 192 KiB gives the BAT's place (MS-VHDX 2.2.3).
func damageBAT(t *testing.T, path string, blk int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table := make([]byte, 80)
	if _, err := io.ReadFull(io.NewSectionReader(f, 192<<10, 80), table); err != nil {
		t.Fatal(err)
	}
	guid := []byte{0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42, 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08}
	for _, e := range [][]byte{table[16:48], table[48:80]} {
		if !bytes.Equal(e[:16], guid) {
			continue
		}
		at := int64(binary.LittleEndian.Uint64(e[16:])) + blk*8
		if _, err := f.WriteAt(binary.LittleEndian.AppendUint64(nil, 1<<50|6), at); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("no BAT in the region table")
}
