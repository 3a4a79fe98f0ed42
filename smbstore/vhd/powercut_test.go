package vhd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"lunless/smbstore/block"
)

// The power-cut soak. A workload runs on a disk in a file that knows what of it
// is stable; before any of the file's changes, power may be cut. Each image a
// cut may leave must open, check clean, hold everything that was flushed, and
// elsewhere nothing but what was written there or zeroes.
//
// CUTS sets how many cuts, SEED the first seed, SABOTAGE a step to leave out, DISK
// the kind: dynamic, differencing or, by default, both.

const (
	cutSector = 512
	cutBlock  = 64 << 10              // smaller than Create makes them, for speed
	cutSize   = 700*cutBlock + 10*512 // 6 sectors of the table
	cutRate   = 0.15                  // cuts a change of the file
)

// cutBlocks are the blocks a workload touches: several in a sector of the table
// and in several sectors, and the last, which is partial.
var cutBlocks = []int64{0, 1, 2, 3, 126, 127, 128, 129, 255, 256, 257, 383, 384, 385, 512, 639, 640, 700}

// cutSparse are those of them that have a bitmap with gaps to begin with, and
// garbage in the gaps.
var cutSparse = []int64{1, 127, 384, 639}

// cutRun is one workload with its cuts.
type cutRun struct {
	t       *testing.T
	seed    uint64
	rnd     *rand.Rand // of the cuts
	rndMu   sync.Mutex
	file    *block.PowerCut
	dev     *Disk
	model   *cutModel
	cuts    int // left to do
	rate    float64
	images  int // cuts at one point, at most
	writers int
	failed  []string
	passed  int
	kinds   map[string]int
}

// runCuts runs one workload of up to cuts cuts.
func runCuts(t *testing.T, seed uint64, cuts int) (*cutRun, error) {
	r := &cutRun{
		seed: seed, rnd: rand.New(rand.NewPCG(seed, 1)), cuts: cuts, rate: cutRate, images: 1, writers: 1,
		t:     t,
		model: &cutModel{blocks: map[int64]*blockModel{}}, kinds: map[string]int{},
	}
	if seed%4 >= 2 && seed%8 != 2 {
		r.writers = 3
	}
	if kind := os.Getenv("DISK"); kind == "differencing" || kind == "" && seed%2 == 0 {
		r.model.parent, r.model.gaps = cutParent(), map[int64]bool{}
		for _, blk := range cutSparse {
			r.model.gaps[blk] = true
		}
	}
	if err := r.create(); err != nil {
		return nil, err
	}
	r.file.Watch(r.maybeCut)
	for r.cuts > 0 && len(r.failed) == 0 {
		if err := r.round(); err != nil {
			return nil, fmt.Errorf("seed %d: %w", seed, err)
		}
	}
	return r, nil
}

// create makes the disk, with some bitmaps full of gaps.
func (r *cutRun) create() error {
	f := block.NewMemFile(0)
	o := CreateOptions{Size: cutSize, BlockSize: cutBlock}
	if r.model.parent != nil {
		o.Parent = link()
	}
	if err := format(f, o); err != nil {
		return err
	}
	d, err := Open(noClose{f}, OpenOptions{Parent: r.model.parent})
	if err != nil {
		return err
	}
	spoil(r.t, d, f, cutSparse...)
	r.file = block.NewPowerCut(f)
	r.dev, err = Open(r.file, OpenOptions{Parent: r.model.parent})
	return err
}

// footerNotes tells whether a footer is missing.
func footerNotes(r Report) bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return strings.Contains(f.What, "footer") })
}

// round works for a while, then goes on after closing, after a cut, or as it is.
func (r *cutRun) round() error {
	var wg sync.WaitGroup
	errs := make(chan error, r.writers)
	for w := range r.writers {
		r.rndMu.Lock()
		rnd := rand.New(rand.NewPCG(r.rnd.Uint64(), uint64(w)))
		r.rndMu.Unlock()
		wg.Go(func() { errs <- r.work(rnd, int64(w)) })
	}
	wg.Wait()
	for range r.writers {
		if err := <-errs; err != nil {
			return err
		}
	}
	r.rndMu.Lock()
	next := r.rnd.IntN(3)
	r.rndMu.Unlock()
	if next == 0 {
		return nil
	}
	if next == 1 {
		r.rate, r.images = 0.9, 8 // few changes, each of its own kind
		err := r.dev.Close()
		r.rate, r.images = cutRate, 1
		if err != nil {
			return err
		}
		r.model.stable(func(int64) bool { return true })
	} else {
		image := r.file.Cut(r.rnd)
		r.count("adopted", r.model.verify(image, true))
		r.file = block.NewPowerCut(image)
		r.file.Watch(r.maybeCut)
	}
	var err error
	r.dev, err = Open(r.file, OpenOptions{Parent: r.model.parent})
	return err
}

// work sends requests of one writer, which owns every writers-th run of 8 sectors.
func (r *cutRun) work(rnd *rand.Rand, w int64) error {
	ctx := context.Background()
	owns := func(s int64) bool { return s/8%int64(r.writers) == w }
	for range 40 {
		off, n := r.pick(rnd, w)
		var err error
		switch k := rnd.IntN(20); {
		case k < 10 || (k >= 15 && r.writers > 1):
			err = r.write(ctx, off, n, 0, owns)
		case k < 12:
			err = r.write(ctx, off, n, block.FUA, owns)
		case k < 15:
			if err = r.dev.Flush(ctx); err == nil {
				r.model.stable(owns)
			}
		case k < 17:
			off, n = r.widen(rnd, off, n)
			r.model.begin(off, n, 0, false)
			err = r.dev.WriteZeroes(ctx, off, n, block.WriteFlags(rnd.IntN(4)/3)*block.NoUnmap)
		case k == 17 && w == 0 && r.model.parent != nil && rnd.IntN(8) == 0:
			err = r.dev.Relink(ctx, *moved(rnd.IntN(400)))
		case k < 19:
			off, n = r.widen(rnd, off, n)
			r.model.begin(off, n, 0, true)
			err = r.dev.Trim(ctx, off, n)
		default:
			err = r.write(ctx, off, n, 0, owns)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *cutRun) write(ctx context.Context, off, n int64, flags block.WriteFlags, owns func(int64) bool) error {
	tag := r.model.tag()
	p := make([]byte, n)
	pattern(p, tag)
	r.model.begin(off, n, tag, false)
	if err := r.dev.WriteAt(ctx, p, off, flags); err != nil {
		return err
	}
	if flags&block.FUA != 0 {
		r.model.stable(func(s int64) bool { return owns(s) && s >= off/cutSector && s < (off+n)/cutSector })
	}
	return nil
}

// pick returns sectors of the writer's own: a run of up to 8 in one of the blocks,
// or, for a single writer, longer ones that cross a border.
func (r *cutRun) pick(rnd *rand.Rand, w int64) (off, n int64) {
	blk := cutBlocks[rnd.IntN(len(cutBlocks)-1)]
	slots, writers := int64(cutBlock/cutSector/8), int64(r.writers)
	slot := blk*slots + rnd.Int64N(slots-writers)
	slot += (w - slot%writers + writers) % writers
	off = slot * 8 * cutSector
	n = (rnd.Int64N(8) + 1) * cutSector
	if r.writers == 1 {
		switch rnd.IntN(6) {
		case 0: // into the last block
			return cutSize - n, n
		case 1: // across a border into a block of the list
			if blk != 3 && blk != 129 && blk != 257 && blk != 385 && blk != 512 && blk != 640 {
				return (blk+1)*cutBlock - 2*cutSector, 4096
			}
		}
	}
	return off, n
}

// widen makes some ranges whole blocks.
func (r *cutRun) widen(rnd *rand.Rand, off, n int64) (int64, int64) {
	if rnd.IntN(3) == 0 {
		return off, n
	}
	off -= off % cutBlock
	return off, min(cutBlock, cutSize-off)
}

// maybeCut is called before each change of the file.
func (r *cutRun) maybeCut() {
	r.rndMu.Lock()
	defer r.rndMu.Unlock()
	// The model first: what it allows only shrinks by what is stable by then.
	r.model.mu.Lock()
	defer r.model.mu.Unlock()
	for range r.images {
		if r.cuts <= 0 || r.rnd.Float64() >= r.rate {
			return
		}
		image := r.file.Cut(r.rnd)
		kind := "whole"
		if rep, err := Check(image); err == nil && footerNotes(rep) {
			kind = "no footer"
		}
		r.count(kind, r.model.verify(image, false))
	}
}

func (r *cutRun) count(kind string, err error) {
	r.cuts--
	r.kinds[kind]++
	if err == nil {
		r.passed++
		return
	}
	r.failed = append(r.failed, fmt.Sprintf("seed %d, cut %d: %v", r.seed, r.passed+len(r.failed), err))
}

func TestPowerCuts(t *testing.T) {
	sabotage = os.Getenv("SABOTAGE")
	defer func() { sabotage = "" }()
	cuts := envInt(t, "CUTS", 2000)
	seed := uint64(envInt(t, "SEED", int(rand.Uint32())))
	t.Logf("seed %d, %d cuts, sabotage %q", seed, cuts, sabotage)
	kinds, passed, failed := map[string]int{}, 0, 0
	for passed+failed < cuts {
		r, err := runCuts(t, seed, min(50, cuts-passed-failed))
		if err != nil {
			t.Error(err)
			failed++
		} else {
			for _, f := range r.failed {
				t.Error(f)
			}
			for k, n := range r.kinds {
				kinds[k] += n
			}
			passed, failed = passed+r.passed, failed+len(r.failed)
		}
		if sabotage != "" && failed > 0 {
			break
		}
		seed++
	}
	fmt.Printf("%-12s %8s\n", "image", "cuts")
	for _, k := range []string{"whole", "no footer", "adopted"} {
		fmt.Printf("%-12s %8d\n", k, kinds[k])
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
}

// lossFound matches a line that tells of a cut and what it did.
var lossFound = regexp.MustCompile(`seed \d+, cut \d+: .*(holds|check|open|found)`)

// TestSabotage shows that the soak would notice: with a step left out it fails.
func TestSabotage(t *testing.T) {
	for i := range 8 {
		name, kind := []string{"flush-swallowed", "table-early", "bitmap-early", "bitmap-skipped"}[i/2], []string{"dynamic", "differencing"}[i%2]
		t.Run(name+" "+kind, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0], "-test.run", "^TestPowerCuts$")
			cmd.Env = append(os.Environ(), "SABOTAGE="+name, "DISK="+kind, "CUTS=2000", "SEED=1")
			out, err := cmd.CombinedOutput()
			if err == nil || !lossFound.Match(out) {
				t.Fatalf("the soak passes without noticing (%v):\n%s", err, out)
			}
			for line := range strings.Lines(string(out)) {
				if lossFound.MatchString(line) {
					t.Log(strings.TrimSpace(line))
					break
				}
			}
		})
	}
}

func envInt(t *testing.T, name string, def int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return def
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s=%s: %v", name, s, err)
	}
	return n
}
