package block_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"lunless/smbstore/block"
)

func contentOf(t *testing.T, f *block.MemFile) []byte {
	t.Helper()
	size, err := f.Size()
	must(t, err)
	p := make([]byte, size)
	if _, err := f.ReadAt(p, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return p
}

// TestPowerCutReaches holds what cuts of a few changes leave against all that
// may be left: no more, and no less. A digit is a sector's fill; '.' is zero.
func TestPowerCutReaches(t *testing.T) {
	type file = *block.PowerCut
	fill := func(f file, b byte, sector, n int64) {
		_, err := f.WriteAt(bytes.Repeat([]byte{b}, int(n)*512), sector*512)
		must(t, err)
	}
	for _, tt := range []struct {
		name   string
		change func(f file) // of a file that is stable and holds 11
		want   string
	}{
		{"nothing", func(file) {}, "11"},
		{"one write, torn", func(f file) { fill(f, 2, 0, 2) }, "11 12 21 22"},
		{"twice the same sector", func(f file) { fill(f, 2, 0, 1); fill(f, 3, 0, 1) }, "11 21 31"},
		{"two sectors", func(f file) { fill(f, 2, 0, 1); fill(f, 3, 1, 1) }, "11 13 21 23"},
		{"over both, then one", func(f file) { fill(f, 2, 0, 2); fill(f, 3, 0, 1) }, "11 12 21 22 31 32"},
		{"growth by a write", func(f file) { fill(f, 2, 2, 1) }, "11 11. 112"},
		{"growth past the end", func(f file) { fill(f, 2, 3, 1) }, "11 11.. 11.2"},
		{"growth, then data", func(f file) { must(t, f.Truncate(3*512)); fill(f, 2, 2, 1) }, "11 11. 112"},
		{"cut off", func(f file) { must(t, f.Truncate(512)) }, "1 11"},
		{"cut off and grown", func(f file) { must(t, f.Truncate(512)); must(t, f.Truncate(3*512)) }, "1 11 1.. 11."},
		{"cut off, then data there", func(f file) { must(t, f.Truncate(512)); fill(f, 2, 1, 1) }, "1 11 1. 12"},
		{"hole, torn", func(f file) { must(t, f.PunchHole(0, 1024)) }, "11 1. .1 .."},
		{"hole, then data", func(f file) { must(t, f.PunchHole(0, 512)); fill(f, 2, 0, 1) }, "11 .1 21"},
		{"synced", func(f file) { fill(f, 2, 0, 2); must(t, f.Sync()); fill(f, 3, 1, 1) }, "22 23"},
		{"cut off, synced", func(f file) { must(t, f.Truncate(512)); must(t, f.Sync()) }, "1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := block.NewPowerCut(block.NewMemFile(0))
			fill(f, 1, 0, 2)
			must(t, f.Sync())
			tt.change(f)
			seen := map[string]bool{}
			for seed := range uint64(3000) {
				var s strings.Builder
				p := contentOf(t, f.Cut(rand.New(rand.NewPCG(seed, 0))))
				for ; len(p) > 0; p = p[512:] {
					if !bytes.Equal(p[:512], bytes.Repeat(p[:1], 512)) {
						t.Fatal("torn within a sector")
					}
					s.WriteByte(".123"[p[0]])
				}
				seen[s.String()] = true
			}
			want := strings.Fields(tt.want)
			slices.Sort(want)
			if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, want) {
				t.Errorf("left %v, may leave %v", got, want)
			}
		})
	}
}

// TestPowerCutTears: a large write can end at any of its sectors, and begin there.
func TestPowerCutTears(t *testing.T) {
	const sectors = 300
	f := block.NewPowerCut(block.NewMemFile(sectors * 512))
	_, err := f.WriteAt(bytes.Repeat([]byte{1}, sectors*512), 0)
	must(t, err)
	borders := map[int]bool{}
	for seed := range uint64(400) {
		p := contentOf(t, f.Cut(rand.New(rand.NewPCG(seed, 0))))
		for s := 1; s < len(p)/512; s++ {
			if p[s*512] != p[s*512-1] {
				borders[s] = true
			}
		}
	}
	if len(borders) != sectors-1 {
		t.Errorf("torn at %d of %d places", len(borders), sectors-1)
	}
}

// TestPowerCutAllows makes random changes, aligned and not, and holds cuts
// against a list of what each byte may be.
func TestPowerCutAllows(t *testing.T) {
	const most = 6 * 512
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		f := block.NewPowerCut(block.NewMemFile(0))
		may := make([]map[byte]bool, most)
		for i := range may {
			may[i] = map[byte]bool{0: true}
		}
		sizes := map[int64]bool{0: true}
		for op := range 1 + rnd.IntN(8) {
			off := rnd.Int64N(most)
			n := 1 + rnd.Int64N(most-off)
			value := byte(op + 1)
			switch rnd.IntN(6) {
			case 0:
				must(t, f.PunchHole(off, n))
				value = 0
			case 1:
				must(t, f.Truncate(off))
				sizes[off] = true
				n, value = most-off, 0
			case 2:
				must(t, f.Sync())
				live := contentOf(t, f.Image())
				sizes, n = map[int64]bool{int64(len(live)): true}, 0
				for i := range may {
					may[i] = map[byte]bool{0: i >= len(live)}
					if i < len(live) {
						may[i][live[i]] = true
					}
				}
			default:
				_, err := f.WriteAt(bytes.Repeat([]byte{value}, int(n)), off)
				must(t, err)
				sizes[off+n] = true
			}
			for i := off; i < off+n; i++ {
				may[i][value] = true
			}
		}
		for range 20 {
			got := contentOf(t, f.Cut(rnd))
			if !sizes[int64(len(got))] {
				t.Fatalf("size %d, may be %v", len(got), sizes)
			}
			for i, b := range got {
				if !may[i][b] {
					t.Fatalf("byte %d is %d, may be %v", i, b, may[i])
				}
			}
		}
	}
}

// TestPowerCutSync: a write that comes while a Sync is under way is not covered by it.
func TestPowerCutSync(t *testing.T) {
	f := block.NewPowerCut(block.NewMemFile(1024))
	write := func(b byte, off int64) {
		_, err := f.WriteAt(bytes.Repeat([]byte{b}, 512), off)
		must(t, err)
	}
	write(1, 0)
	inside := false
	f.Watch(func() {
		if !inside {
			inside = true
			write(2, 512)
		}
	})
	must(t, f.Sync())
	lost := 0
	look := func() {
		for seed := range uint64(50) {
			p := contentOf(t, f.Cut(rand.New(rand.NewPCG(seed, 0))))
			if p[0] != 1 {
				t.Fatal("a write before the sync is lost")
			}
			if p[512] == 0 {
				lost++
			}
		}
	}
	look()
	if lost == 0 {
		t.Error("a write during the sync is never lost")
	}
	must(t, f.Sync())
	lost = 0
	if look(); lost > 0 {
		t.Error("a write before the second sync is lost")
	}
}

// TestPowerSupply: the files of one supply are cut at one moment: what is stable
// in one before another is written is there wherever the other's is.
func TestPowerSupply(t *testing.T) {
	s := block.NewPowerSupply()
	var files [3]*block.PowerCut
	for i := range files {
		files[i] = s.Plug(block.NewMemFile(512))
	}
	done := make(chan error, 1)
	go func() {
		for n := range byte(200) {
			for _, f := range files {
				if _, err := f.WriteAt([]byte{n}, 0); err != nil {
					done <- err
					return
				}
				if err := f.Sync(); err != nil {
					done <- err
					return
				}
			}
		}
		done <- nil
	}()
	rnd := rand.New(rand.NewPCG(1, 1))
	for cuts := 0; ; cuts++ {
		moments := 0
		images := s.Cut(rnd, func() { moments++ })
		if len(images) != 3 || moments != 1 {
			t.Fatalf("%d images at %d moments", len(images), moments)
		}
		var at [3]byte
		for i, f := range files {
			at[i] = contentOf(t, images[f])[0]
		}
		if at[0] < at[1] || at[1] < at[2] || at[0]-at[2] > 1 {
			t.Fatalf("cut %d: files stand at %v", cuts, at)
		}
		select {
		case err := <-done:
			must(t, err)
			s.Unplug(files[1])
			if images := s.Cut(rnd, nil); len(images) != 2 || images[files[1]] != nil {
				t.Errorf("%d images with one file unplugged", len(images))
			}
			return
		default:
		}
	}
}

// TestMemFileModel holds files and snapshots of them against plain bytes.
func TestMemFileModel(t *testing.T) {
	const most = 3 << 20
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	type pair struct {
		f    *block.MemFile
		want []byte
	}
	pairs := []pair{{block.NewMemFile(0), nil}}
	resize := func(p *pair, n int64) {
		p.want = append(p.want[:min(n, int64(len(p.want)))], make([]byte, max(0, n-int64(len(p.want))))...)
	}
	for range 400 {
		i := rnd.IntN(len(pairs))
		p := &pairs[i]
		off := rnd.Int64N(most)
		n := min(rnd.Int64N(1<<rnd.IntN(22))+1, most-off)
		switch rnd.IntN(8) {
		case 0:
			pairs[rnd.IntN(len(pairs))] = pair{p.f.Snapshot(), slices.Clone(p.want)}
		case 1:
			if len(pairs) < 4 {
				pairs = append(pairs, pair{p.f.Snapshot(), slices.Clone(p.want)})
			}
		case 2:
			must(t, p.f.Truncate(off))
			resize(p, off)
		case 3:
			must(t, p.f.PunchHole(off, n))
			if off < int64(len(p.want)) {
				clear(p.want[off:min(off+n, int64(len(p.want)))])
			}
		default:
			b := bytes.Repeat([]byte{byte(rnd.IntN(255) + 1)}, int(n))
			_, err := p.f.WriteAt(b, off)
			must(t, err)
			resize(p, max(off+n, int64(len(p.want))))
			copy(p.want[off:], b)
		}
	}
	for i, p := range pairs {
		if got := contentOf(t, p.f); !bytes.Equal(got, p.want) {
			t.Fatalf("file %d differs", i)
		}
		must(t, checkHoles(p.f, p.want))
		for j, q := range pairs {
			if p.f.Equal(q.f) != bytes.Equal(p.want, q.want) {
				t.Errorf("files %d and %d: Equal is wrong", i, j)
			}
		}
	}
}

// checkHoles tells whether what a file calls Zero is, and extents cover it.
func checkHoles(f *block.MemFile, want []byte) error {
	at := int64(0)
	err := f.FileExtents(0, int64(len(want)), func(e block.Extent) error {
		if e.Offset != at {
			return fmt.Errorf("extent at %d, want %d", e.Offset, at)
		}
		at += e.Length
		if e.State == block.Zero && !block.IsZero(want[e.Offset:at]) {
			return fmt.Errorf("extent at %d is not zero", e.Offset)
		}
		return nil
	})
	if err == nil && at != int64(len(want)) {
		err = fmt.Errorf("extents end at %d of %d", at, len(want))
	}
	return err
}
