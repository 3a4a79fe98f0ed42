package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"lunless/smbstore/block"
)

// memory is a disk in memory; lie, if set, may change what a read returns.
type memory struct {
	block.Device // unused methods
	mu           sync.RWMutex
	data         []byte
	lie          func(p []byte, off int64)
}

func (m *memory) Size() int64 { return int64(len(m.data)) }
func (m *memory) ReadAt(_ context.Context, p []byte, off int64) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	copy(p, m.data[off:])
	if m.lie != nil {
		m.lie(p, off)
	}
	return nil
}
func (m *memory) WriteAt(_ context.Context, p []byte, off int64, _ block.WriteFlags) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(m.data[off:], p)
	return nil
}
func (m *memory) Flush(context.Context) error { return nil }

func options(name string, d time.Duration) Options {
	w, err := FindWorkload(name)
	if err != nil {
		panic(err)
	}
	return Options{Workload: w, Duration: d, Seed: 7}
}

func TestEveryWorkloadCountsWhatItDid(t *testing.T) {
	for _, w := range Workloads {
		t.Run(w.Name, func(t *testing.T) {
			o := options(w.Name, 30*time.Millisecond)
			o.Verify = true
			o.ServerPID = os.Getpid()
			m := &memory{data: make([]byte, 32<<20)}
			r, err := Run(t.Context(), []block.Device{m, m}, o)
			if err != nil {
				t.Fatal(err)
			}
			var counted int64
			if r.Read != nil {
				counted += r.Read.Count
			}
			if r.Write != nil {
				counted += r.Write.Count
			}
			if r.Operations == 0 || counted != r.Operations {
				t.Errorf("%d operations, histograms hold %d", r.Operations, counted)
			}
			if (r.Read == nil) != (w.ReadPercent == 0) || (r.Write == nil) != (w.ReadPercent == 100) {
				t.Errorf("read %v, write %v do not fit %d%% reads", r.Read, r.Write, w.ReadPercent)
			}
			if r.ServerCPUPerOp <= 0 || r.ClientCPUPerOp <= 0 {
				t.Errorf("CPU not measured: %+v", r)
			}
			if _, err := json.Marshal(r); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestVerifyCatches(t *testing.T) {
	lies := map[string]func(p []byte, off int64){
		"a flipped bit":     func(p []byte, _ int64) { p[9] ^= 1 },
		"a torn block":      func(p []byte, _ int64) { clear(p[len(p)-sector:]) },
		"a zeroed block":    func(p []byte, _ int64) { clear(p) },
		"a misplaced block": func(p []byte, off int64) { stamp(p, off+4096, 1, 7) },
		"a stale block":     func(p []byte, off int64) { stamp(p, off, 1<<31, 7) },
		"another run's":     func(p []byte, off int64) { stamp(p, off, 1, 8) },
	}
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			o := options("randrw-4k", 5*time.Second)
			o.Verify = true
			_, err := Run(t.Context(), []block.Device{&memory{data: make([]byte, 1<<20), lie: lie}}, o)
			var m *MismatchError
			if !errors.As(err, &m) {
				t.Fatalf("got %v, want a MismatchError", err)
			}
		})
	}
}

func TestRefuses(t *testing.T) {
	m := &memory{data: make([]byte, 64<<10)}
	for name, change := range map[string]func(*Options){
		"too small for the depth": func(o *Options) { o.Depth = 64 },
		"odd block size":          func(o *Options) { o.BlockSize = 1000 },
		"no depth":                func(o *Options) { o.Depth = 0 },
		"a share over 100":        func(o *Options) { o.ReadPercent = 101 },
	} {
		o := options("randread-4k", time.Millisecond)
		change(&o)
		if _, err := Run(t.Context(), []block.Device{m}, o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := FindWorkload("nope"); err == nil || !strings.Contains(err.Error(), "seqread-1m") {
		t.Errorf("unknown workload: %v; the error should list those there are", err)
	}
}

func TestCompareInterleaves(t *testing.T) {
	a, b := &memory{data: make([]byte, 1<<20)}, &memory{data: make([]byte, 1<<20)}
	b.lie = func([]byte, int64) { time.Sleep(time.Millisecond) } // B is slower
	c, err := Compare(t.Context(), Side{Name: "a", Devices: []block.Device{a}}, Side{Name: "b", Devices: []block.Device{b}},
		options("randread-4k", 20*time.Millisecond), 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.IOPS.Median <= 1 || c.IOPS.Min > c.IOPS.Median || c.IOPS.Max < c.IOPS.Median {
		t.Errorf("A must be the faster: %+v", c.IOPS)
	}
	var out bytes.Buffer
	c.WriteText(&out)
	if !strings.Contains(out.String(), "IOPS") {
		t.Errorf("text: %s", out.String())
	}
}

func TestPrepareFillsAll(t *testing.T) {
	m := &memory{data: make([]byte, 3<<20+4096)}
	if err := Prepare(t.Context(), m, 1, nil); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(m.data, make([]byte, 64)) {
		t.Error("a stretch was left unwritten")
	}
}

func TestWriterFindsALostWrite(t *testing.T) {
	m := &memory{data: make([]byte, 1<<20)}
	w, err := NewWriter(m, 512<<10, 256<<10, 3)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const writes = 3*writerFlush + 1
	var begun int
	w.dev = block.NewIntercept(m, func(_ context.Context, op block.Op) error {
		if op.Kind == block.OpWrite {
			if begun++; begun == writes {
				cancel()
			}
		}
		return nil
	})
	if err := w.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if w.Writes() != writes || w.Flushes() != w.Writes()/writerFlush {
		t.Fatalf("%d writes, %d flushes", w.Writes(), w.Flushes())
	}
	if err := w.Verify(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if bytes.ContainsFunc(m.data[:512<<10], func(r rune) bool { return r != 0 }) || bytes.ContainsFunc(m.data[768<<10:], func(r rune) bool { return r != 0 }) {
		t.Error("wrote outside its range")
	}
	for n, s := range w.acked {
		if s != 0 {
			clear(m.data[512<<10+n*writerBlock+sector:][:sector]) // one lost sector
			break
		}
	}
	var mismatch *MismatchError
	if err := w.Verify(t.Context(), m); !errors.As(err, &mismatch) {
		t.Errorf("a lost sector gave %v", err)
	}
	if _, err := NewWriter(m, 1<<20, 4096, 1); !errors.Is(err, block.ErrOutOfRange) {
		t.Errorf("a range outside the disk: %v", err)
	}
}
