package block

import (
	"fmt"
	"math/bits"
	"sync/atomic"
)

// maxBitmapBits bounds a Bitmap's memory to 64 MiB.
const maxBitmapBits = 1 << 29

// Bitmap marks granules of a device, one bit each. All methods may be called
// concurrently; each granule changes atomically, a range does not.
type Bitmap struct {
	size, granularity int64 // bytes
	shift             uint
	words             []atomic.Uint64
	count             atomic.Int64 // granules marked
}

// NewBitmap returns an empty bitmap over size bytes. granularity is a power of
// two; a device that would need more than 64 MiB of bits is refused (64 TiB at
// 1 MiB takes 8 MiB).
func NewBitmap(size, granularity int64) (*Bitmap, error) {
	if granularity <= 0 || granularity&(granularity-1) != 0 {
		return nil, fmt.Errorf("bitmap granularity %d is not a power of two", granularity)
	}
	if size < 0 {
		return nil, fmt.Errorf("bitmap over %d bytes: %w", size, ErrOutOfRange)
	}
	b := &Bitmap{size: size, granularity: granularity, shift: uint(bits.TrailingZeros64(uint64(granularity)))}
	n := b.granules()
	if n > maxBitmapBits {
		return nil, fmt.Errorf("bitmap over %d bytes needs a granularity above %d", size, granularity)
	}
	b.words = make([]atomic.Uint64, (n+63)/64)
	return b, nil
}

// Granularity is the bytes one bit stands for; the last one may stand for less.
func (b *Bitmap) Granularity() int64 { return b.granularity }

// Count is how many granules are marked.
func (b *Bitmap) Count() int64 { return b.count.Load() }

// Set marks every granule that [off, off+n) touches.
func (b *Bitmap) Set(off, n int64) {
	if first, last, ok := b.touched(off, n); ok {
		b.change(first, last, true)
	}
}

// Clear unmarks every granule that [off, off+n) touches.
func (b *Bitmap) Clear(off, n int64) {
	if first, last, ok := b.touched(off, n); ok {
		b.change(first, last, false)
	}
}

// ClearCovered unmarks the granules that lie wholly in [off, off+n); the
// device's last one counts as covered up to the device's end.
func (b *Bitmap) ClearCovered(off, n int64) {
	if n <= 0 || off < 0 || off >= b.size {
		return
	}
	end := off + min(n, b.size-off)
	first := (off + b.granularity - 1) >> b.shift
	last := end >> b.shift // exclusive
	if end == b.size {
		last = b.granules()
	}
	if first < last {
		b.change(first, last-1, false)
	}
}

// Test tells whether any granule that [off, off+n) touches is marked.
func (b *Bitmap) Test(off, n int64) bool {
	_, _, ok := b.Next(off, off+n)
	return ok
}

// Next returns the first run of marked granules in [from, to), in bytes: clipped
// to from, to and the device. ok is false if there is none.
func (b *Bitmap) Next(from, to int64) (off, n int64, ok bool) {
	from, to = max(from, 0), min(to, b.size)
	if from >= to {
		return 0, 0, false
	}
	last := (to - 1) >> b.shift
	first := b.find(from>>b.shift, last, true)
	if first > last {
		return 0, 0, false
	}
	end := b.find(first+1, last, false)
	off = max(from, first<<b.shift)
	return off, min(to, end<<b.shift) - off, true
}

func (b *Bitmap) granules() int64 {
	n := b.size >> b.shift
	if n<<b.shift < b.size {
		n++
	}
	return n
}

func (b *Bitmap) touched(off, n int64) (first, last int64, ok bool) {
	if n <= 0 || off < 0 || off >= b.size {
		return 0, 0, false
	}
	return off >> b.shift, (off + min(n, b.size-off) - 1) >> b.shift, true
}

// find returns the first granule in [g, last] whose bit is set (or clear), or last+1.
func (b *Bitmap) find(g, last int64, set bool) int64 {
	for g <= last {
		w := b.words[g/64].Load()
		if !set {
			w = ^w
		}
		if w >>= uint(g % 64); w != 0 {
			return min(g+int64(bits.TrailingZeros64(w)), last+1)
		}
		g = (g/64 + 1) * 64
	}
	return last + 1
}

func (b *Bitmap) change(first, last int64, set bool) {
	for g := first; g <= last; {
		n := min(64-g%64, last-g+1)
		mask := (^uint64(0) >> uint(64-n)) << uint(g%64)
		if set {
			old := b.words[g/64].Or(mask)
			b.count.Add(int64(bits.OnesCount64(mask &^ old)))
		} else {
			old := b.words[g/64].And(^mask)
			b.count.Add(-int64(bits.OnesCount64(mask & old)))
		}
		g += n
	}
}
