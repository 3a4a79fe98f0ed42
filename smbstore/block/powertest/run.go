package powertest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"

	"lunless/smbstore/block"
)

// rates are cuts a change: most before a Sync, when the most is at risk.
type rates struct {
	sync, other float64
	images      int // at one point, at most
}

var (
	working = rates{0.25, 0.05, 1}
	closing = rates{0.9, 0.3, 4} // few changes, each of its own kind
	inner   = rates{0.3, 0.1, 1} // while what a cut left is opened or repaired
)

func (r rates) of(kind block.OpKind) float64 {
	if kind == block.OpFlush {
		return r.sync
	}
	return r.other
}

// maxDepth is of cuts while what a cut left is opened.
const maxDepth = 3

// run is one workload with its cuts.
type run struct {
	kind    string
	seed    uint64
	disk    *Disk
	dir     *Folder
	dev     block.Device
	model   *model
	writers int
	blocks  bool // writers own blocks, so that whole ones can be zeroed and trimmed, rather than slots

	mu       sync.Mutex // before model.mu; guards what follows
	rnd      *rand.Rand // of the cuts
	cuts     int        // left to do
	rates    rates
	busy     map[string]int
	verified int
	result   result
}

// newRun makes the disk.
func newRun(k Kind, seed uint64, cuts int) (*run, error) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	r := &run{
		kind: k.Name, seed: seed, disk: k.New(rnd), dir: NewFolder(), writers: 1,
		rnd: rnd, cuts: cuts, rates: working, busy: map[string]int{}, result: newResult(),
	}
	r.model = newModel(r.disk.BlockSize, r.disk.Size)
	if rnd.IntN(3) == 0 {
		r.writers = 3
		r.blocks = rnd.IntN(2) == 0
	}
	if err := r.disk.Create(r.dir, func(dev block.Device) error { return r.fill(rnd, dev) }); err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	r.model.forget(r.disk.Size) // what it hides of larger parents, for good
	r.dir = r.dir.Clone()
	r.dir.Watch(r.maybeCut)
	var err error
	r.dev, err = r.disk.Open(r.dir, false)
	return r, err
}

// do works until all cuts are done or one found something.
func (r *run) do() error {
	for r.cuts > 0 && len(r.result.failed) == 0 {
		if err := r.round(); err != nil {
			return err
		}
	}
	return nil
}

// round works for a while, then goes on as it is, after closing, or after a cut.
func (r *run) round() error {
	if err := r.work(); err != nil {
		return err
	}
	switch next := r.intn(5); {
	case next == 0:
		return nil
	case next <= 2:
		return r.closed()
	}
	r.dir = r.dir.Cut(r.rnd)
	r.dir.Watch(r.maybeCut)
	state, err := r.disk.Check(r.dir)
	if err == nil {
		err = r.open("replay")
	}
	if err == nil {
		err = r.compare(r.dev, true)
	}
	r.count("go on", state, err)
	return nil
}

// closed closes the disk, does what is done to closed disks, and opens it.
func (r *run) closed() error {
	if r.intn(4) > 0 {
		if err := r.remap(); err != nil {
			return err
		}
	}
	r.rates = closing
	err := r.during("close", r.dev.Close)
	r.rates = working
	if err != nil {
		return fmt.Errorf("close: %w", err)
	}
	r.model.stable(func(int64) bool { return true })
	if n := len(r.disk.Offline); n > 0 && r.intn(2) == 0 {
		op := r.disk.Offline[r.intn(n)]
		if err := r.during(op.Name, func() error { return op.Do(context.Background(), r.dir) }); err != nil {
			return fmt.Errorf("%s: %w", op.Name, err)
		}
	}
	return r.open("open")
}

// remap gives a block up and has it come into use again, so that a flush leaves
// work to Close. Nobody else is at work.
func (r *run) remap() error {
	w := &writer{r, r.source(0), 0}
	blk := r.disk.Blocks[w.rnd.IntN(len(r.disk.Blocks))]
	off := blk * r.disk.BlockSize
	err := w.zero(off, min(r.disk.BlockSize, r.disk.Size-off), 0)
	if err == nil && w.rnd.IntN(2) == 0 {
		err = w.flush()
	}
	if err == nil {
		err = w.write(off, min(slotSize, r.disk.Size-off), 0)
	}
	if err == nil {
		err = w.flush()
	}
	if err == nil {
		r.model.stable(func(int64) bool { return true })
	}
	return err
}

func (r *run) open(name string) error {
	return r.during(name, func() (err error) {
		r.dev, err = r.disk.Open(r.dir, false)
		return err
	})
}

func (r *run) intn(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rnd.IntN(n)
}

// source returns a random source for one writer.
func (r *run) source(w int) *rand.Rand {
	r.mu.Lock()
	defer r.mu.Unlock()
	return rand.New(rand.NewPCG(r.rnd.Uint64(), uint64(w)))
}

// during does something that cuts made meanwhile are put down to.
func (r *run) during(name string, do func() error) error {
	add := func(n int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.busy[name] += n
	}
	add(1)
	defer add(-1)
	return do()
}

// doing names what is being done: of several things the one with the most to it.
func (r *run) doing() string {
	best := "nothing"
	for name, n := range r.busy {
		if n > 0 && rank(name) < rank(best) {
			best = name
		}
	}
	return best
}

// maybeCut is called before each change of the disk's files.
func (r *run) maybeCut(kind block.OpKind) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// The model first: what it allows only shrinks by what is stable by then.
	r.model.mu.Lock()
	defer r.model.mu.Unlock()
	for range r.rates.images {
		if r.cuts <= 0 || len(r.result.failed) > 0 || r.rnd.Float64() >= r.rates.of(kind) {
			return
		}
		image := r.dir.Cut(r.rnd)
		state, err := r.verify(image, 1)
		r.tally(r.doing(), state, err)
	}
}

// count is tally for those who hold no lock.
func (r *run) count(during string, state State, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tally(during, state, err)
}

func (r *run) tally(during string, state State, err error) {
	r.cuts--
	r.result.add(r.kind, during, state)
	if err == nil {
		r.result.passed++
		return
	}
	n := r.result.passed + len(r.result.failed)
	r.result.failed = append(r.result.failed, fmt.Sprintf("%s, seed %d, cut %d (%s): %v", r.kind, r.seed, n, during, err))
}
