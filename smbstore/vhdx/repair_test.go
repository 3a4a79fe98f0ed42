package vhdx

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"lunless/smbstore/block"
)

// TestRepair: what can be mended is, and said; what cannot is left as it is, and
// said with what to do. A second Repair finds nothing more to do.
func TestRepair(t *testing.T) {
	for _, c := range damages {
		t.Run(c.name, func(t *testing.T) {
			f := c.image(t)
			c.spoil(t, f)
			was := f.Snapshot()
			r, err := Repair(f)
			must(t, err)
			wantFindings(t, "mended", r.Mended, c.mended)
			for _, w := range c.left {
				if !w.in(r.Left) {
					t.Errorf("no %v at %#x of %q is left:%s", w.sev, w.off, w.what, list(r.Left))
				}
			}
			if len(c.left) == 0 && len(r.Left) > 0 {
				t.Errorf("left:%s", list(r.Left))
			}
			after := c.after
			if after == nil && len(c.mended) == 0 {
				after = c.want
				sameFile(t, was, f)
			}
			wantFindings(t, "findings after", r.Findings, after)
			was = f.Snapshot()
			if r, err = Repair(f); err != nil || len(r.Mended) > 0 {
				t.Errorf("again: %v, mended:%s", err, list(r.Mended))
			}
			sameFile(t, was, f)
		})
	}
}

// TestRepairReplays: a log that waits is replayed, and the data is there.
func TestRepairReplays(t *testing.T) {
	f := small(t, false)
	r, err := Repair(f)
	must(t, err)
	if !(finding{Note, logStart, "log replayed"}).in(r.Mended) || r.Info.LogInUse || len(r.Findings) > 0 {
		t.Errorf("mended:%s\nfindings:%s", list(r.Mended), list(r.Findings))
	}
	if size, _ := f.Size(); size != smallEnd {
		t.Errorf("the file has %d bytes", size)
	}
	holdsSmall(t, f)
}

// holdsSmall demands what small wrote.
func holdsSmall(t testing.TB, f *block.MemFile) {
	t.Helper()
	d, err := Open(noClose{f}, OpenOptions{ReadOnly: true})
	must(t, err)
	for i := range int64(3) {
		got := make([]byte, 5000)
		must(t, d.ReadAt(ctx, got, i*2*mib+100))
		if !bytes.Equal(got, bytes.Repeat([]byte{byte(i + 1)}, 5000)) {
			t.Fatalf("block %d is not what was written", i*2)
		}
	}
}

// TestRepairCut cuts the power before each change that Repair makes: each image
// that leaves can be repaired as the first could.
func TestRepairCut(t *testing.T) {
	seed := seedOf(t)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for round := range 20 {
		f := small(t, round%3 > 0)
		for _, spoil := range []func(){
			func() { put(t, f, headerOffsets[0]+100, []byte{1}) },
			func() { put(t, f, regionTableOffsets[0]+100, []byte{1}) },
			func() { put(t, f, regionTableOffsets[1]+9000, []byte{1}) },
			func() { putEntry(t, f, 1, makeEntry(stateUnmapped, 5*mib)) },
			func() { putEntry(t, f, 3, makeEntry(stateZero, 99*mib)) },
			func() { putEntry(t, f, 2, rawEntry(t, f, 2)|0x100) },
			func() { putEntry(t, f, 100000, makeEntry(statePresent, 5*mib)) },
			func() { size, _ := f.Size(); must(t, f.Truncate(size+9*mib)) },
		} {
			if rnd.IntN(2) == 0 && round%3 > 0 || rnd.IntN(8) == 0 {
				spoil()
			}
		}
		if r, _ := Repair(f.Snapshot()); !r.Clean() { // both tables, or an entry that the log mends
			continue
		}
		cut := block.NewPowerCut(f)
		images := 0
		look := func() {
			image := cut.Cut(rnd)
			r, err := Repair(image)
			if err != nil || !r.Clean() || len(r.Findings) > 0 {
				t.Fatalf("round %d: %v findings:%s", round, err, list(r.Findings))
			}
			holdsSmall(t, image)
			images++
		}
		cut.Watch(look)
		_, err := Repair(cut)
		must(t, err)
		look()
		if images < 3 {
			t.Errorf("round %d: %d images", round, images)
		}
	}
}

// rawEntry reads the BAT of an image of ours.
func rawEntry(t testing.TB, f *block.MemFile, i int64) batEntry {
	t.Helper()
	return batEntry(le.Uint64(readAll(t, f, batStart+i*8, 8)))
}
