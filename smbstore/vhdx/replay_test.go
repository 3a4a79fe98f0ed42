package vhdx

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"lunless/smbstore/block"
)

// TestFindSequence lays entries into a ring by hand (MS-VHDX 2.3.3).
func TestFindSequence(t *testing.T) {
	g := newGUID()
	const length = 16 * logSector
	type ent struct {
		at   int64 // sectors
		seq  uint64
		tail uint32 // sectors
		data int    // data sectors: the entry takes one more
		guid GUID
	}
	for _, c := range []struct {
		name string
		ents []ent
		want []uint64 // sequence numbers, oldest first
	}{
		{"none", nil, nil},
		{"one", []ent{{0, 5, 0, 1, g}}, []uint64{5}},
		{"several", []ent{{0, 5, 0, 1, g}, {2, 6, 0, 2, g}, {5, 7, 0, 1, g}}, []uint64{5, 6, 7}},
		{"the tail moves on", []ent{{0, 5, 0, 1, g}, {2, 6, 0, 2, g}, {5, 7, 2, 1, g}}, []uint64{6, 7}},
		{"a gap in numbers", []ent{{0, 5, 0, 1, g}, {2, 7, 2, 1, g}}, []uint64{7}},
		{"tail overwritten", []ent{{2, 7, 0, 1, g}}, nil},
		{"older beside newer", []ent{{0, 50, 0, 1, g}, {4, 9, 4, 1, g}}, []uint64{50}},
		{"another log's is newer", []ent{{0, 5, 0, 1, g}, {4, 90, 4, 1, newGUID()}}, []uint64{5}},
		{"wraps", []ent{{13, 5, 13, 1, g}, {15, 6, 13, 3, g}, {3, 7, 13, 0, g}}, []uint64{5, 6, 7}},
		{"no descriptors", []ent{{3, 1, 3, 0, g}}, []uint64{1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ring := make([]byte, length)
			for _, e := range c.ents {
				le := logEntry{Sequence: e.seq, Tail: e.tail * logSector, LogGUID: e.guid}
				for i := range e.data {
					le.Updates = append(le.Updates, update{Offset: 4*mib + int64(i)*logSector, Data: bytes.Repeat([]byte{byte(e.seq)}, logSector)})
				}
				b := make([]byte, le.size())
				le.encode(b)
				n := copy(ring[e.at*logSector:], b)
				copy(ring, b[n:])
			}
			var got []uint64
			s, err := newRing(bytes.NewReader(ring), 0, length, g).sequence()
			must(t, err)
			if s != nil {
				for _, e := range s.entries {
					got = append(got, e.Sequence)
				}
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("active sequence %v, want %v", got, c.want)
			}
		})
	}
}

// TestReplayCost: a log whose every sector begins an entry as long as the ring
// takes no longer than the ring is large.
func TestReplayCost(t *testing.T) {
	g := newGUID()
	ring := make([]byte, maxReplayLog)
	for off := 0; off < len(ring); off += logSector {
		copy(ring[off:], sigEntry)
		le.PutUint32(ring[off+8:], uint32(len(ring)))
		le.PutUint64(ring[off+16:], 1)
		copy(ring[off+32:], g[:])
	}
	start := time.Now()
	if s, err := newRing(bytes.NewReader(ring), 0, maxReplayLog, g).sequence(); s != nil || err != nil {
		t.Error("a sequence was found")
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("took %v", d)
	}
}

// TestReplayZeroes: zero descriptors, in the order of their entries, in memory
// and in the file.
func TestReplayZeroes(t *testing.T) {
	page := func(b byte) []byte { return bytes.Repeat([]byte{b}, logSector) }
	s := &sequence{entries: []*logEntry{
		{Updates: []update{{Offset: 4 * mib, Data: page(1)}, {Offset: 5 * mib, Data: page(2)}}},
		{Updates: []update{{Offset: 3 * mib, Zeroes: 3 * mib}, {Offset: 5*mib + 4096, Data: page(3)}}, LastFileOffset: 9 * mib},
	}}
	f := block.NewMemFile(7 * mib)
	put(t, f, 0, bytes.Repeat([]byte{9}, 7*mib))
	want := bytes.Repeat([]byte{9}, 9*mib)
	clear(want[3*mib : 6*mib])
	clear(want[7*mib:])
	copy(want[5*mib+4096:], page(3))
	o, err := s.overlaid(f)
	must(t, err)
	got := make([]byte, 9*mib)
	must(t, readFull(o, got, 0))
	if !bytes.Equal(got, want) {
		t.Error("in memory: differs")
	}
	must(t, s.apply(f))
	if !bytes.Equal(readAll(t, f, 0, 9*mib), want) {
		t.Error("in the file: differs")
	}
}
