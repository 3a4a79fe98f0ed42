package stamp

import (
	"cmp"
	"fmt"
	"io"
	"math/rand/v2"
)

// PrepareOptions say what a prepared disk is like.
type PrepareOptions struct {
	Set    uint64  // of the guest; the same for all its disks
	Disk   int     // number in the set
	Span   int64   // bytes that are written to
	Spread bool    // over the whole disk, or at its start
	NoTrim bool    // the guest will not trim
	Run    uint64  // decides what is written where; 0: random
	Filled float64 // of the span that holds data, up to 0.8
}

// Prepare makes a blank device of size bytes a guest's disk with data on it, as if
// a first run had written it: in random pieces of up to 64 KiB. So a guest has much
// to lose from the beginning. The guest takes it for a disk of its own after a
// restart.
func Prepare(dst io.WriterAt, size int64, o PrepareOptions) (*Super, error) {
	l, err := NewLayout(size, o.Span, o.Spread)
	if err != nil {
		return nil, err
	}
	if o.Disk < 0 || o.Disk >= MaxDisks || o.Filled < 0 || o.Filled > 0.8 {
		return nil, fmt.Errorf("cannot prepare a disk like %+v", o)
	}
	l.NoTrim = o.NoTrim
	s := &Super{Set: o.Set, Disk: o.Disk, Layout: l, Runs: []Run{{ID: cmp.Or(o.Run, rand.Uint64())}}}
	e := NewExpect(s)
	run := &s.Runs[0]
	for filled, want := int64(0), int64(o.Filled*float64(l.Blocks)); filled < want; {
		run.Flushed++
		op := e.Op(run.ID, o.Disk, run.Flushed)
		filled -= e.data(op)
		e.Do(0, op, true)
		filled += e.data(op)
	}
	run.Last = run.Flushed
	for chunk := int64(0); chunk < s.Blocks; chunk += chunkBlocks {
		if err := e.write(dst, chunk, chunk+chunkBlocks); err != nil {
			return nil, err
		}
	}
	b, off, err := s.Encode()
	if err == nil {
		_, err = dst.WriteAt(b, off)
	}
	return s, err
}

// data is how many of an operation's blocks bear a stamp.
func (e *Expect) data(op Op) (n int64) {
	for _, s := range e.base[op.First : op.First+op.Count] {
		if s.stamped() {
			n++
		}
	}
	return n
}

func (s state) stamped() bool { return s.content() != 0 && s&zeroed == 0 }

// write writes what the blocks from one to another, of one chunk, bear from the
// first run; neighbours at once.
func (e *Expect) write(dst io.WriterAt, from, to int64) error {
	for from < to {
		var piece []byte
		first := from
		for ; from < to && e.base[from].stamped(); from++ {
			piece = append(piece, make([]byte, BlockSize)...)
			st := Stamp{Set: e.Set, Run: e.Runs[0].ID, Disk: e.Disk, Block: e.At(from), Seq: uint64(e.base[from]) & maxSeq}
			st.Put(piece[len(piece)-BlockSize:])
		}
		if len(piece) > 0 {
			if _, err := dst.WriteAt(piece, e.At(first)*BlockSize); err != nil {
				return err
			}
		} else {
			from++
		}
	}
	return nil
}
