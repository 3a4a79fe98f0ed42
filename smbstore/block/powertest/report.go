package powertest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
)

// order ranks what a cut can come into, the rarest first.
var order = []string{
	"merge", "live merge", "compact", "resize", "relink", "rebase", "repair", "replay", "close", "open",
	"write FUA", "flush", "trim", "zero", "write", "go on", "nothing",
}

func rank(name string) int {
	if i := slices.Index(order, name); i >= 0 {
		return i
	}
	return -1
}

// row counts the cuts of one kind of disk in one operation.
type row struct{ cuts, replays, mended int }

// result is what runs found.
type result struct {
	passed int
	failed []string
	rows   map[[2]string]row // by kind and operation
}

func newResult() result { return result{rows: map[[2]string]row{}} }

func (r *result) add(kind, during string, s State) {
	key := [2]string{kind, during}
	w := r.rows[key]
	w.cuts++
	switch s {
	case Replay:
		w.replays++
	case Mend:
		w.mended++
	}
	r.rows[key] = w
}

func (r *result) join(o result) {
	r.passed += o.passed
	r.failed = append(r.failed, o.failed...)
	for key, w := range o.rows {
		have := r.rows[key]
		r.rows[key] = row{have.cuts + w.cuts, have.replays + w.replays, have.mended + w.mended}
	}
}

func (r *result) print(kinds []Kind) {
	fmt.Printf("%-18s %-12s %8s %8s %8s\n", "disk", "cut during", "cuts", "replays", "mended")
	place := func(key [2]string) int {
		return len(order)*slices.IndexFunc(kinds, func(k Kind) bool { return k.Name == key[0] }) + rank(key[1])
	}
	keys := slices.SortedFunc(maps.Keys(r.rows), func(a, b [2]string) int { return place(a) - place(b) })
	for _, key := range keys {
		w := r.rows[key]
		fmt.Printf("%-18s %-12s %8d %8d %8d\n", key[0], key[1], w.cuts, w.replays, w.mended)
	}
	fmt.Printf("%d passed, %d failed\n", r.passed, len(r.failed))
}

// runLength is how many cuts one workload gets: then another kind has its turn.
const runLength = 50

// soak makes cuts, run after run with seeds from seed on; every kind has its
// turn. It ends early with a failure that is enough.
func soak(kinds []Kind, seed uint64, cuts, workers int, enough func(failure string) bool) result {
	var mu sync.Mutex
	var wg sync.WaitGroup
	all := newResult()
	left := cuts
	next := func(last result) (uint64, int) {
		mu.Lock()
		defer mu.Unlock()
		all.join(last)
		n := min(runLength, left)
		if slices.ContainsFunc(all.failed, enough) {
			n = 0
		}
		left -= n
		seed++
		return seed - 1, n
	}
	for range workers {
		wg.Go(func() {
			for seed, n := next(newResult()); n > 0; {
				seed, n = next(one(kinds[seed%uint64(len(kinds))], seed, n))
			}
		})
	}
	wg.Wait()
	return all
}

// one does one run.
func one(k Kind, seed uint64, cuts int) result {
	r, err := newRun(k, seed, cuts)
	if err == nil {
		err = r.do()
	}
	if err == nil {
		return r.result
	}
	out := newResult()
	if r != nil {
		out = r.result
	}
	out.failed = append(out.failed, fmt.Sprintf("%s, seed %d, cut %d (workload): %v", k.Name, seed, out.passed, err))
	return out
}

// defaultCuts is how many cuts a run of the tests makes, over all formats.
const defaultCuts = 2000

// Run is the soak as a test: percent of CUTS cuts (2,000) of disks of these
// kinds in turn, from SEED on, with what SABOTAGE names left out. It ends with
// a table and the line "N passed, N failed".
func Run(t *testing.T, percent int, sabotage *string, kinds ...Kind) {
	*sabotage = os.Getenv("SABOTAGE")
	defer func() { *sabotage = "" }()
	cuts := (EnvInt(t, "CUTS", defaultCuts)*percent + 99) / 100
	seed := uint64(EnvInt(t, "SEED", int(rand.Uint32())))
	t.Logf("seed %d, %d cuts, sabotage %q", seed, cuts, *sabotage)
	r := soak(kinds, seed, cuts, runtime.GOMAXPROCS(0), func(string) bool { return *sabotage != "" })
	for _, f := range r.failed {
		t.Error(f)
	}
	r.print(kinds)
}

// lossFound matches what tells of a cut and what it did, not of a run that
// could not go on.
var lossFound = regexp.MustCompile(`, cut \d+ \([a-zA-Z ]+\): .*(holds|check|open|found)`)

// Sabotage shows that the soak would notice: with a step left out it fails.
// That the workload itself stumbles over the sabotage does not count.
func Sabotage(t *testing.T, name string, sabotage *string, kinds ...Kind) {
	*sabotage = name
	defer func() { *sabotage = "" }()
	r := soak(kinds, 1, 4000, runtime.GOMAXPROCS(0), lossFound.MatchString)
	for _, f := range r.failed {
		if lossFound.MatchString(f) {
			t.Logf("after %d cuts: %s", r.passed, f)
			return
		}
	}
	t.Errorf("%d cuts pass without noticing: %q", r.passed, r.failed)
}

// EnvInt returns a number from the environment.
func EnvInt(t *testing.T, name string, def int) int {
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
