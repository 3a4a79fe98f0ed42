package block

import (
	"math/rand/v2"
	"sync"
)

// PowerSupply feeds files in memory that know what of them is on stable storage,
// and whose power fails at the same moment. All methods may be called concurrently.
type PowerSupply struct {
	mu    sync.Mutex // guards the files too, so that a cut finds all of them at one moment
	files []*PowerCut
	watch func(OpKind)
}

// NewPowerSupply returns a supply without files.
func NewPowerSupply() *PowerSupply { return &PowerSupply{} }

// Plug adds a file with f's content, all of it stable. f itself is not changed.
func (s *PowerSupply) Plug(f *MemFile) *PowerCut {
	p := &PowerCut{supply: s, live: f.Snapshot(), stable: f.Snapshot()}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files = append(s.files, p)
	return p
}

// Unplug takes a file away: later cuts pass it over.
func (s *PowerSupply) Unplug(p *PowerCut) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.files {
		if f == p {
			s.files = append(s.files[:i:i], s.files[i+1:]...)
			return
		}
	}
}

// Watch has fn called before every change and Sync (OpFlush) of any file, without
// locks held, so that it may Cut in the middle of what a format does. Set it
// before use. A cut before a Sync can leave all that one could since the last.
func (s *PowerSupply) Watch(fn func(OpKind)) { s.watch = fn }

// Do makes a change that is none of a file's, of a folder's names say, as the
// files' own are made: watched before, and not in the middle of a cut.
func (s *PowerSupply) Do(kind OpKind, change func() error) error {
	if s.watch != nil {
		s.watch(kind)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return change()
}

// Cut returns each file as a loss of power now may leave it: everything synced,
// and of the changes since any subset, in any order, torn at 512 bytes. at, if
// not nil, is called at the same moment. Equal states and random sources give
// equal files. The files go on unharmed.
func (s *PowerSupply) Cut(rnd *rand.Rand, at func()) map[*PowerCut]*MemFile {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[*PowerCut]*MemFile, len(s.files))
	for _, p := range s.files {
		out[p] = p.leave(rnd)
	}
	if at != nil {
		at()
	}
	return out
}

// PowerCut is a File in memory that knows what of it is on stable storage. Reads
// see every write; a cut makes the file as a loss of power at this moment may
// leave it. All methods may be called concurrently.
type PowerCut struct {
	supply  *PowerSupply
	live    *MemFile // what reads see
	stable  *MemFile // what the last Sync made safe
	pending []cutOp  // since the last Sync, in order
	synced  int64    // changes that came before pending
}

// NewPowerCut returns a file that has its power for itself. It starts from f's
// content, all of it stable. f itself is not changed.
func NewPowerCut(f *MemFile) *PowerCut { return NewPowerSupply().Plug(f) }

// Watch is PowerSupply.Watch for those who cut before all alike; nil ends it.
func (p *PowerCut) Watch(fn func()) {
	p.supply.watch = nil
	if fn != nil {
		p.supply.watch = func(OpKind) { fn() }
	}
}

// Cut is PowerSupply.Cut of this file alone.
func (p *PowerCut) Cut(rnd *rand.Rand) *MemFile {
	p.supply.mu.Lock()
	defer p.supply.mu.Unlock()
	return p.leave(rnd)
}

// Image returns the file as reads see it.
func (p *PowerCut) Image() *MemFile { return p.live.Snapshot() }

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
	op := cutOp{kind: OpWrite, off: off, data: append([]byte(nil), b...)}
	return len(b), p.change(op, func() error {
		_, err := p.live.WriteAt(b, off)
		return err
	})
}

// PunchHole implements Puncher.
func (p *PowerCut) PunchHole(off, n int64) error {
	return p.change(cutOp{kind: OpZero, off: off, n: n}, func() error { return p.live.PunchHole(off, n) })
}

// Truncate implements File.
func (p *PowerCut) Truncate(size int64) error {
	return p.change(cutOp{kind: OpTruncate, off: size}, func() error { return p.live.Truncate(size) })
}

// Sync implements File. It covers the changes that were there when it was
// called: what comes while it is under way stays at risk.
func (p *PowerCut) Sync() error {
	p.supply.mu.Lock()
	covered := p.synced + int64(len(p.pending))
	p.supply.mu.Unlock()
	return p.supply.Do(OpFlush, func() error {
		if err := p.live.Sync(); err != nil {
			return err
		}
		n := max(covered-p.synced, 0) // another Sync may have been faster
		for _, op := range p.pending[:n] {
			op.repeat(p.stable)
		}
		p.pending, p.synced = p.pending[n:len(p.pending):len(p.pending)], p.synced+n
		return nil
	})
}

// Close implements File. It makes nothing stable, and Cut works after it.
func (p *PowerCut) Close() error { return nil }

func (p *PowerCut) change(op cutOp, do func() error) error {
	return p.supply.Do(op.kind, func() error {
		before, err := p.live.Size()
		if err == nil {
			err = do()
		}
		if err != nil {
			return err
		}
		switch op.kind {
		case OpWrite:
			op.size, op.grow = op.off+int64(len(op.data)), true
		case OpTruncate:
			op.size, op.grow, op.shrink = op.off, op.off > before, op.off < before
		}
		p.pending = append(p.pending, op)
		return nil
	})
}
