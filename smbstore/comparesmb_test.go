package smbstore_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"lunless/smbstore"
	"lunless/smbstore/block"
	"lunless/smbstore/storetest"
)

// TestSMBCompareAndMap compares a local disk with its copies on a share, and
// finds the same data there.
func TestSMBCompareAndMap(t *testing.T) {
	const size, hole = 12 << 20, 4 << 20
	content := make([]byte, size)
	rnd := rand.New(rand.NewPCG(3, 3))
	for i := hole; i < size; i++ {
		content[i] = byte(rnd.Uint32())
	}
	eachServer(t, func(t *testing.T, server *storetest.Server) {
		local := smbstore.Location{Path: filepath.Join(t.TempDir(), "disk.img")}
		if err := os.WriteFile(local.Path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, format := range []smbstore.Format{smbstore.VHDX, smbstore.Raw} {
			testSMBCompareAndMap(t, server, local, format, hole)
		}
	})
}

func testSMBCompareAndMap(t *testing.T, server *storetest.Server, local smbstore.Location, format smbstore.Format, hole int64) {
	name := "disk." + string(format)
	remote := server.Location(name)
	err := smbstore.ConvertDisk(t.Context(), smbstore.ConvertDiskOptions{Source: local, Destination: remote,
		DestinationOptions: server.Options(), Format: format, BlockSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	compare := smbstore.CompareDisksOptions{A: local, B: remote, BOptions: server.Options()}
	got, err := smbstore.CompareDisks(t.Context(), compare)
	if err != nil || !got.Identical || got.Compared+got.Skipped != 12<<20 {
		t.Fatalf("%s: %+v, %v", name, got, err)
	}
	s, err := smbstore.Open(t.Context(), server.Location(""), server.Options())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	at, data := int64(0), int64(0)
	err = smbstore.MapDisk(t.Context(), s, name, smbstore.MapDiskOptions{}, func(e block.Extent) error {
		if e.Offset != at {
			t.Errorf("%s: %+v at %d", name, e, at)
		}
		if at += e.Length; e.State == block.Data {
			data += e.Length
		}
		return nil
	})
	// Of a file that was never marked sparse all is allocated (MS-FSCC 2.3.51).
	if err != nil || at != 12<<20 || data != at-hole && (format != smbstore.Raw || data != at) {
		t.Errorf("%s: %d bytes mapped, %d of data, %v", name, at, data, err)
	}
	dev, _, err := smbstore.OpenDisk(t.Context(), s, name, smbstore.DiskOptions{})
	if err != nil {
		t.Fatal(err)
	}
	other := bytes.Repeat([]byte{0x99}, 3)
	if err := dev.WriteAt(t.Context(), other, 1<<20+77, 0); err != nil {
		t.Fatal(err)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	got, err = smbstore.CompareDisks(t.Context(), compare)
	if err != nil || got.Identical || *got.FirstDifference != 1<<20+77 || got.DifferentBytes != 3 {
		t.Errorf("%s changed: %+v, %v", name, got, err)
	}
}
