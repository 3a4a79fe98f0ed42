package nbd

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// headroom is what a buffer has before its data for the header of a reply that
// carries it, so that both are sent as one piece.
const headroom = 32

// Size classes of buffers are powers of two.
const (
	minClass   = 12 // 4 KiB
	numClasses = 14 // up to maxPayload
)

// buffer is memory for the data of one request.
type buffer struct {
	b     []byte // headroom, then 1<<(minClass+class) bytes
	class int
}

// data is the first n bytes of a buffer's data.
func (b *buffer) data(n int) []byte { return b.b[headroom : headroom+n : headroom+n] }

// framed is a buffer's first n bytes of data with the h bytes before them.
func (b *buffer) framed(h, n int) []byte { return b.b[headroom-h : headroom+n] }

// classOf is the size class for n bytes, n at most maxPayload.
func classOf(n int) int { return max(bits.Len(uint(max(n, 1)-1)), minClass) - minClass }

func classSize(class int) int64 { return 1 << (minClass + class) }

// bufferPool keeps buffers by size class. What is not used the garbage collector
// takes.
type bufferPool struct{ classes [numClasses]sync.Pool }

func (p *bufferPool) get(n int) *buffer {
	class := classOf(n)
	if b, ok := p.classes[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{b: make([]byte, headroom+classSize(class)), class: class}
}

func (p *bufferPool) put(b *buffer) { p.classes[b.class].Put(b) }

// budget is memory that connections share beyond what each has of its own.
type budget struct{ left atomic.Int64 }

// take takes n bytes if they are there.
func (b *budget) take(n int64) bool {
	if b.left.Add(-n) >= 0 {
		return true
	}
	b.left.Add(n)
	return false
}

func (b *budget) give(n int64) { b.left.Add(n) }
