package block_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"lunless/smbstore/block"
)

// What is kept is what was written last to each byte and not settled since.
func TestKeptWrites(t *testing.T) {
	for _, size := range []int64{64, 4096, 200_000} {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		rnd := rand.New(rand.NewPCG(seed, 1))
		var k block.Kept
		value := make([]byte, size) // of what is kept
		since := make([]uint64, size)
		var seq uint64
		var marks []uint64
		for step := range 6000 {
			off := rnd.Int64N(size)
			n := 1 + rnd.Int64N(min(size-off, 1+rnd.Int64N(3000)))
			switch c := rnd.IntN(20); {
			case c < 14:
				var data []byte
				seq++
				if c < 11 {
					data = bytes.Repeat([]byte{byte(1 + rnd.IntN(255))}, int(n))
				}
				k.Put(off, n, data)
				for i := off; i < off+n; i++ {
					since[i], value[i] = seq, 0
					if data != nil {
						value[i] = data[0]
					}
				}
			case c < 17:
				k.Drop(off, n)
				clear(since[off : off+n])
			case c < 18:
				marks = append(marks, k.Mark())
			case len(marks) > 0 && step%8 == 0:
				m := marks[rnd.IntN(len(marks))]
				k.Settle(m)
				for i := range since {
					if since[i] <= m {
						since[i] = 0
					}
				}
			}
			if err := k.Check(); err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
			if step%50 != 0 {
				continue
			}
			got := make([]byte, size)
			there := make([]bool, size)
			k.Each(func(off, n int64, data []byte) {
				for i := range n {
					there[off+i] = true
					if data != nil {
						got[off+i] = data[i]
					}
				}
			})
			for i := range got {
				if there[i] != (since[i] > 0) || there[i] && got[i] != value[i] {
					t.Fatalf("step %d: byte %d is kept: %v, as %d; want %v, %d", step, i, there[i], got[i], since[i] > 0, value[i])
				}
			}
		}
		k.Settle(seq)
		if k.Check() != nil || len(k.Leaves()) != 0 {
			t.Errorf("left over after all was settled: %d, %v", len(k.Leaves()), k.Check())
		}
	}
}

func BenchmarkKept(b *testing.B) {
	var k block.Kept
	p := make([]byte, 4096)
	rnd := rand.New(rand.NewPCG(1, 1))
	for i := 0; b.Loop(); i++ {
		k.Put(rnd.Int64N(1<<20)*4096, 4096, p)
		if i%16000 == 15999 {
			k.Settle(k.Mark())
		}
	}
}
