package stamp

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"
)

// rig is a guest with disks in memory that lose power.
type rig struct {
	t       *testing.T
	rnd     *rand.Rand
	set     uint64
	disks   []*rigDisk
	records Records
	run     uint64
}

type rigDisk struct {
	super    *Super
	image    []byte // what is on stable storage
	cache    []rigWrite
	cached   map[int64]int // block of the device -> its last place in cache
	issued   uint64
	flushed  uint64
	previous map[int64][]byte // written block -> what it held before its last operation
}

type rigWrite struct {
	block   int64 // of the device
	content []byte
}

const rigSize = (Reserved + 3*chunkBlocks) * BlockSize

func newRig(t *testing.T, seed uint64, disks int) *rig {
	r := &rig{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), set: seed ^ 0x5e7, records: Records{}}
	for i := range disks {
		l, err := NewLayout(rigSize, 2*chunkBlocks*BlockSize, i%2 == 0)
		if err != nil {
			t.Fatal(err)
		}
		r.disks = append(r.disks, &rigDisk{super: &Super{Set: r.set, Disk: i, Layout: l}, image: make([]byte, rigSize), cached: map[int64]int{}})
	}
	r.boot()
	return r
}

// boot begins a run, as the guest does: what the superblocks know of the former is
// settled from the disks and, now and then, the records.
func (r *rig) boot() {
	var surveys []*Survey
	for _, d := range r.disks {
		if len(d.super.Runs) == 0 {
			continue
		}
		s, err := Take(context.Background(), d.super, bytes.NewReader(d.image), make([]byte, readBlocks*BlockSize))
		if err != nil {
			r.t.Fatal(err)
		}
		surveys = append(surveys, s)
	}
	records := r.records
	if r.rnd.IntN(3) == 0 {
		records = nil
	}
	Settle(records, surveys...)
	for _, s := range surveys {
		s.Judge(func(err error) { r.t.Errorf("at boot %d: %v", len(s.Runs), err) })
	}
	r.run = r.rnd.Uint64()
	for _, d := range r.disks {
		d.super.Runs = append(d.super.Runs, Run{ID: r.run})
		b, off, err := d.super.Encode()
		if err != nil {
			r.t.Fatal(err)
		}
		copy(d.image[off:], b)
		d.issued, d.flushed, d.previous = 0, 0, map[int64][]byte{}
	}
}

// work does operations on random disks and flushes at random.
func (r *rig) work(ops int) {
	for range ops {
		d := r.disks[r.rnd.IntN(len(r.disks))]
		if r.rnd.IntN(40) == 0 || d.issued-d.flushed >= Window-1 {
			r.flush(d)
		}
		d.issued++
		op := d.super.Op(r.run, d.super.Disk, d.issued)
		for i := op.First; i < op.First+op.Count; i++ {
			w := rigWrite{block: d.super.At(i), content: make([]byte, BlockSize)}
			if op.Kind == Write {
				s := Stamp{Set: r.set, Run: r.run, Disk: d.super.Disk, Block: w.block, Seq: op.Seq}
				for j, o := range r.disks {
					s.Flushed[j] = o.flushed
				}
				s.Put(w.content)
			}
			if op.Kind == Trim && r.rnd.IntN(2) == 0 {
				continue
			}
			d.previous[i] = d.read(w.block)
			d.write(w)
		}
	}
}

// read is what a guest sees.
func (d *rigDisk) read(block int64) []byte {
	if i, ok := d.cached[block]; ok {
		return d.cache[i].content
	}
	return bytes.Clone(d.at(block))
}

func (d *rigDisk) write(w rigWrite) {
	d.cached[w.block] = len(d.cache)
	d.cache = append(d.cache, w)
}

func (d *rigDisk) forget() {
	d.cache, d.cached = nil, map[int64]int{}
}

func (d *rigDisk) at(block int64) []byte { return d.image[block*BlockSize : (block+1)*BlockSize] }

func (r *rig) flush(d *rigDisk) {
	for _, w := range d.cache {
		copy(d.at(w.block), w.content)
	}
	d.forget()
	d.flushed = d.issued
	if r.rnd.IntN(4) > 0 { // the host does not always listen
		r.records[Key{r.run, d.super.Disk}] = Record{Flushed: d.flushed}
	}
}

// crash keeps some of what was not flushed.
func (r *rig) crash() {
	for _, d := range r.disks {
		for _, w := range d.cache {
			if r.rnd.IntN(2) == 0 {
				copy(d.at(w.block), w.content)
			}
		}
		d.forget()
	}
}

// stop flushes all and tells that nothing was started behind it.
func (r *rig) stop() {
	for _, d := range r.disks {
		r.flush(d)
		r.records[Key{r.run, d.super.Disk}] = Record{Flushed: d.flushed, Exact: true}
	}
}

func (r *rig) check(records Records) *Report {
	r.t.Helper()
	var images []Image
	for _, d := range r.disks {
		images = append(images, Image{Name: "disk", R: bytes.NewReader(d.image), Size: rigSize})
	}
	report, err := Check(context.Background(), records, images...)
	if err != nil {
		r.t.Fatal(err)
	}
	return report
}
