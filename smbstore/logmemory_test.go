package smbstore

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// What is logged is a copy, whatever its length and whatever its memory held before,
// and no memory is two writes' at a time.
func TestLogMemory(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 1))
	type entry struct {
		data, want []byte
		mem        *[]byte
	}
	var kept []entry
	for i := range 3000 {
		n := 1 + rnd.IntN(1<<rnd.IntN(22))
		p := bytes.Repeat([]byte{byte(i)}, n)
		data, mem := logCopy(p)
		if want := n >= 1<<(leastLogClass-1) && n <= 1<<mostLogClass; (mem != nil) != want {
			t.Fatalf("%d bytes: memory to use again: %v, want %v", n, mem != nil, want)
		}
		if mem != nil && len(*mem) >= 2*max(n, 1<<(leastLogClass-1)) {
			t.Fatalf("%d bytes lie in %d", n, len(*mem))
		}
		kept = append(kept, entry{data, bytes.Clone(p), mem})
		clear(p)
		for len(kept) > 16 {
			j := rnd.IntN(len(kept))
			if e := kept[j]; !bytes.Equal(e.data, e.want) {
				t.Fatalf("what was logged of %d bytes has changed", len(e.want))
			}
			logFree(kept[j].mem)
			kept[j] = kept[len(kept)-1]
			kept = kept[:len(kept)-1]
		}
	}
}

func BenchmarkLogCopy(b *testing.B) {
	for _, n := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprint(n>>10, "KiB"), func(b *testing.B) {
			p := make([]byte, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			const held = 32 // as between two syncs
			var ring [held]*[]byte
			for i := 0; b.Loop(); i++ {
				logFree(ring[i%held])
				_, ring[i%held] = logCopy(p)
			}
		})
	}
}
