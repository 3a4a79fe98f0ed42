package shares

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// Buffers come in powers of two from 4 KiB to 8 MiB, each with bufferSlack on
// top, so that a payload of a power of two fits with its headers.
const (
	minBufferBits = 12
	maxBufferBits = 23
	bufferSlack   = 4096
	maxBuffer     = 1<<maxBufferBits + bufferSlack
)

// buffer is memory that travels with its owner. b's length is what is in use,
// its capacity what there is.
type buffer struct {
	b     []byte
	class int8 // -1: too large for the pool
}

var bufferPools [maxBufferBits - minBufferBits + 1]sync.Pool

// buffersOut counts the buffers that are in use, so that a test can see a leak.
var buffersOut atomic.Int64

// getBuffer returns an empty buffer with room for n bytes.
func getBuffer(n int) *buffer {
	buffersOut.Add(1)
	class := 0
	if n > 1<<minBufferBits+bufferSlack {
		class = bits.Len(uint(n-bufferSlack-1)) - minBufferBits
	}
	if class >= len(bufferPools) {
		return &buffer{b: make([]byte, 0, n), class: -1}
	}
	if b, ok := bufferPools[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{b: make([]byte, 0, 1<<(class+minBufferBits)+bufferSlack), class: int8(class)}
}

// release gives the buffer back; nil is allowed.
func (b *buffer) release() {
	if b == nil {
		return
	}
	buffersOut.Add(-1)
	if b.class >= 0 {
		b.b = b.b[:0]
		bufferPools[b.class].Put(b)
	}
}
