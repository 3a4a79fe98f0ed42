package smbstore

import (
	"errors"
	"math/rand/v2"
	"testing"

	"lunless/smbstore/block"
)

// TestCompactDisk: a file is smaller, the content and what children know the disk
// by are the same.
func TestCompactDisk(t *testing.T) {
	for _, format := range chainFormats {
		t.Run(string(format), func(t *testing.T) {
			s := newPowerStore()
			const size = 32 << 20
			chain := &testChain{store: s}
			chain.add(t, 1, "base", CreateDiskOptions{Format: format, Size: size, BlockSize: 1 << 20})
			dev, _, err := OpenDisk(t.Context(), s, "base", DiskOptions{})
			mustDo(t, err)
			rnd := rand.New(rand.NewPCG(3, 3))
			for off := int64(0); off < size; off += 1 << 20 {
				p := chain.want[off : off+1<<20]
				for i := range p {
					p[i] = byte(rnd.Uint32())
				}
				mustDo(t, dev.WriteAt(t.Context(), p, off, 0))
				if off>>20%4 != 0 {
					clear(p) // zeroes that are written, not told of
					mustDo(t, dev.WriteAt(t.Context(), p, off, 0))
				}
			}
			mustDo(t, dev.Close())
			chain.add(t, 1, "leaf", CreateDiskOptions{Parent: s.Location().Join("base")})
			r, err := CompactDisk(t.Context(), s, "base", CompactOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if r.Before < size || r.After > size/2 {
				t.Errorf("result %+v of a disk of %d, three quarters zero", r, size)
			}
			checkDisk(t, s, "leaf", chain.want)
			if _, r, err := CheckDisk(t.Context(), s, "base"); err != nil || !r.Clean() {
				t.Errorf("%+v, %v", r, err)
			}
			if _, err := CompactDisk(t.Context(), s, "leaf", CompactOptions{}); err != nil {
				t.Errorf("the leaf: %v", err)
			}
			checkDisk(t, s, "leaf", chain.want)
		})
	}
}

// TestCompactRefused: raw and fixed VHDs have nothing to give.
func TestCompactRefused(t *testing.T) {
	for name, o := range map[string]CreateDiskOptions{"raw": {Format: Raw, Size: 1 << 20}, "fixed": {Format: VHD, Size: 1 << 20, Fixed: true}} {
		s := newPowerStore()
		dev, err := CreateDisk(t.Context(), s, "d", o)
		mustDo(t, err)
		mustDo(t, dev.Close())
		if _, err := CompactDisk(t.Context(), s, "d", CompactOptions{}); !errors.Is(err, block.ErrNotSupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
