//go:build !race

package vhd

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"lunless/smbstore/block"
	"lunless/smbstore/block/powertest"
)

// powerCuts are those of each kind of disk, if CUTS does not say.
const powerCuts = 20

// TestLargest: the last block of the largest disk in the smallest blocks has a
// place that its entry can tell, even if all others came first.
func TestLargest(t *testing.T) {
	t.Parallel()
	f := noClose{block.NewMemFile(0)}
	d, err := Create(f, CreateOptions{Size: maxCreate, BlockSize: minBlockSize})
	must(t, err)
	blocks := d.size / d.blockSize
	d.space.end += (blocks - 1) * (d.blockSize + d.mapSize + footerSize)
	p := bytes.Repeat([]byte{7}, 1000)
	must(t, d.WriteAt(ctx, p, d.size-1000, 0))
	d.space.end = maxFile - d.blockSize
	if err := d.WriteAt(ctx, p, 0, 0); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a block beyond what entries can tell: %v", err)
	}
	must(t, d.Close())
	d = reopened(t, f)
	got := make([]byte, 1000)
	must(t, d.ReadAt(ctx, got, d.size-1000))
	if !bytes.Equal(got, p) {
		t.Error("the last block is lost")
	}
}

// TestSabotage shows that the soak would notice: with a step left out it fails.
func TestSabotage(t *testing.T) {
	for _, tt := range []struct {
		name  string
		kinds []powertest.Kind
	}{
		{"flush-swallowed", []powertest.Kind{kindDynamic, kindDifferencing}},
		{"table-early", []powertest.Kind{kindDynamic, kindDifferencing}},
		{"bitmap-early", []powertest.Kind{kindDynamic, kindDifferencing}},
		{"bitmap-skipped", []powertest.Kind{kindDynamic, kindDifferencing}},
		{"header-in-place", []powertest.Kind{kindDifferencing}},
	} {
		for _, k := range tt.kinds {
			t.Run(tt.name+" "+k.Name, func(t *testing.T) { powertest.Sabotage(t, tt.name, &sabotage, k) })
		}
	}
}

// TestRelinkPowerCuts: after a loss of power at any moment of a Relink, with
// blocks coming into use meanwhile, the disk opens and has the old link or the
// new one, whole.
func TestRelinkPowerCuts(t *testing.T) {
	for sabotage, loses := range map[string]bool{"": false, "header-in-place": true} {
		lost := relinkCuts(t, sabotage)
		if (lost != nil) != loses {
			t.Errorf("sabotage %q: %v", sabotage, lost)
		}
	}
}

func relinkCuts(t *testing.T, fault string) error {
	defer func() { sabotage = "" }()
	sabotage = fault
	seed := uint64(powertest.EnvInt(t, "SEED", int(rand.Uint32())))
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	root, _ := base(t, 64<<20, seed)
	file := block.NewMemFile(0)
	must(t, child(t, noClose{file}, keep{root}, 512<<10).Close())
	f := block.NewPowerCut(file)
	d, err := Open(f, OpenOptions{Parent: keep{root}})
	must(t, err)
	before, next, busy, cuts := *d.ParentLink(), *d.ParentLink(), false, 0
	var lost error
	f.Watch(func() {
		if busy || lost != nil {
			return
		}
		for range 4 {
			cuts++
			image := f.Cut(rnd)
			if err := relinked(image, before, next); err != nil {
				lost = fmt.Errorf("seed %d, cut %d: %w", seed, cuts, err)
			}
		}
		if rnd.IntN(3) == 0 && d.space.mu.TryLock() { // a block comes into use in the middle
			d.space.mu.Unlock()
			busy = true
			must(t, d.WriteAt(ctx, []byte{1}, rnd.Int64N(128)*(512<<10), 0))
			busy = false
		}
	})
	for n := range 12 {
		next = *moved(n * 100 % 700)
		if err := d.Relink(ctx, next); err != nil {
			return err
		}
		before = next
		if lost != nil {
			break
		}
	}
	f.Watch(nil)
	must(t, d.Close())
	if fault == "" && cuts < 200 {
		t.Errorf("only %d cuts", cuts)
	}
	return lost
}
