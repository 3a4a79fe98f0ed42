package stamp

import (
	"bytes"
	"context"
	"errors"
	"testing"
)

// Whatever a crash leaves is right, with records and without, boot after boot.
func TestCrashesLeaveWhatIsExpected(t *testing.T) {
	for seed := range uint64(3) {
		r := newRig(t, seed, 1+int(seed%3))
		for boot := range 5 {
			r.work(200 + r.rnd.IntN(1000))
			r.crash()
			for _, records := range []Records{nil, r.records} {
				if err := r.check(records).Err(); err != nil {
					t.Fatalf("seed %d, after boot %d: %v", seed, boot+1, err)
				}
			}
			r.boot()
		}
		r.work(500)
		r.stop()
		report := r.check(r.records)
		if report.Err() != nil || report.Stamped < 300 || report.Zero < 20 || report.Runs != 6 {
			t.Errorf("seed %d: %+v", seed, report)
		}
	}
}

// stamped finds a written block of disk 0 that bears a stamp now and bore another
// before.
func (r *rig) stamped() (i int64) {
	d := r.disks[0]
	for i = range d.super.Blocks {
		old, ok := d.previous[i]
		if !ok {
			continue
		}
		_, zeroNow, errNow := Read(d.at(d.super.At(i)))
		_, zeroOld, errOld := Read(old)
		if !zeroNow && !zeroOld && errNow == nil && errOld == nil && NewExpect(d.super).certain(r, i) {
			return i
		}
	}
	r.t.Fatal("no block was written twice")
	return 0
}

// certain tells whether no trim leaves the block's content open.
func (e *Expect) certain(r *rig, i int64) bool {
	e.Replay(len(e.Runs)-1, r.disks[0].issued, 0)
	return e.base[i]&(trimmed|zeroed) == 0
}

// Every kind of damage is noticed, and named.
func TestDamageIsNoticed(t *testing.T) {
	at := func(r *rig, i int64) []byte { return r.disks[0].at(r.disks[0].super.At(i)) }
	stampAs := func(r *rig, i int64, change func(*Stamp)) {
		s, _, err := Read(at(r, i))
		if err != nil {
			r.t.Fatal(err)
		}
		change(&s)
		s.Put(at(r, i))
	}
	cases := []struct {
		name string
		do   func(r *rig, i int64)
		want error
	}{
		{"nothing", func(*rig, int64) {}, nil},
		{"a byte flipped", func(r *rig, i int64) { at(r, i)[2000] ^= 4 }, ErrDamaged},
		{"a sector of the block before", func(r *rig, i int64) { copy(at(r, i)[512:1024], r.disks[0].previous[i][512:1024]) }, ErrDamaged},
		{"a write dropped", func(r *rig, i int64) { copy(at(r, i), r.disks[0].previous[i]) }, ErrLost},
		{"zeroes instead", func(r *rig, i int64) { clear(at(r, i)) }, ErrLost},
		{"two blocks swapped", func(r *rig, i int64) {
			other := bytes.Clone(at(r, i))
			j := (i + 1) % r.disks[0].super.Blocks
			copy(at(r, i), at(r, j))
			copy(at(r, j), other)
		}, ErrForeign},
		{"a block of the other disk", func(r *rig, i int64) { stampAs(r, i, func(s *Stamp) { s.Disk = 1 }) }, ErrForeign},
		{"another guest's block", func(r *rig, i int64) { stampAs(r, i, func(s *Stamp) { s.Set++ }) }, ErrForeign},
		{"a second writer's block", func(r *rig, i int64) { stampAs(r, i, func(s *Stamp) { s.Run++ }) }, ErrForeign},
		{"a write that was never made", func(r *rig, i int64) { stampAs(r, i, func(s *Stamp) { s.Seq += 100000 }) }, ErrForeign},
	}
	r := newRig(t, 7, 2)
	r.work(2500)
	r.stop()
	good, place := bytes.Clone(r.disks[0].image), r.stamped()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			copy(r.disks[0].image, good)
			c.do(r, place)
			report := r.check(r.records)
			if c.want == nil {
				if err := report.Err(); err != nil {
					t.Error(err)
				}
				return
			}
			if report.Wrong < 1 || report.Wrong > 2 || !errors.Is(report.Errors[0], c.want) {
				t.Errorf("found %v, must be %v", report.Err(), c.want)
			}
		})
	}
}

// A device that acknowledged a flush and kept nothing is noticed, also without
// records: the other disk's blocks tell how far this one was flushed.
func TestLostFlushIsNoticed(t *testing.T) {
	for _, withRecords := range []bool{true, false} {
		r := newRig(t, 11, 2)
		r.work(1000)
		r.stop()
		before := bytes.Clone(r.disks[0].image)
		r.work(300)
		r.flush(r.disks[0])
		r.records[Key{r.run, 0}] = Record{Flushed: r.disks[0].flushed}
		r.work(100)
		r.flush(r.disks[1])
		r.records[Key{r.run, 1}] = Record{Flushed: r.disks[1].flushed}
		r.crash()
		if err := r.check(r.records).Err(); err != nil {
			t.Fatal(err)
		}
		r.disks[0].image = before
		var records Records
		if withRecords {
			records = r.records
		}
		if report := r.check(records); report.Wrong == 0 || !errors.Is(report.Errors[0], ErrLost) {
			t.Errorf("records %v: found %v", withRecords, report.Err())
		}
	}
}

// A disk put back to before the last boot does not know that run.
func TestDiskFromBeforeTheBootIsNoticed(t *testing.T) {
	r := newRig(t, 13, 1)
	r.work(500)
	r.stop()
	before := bytes.Clone(r.disks[0].image)
	r.boot()
	r.work(500)
	r.stop()
	r.disks[0].image = before
	if report := r.check(r.records); report.Wrong == 0 || !errors.Is(report.Errors[0], ErrLost) {
		t.Errorf("found %v", report.Err())
	}
}

// Superblocks: a lost boot's copy does not count, blank is told from damaged.
func TestSuper(t *testing.T) {
	r := newRig(t, 17, 1)
	r.boot()
	image := r.disks[0].image
	read := func() (*Super, error) { return ReadSuper(bytes.NewReader(image), rigSize) }
	if s, err := read(); err != nil || len(s.Runs) != 2 || s.Runs[1].ID != r.run {
		t.Fatal(s, err)
	}
	image[100]++ // the second boot's copy lies first
	if s, err := read(); err != nil || len(s.Runs) != 1 {
		t.Error(s, err)
	}
	image[superSize+100]++
	if _, err := read(); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	clear(image[:2*superSize])
	if _, err := read(); !errors.Is(err, ErrBlank) {
		t.Error(err)
	}
	if _, err := Check(context.Background(), nil, Image{R: bytes.NewReader(image), Size: rigSize}); !errors.Is(err, ErrBlank) {
		t.Error(err)
	}
}

// The layout keeps every block on the device and apart from the others.
func TestLayout(t *testing.T) {
	for _, c := range []struct {
		size, span int64
		spread     bool
	}{{64 << 20, 16 << 20, true}, {64 << 20, 1 << 30, true}, {rigSize, 1 << 20 * 4, false}, {1 << 40, 64 << 20, true}} {
		l, err := NewLayout(c.size, c.span, c.spread)
		if err != nil || !l.valid(c.size) {
			t.Fatalf("%+v: %+v, %v", c, l, err)
		}
		last := int64(Reserved - 1)
		for i := range l.Blocks {
			if l.At(i) <= last {
				t.Fatalf("%+v: block %d lies at %d, behind %d", c, i, l.At(i), last)
			}
			last = l.At(i)
		}
		for seq := range uint64(5000) {
			op := l.Op(1, 1, seq)
			if op.Count < 1 || op.First < 0 || op.First+op.Count > l.Blocks || l.At(op.First)+op.Count-1 != l.At(op.First+op.Count-1) {
				t.Fatalf("%+v: %+v", c, op)
			}
		}
	}
	if _, err := NewLayout(1<<20, 1<<20, true); !errors.Is(err, ErrSmall) {
		t.Error(err)
	}
}

// memory is a device.
type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

// A prepared disk holds as much as was asked for, is right, and a lost block of it
// is noticed.
func TestPrepare(t *testing.T) {
	for _, noTrim := range []bool{false, true} {
		image := make(memory, 24<<20)
		super, err := Prepare(image, int64(len(image)), PrepareOptions{Set: 5, Disk: 1, Run: 77, Span: 16 << 20, Spread: true, Filled: 0.5, NoTrim: noTrim})
		if err != nil {
			t.Fatal(err)
		}
		check := func() *Report {
			r, err := Check(context.Background(), nil, Image{R: bytes.NewReader(image), Size: int64(len(image))})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		r := check()
		if share := float64(r.Stamped) / float64(super.Blocks); r.Err() != nil || share < 0.5 || share > 0.52 {
			t.Errorf("%.2f of the blocks hold data; %v", share, r.Err())
		}
		e := NewExpect(super)
		e.Replay(0, super.Runs[0].Flushed, 0)
		for i := range super.Blocks {
			if e.base[i].stamped() && e.base[i]&trimmed == 0 {
				clear(image[super.At(i)*BlockSize:][:BlockSize])
				break
			}
		}
		if r := check(); r.Wrong != 1 || !errors.Is(r.Errors[0], ErrLost) {
			t.Errorf("a block is gone: %v", r.Err())
		}
	}
	if _, err := Prepare(make(memory, 24<<20), 24<<20, PrepareOptions{Span: 16 << 20, Filled: 0.99}); err == nil {
		t.Error("prepared a disk that never gets so full")
	}
}
