package block

import (
	"math/rand/v2"
	"slices"
)

// cutSector is the unit a disk writes whole even when power fails.
const cutSector = 512

// cutOp is one change that no Sync has covered.
type cutOp struct {
	kind OpKind // OpWrite, OpZero or OpTruncate
	off  int64  // OpTruncate: the new size
	data []byte // OpWrite
	n    int64  // OpZero: length

	size         int64 // of the file by it, where it changes that
	grow, shrink bool  // it makes the file at least, or at most, as large
}

// span is what of the file the change covers, its size aside.
func (op *cutOp) span() (off, n int64) { return op.off, max(op.n, int64(len(op.data))) }

// repeat makes the change in another file. Errors cannot happen: the same change
// went well on the live file.
func (op *cutOp) repeat(f *MemFile) {
	switch op.kind {
	case OpWrite:
		_, _ = f.WriteAt(op.data, op.off)
	case OpZero:
		_ = f.PunchHole(op.off, op.n)
	case OpTruncate:
		_ = f.Truncate(op.off)
	}
}

// fate is what a loss of power makes of one change.
type fate struct {
	op     *cutOp
	sized  bool    // the change of the file's size got through
	share  float64 // how much of the content did: 0 to 1
	streak int64   // sectors that share their fate with neighbours, at most
}

// leave returns the file as a loss of power now may leave it.
func (p *PowerCut) leave(rnd *rand.Rand) *MemFile {
	out := p.stable.Snapshot()
	if len(p.pending) == 0 {
		return out
	}
	// The size is kept apart: data may get through without it and the other way
	// round. Until the end the file is large enough for everything.
	size, top := out.size, out.size
	for i := range p.pending {
		off, n := p.pending[i].span()
		top = max(top, p.pending[i].size, off+n)
	}
	out.size = top
	for _, f := range fates(rnd, p.pending) {
		f.persist(rnd, out)
		switch {
		case !f.sized:
		case f.op.grow:
			size = max(size, f.op.size)
		case f.op.shrink:
			size = min(size, f.op.size)
			out.zero(f.op.size, top)
		}
	}
	_ = out.Truncate(size)
	return out
}

// fates says what becomes of each change, in the order in which they reach the
// disk. Any fate can come out; the likely ones are those that tell most.
func fates(rnd *rand.Rand, ops []cutOp) []fate {
	out := make([]fate, len(ops))
	for i := range ops {
		out[i].op = &ops[i]
	}
	set := func(i int, share float64) {
		f := &out[i]
		f.share, f.sized = share, share > 0 && (share == 1 || rnd.IntN(2) == 0)
		_, n := f.op.span()
		f.streak = max(1, min(n/cutSector/2, []int64{1, 1, 8, 64, 1024}[rnd.IntN(5)]))
		if (f.op.grow || f.op.shrink) && rnd.IntN(4) == 0 {
			f.sized = !f.sized
		}
	}
	shares := []float64{0.1, 0.5, 0.9}
	switch rnd.IntN(6) {
	case 0: // all up to a moment
		moment := rnd.IntN(len(ops))
		for i := range moment {
			set(i, 1)
		}
		set(moment, shares[rnd.IntN(3)])
	case 1: // all but one
		for i := range out {
			set(i, 1)
		}
		set(rnd.IntN(len(ops)), shares[rnd.IntN(3)]*float64(rnd.IntN(2)))
	case 2: // one alone
		set(rnd.IntN(len(ops)), []float64{0.5, 1, 1}[rnd.IntN(3)])
	default: // any, all of them with the same luck
		luck := []float64{0.1, 0.5, 0.9, 1}[rnd.IntN(4)]
		for i := range out {
			switch {
			case rnd.IntN(3) == 0:
				set(i, luck)
			case rnd.Float64() < luck:
				set(i, 1)
			default:
				set(i, 0)
			}
		}
	}
	if rnd.IntN(3) == 0 {
		rnd.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	}
	return slices.DeleteFunc(out, func(f fate) bool { return f.share == 0 && !f.sized })
}

// persist makes those sectors of the change that got through, in runs of up to a streak.
func (f *fate) persist(rnd *rand.Rand, out *MemFile) {
	off, n := f.op.span()
	if f.op.kind == OpTruncate || f.share == 0 {
		return
	}
	for end := off + n; off < end; {
		next := end
		if f.share < 1 {
			next = min(end, (off/cutSector+1+rnd.Int64N(f.streak))*cutSector)
		}
		switch {
		case f.share < 1 && rnd.Float64() >= f.share:
		case f.op.kind == OpZero:
			out.zero(off, min(next, out.size))
		default:
			out.put(f.op.data[off-f.op.off:next-f.op.off], off)
		}
		off = next
	}
}
