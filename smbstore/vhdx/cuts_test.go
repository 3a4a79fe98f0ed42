//go:build !race

package vhdx

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"lunless/smbstore/block"
)

// layoutRounds is how often TestLayoutPowerCuts changes each kind of disk.
const layoutRounds = 14

// liveRounds is how often TestCompactLive changes a disk.
const liveRounds = 60

// TestRelinkCut cuts power while links change: each image has the one before or
// the one after, whole.
func TestRelinkCut(t *testing.T) {
	seed := seedOf(t)
	rnd := rand.New(rand.NewPCG(seed, 0))
	_, mem := differencing(t, 4*mib, mib, 512)
	f := block.NewPowerCut(mem)
	d, err := Open(f, OpenOptions{Parent: block.NewMem(4 * mib)})
	must(t, err)
	link := ParentLink{Linkage: newGUID(), Relative: "p.vhdx"}
	must(t, d.Relink(ctx, link))
	next := link
	cuts, held := 0, map[bool]int{}
	f.Watch(func() {
		for range 2 {
			image := f.Cut(rnd)
			c, err := Open(noClose{image}, OpenOptions{Bare: true})
			must(t, err)
			got := *c.ParentLink()
			if got != link && got != next {
				t.Fatalf("seed %d, cut %d: %.100v", seed, cuts, got)
			}
			held[got == next]++
			must(t, c.Close())
			if r, err := Check(image); err != nil || !r.Clean() {
				t.Fatalf("seed %d, cut %d: %v %+v", seed, cuts, err, r.Findings)
			}
			cuts++
		}
	})
	for i := range 8 {
		next = ParentLink{Linkage: newGUID(), Relative: strings.Repeat("x", 1+rnd.IntN(20000)), Absolute: `\\?\c:\p`}
		must(t, d.Relink(ctx, next))
		link = next
		if i%3 == 0 { // commits of other kinds between
			must(t, d.WriteAt(ctx, bytes.Repeat([]byte{1}, 700), rnd.Int64N(3*mib), block.FUA))
		}
	}
	f.Watch(nil)
	must(t, d.Close())
	if held[true] == 0 || held[false] == 0 {
		t.Errorf("links after cuts: %v", held)
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
