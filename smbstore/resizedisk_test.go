package smbstore

import (
	"errors"
	"testing"
)

// TestResizeDisk grows and shrinks disks of every format and kind.
func TestResizeDisk(t *testing.T) {
	for _, c := range []struct {
		name   string
		format Format
		fixed  bool
		chain  bool
	}{
		{"vhdx", VHDX, false, false}, {"fixed vhdx", VHDX, true, false}, {"differencing vhdx", VHDX, false, true},
		{"vhd", VHD, false, false}, {"fixed vhd", VHD, true, false}, {"differencing vhd", VHD, false, true}, {"raw", Raw, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newPowerStore()
			chain := &testChain{store: s}
			o := CreateDiskOptions{Format: c.format, Fixed: c.fixed, Size: 6 << 20, BlockSize: 1 << 20}
			if c.format == VHD {
				o.BlockSize = 2 << 20
			}
			chain.add(t, 1, "base", o)
			if c.chain {
				chain.add(t, 1, "leaf", CreateDiskOptions{Parent: s.Location().Join("base")})
			}
			before, err := InspectDisk(t.Context(), s, chain.leaf())
			mustDo(t, err)
			size, err := ResizeDisk(t.Context(), s, chain.leaf(), ResizeOptions{Size: 11 << 20})
			if err != nil || size != 11<<20 {
				t.Fatal(size, err)
			}
			want := append(chain.want, make([]byte, 5<<20)...)
			checkDisk(t, s, chain.leaf(), want)
			after, err := InspectDisk(t.Context(), s, chain.leaf())
			if err != nil || after.Type != before.Type || after.BlockSize != before.BlockSize || after.ID != before.ID {
				t.Errorf("after: %+v, %v; before: %+v", after, err, before)
			}
			if c.chain {
				return
			}
			if _, err := ResizeDisk(t.Context(), s, chain.leaf(), ResizeOptions{Size: 1 << 20}); !errors.Is(err, ErrTailInUse) {
				t.Errorf("shrunk below its data: %v", err)
			}
			checkDisk(t, s, chain.leaf(), want)
			if _, err := ResizeDisk(t.Context(), s, chain.leaf(), ResizeOptions{Size: 6 << 20}); err != nil {
				t.Error(err)
			}
			checkDisk(t, s, chain.leaf(), chain.want)
			if len(s.files) != 1 {
				t.Errorf("left are %s", s)
			}
		})
	}
}

// TestResizeRefused: a disk with children keeps its size, unless forced.
func TestResizeRefused(t *testing.T) {
	for _, format := range chainFormats {
		s := newPowerStore()
		n := suffixed(format, "base", "leaf")
		c := newChain(t, s, 2, format, n...)
		var ce *ChildrenError
		if _, err := ResizeDisk(t.Context(), s, n[0], ResizeOptions{Size: 20 << 20}); !errors.As(err, &ce) {
			t.Errorf("%s: %v", format, err)
		}
		checkDisk(t, s, n[1], c.want)
		if _, err := ResizeDisk(t.Context(), s, n[0], ResizeOptions{Size: 20 << 20, Force: true}); err != nil {
			t.Errorf("%s, forced: %v", format, err)
		}
	}
}
