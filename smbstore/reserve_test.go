package smbstore

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"lunless/smbstore/block"
)

// A fixed disk has its room from the start, and is not made where there is not
// that much.
func TestFixedDisksTakeTheirRoom(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(t.Context(), Location{Path: dir}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, format := range []Format{VHDX, VHD} {
		for _, fixed := range []bool{true, false} {
			const size = 64 << 20
			name := "disk." + string(format)
			d, err := CreateDisk(t.Context(), s, name, CreateDiskOptions{Format: format, Size: size, Fixed: fixed})
			if err != nil {
				t.Fatal(err)
			}
			var st syscall.Stat_t
			if err := syscall.Stat(filepath.Join(dir, name), &st); err != nil {
				t.Fatal(err)
			}
			if taken := st.Blocks * 512; taken >= size != fixed {
				t.Errorf("%s, fixed %v: %d bytes taken of %d", format, fixed, taken, size)
			}
			b := make([]byte, 4096)
			if err := d.ReadAt(t.Context(), b, size/2); err != nil || !block.IsZero(b) {
				t.Errorf("%s, fixed %v: not zero, %v", format, fixed, err)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
			if err := s.Remove(name); err != nil {
				t.Error(err)
			}
		}
	}
	d, err := CreateDisk(t.Context(), s, "huge.vhdx", CreateDiskOptions{Format: VHDX, Size: 8 << 40, Fixed: true})
	if err == nil {
		d.Close()
		t.Error("8 TiB were reserved")
	}
	if _, err := os.Stat(filepath.Join(dir, "huge.vhdx")); !os.IsNotExist(err) {
		t.Errorf("what there was no room for is there: %v", err)
	}
}
