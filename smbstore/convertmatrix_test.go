//go:build !race

package smbstore_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"lunless/smbstore"
	"lunless/smbstore/block"
	"lunless/smbstore/storetest"
	"lunless/smbstore/vhd"
)

// patchySize is a size that all formats can have as it is.
const patchySize = 24<<20 + 7*512

// patchyImage writes a raw image with data, written zeroes and holes in runs of
// 64 KiB and more, and returns its path and content.
func patchyImage(t *testing.T) (string, []byte) {
	t.Helper()
	content := make([]byte, patchySize)
	rnd := rand.New(rand.NewPCG(3, 4))
	p := filepath.Join(t.TempDir(), "patchy.img")
	f, err := os.Create(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(patchySize); err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(content); {
		n := min((1+rnd.IntN(20))<<16, len(content)-off)
		run := content[off : off+n]
		kind := rnd.IntN(3)
		if kind == 0 {
			for i := range run {
				run[i] = byte(rnd.Uint32()) | 1
			}
		}
		if kind < 2 { // else a hole
			if _, err := f.WriteAt(run, int64(off)); err != nil {
				t.Fatal(err)
			}
		}
		off += n
	}
	return p, content
}

// qemuContent is the content of an image as qemu-img reads it.
func qemuContent(t *testing.T, format smbstore.Format, path string) []byte {
	t.Helper()
	driver := map[smbstore.Format]string{smbstore.Raw: "raw", smbstore.VHD: "vpc", smbstore.VHDX: "vhdx"}[format]
	image := "driver=" + driver + ",file.driver=file,file.filename=" + path
	if format == smbstore.VHD {
		image += ",force_size_calc=current_size"
	}
	out := filepath.Join(t.TempDir(), "peer.img")
	cmd := exec.Command("qemu-img", "convert", "--image-opts", "-O", "raw", image, out)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("qemu-img (apt-get install qemu-utils) on %s: %v\n%s", path, err, b)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type kind struct {
	format smbstore.Format
	fixed  bool
}

var kinds = []kind{{smbstore.Raw, false}, {smbstore.VHD, false}, {smbstore.VHD, true}, {smbstore.VHDX, false}, {smbstore.VHDX, true}}

func (k kind) String() string {
	if k.fixed {
		return string(k.format) + "-fixed"
	}
	return string(k.format)
}

// convertMatrix converts an image into every kind of disk in a folder and each of
// those into every kind, and compares what came out by content and holes.
func convertMatrix(t *testing.T, raw string, content []byte, folder smbstore.Location, o smbstore.Options, local func(smbstore.Location) string, sources []kind) {
	ids := map[string]string{}
	for _, from := range sources {
		first := folder.Join("first-" + from.String() + "." + string(from.format))
		err := smbstore.ConvertDisk(t.Context(), smbstore.ConvertDiskOptions{Source: smbstore.Location{Path: raw}, Destination: first,
			DestinationOptions: o, Format: from.format, Fixed: from.fixed, BlockSize: blockSizeOf(from)})
		if err != nil {
			t.Fatalf("to %v: %v", from, err)
		}
		for _, to := range kinds {
			second := folder.Join("from-" + from.String() + "-to-" + to.String() + "." + string(to.format))
			err := smbstore.ConvertDisk(t.Context(), smbstore.ConvertDiskOptions{Source: first, Destination: second,
				SourceOptions: o, DestinationOptions: o, Format: to.format, Fixed: to.fixed})
			if err != nil {
				t.Fatalf("%v to %v: %v", from, to, err)
			}
			checkConverted(t, raw, second, o, to.fixed, ids)
			if sha256.Sum256(qemuContent(t, to.format, local(second))) != sha256.Sum256(content) {
				t.Errorf("%v to %v: qemu-img reads other content", from, to)
			}
			if err := os.Remove(local(second)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func blockSizeOf(k kind) int64 {
	if k.format == smbstore.VHDX {
		return 2 << 20
	}
	return 0
}

// checkConverted compares with the image all came from: content, and that no more
// than its data, written zeroes left out, has room in the new one unless it is fixed.
func checkConverted(t *testing.T, raw string, at smbstore.Location, o smbstore.Options, fixed bool, ids map[string]string) {
	t.Helper()
	same, err := smbstore.CompareDisks(t.Context(), smbstore.CompareDisksOptions{A: smbstore.Location{Path: raw}, B: at, BOptions: o, Strict: true})
	if err != nil || !same.Identical {
		t.Errorf("%s: %+v, %v", at.Base(), same, err)
	}
	s, err := smbstore.Open(t.Context(), at.Dir(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	info, err := smbstore.InspectDisk(t.Context(), s, at.Base())
	if err != nil {
		t.Fatal(err)
	}
	if other, ok := ids[info.ID]; ok && info.ID != "" {
		t.Errorf("%s has the ID of %s", at.Base(), other)
	}
	ids[info.ID] = at.Base()
	if data, most := fileData(t, s, at.Base()), dataBytes(t, raw)+6<<20; data > most && !fixed {
		t.Errorf("%s takes %d bytes, want no more than %d", at.Base(), data, most)
	}
}

// fileData is how much of a file is data, as its FileExtents tell.
func fileData(t *testing.T, s smbstore.Store, name string) (n int64) {
	t.Helper()
	f, err := s.OpenFile(name, smbstore.Read)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Size()
	if err == nil {
		err = f.(block.Extenter).FileExtents(0, size, func(e block.Extent) error {
			if e.State == block.Data {
				n += e.Length
			}
			return nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// dataBytes is how much of a raw image is not zero, in units of 64 KiB.
func dataBytes(t *testing.T, raw string) (n int64) {
	t.Helper()
	f, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for p := make([]byte, 64<<10); ; {
		k, err := io.ReadFull(f, p)
		if !block.IsZero(p[:k]) {
			n += int64(k)
		}
		if err != nil {
			return n
		}
	}
}

func TestConvertMatrixLocal(t *testing.T) {
	raw, content := patchyImage(t)
	folder := smbstore.Location{Path: t.TempDir()}
	convertMatrix(t, raw, content, folder, smbstore.Options{}, func(l smbstore.Location) string { return l.Path }, kinds)
}

func TestConvertMatrixSMB(t *testing.T) {
	raw, content := patchyImage(t)
	server := storetest.StartLunless(t)
	convertMatrix(t, raw, content, server.Location(""), server.Options(), func(l smbstore.Location) string {
		return filepath.Join(server.Dir, "vms", l.Base())
	}, kinds[3:4])
}

// A guest's partition table is of its sectors: they stay, or somebody says otherwise.
func TestConvertSectors(t *testing.T) {
	dir := smbstore.Location{Path: t.TempDir()}
	s, err := smbstore.Open(t.Context(), dir, smbstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dev, err := smbstore.CreateDisk(t.Context(), s, "4k.vhdx", smbstore.CreateDiskOptions{Format: smbstore.VHDX, Size: 8 << 20, BlockSize: 4 << 20,
		Geometry: block.Geometry{LogicalSectorSize: 4096, PhysicalSectorSize: 4096}})
	if err == nil {
		err = errors.Join(dev.WriteAt(t.Context(), bytes.Repeat([]byte{7}, 10000), 4<<20, 0), dev.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		blockSize int64
		sector    int // 0: refused
		ask       int
	}{
		"a.vhdx": {4 << 20, 4096, 0}, "b.vhdx": {4 << 20, 512, 512}, "c.vhd": {2 << 20, 512, 512}, "d.vhd": {}, "e.img": {0, 512, 0},
	} {
		err := smbstore.ConvertDisk(t.Context(), smbstore.ConvertDiskOptions{Source: dir.Join("4k.vhdx"), Destination: dir.Join(name), SectorSize: want.ask})
		if want.sector == 0 {
			if !errors.Is(err, vhd.ErrBadOptions) {
				t.Errorf("%s: %v, want ErrBadOptions", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		info, err := smbstore.InspectDisk(t.Context(), s, name)
		if err != nil || info.BlockSize != want.blockSize || info.LogicalSectorSize != want.sector {
			t.Errorf("%s: %+v, %v; want blocks of %d, sectors of %d", name, info, err, want.blockSize, want.sector)
		}
		same, err := smbstore.CompareDisks(t.Context(), smbstore.CompareDisksOptions{A: dir.Join("4k.vhdx"), B: dir.Join(name)})
		if err != nil || !same.Identical {
			t.Errorf("%s: %+v, %v", name, same, err)
		}
	}
	if infos, err := s.ReadDir(""); err != nil || len(infos) != 5 {
		t.Errorf("left: %v, %v", infos, err)
	}
}
