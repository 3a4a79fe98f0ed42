package smbstore

import (
	"fmt"
	"testing"
)

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
