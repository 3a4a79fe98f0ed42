package host

import (
	"testing"

	"lunless/smbstore"
)

// What a guest was told is written is on its disk though the process that served it
// was killed; with the fault switched on, it is not.
func TestDurableOutlivesItsProcess(t *testing.T) {
	old := sabotage
	defer func() { sabotage = old }()
	for _, fault := range []string{"", sabotageRoom} {
		sabotage = func(name string) bool { return name == fault }
		ctx := t.Context()
		s, err := smbstore.OpenPath(ctx, t.TempDir(), smbstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		dev, err := smbstore.CreateDisk(ctx, s, "d.vhdx", smbstore.CreateDiskOptions{Format: smbstore.VHDX, Size: 64 << 20, BlockSize: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if err := dev.Close(); err != nil {
			t.Fatal(err)
		}
		open := func() (*smbstore.Chain, durable) {
			c, err := smbstore.OpenChain(ctx, s, "d.vhdx", smbstore.DiskOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return c, durable{c.Disk()}
		}
		_, killed := open() // never closed
		for i := range int64(8) {
			if err := killed.WriteAt(ctx, []byte{byte(i + 1)}, i<<20, 0); err != nil {
				t.Fatal(err)
			}
		}
		c, again := open()
		lost := 0
		for i := range int64(8) {
			p := make([]byte, 1)
			if err := again.ReadAt(ctx, p, i<<20); err != nil {
				t.Fatal(err)
			}
			if p[0] != byte(i+1) {
				lost++
			}
		}
		if (lost == 0) != (fault == "") {
			t.Errorf("fault %q: %d of 8 writes lost", fault, lost)
		}
		c.Close() //nolint:errcheck // two of one disk
	}
}
