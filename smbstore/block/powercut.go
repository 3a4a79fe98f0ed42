package block

import (
	"math/rand/v2"
	"sync"
)

// cutSector is the unit a disk writes whole even when power fails.
const cutSector = 512

// PowerCut is a File in memory that knows what of it is on stable storage. Reads
// see every write; Cut makes the file as a loss of power at this moment may
// leave it. All methods may be called concurrently.
type PowerCut struct {
	mu      sync.Mutex
	live    *MemFile // what reads see
	stable  *MemFile // what the last Sync made safe
	pending []cutOp  // since the last Sync, in order
	watch   func()
}

// cutOp is one change that no Sync has covered.
type cutOp struct {
	kind OpKind // OpWrite, OpZero or OpTruncate
	off  int64
	data []byte // OpWrite
	n    int64  // OpZero: length; OpTruncate: the old size, off being the new one
}

// NewPowerCut starts from f's content, all of it stable. f itself is not changed.
func NewPowerCut(f *MemFile) *PowerCut {
	return &PowerCut{live: f.Snapshot(), stable: f.Snapshot()}
}

// Watch has fn called before every change and Sync, without locks held, so that
// it may Cut in the middle of what a format does. Set it before use.
func (p *PowerCut) Watch(fn func()) { p.watch = fn }

// ReadAt implements File.
func (p *PowerCut) ReadAt(b []byte, off int64) (int, error) { return p.live.ReadAt(b, off) }

// Size implements File.
func (p *PowerCut) Size() (int64, error) { return p.live.Size() }

// FileExtents implements Extenter.
func (p *PowerCut) FileExtents(off, n int64, visit func(Extent) error) error {
	return p.live.FileExtents(off, n, visit)
}

// WriteAt implements File.
func (p *PowerCut) WriteAt(b []byte, off int64) (int, error) {
	data := append([]byte(nil), b...)
	return len(b), p.record(cutOp{kind: OpWrite, off: off, data: data}, func() error {
		_, err := p.live.WriteAt(b, off)
		return err
	})
}

// PunchHole implements Puncher.
func (p *PowerCut) PunchHole(off, n int64) error {
	return p.record(cutOp{kind: OpZero, off: off, n: n}, func() error { return p.live.PunchHole(off, n) })
}

// Truncate implements File.
func (p *PowerCut) Truncate(size int64) error {
	old, err := p.live.Size()
	if err != nil {
		return err
	}
	return p.record(cutOp{kind: OpTruncate, off: size, n: old}, func() error { return p.live.Truncate(size) })
}

// Sync implements File.
func (p *PowerCut) Sync() error {
	if p.watch != nil {
		p.watch()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.live.Sync(); err != nil {
		return err
	}
	p.stable, p.pending = p.live.Snapshot(), nil
	return nil
}

// Close implements File. It makes nothing stable, and Cut works after it.
func (p *PowerCut) Close() error { return nil }

func (p *PowerCut) record(op cutOp, do func() error) error {
	if p.watch != nil {
		p.watch()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := do(); err != nil {
		return err
	}
	p.pending = append(p.pending, op)
	return nil
}

// Cut returns the file as a loss of power now may leave it: everything synced,
// and of the changes since any subset, in any order, torn at 512 bytes. Equal
// states and random sources give equal files. The PowerCut goes on unharmed.
func (p *PowerCut) Cut(rnd *rand.Rand) *MemFile {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.stable.Snapshot()
	ops := append([]cutOp(nil), p.pending...)
	if rnd.IntN(3) == 0 {
		rnd.Shuffle(len(ops), func(i, j int) { ops[i], ops[j] = ops[j], ops[i] })
	}
	// How much got through differs from cut to cut: nearly nothing to nearly all.
	through := []float64{0, 0.1, 0.5, 0.9, 1}[rnd.IntN(5)]
	for _, op := range ops {
		torn := rnd.IntN(2) == 0
		if !torn && rnd.Float64() >= through {
			continue
		}
		persist(out, op, func() bool { return !torn || rnd.Float64() < through })
	}
	return out
}

// persist applies those sectors of op that keep picks. Errors cannot happen: the
// same change went well on the live file.
func persist(f *MemFile, op cutOp, keep func() bool) {
	if op.kind == OpTruncate {
		size, _ := f.Size()
		if !keep() || (op.off > op.n) != (op.off > size) {
			return // lost, or overtaken by one that came later
		}
		_ = f.Truncate(op.off)
		return
	}
	n := max(op.n, int64(len(op.data)))
	unit := int64(cutSector)
	if n > 1<<20 {
		unit = 1 << 16 // large ranges in coarser pieces, for speed
	}
	for done := int64(0); done < n; {
		c := min(n-done, unit-(op.off+done)%unit)
		if keep() {
			if op.kind == OpZero {
				_ = f.PunchHole(op.off+done, c)
			} else {
				_, _ = f.WriteAt(op.data[done:done+c], op.off+done)
			}
		}
		done += c
	}
}
