package block

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
)

// memLayer is a Layered in memory over a parent, in sectors of 512 bytes.
type memLayer struct {
	*Raw
	parent Device
	mu     sync.RWMutex
	state  []ExtentState // by sector; Unallocated: the parent's
}

const layerSector = 512

func newMemLayer(parent Device) *memLayer {
	l := &memLayer{Raw: NewMem(parent.Size()), parent: parent, state: make([]ExtentState, parent.Size()/layerSector)}
	for i := range l.state {
		l.state[i] = Unallocated
	}
	return l
}

func (l *memLayer) set(off, n int64, s ExtentState) {
	for i := off / layerSector; i < (off+n)/layerSector; i++ {
		l.state[i] = s
	}
}

func (l *memLayer) ReadAt(ctx context.Context, p []byte, off int64) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for done := int64(0); done < int64(len(p)); {
		i := (off + done) / layerSector
		c := min(int64(len(p))-done, (i+1)*layerSector-off-done)
		part := p[done : done+c]
		var err error
		switch l.state[i] {
		case Data:
			err = l.Raw.ReadAt(ctx, part, off+done)
		case Zero:
			clear(part)
		default:
			err = l.parent.ReadAt(ctx, part, off+done)
		}
		if err != nil {
			return err
		}
		done += c
	}
	return nil
}

func (l *memLayer) WriteAt(ctx context.Context, p []byte, off int64, flags WriteFlags) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set(off, int64(len(p)), Data)
	return l.Raw.WriteAt(ctx, p, off, flags)
}

func (l *memLayer) WriteZeroes(_ context.Context, off, n int64, _ WriteFlags) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set(off, n, Zero)
	return nil
}

func (l *memLayer) LayerExtents(_ context.Context, off, n int64, visit func(Extent) error) error {
	l.mu.RLock()
	states := append([]ExtentState(nil), l.state...)
	l.mu.RUnlock()
	m := NewMerger(visit)
	for end := off + n; off < end; {
		next := min(end, (off/layerSector+1)*layerSector)
		if err := m.Add(Extent{off, next - off, states[off/layerSector]}); err != nil {
			return err
		}
		off = next
	}
	return m.Flush()
}

// scribble makes random changes, of whole sectors.
func scribble(t *testing.T, rnd *rand.Rand, d Device, times int) {
	t.Helper()
	sectors := d.Size() / layerSector
	for range times {
		n := 1 + rnd.Int64N(min(sectors, 1+rnd.Int64N(400)))
		off := rnd.Int64N(sectors-n+1) * layerSector
		p := make([]byte, n*layerSector)
		var err error
		if rnd.IntN(4) == 0 {
			err = d.WriteZeroes(t.Context(), off, int64(len(p)), 0)
		} else {
			for i := range p {
				p[i] = byte(rnd.Uint32())
			}
			err = d.WriteAt(t.Context(), p, off, 0)
		}
		if err != nil {
			t.Error(err)
			return
		}
	}
}

func contentOf(t *testing.T, d Device) []byte {
	t.Helper()
	p := make([]byte, d.Size())
	if err := d.ReadAt(t.Context(), p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestMergePass: after a pass, with a guest that writes all the while, parent
// and layer read the same; what the layer lacked was not written to.
func TestMergePass(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		size := (1 + rnd.Int64N(6000)) * layerSector
		parent := NewMem(size)
		scribble(t, rnd, parent, 10)
		layer := newMemLayer(parent)
		scribble(t, rnd, layer, 10)
		m, err := NewMirror(layer, parent, MirrorOptions{Granularity: MergeGranularity(size)})
		if err != nil {
			t.Fatal(err)
		}
		var guest sync.WaitGroup
		guest.Go(func() { scribble(t, rand.New(rand.NewPCG(seed, 2)), m, 50) })
		if err := m.MergePass(t.Context(), layer, CopyOptions{}); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		guest.Wait()
		if !bytes.Equal(contentOf(t, layer), contentOf(t, parent)) {
			t.Fatalf("seed %d: the parent is not what the layer is", seed)
		}
		if _, err := m.Switch(t.Context(), nil); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// TestMergePassTouchesOwn: the parent is written to where the layer has its own
// content, granules around it included, and nowhere else.
func TestMergePassTouchesOwn(t *testing.T) {
	const size = 4 << 20
	parent := NewMem(size)
	layer := newMemLayer(parent)
	if err := layer.WriteAt(t.Context(), bytes.Repeat([]byte{7}, 1024), 1<<20+512, 0); err != nil {
		t.Fatal(err)
	}
	if err := layer.WriteZeroes(t.Context(), 2<<20, 8192, 0); err != nil {
		t.Fatal(err)
	}
	errElsewhere := errors.New("written elsewhere")
	watched := NewIntercept(parent, FailIf(func(op Op) bool {
		in := func(off, n int64) bool { return op.Off >= off && op.Off+op.Len <= off+n }
		switch op.Kind {
		case OpWrite:
			return !in(1<<20, 4096)
		case OpZero:
			return !in(2<<20, 8192)
		}
		return false
	}, errElsewhere))
	m, err := NewMirror(layer, watched, MirrorOptions{Granularity: MergeGranularity(size)})
	if err != nil {
		t.Fatal(err)
	}
	var last CopyProgress
	if err := m.MergePass(t.Context(), layer, CopyOptions{Progress: func(p CopyProgress) { last = p }}); err != nil {
		t.Fatal(err)
	}
	if last.Copied != 4096 || last.Remaining != 0 {
		t.Errorf("copied %d bytes with %d left, want 4096 and 0", last.Copied, last.Remaining)
	}
	if got := contentOf(t, parent); got[1<<20+512] != 7 || got[1<<20+1535] != 7 || got[1<<20+1536] != 0 {
		t.Error("the layer's data is not in the parent")
	}
}

// TestMergePassFails: a parent that fails is detached, and the layer serves on.
func TestMergePassFails(t *testing.T) {
	parent := NewMem(1 << 20)
	layer := newMemLayer(parent)
	scribble(t, rand.New(rand.NewPCG(1, 1)), layer, 10)
	errDisk := errors.New("disk on fire")
	m, err := NewMirror(layer, NewIntercept(parent, FailNth(OpWrite, 2, errDisk)), MirrorOptions{Granularity: 4096})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.MergePass(t.Context(), layer, CopyOptions{}); !errors.Is(err, ErrDetached) || !errors.Is(err, errDisk) {
		t.Errorf("got %v", err)
	}
	if err := m.WriteAt(t.Context(), make([]byte, 512), 0, 0); err != nil {
		t.Error(err)
	}
}

// TestMergePassAfterFailure: a write that failed at the layer and not at the
// destination leaves them the same in the end, though the layer has nothing there.
func TestMergePassAfterFailure(t *testing.T) {
	const size = 1 << 20
	for _, during := range []bool{false, true} {
		rnd := rand.New(rand.NewPCG(3, 3))
		parent, copied := NewMem(size), NewMem(size)
		scribble(t, rnd, parent, 10)
		if err := copied.WriteAt(t.Context(), contentOf(t, parent), 0, 0); err != nil {
			t.Fatal(err)
		}
		layer, dst := newMemLayer(parent), newMemLayer(copied)
		errDisk := errors.New("disk on fire")
		m, err := NewMirror(NewIntercept(layer, FailNth(OpWrite, 1, errDisk)), dst, MirrorOptions{Granularity: 4096})
		if err != nil {
			t.Fatal(err)
		}
		fail := sync.OnceFunc(func() {
			if err := m.WriteAt(t.Context(), bytes.Repeat([]byte{9}, 1024), 8192+512, 0); !errors.Is(err, errDisk) {
				t.Errorf("got %v", err)
			}
		})
		first := &firstExtents{memLayer: layer, after: func() {}}
		if during {
			first.after = fail // between the look at the layer and what follows from it
		} else {
			fail()
		}
		if err := m.Survey(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		if err := m.MergePass(t.Context(), first, CopyOptions{}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(contentOf(t, layer), contentOf(t, dst)) {
			t.Errorf("failed during the pass %v: the ends differ", during)
		}
		if n := m.Remaining(); n != 0 {
			t.Errorf("%d bytes left", n)
		}
		if data := dst.state[size/layerSector/2:]; bytes.IndexByte(statesOf(data), byte(Data)) >= 0 {
			t.Error("what nobody wrote to was copied")
		}
	}
}

func statesOf(states []ExtentState) (b []byte) {
	for _, s := range states {
		b = append(b, byte(s))
	}
	return b
}

// firstExtents does something after the first look at its extents.
type firstExtents struct {
	*memLayer
	after func()
}

func (l *firstExtents) LayerExtents(ctx context.Context, off, n int64, visit func(Extent) error) error {
	err := l.memLayer.LayerExtents(ctx, off, n, visit)
	l.after()
	return err
}
