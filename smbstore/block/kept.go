package block

import (
	"math/bits"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
)

const (
	keptLeaf     = 256 // runs in one leaf, at most
	keptOverhead = 128 // what a run counts for besides its content
)

// keptRun is a range of a device as it was written last.
type keptRun struct {
	off, n int64
	data   []byte     // nil: zeroes
	flags  WriteFlags // that zeroes are written with
	seq    uint64     // when it was written
	buf    *[]byte    // data's memory, if it is the run's alone and goes back to the pool
}

func (r *keptRun) end() int64 { return r.off + r.n }

func (r *keptRun) weight() int64 { return keptWeight(r.n, r.data == nil) }

// keptWeight is what a change of n bytes counts for against a bound. Zeroes take no
// memory, but time to write again.
func keptWeight(n int64, zero bool) int64 {
	if zero {
		return keptOverhead + n/64
	}
	return keptOverhead + n
}

// part is what of a run lies in [from, to). It does not hold on to memory that is
// more than twice its own.
func (r *keptRun) part(from, to int64) keptRun {
	p := keptRun{off: from, n: to - from, flags: r.flags, seq: r.seq}
	if r.data != nil {
		p.data = r.data[from-r.off : to-r.off]
		if len(p.data) < cap(r.data)/2 {
			p.data = slices.Clone(p.data)
		}
	}
	return p
}

// keptWrites are the ranges of a device that were written since its last flush, with
// their content: what is written over something kept takes its place. All methods
// may be called concurrently. The zero value is empty.
type keptWrites struct {
	held atomic.Int64 // weight of all
	bufs keptBuffers

	mu     sync.Mutex // guards all below
	leaves [][]keptRun
	seq    uint64
}

// from is the place of the first run that ends after off; under mu.
func (k *keptWrites) from(off int64) (leaf, i int) {
	leaf = sort.Search(len(k.leaves), func(l int) bool { return k.leaves[l][len(k.leaves[l])-1].end() > off })
	if leaf < len(k.leaves) {
		i = sort.Search(len(k.leaves[leaf]), func(i int) bool { return k.leaves[leaf][i].end() > off })
	}
	return leaf, i
}

// cut takes [off, off+n) out; under mu.
func (k *keptWrites) cut(off, n int64) {
	end := off + n
	for at, i := k.from(off); at < len(k.leaves); i = 0 {
		leaf := k.leaves[at]
		j := i
		for j < len(leaf) && leaf[j].off < end {
			j++
		}
		if i == j {
			return
		}
		var rest [2]keptRun
		left := rest[:0]
		if first := &leaf[i]; first.off < off {
			left = append(left, first.part(first.off, off))
		}
		if last := &leaf[j-1]; last.end() > end {
			left = append(left, last.part(end, last.end()))
		}
		whole := len(left) == 0
		for x := range leaf[i:j] {
			k.held.Add(-leaf[i+x].weight())
			if whole {
				k.bufs.put(leaf[i+x].buf)
			}
		}
		for x := range left {
			k.held.Add(left[x].weight())
		}
		more := j == len(leaf)
		if k.leaves[at] = slices.Replace(leaf, i, j, left...); len(k.leaves[at]) == 0 {
			k.leaves = slices.Delete(k.leaves, at, at+1)
		} else {
			at++
		}
		if !more {
			return
		}
	}
}

// insert adds a run to where there is none; under mu.
func (k *keptWrites) insert(r keptRun) {
	k.held.Add(r.weight())
	at, i := k.from(r.off)
	switch {
	case len(k.leaves) == 0:
		k.leaves = append(k.leaves, nil)
	case at == len(k.leaves):
		at--
		i = len(k.leaves[at])
	}
	leaf := slices.Insert(k.leaves[at], i, r)
	if len(leaf) > keptLeaf {
		half := len(leaf) / 2
		k.leaves = slices.Insert(k.leaves, at+1, slices.Clone(leaf[half:]))
		clear(leaf[half:])
		leaf = leaf[:half]
	}
	k.leaves[at] = leaf
}

// put keeps what was written, a copy of data; zeroes if zero is set.
func (k *keptWrites) put(off, n int64, data []byte, zero bool, flags WriteFlags) {
	r := keptRun{off: off, n: n, flags: flags}
	if !zero {
		r.buf = k.bufs.get(len(data))
		r.data = (*r.buf)[:len(data)]
		copy(r.data, data)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cut(off, n)
	k.seq++
	r.seq = k.seq
	k.insert(r)
}

// drop forgets a range, which is on stable storage otherwise.
func (k *keptWrites) drop(off, n int64) {
	if k.held.Load() == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cut(off, n)
}

// mark stands for what is kept now.
func (k *keptWrites) mark() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.seq
}

// settle forgets what was kept at a mark.
func (k *keptWrites) settle(mark uint64) {
	if k.held.Load() == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for l, leaf := range k.leaves {
		k.leaves[l] = slices.DeleteFunc(leaf, func(r keptRun) bool {
			if r.seq > mark {
				return false
			}
			k.held.Add(-r.weight())
			k.bufs.put(r.buf)
			return true
		})
	}
	k.leaves = slices.DeleteFunc(k.leaves, func(leaf []keptRun) bool { return len(leaf) == 0 })
}

// runs are all that is kept. Their content is valid while nothing is put, dropped
// or settled.
func (k *keptWrites) runs() []keptRun {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Concat(k.leaves...)
}

// keptBuffers are memory for copies, by powers of two.
type keptBuffers struct{ pools [32]sync.Pool }

const (
	leastBuffer = 9  // 512 bytes
	mostBuffer  = 21 // 2 MiB; larger ones come and go
)

func (b *keptBuffers) get(n int) *[]byte {
	class := max(bits.Len(uint(max(n, 1)-1)), leastBuffer)
	if class > mostBuffer {
		p := make([]byte, n)
		return &p
	}
	if p, ok := b.pools[class].Get().(*[]byte); ok {
		return p
	}
	// A buffer is hardly larger than what it is for: requests come in powers of two.
	p := make([]byte, 1<<class)
	return &p
}

func (b *keptBuffers) put(p *[]byte) {
	if p == nil {
		return
	}
	if class := bits.Len(uint(len(*p) - 1)); 1<<class == len(*p) && class >= leastBuffer && class <= mostBuffer {
		b.pools[class].Put(p)
	}
}
