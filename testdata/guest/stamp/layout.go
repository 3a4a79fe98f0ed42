package stamp

import (
	"errors"
	"fmt"
)

const (
	// Reserved is how many blocks at the device's start hold the superblock.
	Reserved    = 2 * superSize / BlockSize
	chunkBlocks = 512
	// MaxBlocks bounds what is written to, and so what a verification keeps in
	// memory: 64 GiB and 384 MiB.
	MaxBlocks = 1 << 24
	// MaxOp is the most blocks of one operation.
	MaxOp = 16
	// Window is how many operations a writer is at most ahead of what it has
	// flushed.
	Window = 256
)

// Layout says which blocks of a device are written to: Blocks of them, in chunks
// that lie Stride blocks apart. Written blocks are counted from 0; At gives their
// place.
type Layout struct {
	Blocks int64
	Stride int64
	NoTrim bool // no trims and write-zeroes
}

// ErrSmall: a device has no room for the writer.
var ErrSmall = errors.New("device is too small for the writer")

// NewLayout lays span bytes over a device of size bytes, evenly or at its start.
func NewLayout(size, span int64, spread bool) (Layout, error) {
	room := size/BlockSize - Reserved
	chunks := min(span/BlockSize, room, MaxBlocks) / chunkBlocks
	if chunks < 1 {
		return Layout{}, fmt.Errorf("%w: %d bytes, needed are %d", ErrSmall, size, (Reserved+chunkBlocks)*BlockSize)
	}
	l := Layout{Blocks: chunks * chunkBlocks, Stride: chunkBlocks}
	if spread {
		l.Stride = room / chunks
	}
	return l, nil
}

// At is where written block i lies on the device, in blocks.
func (l Layout) At(i int64) int64 {
	return Reserved + i/chunkBlocks*l.Stride + i%chunkBlocks
}

// end is the first block of the device behind what is written.
func (l Layout) end() int64 { return l.At(l.Blocks-1) + 1 }

// valid tells whether a layout read from a disk fits a device of size bytes.
func (l Layout) valid(size int64) bool {
	most := size / BlockSize
	return l.Blocks >= chunkBlocks && l.Blocks <= min(most, MaxBlocks) && l.Blocks%chunkBlocks == 0 &&
		l.Stride >= chunkBlocks && l.Stride <= most && l.end() <= most
}

// Kind of an operation.
type Kind uint8

// Kinds.
const (
	Write Kind = iota
	Zero       // write zeroes
	Trim       // what was there, or zeroes, is read afterwards
)

func (k Kind) String() string { return [...]string{"write", "zero", "trim"}[k] }

// Op is one operation of a schedule.
type Op struct {
	Seq   uint64
	Kind  Kind
	First int64 // written block
	Count int64 // blocks, in one chunk: they lie side by side
}

// Op is operation seq of a run on a disk. A quarter falls into the first
// sixteenth, so that blocks are written again soon.
func (l Layout) Op(run uint64, disk int, seq uint64) Op {
	h := mix(run ^ mix(seq)*uint64(2*disk+1))
	draw := func(n int64) int64 {
		h = mix(h)
		return int64(h>>1) % n
	}
	op := Op{Seq: seq, Count: 1}
	if draw(2) == 0 {
		op.Count = 1 + draw(MaxOp)
	}
	if kind := draw(12); kind < 2 && !l.NoTrim {
		op.Kind = Zero + Kind(kind)
	}
	span := l.Blocks
	if draw(4) == 0 {
		span = max(l.Blocks/16, MaxOp)
	}
	op.First = draw(span)
	op.Count = min(op.Count, chunkBlocks-op.First%chunkBlocks)
	return op
}

// Overlaps tells whether two operations have a block in common.
func (o Op) Overlaps(p Op) bool { return o.First < p.First+p.Count && p.First < o.First+o.Count }
