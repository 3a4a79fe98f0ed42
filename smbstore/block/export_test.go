package block

import (
	"fmt"
	"testing"
)

// Sabotage switches a named fault on for the rest of a test.
func Sabotage(t *testing.T, name string) {
	old := sabotage
	sabotage = name
	t.Cleanup(func() { sabotage = old })
}

// Kept is a set of kept writes, for tests.
type Kept struct{ keptWrites }

// Put keeps what was written; data is nil for zeroes.
func (k *Kept) Put(off, n int64, data []byte) { k.put(off, n, data, data == nil, 0) }

// Drop forgets a range.
func (k *Kept) Drop(off, n int64) { k.drop(off, n) }

// Mark and Settle forget what was kept at a mark.
func (k *Kept) Mark() uint64       { return k.mark() }
func (k *Kept) Settle(mark uint64) { k.settle(mark) }

// Each calls visit for what is kept, in order; data is nil for zeroes.
func (k *Kept) Each(visit func(off, n int64, data []byte)) {
	for _, r := range k.runs() {
		visit(r.off, r.n, r.data)
	}
}

// Check fails if the set contradicts itself.
func (k *Kept) Check() error {
	var weight, end int64
	for l, leaf := range k.leaves {
		if len(leaf) == 0 || len(leaf) > keptLeaf {
			return fmt.Errorf("leaf %d has %d runs", l, len(leaf))
		}
		for _, r := range leaf {
			if r.off < end || r.n <= 0 || r.data != nil && int64(len(r.data)) != r.n {
				return fmt.Errorf("run of %d at %d with %d bytes, the last ended at %d", r.n, r.off, len(r.data), end)
			}
			end = r.end()
			weight += r.weight()
			if m := cap(r.data); m > 1024 && m > 4*len(r.data) {
				return fmt.Errorf("run of %d bytes holds on to %d", r.n, m)
			}
		}
	}
	if weight != k.held.Load() {
		return fmt.Errorf("weight %d, counted %d", weight, k.held.Load())
	}
	return nil
}

// Leaves gives the number of runs of each leaf.
func (k *Kept) Leaves() (n []int) {
	for _, l := range k.leaves {
		n = append(n, len(l))
	}
	return n
}
