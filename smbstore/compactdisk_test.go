package smbstore

import (
	"errors"
	"testing"

	"lunless/smbstore/block"
)

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
