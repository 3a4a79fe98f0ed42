package block_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lunless/smbstore/block"
	"lunless/smbstore/block/blocktest"
)

var errFull = errors.New("full")

// pit is memory that devices lie on, which a test breaks.
type pit struct {
	mem   *block.MemFile
	fail  atomic.Pointer[func(op block.Op) error] // asked by the device below
	again atomic.Pointer[func() error]            // asked by Open
	opens atomic.Int64

	mu   sync.Mutex
	told []string
}

// breaks has what requests do be decided by fn; nil ends it.
func (p *pit) breaks(fn func(op block.Op) error) {
	if fn == nil {
		p.fail.Store(nil)
		return
	}
	p.fail.Store(&fn)
}

// opensWith has attempts to open end as fn says.
func (p *pit) opensWith(fn func() error) { p.again.Store(&fn) }

func (p *pit) device() block.Device {
	raw, err := block.NewRaw(plainFile{p.mem}, block.RawOptions{})
	if err != nil {
		panic(err)
	}
	return block.NewIntercept(notClosing{raw}, func(_ context.Context, op block.Op) error {
		if fn := p.fail.Load(); fn != nil && op.Kind != block.OpClose {
			return (*fn)(op)
		}
		return nil
	})
}

// notClosing keeps its memory.
type notClosing struct{ block.Device }

func (notClosing) Close() error { return nil }

func (p *pit) options() block.ResilientOptions {
	return block.ResilientOptions{
		Lost: isLost, NoSpace: func(err error) bool { return errors.Is(err, errFull) }, Patience: 10 * time.Second,
		Open: func(context.Context) (block.Device, error) {
			p.opens.Add(1)
			if fn := p.again.Load(); fn != nil {
				if err := (*fn)(); err != nil {
					return nil, err
				}
			}
			return p.device(), nil
		},
		Notify: func(tr block.Trouble) {
			p.mu.Lock()
			defer p.mu.Unlock()
			if s := tr.State.String(); len(p.told) == 0 || p.told[len(p.told)-1] != s {
				p.told = append(p.told, s)
			}
		},
	}
}

func (p *pit) heard() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.told, ", ")
}

// once fails the first request of a kind.
func once(kind block.OpKind, err error) func(block.Op) error {
	var did atomic.Bool
	return func(op block.Op) error {
		if op.Kind == kind && did.CompareAndSwap(false, true) {
			return err
		}
		return nil
	}
}

func newPit(t *testing.T, change func(*block.ResilientOptions)) (*pit, *block.Resilient) {
	p := &pit{mem: block.NewMemFile(1 << 20)}
	o := p.options()
	if change != nil {
		change(&o)
	}
	r := block.NewResilient(p.device(), o)
	t.Cleanup(func() { _ = r.Close() })
	return p, r
}

func TestResilientConformance(t *testing.T) {
	t.Run("calm", func(t *testing.T) {
		blocktest.Run(t, func(t testing.TB, size int64) blocktest.Fixture {
			p := &pit{mem: block.NewMemFile(size)}
			return blocktest.Fixture{Dev: block.NewResilient(p.device(), p.options())}
		})
	})
	t.Run("small bound", func(t *testing.T) {
		blocktest.Run(t, func(t testing.TB, size int64) blocktest.Fixture {
			p := &pit{mem: block.NewMemFile(size)}
			o := p.options()
			o.Keep = 40_000
			return blocktest.Fixture{Dev: block.NewResilient(p.device(), o)}
		})
	})
	t.Run("lost all the time", func(t *testing.T) {
		blocktest.Run(t, func(t testing.TB, size int64) blocktest.Fixture {
			p := &pit{mem: block.NewMemFile(size)}
			var n atomic.Int64
			p.breaks(func(block.Op) error {
				if n.Add(1)%40 == 0 {
					return errLost
				}
				return nil
			})
			o := p.options()
			open := o.Open
			o.Open = func(ctx context.Context) (block.Device, error) {
				d, err := open(ctx)
				return zeroTrim{d}, err
			}
			return blocktest.Fixture{Dev: block.NewResilient(zeroTrim{p.device()}, o)}
		})
	})
}

// zeroTrim is a device whose trims are all of one kind: the suite has them read the
// same ever after.
type zeroTrim struct{ block.Device }

func (z zeroTrim) Trim(ctx context.Context, off, n int64) error {
	return z.WriteZeroes(ctx, off, n, 0)
}

// Every request that is lost is repeated, and nobody sees that it was.
func TestResilientRepeats(t *testing.T) {
	ctx := t.Context()
	p := make([]byte, 4096)
	for kind, request := range map[block.OpKind]func(d block.Device) error{
		block.OpRead:  func(d block.Device) error { return d.ReadAt(ctx, p, 0) },
		block.OpWrite: func(d block.Device) error { return d.WriteAt(ctx, p, 0, block.FUA) },
		block.OpZero:  func(d block.Device) error { return d.WriteZeroes(ctx, 0, 4096, 0) },
		block.OpTrim:  func(d block.Device) error { return d.Trim(ctx, 0, 4096) },
		block.OpFlush: func(d block.Device) error { return d.Flush(ctx) },
		block.OpExtents: func(d block.Device) error {
			return d.Extents(ctx, 0, 4096, func(block.Extent) error { return nil })
		},
	} {
		pit, r := newPit(t, nil)
		pit.breaks(once(kind, errLost))
		if err := request(r); err != nil || pit.opens.Load() != 1 {
			t.Errorf("request of kind %d: %v, opened %d times", kind, err, pit.opens.Load())
		}
		if got := pit.heard(); got != "began, over" {
			t.Errorf("the owner was told: %s", got)
		}
	}
}

// A flush that was refused is final, and so is a device that says so by itself; what
// only shares in another's loss is not.
func TestResilientRefusedFlush(t *testing.T) {
	ctx := t.Context()
	refused := errors.New("medium error")
	for _, c := range []struct {
		name  string
		err   error
		final bool
	}{
		{"refused", refused, true},
		{"failed", fmt.Errorf("%w: %w", block.ErrFailed, refused), true},
		{"failed before", fmt.Errorf("flush: %w", block.ErrFailed), true},
		{"failed as it was lost", fmt.Errorf("%w: %w", block.ErrFailed, errLost), false},
		{"failed for want of room", fmt.Errorf("%w: %w", block.ErrFailed, errFull), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			pit, r := newPit(t, nil)
			must(t, r.WriteAt(ctx, []byte{7}, 5, 0))
			pit.breaks(once(block.OpFlush, c.err))
			err := r.Flush(ctx)
			switch {
			case c.final && !errors.Is(err, block.ErrFailed), errors.Is(c.err, errFull) && !errors.Is(err, errFull), errors.Is(c.err, errLost) && err != nil:
				t.Errorf("flush: %v", err)
			}
			again := []error{r.Flush(ctx), r.WriteAt(ctx, []byte{1}, 0, 0), r.ReadAt(ctx, make([]byte, 1), 5)}
			for i, err := range again {
				if c.final != errors.Is(err, block.ErrFailed) || !c.final && err != nil {
					t.Errorf("request %d after it: %v", i, err)
				}
			}
			if c.final == strings.HasSuffix(pit.heard(), "over") || c.final && pit.opens.Load() > 0 {
				t.Errorf("told %q, opened %d times", pit.heard(), pit.opens.Load())
			}
		})
	}
	t.Run("another's loss", func(t *testing.T) { // the bare error comes first
		pit, r := newPit(t, nil)
		var n atomic.Int64
		second := make(chan struct{})
		pit.breaks(func(op block.Op) error {
			if op.Kind != block.OpFlush {
				return nil
			}
			switch n.Add(1) {
			case 1:
				<-second
				time.Sleep(10 * time.Millisecond)
				return fmt.Errorf("%w: %w", block.ErrFailed, errLost)
			case 2:
				defer close(second)
				return block.ErrFailed
			}
			return nil
		})
		errs := make(chan error, 2)
		for range 2 {
			go func() { errs <- r.Flush(ctx) }()
		}
		if err := errors.Join(<-errs, <-errs); err != nil {
			t.Error(err)
		}
	})
}

// A write that finds no room is told so, and can be made later.
func TestResilientNoSpace(t *testing.T) {
	pit, r := newPit(t, nil)
	pit.breaks(once(block.OpWrite, errFull))
	if err := r.WriteAt(t.Context(), []byte{1}, 0, 0); !errors.Is(err, errFull) {
		t.Errorf("got %v", err)
	}
	if err := r.WriteAt(t.Context(), []byte{1}, 0, 0); err != nil || pit.opens.Load() != 0 || pit.heard() != "" {
		t.Errorf("again: %v, opened %d times, told %q", err, pit.opens.Load(), pit.heard())
	}
}

// A device that stays away longer than the patience gives errors; requests go on
// where they stopped when it is back, or as soon as they are told to.
func TestResilientPatience(t *testing.T) {
	ctx := t.Context()
	pit, r := newPit(t, func(o *block.ResilientOptions) { o.Patience = 150 * time.Millisecond })
	must(t, r.WriteAt(ctx, []byte{9}, 100, 0))
	var back atomic.Bool
	pit.opensWith(func() error {
		if back.Load() {
			return nil
		}
		return fmt.Errorf("no route to it: %w", errLost)
	})
	pit.breaks(once(block.OpRead, errLost))
	p := make([]byte, 1)
	start := time.Now()
	err := r.ReadAt(ctx, p, 100)
	if took := time.Since(start); !errors.Is(err, block.ErrNoAnswer) || !errors.Is(err, errLost) || took < 150*time.Millisecond {
		t.Errorf("after %v: %v", took, err)
	}
	if err := r.WriteAt(ctx, p, 0, 0); !errors.Is(err, block.ErrNoAnswer) {
		t.Errorf("the next request: %v", err)
	}
	for until := time.Now().Add(5 * time.Second); !strings.Contains(pit.heard(), "given up") && time.Now().Before(until); {
		time.Sleep(time.Millisecond)
	}
	if got := pit.heard(); !strings.HasPrefix(got, "began, goes on, given up") {
		t.Errorf("told %s", got)
	}
	r.Resume()
	done := make(chan error, 1)
	go func() { done <- r.ReadAt(ctx, p, 100) }()
	time.Sleep(30 * time.Millisecond)
	_, _ = pit.mem.WriteAt([]byte{0}, 100) // what it had acknowledged is lost
	back.Store(true)
	if err := <-done; err != nil || p[0] != 9 {
		t.Errorf("when it is back: %v, reads %d", err, p[0])
	}
	if got := pit.heard(); !strings.HasSuffix(got, "over") {
		t.Errorf("told %s", got)
	}
}

// What is not the device that was lost is not gone on with.
func TestResilientChanged(t *testing.T) {
	for name, broken := range map[string]func(p *pit){
		"as it says": func(p *pit) { p.opensWith(func() error { return fmt.Errorf("%w: by hv2", block.ErrChanged) }) },
		"size":       func(p *pit) { p.opensWith(func() error { return p.mem.Truncate(2 << 20) }) },
	} {
		t.Run(name, func(t *testing.T) {
			pit, r := newPit(t, nil)
			broken(pit)
			must(t, r.WriteAt(t.Context(), []byte{1}, 0, 0))
			pit.breaks(once(block.OpRead, errLost))
			for range 2 {
				if err := r.ReadAt(t.Context(), make([]byte, 1), 0); !errors.Is(err, block.ErrFailed) || !errors.Is(err, block.ErrChanged) {
					t.Errorf("got %v", err)
				}
			}
			if err := r.Close(); err == nil || !strings.Contains(err.Error(), "may be lost") {
				t.Errorf("close: %v", err)
			}
			if pit.opens.Load() != 1 || pit.heard() != "began, final" {
				t.Errorf("opened %d times, told %q", pit.opens.Load(), pit.heard())
			}
		})
	}
}

// What waits, waits no longer than its context, and not past Close.
func TestResilientWaitsEnd(t *testing.T) {
	pit, r := newPit(t, func(o *block.ResilientOptions) { o.Patience = 300 * time.Millisecond })
	pit.opensWith(func() error { return errLost })
	pit.breaks(once(block.OpWrite, errLost))
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 5)
	p := make([]byte, 1)
	go func() { errs <- r.WriteAt(ctx, p, 0, 0) }()
	go func() { errs <- r.WriteAt(ctx, p, 0, 0) }() // waits for the first
	for pit.heard() == "" {
		time.Sleep(time.Millisecond)
	}
	go func() { errs <- r.ReadAt(ctx, make([]byte, 1), 0) }()
	go func() { errs <- r.Flush(ctx) }()
	time.Sleep(20 * time.Millisecond)
	cancel()
	for range 4 {
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
	go func() { errs <- r.ReadAt(t.Context(), make([]byte, 1), 0) }()
	if err := r.Close(); !errors.Is(err, block.ErrNoAnswer) {
		t.Errorf("close: %v", err)
	}
	if err := <-errs; !errors.Is(err, block.ErrNoAnswer) && !errors.Is(err, block.ErrClosed) {
		t.Errorf("a read: %v", err)
	}
	if err := r.Close(); !errors.Is(err, block.ErrClosed) {
		t.Errorf("second close: %v", err)
	}
}

// The bound holds, by flushes of the device's own; a request that is larger is made
// stable at once, and what is stable is not kept.
func TestResilientBound(t *testing.T) {
	const bound = 64 << 10
	var flushes, forced, stable atomic.Int64
	pit, r := newPit(t, func(o *block.ResilientOptions) {
		o.Keep, o.Stable = bound, func(block.Device) bool { return stable.Load() > 0 }
	})
	pit.breaks(func(op block.Op) error {
		if op.Kind == block.OpFlush {
			flushes.Add(1)
		}
		if op.Flags&block.FUA != 0 {
			forced.Add(1)
		}
		return nil
	})
	p := bytes.Repeat([]byte{1}, 4096)
	for range 100 { // the same place again and again
		must(t, r.WriteAt(t.Context(), p, 8192, 0))
	}
	if flushes.Load() != 0 || r.Kept() > 5000 {
		t.Errorf("%d flushes, %d bytes kept of one place", flushes.Load(), r.Kept())
	}
	for off := range int64(200) {
		must(t, r.WriteAt(t.Context(), p, off*4096, 0))
		if k := r.Kept(); k > bound {
			t.Fatalf("%d bytes kept", k)
		}
	}
	if n := flushes.Load(); n < 200*4096/bound || n > 20 {
		t.Errorf("%d flushes for 200 writes", n)
	}
	must(t, r.WriteAt(t.Context(), bytes.Repeat(p, 20), 0, 0))
	if forced.Load() != 1 {
		t.Errorf("%d writes were forced, one was too large to keep", forced.Load())
	}
	must(t, r.Flush(t.Context()))
	stable.Store(1)
	must(t, r.WriteAt(t.Context(), p, 0, 0))
	if r.Kept() != 0 {
		t.Errorf("%d bytes kept of what is stable", r.Kept())
	}
}

// A walk that is lost in the middle tells each extent once.
func TestResilientExtents(t *testing.T) {
	var tries int
	cut := cutExtents{block.NewMem(1 << 20), &tries}
	r := block.NewResilient(cut, block.ResilientOptions{Lost: isLost, Open: func(context.Context) (block.Device, error) { return cut, nil }})
	var got []block.Extent
	must(t, r.Extents(t.Context(), 0, 1<<20, func(e block.Extent) error { got = append(got, e); return nil }))
	if !slices.Equal(got, []block.Extent{{Offset: 0, Length: 1 << 20, State: block.Zero}}) || tries != 4 {
		t.Errorf("after %d tries: %+v", tries, got)
	}
}

// cutExtents gets lost in each walk after a quarter of the device.
type cutExtents struct {
	block.Device
	tries *int
}

func (c cutExtents) Close() error { return nil }

func (c cutExtents) Extents(ctx context.Context, off, n int64, visit func(block.Extent) error) error {
	*c.tries++
	part := min(n, 256<<10)
	if err := visit(block.Extent{Offset: off, Length: part, State: block.Zero}); err != nil || part == n {
		return err
	}
	return errLost
}

func TestResilientReadAlloc(t *testing.T) {
	_, r := newPit(t, nil)
	ctx, p := t.Context(), make([]byte, 4096)
	if n := testing.AllocsPerRun(200, func() { must(t, r.ReadAt(ctx, p, 4096)) }); n > 0 {
		t.Errorf("a read allocates %v times", n)
	}
}
