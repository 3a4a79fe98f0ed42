package vhdx

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"lunless/smbstore/block"
	"lunless/smbstore/block/powertest"
)

// layoutCut runs Resize and Compact on a disk whose power is cut at any change,
// while somebody writes. Each image a cut may leave must check clean, have one of
// the two sizes, and hold all that was flushed.
type layoutCut struct {
	t     *testing.T
	mu    sync.Mutex
	rnd   *rand.Rand
	file  *block.PowerCut
	disk  *Disk
	c     content // flushed
	armed bool
	sizes [2]int64
	rate  float64
	kinds map[string]int
	what  string
	// Counters in units of their own, each written with FUA: what an image holds
	// lies between the last write that returned before the cut and the last begun.
	counters []int64
	acked    []atomic.Uint64
	issued   []atomic.Uint64
}

const (
	layoutBase = 12 * mib // what is not cut off
	counterTag = 1<<64 - 1
)

// cut is called before every change of the file.
func (l *layoutCut) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.armed || l.rnd.Float64() >= l.rate || l.t.Failed() {
		return
	}
	least := make([]uint64, len(l.counters))
	for i := range least {
		least[i] = l.acked[i].Load()
	}
	image := l.file.Cut(l.rnd)
	kind := l.what
	if in, err := Inspect(image); err == nil && in.LogInUse {
		kind += ", log in use"
	}
	l.kinds[kind]++
	if err := l.verify(image, least); err != nil {
		l.t.Errorf("cut during %s: %v", l.what, err)
	}
}

func (l *layoutCut) verify(image *block.MemFile, least []uint64) error {
	if r, err := Check(image); err != nil || !r.Clean() {
		return fmt.Errorf("check: %v%s", err, list(r.Findings))
	}
	opts := OpenOptions{}
	if l.disk.parent != nil {
		opts.Parent = block.NewMem(layoutBase)
	}
	d, err := Open(noClose{image}, opts)
	if err != nil {
		return err
	}
	if d.Size() != l.sizes[0] && d.Size() != l.sizes[1] {
		return fmt.Errorf("size is %d, neither %d nor %d", d.Size(), l.sizes[0], l.sizes[1])
	}
	want := content{}
	for u, tag := range l.c {
		want[u] = tag
	}
	got := make([]byte, unit)
	for i, u := range l.counters {
		if err := d.ReadAt(context.Background(), got, u*unit); err != nil {
			return err
		}
		most, one := l.issued[i].Load(), make([]byte, 512)
		for s := 0; s < unit; s += 512 { // a write in flight may be torn
			v := le.Uint64(got[s:])
			if pattern(one, v); v < least[i] || v > most || string(one) != string(got[s:s+512]) {
				return fmt.Errorf("counter %d is %d, must be from %d to %d", i, v, least[i], most)
			}
		}
		want[u] = counterTag
	}
	if err := want.verifyData(d); err != nil {
		return err
	}
	if err := d.Close(); err != nil {
		return err
	}
	r, err := Check(image)
	if err != nil || !r.Clean() || r.Info.LogInUse {
		return fmt.Errorf("check after replay: %v%s", err, list(r.Findings))
	}
	for _, f := range r.Findings {
		if !strings.Contains(f.What, "not in use") && !strings.Contains(f.What, "past the disk's end") {
			return fmt.Errorf("check after replay:%s", list(r.Findings))
		}
	}
	return nil
}

// verifyData is verify for disks too large to read: what is not data is not read.
func (c content) verifyData(d *Disk) error {
	seen := 0
	err := d.Extents(context.Background(), 0, d.Size(), func(e block.Extent) error {
		if e.State != block.Data {
			return nil
		}
		got, one := make([]byte, unit), make([]byte, unit)
		for u := e.Offset / unit; u*unit < e.Offset+e.Length; u++ {
			p := got[:min(unit, d.Size()-u*unit)]
			if err := d.ReadAt(context.Background(), p, u*unit); err != nil {
				return err
			}
			if pattern(one, c[u]); c[u] != counterTag && string(p) != string(one[:len(p)]) {
				return fmt.Errorf("disk offset %#x holds %d, want %d", u*unit, le.Uint64(p), c[u])
			}
			if c[u] != 0 && c[u] != counterTag {
				seen++
			}
		}
		return nil
	})
	want := 0
	for u, tag := range c {
		if tag != counterTag && u*unit < d.Size() {
			want++
		}
	}
	if err == nil && seen != want {
		err = fmt.Errorf("%d units hold data, should be %d", seen, want)
	}
	return err
}

// count writes counters until stop.
func (l *layoutCut) count(stop *atomic.Bool) error {
	p := make([]byte, unit)
	for i := 0; !stop.Load(); i = (i + 1) % len(l.counters) {
		n := l.issued[i].Add(1)
		pattern(p, n)
		if err := l.disk.WriteAt(context.Background(), p, l.counters[i]*unit, block.FUA); err != nil {
			return err
		}
		l.acked[i].Store(n)
	}
	return nil
}

// round changes the content, flushes, and then the layout, with cuts.
func (l *layoutCut) round(i uint64) {
	t, d := l.t, l.disk
	for k := range uint64(1 + l.rnd.IntN(6)) {
		u := l.rnd.Int64N(layoutBase/unit - 40)
		if l.taken(u, 4) {
			continue
		}
		if l.rnd.IntN(2) == 0 {
			l.c.write(t, d, u, 4, i*1000+k*10+1)
			continue
		}
		blk := u * unit / d.blockSize
		if from := blk * d.blockSize / unit; !l.taken(from, d.blockSize/unit) {
			must(t, d.WriteZeroes(ctx, blk*d.blockSize, d.blockSize, block.NoUnmap))
			for u := range d.blockSize / unit {
				delete(l.c, from+u)
			}
		}
	}
	must(t, d.Flush(ctx))
	size := layoutBase + l.rnd.Int64N(10*mib)/unit*unit
	if l.rnd.IntN(6) == 0 && !d.im.params.LeaveAllocated {
		size = 150 << 30 // another BAT
	}
	if d.parent != nil { // it does not shrink
		size = min(d.Size()+l.rnd.Int64N(mib)/unit*unit, 64*mib)
	}
	compact := l.rnd.IntN(2) == 0 && !d.im.params.LeaveAllocated
	l.mu.Lock()
	l.sizes = [2]int64{d.Size(), d.Size()}
	if l.what = "compact"; !compact {
		l.what, l.sizes[1] = "resize", size
	}
	l.armed = true
	l.mu.Unlock()
	var stop atomic.Bool
	done := make(chan error, 1)
	go func() { done <- l.count(&stop) }()
	var err error
	if compact {
		_, err = d.Compact(ctx, CompactOptions{}, nil)
	} else {
		err = d.Resize(ctx, size)
	}
	stop.Store(true)
	must(t, <-done)
	must(t, err)
	l.mu.Lock()
	l.armed = false
	l.mu.Unlock()
}

// taken tells whether one of n units from u on is a counter.
func (l *layoutCut) taken(u, n int64) bool {
	for _, c := range l.counters {
		if c >= u && c < u+n {
			return true
		}
	}
	return false
}

// TestLayoutPowerCuts: CUTS_LAYOUT sets the number of rounds of each kind of disk.
func TestLayoutPowerCuts(t *testing.T) {
	seed := seedOf(t)
	rounds := powertest.EnvInt(t, "CUTS_LAYOUT", layoutRounds)
	for _, o := range []CreateOptions{
		{}, {Fixed: true}, {Parent: &ParentLink{Relative: "p.vhdx", Linkage: newGUID()}, ParentDevice: block.NewMem(layoutBase)},
	} {
		l := &layoutCut{
			t: t, rnd: rand.New(rand.NewPCG(seed, 0)), file: block.NewPowerCut(block.NewMemFile(0)), c: content{}, rate: 0.25,
			kinds: map[string]int{}, counters: []int64{5, 3*256 + 7, 11 * 256},
			acked: make([]atomic.Uint64, 3), issued: make([]atomic.Uint64, 3),
		}
		l.file.Watch(l.cut)
		o.Size, o.BlockSize = layoutBase, mib
		d, err := Create(l.file, o)
		must(t, err)
		d.meta.limit = 5
		l.disk = d
		for i := range uint64(rounds) {
			l.round(i)
			if t.Failed() {
				return
			}
		}
		t.Logf("%s: cuts %v", d.Info().Type, l.kinds)
		if len(l.kinds) == 0 {
			t.Error("no cuts")
		}
		must(t, d.Close())
	}
}
