package vhdx

import (
	"bytes"
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
// CUTS sets how many cuts, SEED the first seed, SABOTAGE a step to leave out.

const (
	cutSector = 512
	cutBlock  = 1 << 20
	cutSize   = 6<<30 + 4096 // 13 pages of BAT
	cutRate   = 0.15         // cuts a change of the file
)

// cutBlocks are the blocks a workload touches: several in a page and in several
// pages, next to a sector bitmap's entry, and the last, which is partial.
var cutBlocks = []int64{0, 1, 2, 3, 511, 512, 513, 1024, 2047, 2048, 4094, 4095, 4096, 4097, 6143, 6144}

// versions are what a sector may hold, oldest first; the last is what it reads
// as now. A version is the number that fills the sector, 0 for zeroes.
type versions struct {
	may  []uint64
	trim bool // the last is a trim: zero, or what was before
}

// cutModel is what a disk promises.
type cutModel struct {
	mu     sync.Mutex
	blocks map[int64]*blockModel // by block number
	next   uint64

	verified int
}

// blockModel has a block's sectors; nil for one that was never written.
type blockModel [cutBlock / cutSector]*versions

// sector returns the place of a sector's versions.
func (m *cutModel) sector(s int64) **versions {
	blk := s / (cutBlock / cutSector)
	if m.blocks[blk] == nil {
		m.blocks[blk] = &blockModel{}
	}
	return &m.blocks[blk][s%(cutBlock/cutSector)]
}

func (m *cutModel) begin(off, n int64, tag uint64, trim bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := off / cutSector; s < (off+n)/cutSector; s++ {
		v := m.sector(s)
		if *v == nil {
			if tag == 0 {
				continue
			}
			*v = &versions{may: []uint64{0}}
		}
		(*v).may = append((*v).may, tag)
		(*v).trim = trim
	}
}

// stable drops what a flush has made impossible, for the sectors that owns picks.
func (m *cutModel) stable(owns func(sector int64) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for blk, sectors := range m.blocks {
		for i, v := range sectors {
			if v != nil && owns(blk*(cutBlock/cutSector)+int64(i)) {
				v.settle()
			}
		}
	}
}

func (v *versions) settle() {
	if v.trim {
		return // zero or anything before it, since that may have been zero or a trim itself
	}
	v.may = v.may[len(v.may)-1:]
}

// tag returns a number nobody has written yet.
func (m *cutModel) tag() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next++
	return m.next
}

// pattern fills p with copies of tag.
func pattern(p []byte, tag uint64) {
	le.PutUint64(p, tag)
	for n := 8; n < len(p); n *= 2 {
		copy(p[n:], p[:n])
	}
}

// verify opens an image and holds it against the model. adopt makes the model
// that of the image.
func (m *cutModel) verify(f *block.MemFile, adopt bool) error {
	if r, err := Check(f); err != nil || !r.Clean() {
		return fmt.Errorf("check before opening: %v %+v", err, r.Findings)
	}
	if m.verified++; m.verified%4 == 0 { // the replay in memory, sometimes: it costs as much again
		ro, err := Open(noClose{f}, OpenOptions{ReadOnly: true})
		if err != nil {
			return fmt.Errorf("open read-only: %w", err)
		}
		if err := m.compare(ro, false); err != nil {
			return fmt.Errorf("read-only: %w", err)
		}
	}
	d, err := Open(noClose{f}, OpenOptions{})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if err := m.compare(d, adopt); err != nil {
		return err
	}
	if err := d.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	if r, err := Check(f); err != nil || !r.Clean() || r.Info.LogInUse {
		return fmt.Errorf("check after replay: %v %+v", err, r.Findings)
	}
	return nil
}

func (m *cutModel) compare(d *Disk, adopt bool) error {
	buf, one := make([]byte, cutBlock), make([]byte, cutSector)
	for _, blk := range cutBlocks {
		n := min(cutBlock, cutSize-blk*cutBlock)
		if err := d.ReadAt(context.Background(), buf[:n], blk*cutBlock); err != nil {
			return fmt.Errorf("read block %d: %w", blk, err)
		}
		sectors := m.blocks[blk]
		for i := range n / cutSector {
			if sectors == nil || sectors[i] == nil {
				continue
			}
			v, got := sectors[i], buf[i*cutSector:(i+1)*cutSector]
			tag := le.Uint64(got)
			pattern(one, tag)
			if !bytes.Equal(got, one) || !slices.Contains(v.may, tag) {
				return fmt.Errorf("sector %d of block %d: holds %d, may hold %v", i, blk, tag, v.may)
			}
			if adopt {
				v.may, v.trim = []uint64{tag}, false
			}
			clear(got)
		}
		if !block.IsZero(buf[:n]) {
			return fmt.Errorf("block %d holds something where nothing was written", blk)
		}
	}
	return nil
}

// cutRun is one workload with its cuts.
type cutRun struct {
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
	blocks  bool // writers own blocks, so that whole ones can be zeroed and trimmed, rather than sectors
	failed  []string
	passed  int
	kinds   map[string]int
}

// runCuts runs one workload of up to cuts cuts.
func runCuts(seed uint64, cuts int) (*cutRun, error) {
	r := &cutRun{
		seed: seed, rnd: rand.New(rand.NewPCG(seed, 1)), cuts: cuts, rate: cutRate, images: 1, writers: 1,
		file:  block.NewPowerCut(block.NewMemFile(0)),
		model: &cutModel{blocks: map[int64]*blockModel{}}, kinds: map[string]int{},
	}
	if seed%4 == 3 {
		r.writers = 3
		r.blocks = seed%8 == 7
	}
	d, err := Create(r.file, CreateOptions{Size: cutSize, BlockSize: cutBlock})
	if err != nil {
		return nil, err
	}
	r.use(d)
	r.file.Watch(r.maybeCut)
	for r.cuts > 0 && len(r.failed) == 0 {
		if err := r.round(); err != nil {
			return nil, fmt.Errorf("seed %d: %w", seed, err)
		}
	}
	return r, nil
}

// use makes d the disk, with small commits, its log near the end of its ring so
// that entries wrap.
func (r *cutRun) use(d *Disk) {
	d.meta.limit = 5
	d.log.head = d.log.length - int64(r.seed%7)*logSector
	d.log.head %= d.log.length
	r.dev = d
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
	d, err := Open(r.file, OpenOptions{})
	if err != nil {
		return err
	}
	r.use(d)
	return nil
}

// owner is whose a sector is.
func (r *cutRun) owner(s int64) int64 {
	if r.blocks {
		return int64(slices.Index(cutBlocks, s/(cutBlock/cutSector))) % int64(r.writers)
	}
	return s / 8 % int64(r.writers)
}

// work sends requests of one writer, which owns every writers-th run of 8
// sectors, or every writers-th block.
func (r *cutRun) work(rnd *rand.Rand, w int64) error {
	ctx := context.Background()
	owns := func(s int64) bool { return r.owner(s) == w }
	apart := r.writers > 1 && !r.blocks // whole blocks are nobody's
	for range 40 {
		off, n := r.pick(rnd, w)
		var err error
		switch k := rnd.IntN(20); {
		case k < 10 || (k >= 15 && apart):
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
	if r.blocks {
		for r.owner(slot*8) != w {
			blk = cutBlocks[rnd.IntN(len(cutBlocks)-1)]
			slot = blk*slots + rnd.Int64N(slots-writers)
		}
	} else {
		slot += (w - slot%writers + writers) % writers
	}
	off = slot * 8 * cutSector
	n = (rnd.Int64N(8) + 1) * cutSector
	if r.writers == 1 {
		switch rnd.IntN(6) {
		case 0: // into the last block
			return cutSize - n, n
		case 1: // across a border into a block of the list
			if blk == 0 || blk == 511 || blk == 4095 || blk == 512 || blk == 6143 {
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
		kind := "clean"
		if in, err := Inspect(image); err == nil && in.LogInUse {
			kind = "log in use"
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
	cuts := envInt(t, "CUTS", 1000)
	seed := uint64(envInt(t, "SEED", int(rand.Uint32())))
	t.Logf("seed %d, %d cuts, sabotage %q", seed, cuts, sabotage)
	kinds, passed, failed := map[string]int{}, 0, 0
	for passed+failed < cuts {
		r, err := runCuts(seed, min(50, cuts-passed-failed))
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
	fmt.Printf("%-12s %8s\n", "cut while", "cuts")
	for _, k := range []string{"clean", "log in use", "adopted"} {
		fmt.Printf("%-12s %8d\n", k, kinds[k])
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
}

// lossFound matches a line that tells of a cut and what it did.
var lossFound = regexp.MustCompile(`seed \d+, cut \d+: .*(holds|check|open|found)`)

// TestSabotage shows that the soak would notice: with a step left out it fails.
func TestSabotage(t *testing.T) {
	for _, name := range []string{"log-entry-skipped", "header-early", "flush-swallowed", "data-after-bat"} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run", "^TestPowerCuts$")
			cmd.Env = append(os.Environ(), "SABOTAGE="+name, "CUTS=2000", "SEED=1")
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

// noClose is a file that outlives its disk.
type noClose struct{ *block.MemFile }

func (noClose) Close() error { return nil }
