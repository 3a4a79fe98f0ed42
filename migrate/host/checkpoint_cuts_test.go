package host

import (
	"errors"
	"fmt"
	"testing"
)

// checkpointsUnderCuts makes, restores and removes checkpoints of a VM that runs and of
// one that is off, cuts the power before one in so many flushes of it, and fewer of
// those that a writer makes, and gives the first thing that was wrong after one.
func checkpointsUnderCuts(t *testing.T, seed uint64, rare int) (cuts int, err error) {
	p := newPowerVM(t, seed)
	p.rare, p.usual = rare, rare
	make := func(name string) func() error { return func() error { return p.checkpoint(name) } }
	drop := func(name string, subtree bool) func() error {
		return func() error { return p.remove(name, subtree, seed) }
	}
	back := func(name string) func() error { return func() error { return p.restore(name) } }
	live := func(do ...func() error) func() error { return func() error { return p.live(seed, do...) } }
	steps := []func() error{
		live(make("a"), make("b"), drop("a", false), make("c"), drop("b", false)), // the middle, and what lies below the leaf
		make("d"), back("c"), live(make("e"), make("f")), // two branches from c
		live(drop("c", false)), drop("d", false), back("e"), drop("f", false),
		live(make("g"), make("h"), drop("g", true)), make("i"), drop("e", true),
	}
	for i, f := range steps {
		if err = f(); err != nil {
			err = fmt.Errorf("step %d: %w", i, err)
		}
		p.mu.Lock()
		cuts, err = p.cuts, errors.Join(p.err, err)
		p.mu.Unlock()
		if err != nil {
			return cuts, err
		}
	}
	c, err := p.home.Config()
	if err == nil && (len(c.Checkpoints) > 0 || len(c.Unmerged) > 0) {
		err = fmt.Errorf("in the end %+v, unmerged %v", c.Checkpoints, c.Unmerged)
	}
	return cuts, err
}

// survivePowerCuts is the test of both builds: whenever the power is lost, the VM has
// every flushed block, each checkpoint that it lists is what it was, and the next start
// sees to what is left.
func survivePowerCuts(t *testing.T, rare int) {
	t.Helper()
	const seed = 1
	cuts, err := checkpointsUnderCuts(t, seed, rare)
	if t.Logf("seed %d: %d cuts", seed, cuts); err != nil {
		t.Error(err)
	}
}

// With a fault switched on, that is noticed.
func TestPowerCutsSeeSabotage(t *testing.T) {
	old := sabotage
	defer func() { sabotage = old }()
	for _, fault := range []string{sabotageMerge, sabotageGrown, sabotageTidy} {
		sabotage = func(name string) bool { return name == fault }
		cuts, err := checkpointsUnderCuts(t, 1, 1)
		if t.Logf("%s: after %d cuts: %v", fault, cuts, err); err == nil {
			t.Errorf("%s: nothing was noticed in %d cuts", fault, cuts)
		}
	}
}
