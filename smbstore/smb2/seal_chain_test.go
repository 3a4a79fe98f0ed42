package smb2

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// Whatever this machine's way is, it computes what the portable one does.
func TestAESChainIsPortable(t *testing.T) {
	const seed = 1
	rng := rand.New(rand.NewPCG(seed, seed))
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	for _, keySize := range []int{16, 32} {
		for blocks := range 20 {
			c, err := newAESChain(random(keySize))
			if err != nil {
				t.Fatal(err)
			}
			x, ctr := [16]byte(random(16)), [16]byte(random(16))
			if blocks%2 == 0 {
				copy(ctr[12:], "\xff\xff\xff\xfe") // the counter comes round in its 4 bytes
			}
			src := random(16*blocks + 3)[3:] // not aligned

			x1, x2 := x, x
			c.mac(&x1, src)
			c.macGeneric(&x2, src)
			if x1 != x2 {
				t.Errorf("key of %d, %d blocks: MAC %x, want %x (seed %d)", keySize, blocks, x1, x2, seed)
			}

			var key [16]byte
			x1, x2 = x, x
			ctr1, ctr2 := ctr, ctr
			got, want := bytes.Clone(src), make([]byte, len(src))
			c.seal(&x1, &ctr1, &key, got, got)
			c.sealGeneric(&x2, &ctr2, &key, want, src)
			if x1 != x2 || ctr1 != ctr2 || !bytes.Equal(got, want) {
				t.Errorf("key of %d, %d blocks: sealing differs (seed %d)", keySize, blocks, seed)
			}

			x1, x2, ctr1, ctr2 = x, x, ctr, ctr
			c.open(&x1, &ctr1, &key, got, got)
			c.openGeneric(&x2, &ctr2, &key, want, want)
			if x1 != x2 || ctr1 != ctr2 || !bytes.Equal(got, src) || !bytes.Equal(want, src) {
				t.Errorf("key of %d, %d blocks: opening differs (seed %d)", keySize, blocks, seed)
			}
		}
	}
}
