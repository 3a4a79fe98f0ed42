package shares

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"

	"lunless/smbstore/smb2"
)

const (
	mixSlots = 12      // ranges with an operation under way each
	mixSlot  = 1 << 20 // bytes of one
)

// mixer is a client with many reads and writes of all sizes under way at a time,
// each in a range of its own, which knows what each range must hold.
type mixer struct {
	*rawClient
	rng  *rand.Rand
	id   smb2.FileID
	base uint64
	want []byte
}

type mixOp struct {
	read bool
	at   int
	n    int
}

// sendOp begins an operation in a slot and returns its message id.
func (m *mixer) sendOp(slot int) (uint64, mixOp) {
	sizes := []int{1, 511, 4096, 4097, 65000, 65536, 69000, 131072, 300001}
	n := sizes[m.rng.IntN(len(sizes))]
	op := mixOp{read: m.rng.IntN(2) == 0, at: slot*mixSlot + m.rng.IntN(mixSlot-n), n: n}
	var cmd smb2.Command
	var b body
	var payload []byte
	off := m.base + uint64(op.at)
	if op.read {
		cmd, b = smb2.CommandRead, &smb2.ReadRequest{Length: uint32(n), Offset: off, FileID: m.id}
	} else {
		payload = m.want[op.at : op.at+n]
		fill(m.rng, payload)
		cmd, b = smb2.CommandWrite, &smb2.WriteRequest{Length: uint32(n), Offset: off, FileID: m.id}
	}
	id := m.message
	msg := m.build(cmd, b, payload)
	charge := uint64(n-1)/creditUnit + 1
	binary.LittleEndian.PutUint16(msg[6:], uint16(charge))
	binary.LittleEndian.PutUint16(msg[14:], uint16(charge)+8)
	m.message = id + charge
	m.send(msg)
	return id, op
}

func fill(rng *rand.Rand, b []byte) {
	for i := range b {
		if i%8 == 0 && len(b)-i >= 8 {
			binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
		} else if len(b)-i < 8 {
			b[i] = byte(rng.Uint32())
		}
	}
}

// round has an operation in every slot, and checks what comes back.
func (m *mixer) round() {
	m.t.Helper()
	under := map[uint64]mixOp{}
	for _, slot := range m.rng.Perm(mixSlots) {
		id, op := m.sendOp(slot)
		under[id] = op
	}
	for len(under) > 0 {
		for _, r := range m.receive() {
			op, ok := under[r.hdr.MessageID]
			if !ok || r.hdr.Status != smb2.StatusSuccess {
				m.t.Errorf("%v of %d at %d: %v", r.hdr.Command, op.n, op.at, r.hdr.Status)
				return
			}
			delete(under, r.hdr.MessageID)
			if !op.read {
				continue
			}
			var a smb2.ReadResponse
			if err := a.Decode(r.msg); err != nil || !bytes.Equal(a.Data, m.want[op.at:op.at+op.n]) {
				m.t.Errorf("read of %d at %d differs: %v", op.n, op.at, err)
				return
			}
		}
	}
}

// TestMixedTransfers: connections with each kind of protection read and write one
// file side by side, in all sizes at once, some of them cut in the middle. What a
// client has been told is written is what it reads.
func TestMixedTransfers(t *testing.T) {
	srv := startServer(t, nil)
	var wg sync.WaitGroup
	for i, tt := range []struct {
		dialect smb2.Dialect
		seal    bool
		cut     bool // ends with requests under way
	}{
		{smb2.Dialect302, true, false}, {smb2.Dialect311, false, false}, {smb2.Dialect311, true, false},
		{smb2.Dialect311, true, true}, {smb2.Dialect302, false, true},
	} {
		c := loginRaw(t, srv.addr, tt.dialect, "vms")
		m := &mixer{rawClient: c, rng: rand.New(rand.NewPCG(7, uint64(i))), id: c.create("disk"),
			base: uint64(i) * mixSlots * mixSlot, want: make([]byte, mixSlots*mixSlot)}
		for c.granted < 500 {
			c.call(smb2.CommandEcho, echo(), nil)
		}
		// The range is there, and zeroes, from the start.
		wantStatus(t, c.call(smb2.CommandWrite, &smb2.WriteRequest{Length: 1, Offset: 5*mixSlots*mixSlot - 1, FileID: m.id}, []byte{0}), smb2.StatusSuccess)
		c.seal = tt.seal
		wg.Go(func() {
			rounds := 15
			if tt.cut {
				rounds = 5
			}
			for range rounds {
				if m.round(); t.Failed() {
					return
				}
			}
			if tt.cut {
				for slot := range mixSlots {
					m.sendOp(slot)
				}
				m.nc.Close()
			}
		})
	}
	wg.Wait()
}
